"""The parts that both sides check alike: a model behind an address, and the certificates of a folder."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hyb import certificates
from hyb.errors import Exit, HybError
from hyb.linking import reach
from hyb.linking.causes import PRIVATE
from hyb.linking.completion import Answered, Asker
from hyb.linking.findings import FaultError, UntriedError, Walk
from hyb.linking.tls import DAY, Identity
from hyb.render.names import is_loopback
from hyb.serving import client, endpoint

SOON = timedelta(days=30)
SKEW = timedelta(minutes=1)
"""Clocks that differ by more are told of."""
SIDES = ("private", "openshift", "client")
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What a person asked to be checked. `seconds` bounds each part."""

    side: str
    seconds: float = 10.0
    url: str = ""
    key: str = field(default="", repr=False)
    """From `--key-file`."""
    model: str = ""
    namespace: str = ""
    ca: str = ""
    offline: bool = False
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def usual_key(self) -> str:
        """The key of `HYB_API_KEY`, or ""."""
        return self.environ.get(endpoint.KEY_VARIABLE, "").strip()

    def allow(self, host: str) -> None:
        """Raises HybError (exit 6) when `host` is another machine and there is to be no network."""
        if self.offline and not is_loopback(host):
            raise HybError(
                f"offline, and `{host}` is another machine",
                hint="a link can only be checked over the network; leave `--offline` out", code=Exit.OFFLINE,
            )  # fmt: skip


def key(path: Path | None) -> str:
    """The API key in a file; "" without one. Raises HybError for a file that holds none."""
    if path is None:
        return ""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is no text"
        raise HybError(f"can't read the key file `{path}`: {why}", hint="it holds the key and nothing else") from error
    if not text or not text.isascii() or any(c.isspace() for c in text):
        raise HybError(f"the key file `{path}` holds no key", hint="it holds one word and nothing else")
    return text


# -- certificates ----------------------------------------------------------------------------------------------------


def check_certificates(identity: Identity | None, now: datetime) -> tuple[Identity, str]:
    """What a router would find wrong with its own certificates, before anybody is dialled. Raises FaultError."""
    if identity is None:
        raise FaultError("documents", "the Link's Secret is missing, or lacks ca.crt, tls.crt or tls.key")
    try:
        authorities, chain = certificates.load(identity.ca), certificates.load(identity.certificate)
        fits = certificates.matches(certificates.Pair(identity.certificate, identity.key))
    except ValueError as error:
        raise FaultError(
            "wrong-certificate", f"the folder's certificates can't be read: {error}", side=PRIVATE
        ) from error
    leaf = chain[0]
    for what, one in (("client certificate", leaf), *(("CA", a) for a in authorities)):
        _in_time(what, one.not_valid_before_utc, one.not_valid_after_utc, now)
    if not fits:
        raise FaultError("wrong-certificate", "tls.key is not the key of tls.crt", side=PRIVATE, do=_AGAIN)
    if not certificates.issued_by(chain, authorities):
        seen = "the client certificate is not of the CA in ca.crt"  # the server may know its CA all the same
        raise FaultError("wrong-certificate", seen, side=PRIVATE, do=_AGAIN, warning=True, value=identity)
    ends = min(leaf.not_valid_after_utc, *(a.not_valid_after_utc for a in authorities))
    if ends - now < SOON:
        seen = f"the first of them expires on {ends:%Y-%m-%d}"
        raise FaultError("wrong-certificate", seen, side=PRIVATE, do=_RENEW, warning=True, value=identity)
    until = authorities[0].not_valid_after_utc
    return identity, f"client until {leaf.not_valid_after_utc:%Y-%m-%d}, CA until {until:%Y-%m-%d}"


_AGAIN = "write the folder again with `hyb link`, and apply both sides"
_RENEW = "`hyb link renew`, then apply both sides"


def _in_time(what: str, start: datetime, end: datetime, now: datetime) -> None:
    here = f"here it is {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if now > end:
        seen = f"the {what} expired on {end:%Y-%m-%d %H:%M} UTC; {here}"
        raise FaultError("wrong-certificate", seen, side=PRIVATE, do=_RENEW)
    if now < start:
        seen = f"the {what} is valid from {start:%Y-%m-%d %H:%M} UTC, and {here}"
        raise FaultError("clock-skew" if start - now < DAY else "wrong-certificate", seen, side=PRIVATE)


# -- a model behind an address -----------------------------------------------------------------------------------------


Meaning = Mapping[str, str]
"""What the failures of a connection mean for a model at this address: reach's cause → cause."""

MODEL = " model"
"""The label of the parts of the one model of a private side."""
AT_HOME: Meaning = {"refused": "model-down", "timeout": "model-down"}
"""A model's own address, seen from its own host."""
BY_LISTENER: Meaning = {
    "no-such-name": "no-listener", "refused": "link-down", "timeout": "listener-silent", "reset": "link-down",
}  # fmt: skip
"""A Listener's, seen from where the chatbot is."""


def check_model(walk: Walk, label: str, address: client.Address, wanted: Wanted, means: Meaning) -> Answered | None:
    """The parts `name`, `tcp` and `model` of one address, each followed by `label`; the model's answer or None."""
    named = f"name{label}", f"tcp{label}", f"model{'' if label == MODEL else label}"
    behind = ": the link is up, the model behind it is not" if means is BY_LISTENER else ""
    asker = Asker(address, wanted.seconds, behind)

    def name() -> tuple[list[str], str]:
        found = _said(means, lambda: reach.resolve(asker.host, asker.port, wanted.seconds))
        return found, f"`{asker.host}` is {', '.join(found[:3])}"

    def connected() -> socket.socket:
        return _said(means, lambda: reach.connect(addresses or [], asker.port, wanted.seconds))

    def tcp() -> tuple[socket.socket, str]:
        return held.enter_context(connected()), f"port {asker.port} takes the connection"

    def model() -> tuple[Answered, str]:
        assert connection
        if wanted.model:
            answer = asker.complete(connection, wanted.model)
        else:
            chosen = asker.models(connection)[0]
            answer = asker.complete(connected(), chosen)
        return answer, f"`{answer.model}` answers: {_quoted(answer.text)}"

    with contextlib.ExitStack() as held:
        addresses = walk.step(named[0], name, timed=True)
        connection = walk.step(named[1], tcp, needs=named[:1], timed=True)
        return walk.step(named[2], model, needs=named[:2], timed=True)


def check_clock(walk: Walk, answer: Answered | None, now: datetime) -> None:
    """The part `clock`: the `Date` of the model's answer beside our own time. It only warns."""

    def clock() -> tuple[None, str]:
        if answer is None or answer.date is None:
            raise UntriedError("no answer with a date")
        apart = abs(answer.date - now)
        if apart > SKEW:
            seen = (
                f"the model's host has {answer.date.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, here it is {now:%H:%M:%S}"
            )
            raise FaultError("clock-skew", seen, warning=True)
        return None, f"the two hosts are less than {SKEW.seconds} s apart"

    walk.step("clock", clock)


def _said(means: Meaning, do: Callable[[], T]) -> T:
    """The value of `do`; its FaultError in the words of this place."""
    try:
        return do()
    except FaultError as fault:
        if fault.cause not in means:
            raise
        raise FaultError(means[fault.cause], fault.seen) from fault


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return f"“{line[:40]}{'…' if len(line) > 40 else ''}”"
