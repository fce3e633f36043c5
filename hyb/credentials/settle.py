"""The end certificates of an order, read or made: what every change of credentials ends with."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from hyb.certificates import (
    Pair,
    common_name,
    decrypted,
    dns_names,
    encrypted,
    expiring,
    is_encrypted,
    is_rsa,
    issued_by,
    lasting,
    load,
    make_ca,
    make_leaf,
    matches,
)
from hyb.credentials import kept
from hyb.credentials.order import CUT, SERVER, Credentials, Order, client_name
from hyb.errors import Exit, HybError

PASSPHRASE_HINT = "give the file that holds it: `--ca-passphrase-file FILE`"


@dataclass(frozen=True)
class Signer:
    """A CA whose key is opened when something is to be signed, and no sooner."""

    name: str
    pair: Pair
    passphrase: bytes | None
    now: datetime

    @functools.cached_property
    def unlocked(self) -> Pair:
        """The CA with its open key. Raises HybError: no passphrase, a wrong one."""
        if is_encrypted(self.pair.key) and not self.passphrase:
            raise HybError(f"the key of the CA of `{self.name}` is encrypted, and a new certificate must be signed",
                           hint=PASSPHRASE_HINT)  # fmt: skip
        try:
            pair = decrypted(self.pair, self.passphrase)
        except ValueError as error:
            raise HybError(f"this passphrase does not open the key of the CA of `{self.name}`",
                           hint="nothing was changed; give the file that it was encrypted with") from error  # fmt: skip
        if not matches(pair):
            raise HybError(f"the key of the CA of `{self.name}` is not its certificate's", code=Exit.CHECK,
                           hint="put a good copy back")  # fmt: skip
        return pair

    @functools.cached_property
    def opened(self) -> Pair:
        """The same, of a CA that is valid now. Raises HybError (exit 4) when it is not."""
        pair = self.unlocked
        validity = lasting(f"CA of `{self.name}`", pair.certificate, self.now)
        if validity.state in ("expired", "not yet"):
            hint = f"`hyb link renew {self.name}` makes a new CA" if validity.state == "expired" else "nothing was made"
            raise HybError(str(validity), code=Exit.CHECK, hint=hint)
        return pair

    def locked(self, ca: Pair) -> Pair:
        """Another CA's pair as it is to be kept: encrypted where there is a passphrase."""
        return encrypted(ca, self.passphrase) if self.passphrase else ca


def new_ca(order: Order, now: datetime) -> Pair:
    """A CA for this order that outlives its certificates; the key is open."""
    return make_ca(f"hyb link CA {order.name}", max(order.ca_days, order.days), now, for_skupper=order.issuer)


def settle(
    folder: Path, order: Order, state: kept.State, signer: Signer, notes: list[str], *, renew: bool = False
) -> Credentials:
    """What `order` asks for, made where it is missing or does not fit; `renew`: made anew in any case.

    The folder is locked and has a CA. All is signed before the first file is written. Raises HybError, OSError.
    """
    authorities = kept.read_authorities(folder)
    assert authorities is not None
    refuse_unfit(order, authorities.signer)
    pairs: dict[str, dict[str, Pair]] = {"server": {}, "client": {}}
    made: dict[Path, Pair] = {}
    wanted = [("server", n, hosts) for n, hosts in order.servers.items()] if not order.issuer else []
    for role, name, hosts in (*wanted, *(("client", n, ()) for n in order.clients)):
        path = folder / f"{role}-{name}.pem"
        pair = kept.read(path)
        if pair and (why := "" if renew else _unfit(role, name, pair, hosts, authorities)):
            notes.append(why)
        if renew or pair is None or why:
            common = client_name(name) if role == "client" else SERVER
            pair = made[path] = make_leaf(signer.opened, common, order.days, signer.now, hosts=hosts)
        pairs[role][name] = pair
    kept.write_state(folder, replace(state, days=order.days, ca_days=order.ca_days, issuer=order.issuer))
    for path, pair in made.items():
        kept.write(path, pair)
    credentials = Credentials(
        authorities.trusted, pairs["server"], pairs["client"], signer.opened if order.issuer else None,
        annotations=CUT if state.cut else {},
    )  # fmt: skip
    notes.extend(_expiry(order.name, credentials, authorities, signer.now))
    return replace(credentials, notes=tuple(notes))


def refuse_unfit(order: Order, ca: Pair | None) -> None:
    """Raises HybError when Skupper's controller is to sign with a CA whose key it can't use."""
    if order.issuer and ca and not is_rsa(ca.certificate):
        raise HybError(
            f"the CA of `{order.name}` is ECDSA, and Skupper's controller signs with RSA only",
            hint="give the link other `credentials` in the recipe, or bring an RSA CA: `hyb link renew --ca FILE`",
        )


def _unfit(role: str, name: str, pair: Pair, hosts: tuple[str, ...], authorities: kept.Authorities) -> str:
    """Why a certificate that is there has to be made anew; empty when it is good."""
    if not issued_by(load(pair.certificate), load(authorities.trusted)):
        return f"the {role} certificate of `{name}` was not of this CA: made a new one, apply its side again"
    if set(dns_names(load(pair.certificate)[0])) != set(hosts):
        return f"namespace `{name}`: the hosts changed: made a new server certificate, apply `openshift/` again"
    return ""


def _expiry(name: str, made: Credentials, authorities: kept.Authorities, now: datetime) -> list[str]:
    """Warnings for what ends within 30 days. Raises HybError (exit 4) for what has ended."""
    certificates = {"CA": authorities.signer.certificate}
    certificates |= {_called("server", n, made.servers): p.certificate for n, p in made.servers.items()}
    certificates |= {_called("client", n, made.clients): p.certificate for n, p in made.clients.items()}
    found = expiring(certificates, now)
    if expired := [str(f) for f in found if f.state == "expired"]:
        raise HybError(f"credentials of the link `{name}` have expired", details=expired, code=Exit.CHECK,
                       hint=f"`hyb link renew {name}` makes new ones; then apply both sides again")  # fmt: skip
    way = f"`hyb link renew {name}{' --applied' if authorities.phase == 'trust' else ''}` makes a new one"
    return [f"{f}; {way}" if f.state == "soon" else str(f) for f in found]


def _called(role: str, name: str, pairs: Mapping[str, Pair]) -> str:
    return f"{role} certificate" if len(pairs) == 1 else f"{role} certificate of `{name}`"


def order_of(folder: Path, name: str, state: kept.State) -> Order:
    """The order that the files in `folder` answer. Raises HybError (exit 4) for a damaged one."""
    servers = {}
    for namespace, path in kept.leaves(folder, "server").items():
        if (pair := kept.read(path)) and (hosts := dns_names(load(pair.certificate)[0])):
            servers[namespace] = hosts
    clients = tuple(site for site in kept.leaves(folder, "client") if site not in state.revoked)
    return Order(name, servers, state.days, state.ca_days, clients, state.issuer)


def adopt_old_names(folder: Path, order: Order) -> None:
    """Files of a time when a link had one site and one namespace. Raises OSError."""
    for role, name in (("server", next(iter(order.servers), "")), ("client", next(iter(order.clients), ""))):
        old, new = folder / f"{role}.pem", folder / f"{role}-{name}.pem"
        pair = kept.read(old) if name and old.exists() and not new.exists() else None
        expected = (SERVER, "link-server") if role == "server" else (client_name(name),)
        if pair and common_name(load(pair.certificate)[0]) in expected:
            old.rename(new)
