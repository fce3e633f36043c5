"""What the owner of a service can set about its HTTP edge, from the environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BODY = 8 << 20
WAITING = 64


@dataclass(frozen=True)
class Settings:
    """The edge's settings. The defaults are the safe ones."""

    body: int = BODY
    """`HYB_MAX_BODY`: bytes of a request's body that are read at most."""
    waiting: int = WAITING
    """`HYB_MAX_WAITING`: requests that may wait for the engine."""
    hosts: frozenset[str] = frozenset()
    """`HYB_ALLOWED_HOSTS`: names, with commas between, that a loopback service may be called by."""
    origins: frozenset[str] = frozenset()
    """`HYB_CORS_ORIGINS`: origins of web pages that may call it, such as `app://obsidian.md`. None by default."""
    open_metrics: bool = False
    """`HYB_METRICS_OPEN=1`: `/metrics` needs no key."""
    log: bool = True
    """`HYB_ACCESS_LOG=0` leaves out the line a request."""


def from_environ(environ: Mapping[str, str]) -> Settings:
    """The settings of this process; a number that is none is passed over."""
    return Settings(
        body=_number(environ.get("HYB_MAX_BODY"), BODY),
        waiting=_number(environ.get("HYB_MAX_WAITING"), WAITING),
        hosts=frozenset(name.lower() for name in _words(environ.get("HYB_ALLOWED_HOSTS"))),
        origins=frozenset(_words(environ.get("HYB_CORS_ORIGINS"))) - {"*", "null"},
        open_metrics=environ.get("HYB_METRICS_OPEN") == "1",
        log=environ.get("HYB_ACCESS_LOG") != "0",
    )


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else default


def _words(text: str | None) -> list[str]:
    return [word for word in (text or "").replace(",", " ").split() if word]
