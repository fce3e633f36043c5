"""Revoking: a site's certificate is worth nothing any more.

Skupper's router knows no list of revoked certificates: it lets in whatever its CA has signed. So a revocation is a new
CA, at once and not in steps, and new certificates for everybody else. The Secret of the OpenShift side bears a word
that makes Skupper close what the old certificates opened; a connection outlives its certificate otherwise.

Killed in between, nothing is given out until the same command has ended it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from hyb import fs
from hyb.certificates import Pair, is_encrypted
from hyb.credentials import kept
from hyb.credentials.rotate import APPLY, SIGN_AGAIN, Change, refuse_unfinished
from hyb.credentials.settle import Signer, new_ca, order_of, refuse_unfit, settle
from hyb.errors import HybError

COPY = "each private host that stays: copy its new `private` folder there, and don't reload yet"
LOCK = (
    "OpenShift: `oc apply` its folder, section 1 of APPLY.md: from now on every old certificate is refused,"
    " and what it has opened is closed"
)
RELOAD = "each private host that stays: `skupper system reload`; its link is down from the step before until here"
LOCK_ISSUER = (
    "OpenShift: `oc rollout restart deployment/skupper-router`: what the old certificates have opened is closed"
)
"""Where the controller makes the server's Secret, hyb's word for Skupper would be lost."""


def revoke(
    folder: Path,
    name: str,
    now: datetime,
    *,
    site: str = "",
    passphrase: bytes | None = None,
    authority: Pair | None = None,
) -> Change:
    """A new CA (or `authority`) and new certificates for all but `site`; without a site, for all.

    Raises HybError: no such site, or a missing or wrong passphrase; nothing is changed then.
    """
    with kept.opened(folder) as notes, fs.explained(f"can't keep credentials in `{folder}`"):
        state, authorities = kept.read_state(folder), kept.read_authorities(folder)
        if authorities is None:
            raise kept.no_credentials(name)
        _check_site(folder, name, site, state)
        signer = Signer(name, authorities.signer, passphrase, now)
        if is_encrypted(authorities.signer.key):
            _ = signer.unlocked
        refuse_unfit(order_of(folder, name, state), authority)
        gone = state.revoked if not site or site in state.revoked else (*state.revoked, site)
        state = replace(state, revoked=gone, revoking=True, cut=True)
        kept.write_state(folder, state)
        for left in (kept.COMING, kept.LEAVING, *(f"client-{one}.pem" for one in gone)):
            (folder / left).unlink(missing_ok=True)
        order = order_of(folder, name, state)
        following = replace(signer, pair=authority or new_ca(order, now))
        kept.write(folder / kept.CA, signer.locked(following.pair))
        made = settle(folder, order, state, following, notes, renew=True)
        kept.write_state(folder, replace(kept.read_state(folder), revoking=False))
    to_do = (COPY, APPLY, SIGN_AGAIN, LOCK_ISSUER, RELOAD) if order.issuer else (COPY, LOCK, RELOAD)
    done = f"revoked `{site}`: a new CA, and new certificates for all others" if site else "a new CA for all"
    return Change(
        made,
        "steady",
        done,
        to_do,
        f"when all of it is done: `hyb link renew {name} --applied`, and later renewals close no connections",
    )


def readmit(folder: Path, name: str, site: str) -> None:
    """Let a revoked site be given a certificate again; the old one stays worthless. Raises HybError."""
    with kept.opened(folder), fs.explained(f"can't keep credentials in `{folder}`"):
        state = kept.read_state(folder)
        refuse_unfinished(name, state)
        if site not in state.revoked:
            raise HybError(f"the private site `{site}` of `{name}` is not revoked", hint="`hyb link list` shows all")
        kept.write_state(folder, replace(state, revoked=tuple(one for one in state.revoked if one != site)))


def _check_site(folder: Path, name: str, site: str, state: kept.State) -> None:
    if state.revoking or not site:
        return
    sites = kept.leaves(folder, "client")
    if site in state.revoked:
        raise HybError(f"the private site `{site}` of `{name}` is revoked already", hint="nothing was changed")
    if site not in sites:
        there = ", ".join(f"`{one}`" for one in sites) or "none"
        raise HybError(f"`{name}` has no certificate of a private site `{site}`", hint=f"there are: {there}")
