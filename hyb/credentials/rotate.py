"""Renewing: new certificates of the same CA, and a new CA, neither with an outage.

New certificates of the same CA can be applied on either side alone: both sides go on trusting the CA.

A new CA takes three steps, and after each of them both sides are applied, in any order:

    1  trust    both CAs are trusted, certificates are of the old one
    2  switch   both CAs are trusted, certificates are of the new one
    3           the new CA alone is trusted

A side that is one step behind always trusts what the other one shows. hyb can't see what was applied: a person says so
with `--applied`, and nothing else takes the next step, so that a renewal that runs by itself never goes too far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from hyb import fs
from hyb.certificates import Pair, is_encrypted, issued_by, lasting, load
from hyb.credentials import kept
from hyb.credentials.order import Credentials, Order
from hyb.credentials.settle import Signer, new_ca, order_of, refuse_unfit, settle
from hyb.errors import Exit, HybError


@dataclass(frozen=True)
class Change:
    """What was changed, and what a person does now."""

    credentials: Credentials
    phase: str
    done: str
    steps: tuple[str, ...]
    """In order."""
    then: str = ""
    """What comes after them."""


def renew(
    folder: Path,
    name: str,
    now: datetime,
    *,
    passphrase: bytes | None = None,
    change_ca: bool = False,
    authority: Pair | None = None,
    applied: bool = False,
    changed: Callable[[Order], Order] = lambda order: order,
) -> Change:
    """New certificates for all that `folder` holds, or the next step of a change of the CA.

    `change_ca`: begin one; `authority`: to this CA, its key open. `applied`: both sides have what the last step made.
    `changed`: gives the order its new lifetimes. Raises HybError; nothing is changed then.
    """
    with kept.opened(folder) as notes, fs.explained(f"can't keep credentials in `{folder}`"):
        state, authorities = kept.read_state(folder), kept.read_authorities(folder)
        if authorities is None:
            raise kept.no_credentials(name)
        refuse_unfinished(name, state)
        order = changed(order_of(folder, name, state))
        signer = Signer(name, authorities.signer, passphrase, now)
        if state.cut and not applied:
            notes.append(f"the last revocation still closes connections at each `oc apply`:"
                         f" `hyb link renew {name} --applied` once all sides have it")  # fmt: skip
        if change_ca or authority:
            if authorities.phase != "steady":
                step = kept.PHASES[authorities.phase]
                raise HybError(f"the CA of `{name}` is being changed already, step {step} of 3",
                               hint=f"`hyb link renew {name} --applied` once both sides are applied")  # fmt: skip
            return _begin(folder, order, state, signer, notes, authority)
        if applied:
            return _advance(folder, order, state, signer, notes, authorities)
        return renewed(folder, order, state, signer, notes)


def refuse_unfinished(name: str, state: kept.State) -> None:
    """Raises HybError (exit 4) when a revocation has begun and not ended."""
    if state.revoking:
        raise HybError(f"a revocation of `{name}` was cut short", code=Exit.CHECK,
                       hint=f"`hyb link revoke {name}` ends it")  # fmt: skip


def renewed(folder: Path, order: Order, state: kept.State, signer: Signer, notes: list[str]) -> Change:
    """New end certificates; a change of the CA begins when it would end before them. The folder is locked."""
    authorities = kept.read_authorities(folder)
    assert authorities is not None
    validity = lasting("CA", authorities.signer.certificate, signer.now)
    if validity.state == "expired":
        coming = authorities.coming
        if coming and lasting("CA", coming.certificate, signer.now).state != "expired":
            return _switch(folder, order, state, signer, notes, authorities)
        return _replace(folder, order, state, signer, notes)
    if authorities.phase == "steady" and (validity.ends - signer.now).days < order.days - 1:
        notes.append(f"the CA ends on {validity.ends:%Y-%m-%d}, before new certificates would: a change of it begins")
        return _begin(folder, order, state, signer, notes, None)
    made = settle(folder, order, state, signer, notes, renew=True)
    if authorities.phase != "steady":
        return _told(order, made, authorities.phase, "made new certificates; the change of the CA stands still")
    to_do = (RELOAD,) if order.issuer else (APPLY, RELOAD)
    then = "the sides can be applied in any order and at any time: old and new certificates work together"
    return Change(made, "steady", "made new certificates of the same CA", to_do, then)


# -- a new CA ------------------------------------------------------------------------------------------------------

APPLY = "OpenShift: `oc apply` its folder, section 1 of APPLY.md"
RELOAD = "each private host: copy its `private` folder and `skupper system reload`, section 2 of APPLY.md"
SIGN_AGAIN = (
    "OpenShift: Skupper's controller keeps the server certificate that it has made: `oc delete secret` it (its name is"
    " the RouterAccess's `tlsCredentials`), then `oc annotate certificates.skupper.io` of the same name with"
    " `hyb/again=1`, and it signs a new one"
)
"""The controller looks at names and at the end, never at the CA, and a Secret that was deleted comes back when
something happens to its Certificate (internal/kube/certificates/mgr.go of Skupper 2.2)."""


def steps(order: Order) -> tuple[str, ...]:
    """What a person does after the CA changed, in any order."""
    return (APPLY, SIGN_AGAIN, RELOAD) if order.issuer else (APPLY, RELOAD)


def _begin(
    folder: Path, order: Order, state: kept.State, signer: Signer, notes: list[str], authority: Pair | None
) -> Change:
    """Step 1. The certificates are made anew, too, by the old CA: they shall last while the change does."""
    refuse_unfit(order, authority)
    if is_encrypted(signer.pair.key) or not authority:
        _ = signer.opened
    kept.write(folder / kept.COMING, signer.locked(authority or new_ca(order, signer.now)))
    made = settle(folder, order, state, signer, notes, renew=True)
    return _told(order, made, "trust", "both CAs are trusted; the old one still signs")


def _advance(
    folder: Path, order: Order, state: kept.State, signer: Signer, notes: list[str], authorities: kept.Authorities
) -> Change:
    """From what both sides have to the next step."""
    if authorities.phase == "steady" and state.cut:
        made = settle(folder, order, replace(state, cut=False), signer, notes)
        return Change(made, "steady", "later certificates close no connections", ())
    if authorities.phase == "steady":
        raise HybError(f"the CA of `{order.name}` is not being changed, so there is no next step",
                       hint="`--new-ca` begins a change")  # fmt: skip
    if authorities.phase == "trust":
        return _switch(folder, order, state, signer, notes, authorities)
    signed = load(authorities.signer.certificate)
    paths = [*kept.leaves(folder, "server").values(), *(kept.leaves(folder, "client").values())]
    stale = [p for p in paths if (pair := kept.read(p)) and not issued_by(load(pair.certificate), signed)]
    if stale:  # a killed step 2
        made = settle(folder, order, state, signer, notes, renew=True)
        return _told(order, made, "switch", "some certificates were of the old CA: made all anew")
    (folder / kept.LEAVING).unlink()
    fs.sync_folder(folder)
    made = settle(folder, order, state, signer, notes)
    return Change(made, "steady", "step 3 of 3: the old CA is trusted no more", steps(order),
                  "in any order; the change of the CA is over then")  # fmt: skip


def _switch(
    folder: Path, order: Order, state: kept.State, signer: Signer, notes: list[str], authorities: kept.Authorities
) -> Change:
    """Step 2. Killed between the two files, `kept.opened` ends it."""
    assert authorities.coming is not None
    following = replace(signer, pair=authorities.coming)
    _ = following.opened
    kept.write_certificate(folder / kept.LEAVING, authorities.signer.certificate)
    (folder / kept.COMING).replace(folder / kept.CA)
    fs.sync_folder(folder)
    made = settle(folder, order, state, following, notes, renew=True)
    return _told(order, made, "switch", "certificates are of the new CA; both are trusted")


def _replace(folder: Path, order: Order, state: kept.State, signer: Signer, notes: list[str]) -> Change:
    """A CA that has ended holds no link up: there is nothing to be gentle with."""
    if is_encrypted(signer.pair.key):
        _ = signer.unlocked
    following = replace(signer, pair=new_ca(order, signer.now))
    for left in (kept.COMING, kept.LEAVING):
        (folder / left).unlink(missing_ok=True)
    kept.write(folder / kept.CA, signer.locked(following.pair))
    made = settle(folder, order, state, following, notes, renew=True)
    return Change(made, "steady", "the CA had expired: made a new one, and new certificates", steps(order),
                  "the link is down until both sides are applied")  # fmt: skip


def _told(order: Order, made: Credentials, phase: str, done: str) -> Change:
    following = {
        "trust": "makes certificates of the new CA (step 2 of 3)",
        "switch": "takes the old CA away (step 3 of 3)",
    }[phase]
    call = f"`hyb link renew {order.name} --applied`"
    then = f"in any order; when ALL of them are applied and not before, {call} {following}"
    return Change(made, phase, f"step {kept.PHASES[phase]} of 3: {done}", steps(order), then)
