"""What every command has: the options that mean one thing everywhere, and the store that they name."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli import output

if TYPE_CHECKING:
    from hyb.run import Options
    from hyb.store import Store

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", envvar="HYB_STORE", help="The artifact store.", show_default=False),
]
OfflineOption = Annotated[bool, typer.Option("--offline", envvar="HYB_OFFLINE", help="Open no network connection.")]
LockedOption = Annotated[bool, typer.Option("--locked", help="Refuse to differ from hyb.lock.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]

COMMON: dict[str, Any] = {
    "store": StoreOption,
    "offline": OfflineOption,
    "locked": LockedOption,
    "json": JsonOption,
    "dry_run": DryRunOption,
    "quiet": QuietOption,
}


@dataclass
class Session:
    """The common options of one call."""

    store_path: Path | None = None
    offline: bool = False
    locked: bool = False
    json: bool = False
    dry_run: bool = False
    quiet: bool = False
    talk: output.Talk = field(default_factory=lambda: output.Talk(False))

    @functools.cached_property
    def store(self) -> Store:
        """The store that the user named, or the default one."""
        from hyb.places import default_root
        from hyb.store import Store

        store = Store((self.store_path or default_root(os.environ)).expanduser().absolute())
        if store.open_to_all:
            self.talk(
                f"warning: everybody on this machine may write to the store `{store.root}`: every blob is hashed at"
                f" each use; `chmod -R o-w {store.root}` ends that"
            )
        return store

    def options(
        self, lock: Path | None, *, update: bool = False, container: str = "", trained: Path | None = None
    ) -> Options:
        """How to run, from the common options."""
        from hyb.run import Options

        host = os.environ.get("HYB_RECEIPT_HOST")
        facts = None if host is None else tuple(f.strip() for f in host.split(",") if f.strip())
        return Options(lock, self.offline, self.locked, update, container, trained, facts)

    def show(self, value: Any, text: str, *, colored: bool = False) -> None:
        """Print a command's result. `colored`: `text` is free of control characters but for colours of its own."""
        self.talk.close()
        output.data(value, text, as_json=self.json, colored=colored)


def command(body: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options: its first parameter becomes the Session made of them."""

    @functools.wraps(body)
    def wrapped(**arguments: Any) -> None:
        common = {name: arguments.pop(name) for name in COMMON}
        session = Session(
            common["store"],
            common["offline"],
            common["locked"],
            common["json"],
            common["dry_run"],
            common["quiet"],
            output.Talk(common["quiet"]),
        )
        if session.offline:
            from hyb import offline

            offline.begin()
        try:
            body(session, **arguments)
        finally:
            session.talk.close()

    signature = inspect.signature(body, eval_str=True)
    own = list(signature.parameters.values())[1:]
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None if name == "store" else False
        )
        for name, kind in COMMON.items()
    ]
    merged = signature.replace(parameters=[*own, *shared])
    wrapped.__signature__ = merged  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in merged.parameters.values()} | {"return": None}
    del wrapped.__wrapped__  # typer would look through it at the body's own signature
    return wrapped
