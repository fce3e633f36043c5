"""The credentials of an order, made where they are missing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hyb import fs
from hyb.certificates import Pair, is_encrypted
from hyb.credentials import kept
from hyb.credentials.order import Credentials, Order, check
from hyb.credentials.rotate import refuse_unfinished, renewed
from hyb.credentials.settle import Signer, adopt_old_names, new_ca, refuse_unfit, settle
from hyb.errors import Exit, HybError


def mint(
    folder: Path,
    order: Order,
    now: datetime,
    *,
    renew: bool = False,
    passphrase: bytes | None = None,
    authority: Pair | None = None,
) -> Credentials:
    """The credentials in `folder`, made where they are missing.

    A second call returns the same ones, and asks for no passphrase. Other hosts give a new server certificate of the
    same CA. `renew`: as `hyb link renew`. `passphrase`: opens the CA's key, and encrypts that of a new CA.
    `authority`: the CA to use, its key open, instead of a new one. Raises HybError: exit 4 when something is expired,
    damaged or revoked, exit 3 when the folder is not ours or can't be written, or a passphrase is missing or wrong.
    """
    check(order)
    with kept.opened(folder, make=True) as notes, fs.explained(f"can't keep credentials in `{folder}`"):
        state = kept.read_state(folder)
        refuse_revoked(order, state)
        adopt_old_names(folder, order)
        refuse_unfit(order, authority)
        authorities = kept.read_authorities(folder)
        if authorities is None:
            if any(kept.leaves(folder, role) for role in ("server", "client")):
                notes.append("a new CA: apply both sides again, the link is down in between")
            ca = Signer(order.name, authority or new_ca(order, now), passphrase, now)
            kept.write(folder / kept.CA, ca.locked(ca.pair))
            return settle(folder, order, state, ca, notes)
        if authority and authority.certificate != authorities.signer.certificate:
            raise HybError(
                f"the link `{order.name}` has another CA already",
                hint=f"`hyb link renew {order.name} --ca FILE` changes over to yours without an outage",
            )
        signer = Signer(order.name, authorities.signer, passphrase, now)
        if passphrase and not is_encrypted(authorities.signer.key):
            notes.append(f"the CA's key is not encrypted; `hyb link passphrase {order.name}` encrypts it")
        if authorities.phase != "steady":
            notes.append(f"the CA is being changed, step {kept.PHASES[authorities.phase]} of 3:"
                         f" `hyb link renew {order.name} --applied` once both sides are applied")  # fmt: skip
        if renew:
            return renewed(folder, order, state, signer, notes).credentials
        return settle(folder, order, state, signer, notes)


def refuse_revoked(order: Order, state: kept.State) -> None:
    """Raises HybError (exit 4) when a site of the order was revoked, or a revocation has not ended."""
    refuse_unfinished(order.name, state)
    if revoked := [site for site in order.clients if site in state.revoked]:
        again = f"`hyb link revoke {order.name} --site {revoked[0]} --undo`"
        raise HybError(f"the private site `{'`, `'.join(revoked)}` of `{order.name}` was revoked", code=Exit.CHECK,
                       hint=f"take it out of the link, or let it in again: {again}")  # fmt: skip
