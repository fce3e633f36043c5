"""Until when certificates are good: one judgement for every command that speaks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from hyb.certificates.pairs import load

WARN = timedelta(days=30)
"""How long before its end a certificate is spoken of."""


@dataclass(frozen=True)
class Lasting:
    """From when to when one certificate is good, seen from a moment.

    `state`: `ok`, `soon` (it ends within `WARN`), `expired`, `not yet` (its beginning is to come: a clock is wrong).
    """

    what: str
    begins: datetime
    ends: datetime
    days: int
    """Whole days left; below 0 when it has ended."""
    state: str

    def __str__(self) -> str:
        if self.state == "expired":
            return f"the {self.what} expired on {self.ends:%Y-%m-%d}"
        if self.state == "not yet":
            return f"the {self.what} is not valid before {self.begins:%Y-%m-%d %H:%M} UTC: check the clock"
        return f"the {self.what} expires on {self.ends:%Y-%m-%d}, in {self.days} day{'' if self.days == 1 else 's'}"


def lasting(what: str, certificate: bytes, now: datetime) -> Lasting:
    """How long the first certificate of a PEM text is good. Raises ValueError when it can't be read."""
    first = load(certificate)[0]
    begins, ends = first.not_valid_before_utc, first.not_valid_after_utc
    state = "expired" if ends <= now else "not yet" if now < begins else "soon" if ends - now < WARN else "ok"
    return Lasting(what, begins, ends, (ends - now) // timedelta(days=1), state)


def expiring(certificates: Mapping[str, bytes], now: datetime) -> list[Lasting]:
    """Which of the certificates (what one is → PEM) are not plainly good: soon out, expired, or not valid yet.

    The first to end comes first. Raises ValueError when one can't be read.
    """
    found = [lasting(what, pem, now) for what, pem in certificates.items()]
    return sorted((f for f in found if f.state != "ok"), key=lambda f: f.ends)
