"""The generations of a recipe: what each run that changed something gave, so that `hyb rollback` can go back.

    STORE/generations/<recipe>.json   {"hyb-generations": 1, "current", "moving", "keep", "generations": [...]}

A generation is a whole lock: model, adapter, unit and link of one run, by digest. It has a number that is never used
again, the time, and the generation that it came after. This file knows time and order and belongs to one store; locks
and artifacts know neither. It is written in one rename, after everything that it names is in the store.

`current` is a pointer: a rollback moves it and makes no new generation, a run that changes an output makes the next
number. So a generation above `current` is one that was rolled back from. `moving` is set while a rollback is under
way: killed there, the next one ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hyb import fs
from hyb import lock as lockfile
from hyb.errors import Exit, HybError
from hyb.lock import Lock
from hyb.store import Store

KEEP = 5
"""How many generations a recipe keeps, unless `hyb rollback --keep` said otherwise. 0: none, nothing is noted."""
FOLDER = "generations"
_FORMAT = 1


@dataclass(frozen=True)
class Generation:
    """What one run gave."""

    number: int
    made: str
    """UTC, ISO 8601."""
    after: int
    """The generation that was current before it; 0 for the first."""
    lock: Lock

    @property
    def outputs(self) -> dict[str, str]:
        """Stage → digest."""
        return outputs(self.lock)


@dataclass(frozen=True)
class Ledger:
    """The generations of one recipe, oldest first."""

    generations: tuple[Generation, ...] = ()
    current: int = 0
    """0: none yet."""
    moving: int = 0
    """The generation that a rollback is on its way to; 0: none is."""
    keep: int = KEEP
    last: int = 0
    """The highest number that was ever given."""

    def get(self, number: int) -> Generation | None:
        """A generation that is kept."""
        return next((g for g in self.generations if g.number == number), None)

    @property
    def now(self) -> Generation | None:
        """The current generation."""
        return self.get(self.current)

    def before(self, number: int) -> Generation | None:
        """The generation that `number` came after; when that is no longer kept, the nearest one below."""
        this = self.get(number)
        if this and (found := self.get(this.after)):
            return found
        return max((g for g in self.generations if g.number < number), key=lambda g: g.number, default=None)

    def with_(self, lock: Lock, made: datetime) -> Ledger:
        """With a lock as the current generation: a new one when an output differs, else the same with its new lock."""
        now = self.now
        if now and now.outputs == outputs(lock):
            kept = tuple(replace(g, lock=lock) if g is now else g for g in self.generations)
            return replace(self, generations=kept)
        number = self.last + 1
        new = Generation(number, made.isoformat(timespec="seconds"), self.current, lock)
        return replace(self, generations=(*self.generations, new), current=number, last=number).pruned()

    def pruned(self, keep: int | None = None) -> Ledger:
        """With the last `keep` generations; the current one and the one before it are the last to go."""
        keep = self.keep if keep is None else keep
        before = self.before(self.current)
        first = [self.current, *([before.number] if before else [])]
        order = [*first, *sorted((g.number for g in self.generations if g.number not in first), reverse=True)]
        kept = set(order[:keep])
        return replace(self, keep=keep, generations=tuple(g for g in self.generations if g.number in kept))


def outputs(lock: Lock) -> dict[str, str]:
    """Stage → digest of its output."""
    return {name: locked.output for name, locked in lock.stages.items()}


def whole(lock: Lock, stages: set[str]) -> bool:
    """True when the lock has exactly these stages, and each was made from what the others say they gave.

    A run `--to` a stage may leave later ones as they were: that is no generation.
    """
    given = outputs(lock)
    fits = all(given.get(n) == d for s in lock.stages.values() for n, d in s.inputs.items())
    return set(lock.stages) == stages and fits


def path(store: Store, recipe: str) -> Path:
    """The file of a recipe's generations."""
    return store.root / FOLDER / f"{recipe}.json"


def names(store: Store) -> list[str]:
    """The recipes that have generations in this store."""
    return sorted(p.stem for p in (store.root / FOLDER).glob("*.json") if not p.name.startswith("."))


def read(store: Store, recipe: str) -> Ledger:
    """A recipe's generations; an empty ledger when there is none. Raises HybError (exit 4) when it is damaged."""
    file = path(store, recipe)
    try:
        raw = json.loads(file.read_bytes())
        if raw["hyb-generations"] != _FORMAT:
            raise HybError(f"`{file}` has format {raw['hyb-generations']}; this hyb knows {_FORMAT}",
                           hint="use the hyb that wrote it")  # fmt: skip
        found = tuple(
            Generation(int(g["number"]), str(g["made"]), int(g["after"]), lockfile.parse(g["lock"]))
            for g in raw["generations"]
        )
        return Ledger(found, int(raw["current"]), int(raw["moving"]), int(raw["keep"]), int(raw["last"]))
    except FileNotFoundError:
        return Ledger()
    except OSError as error:
        raise HybError(f"`{file}` can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HybError(
            f"`{file}` is damaged: {type(error).__name__}: {error}",
            hint="put a backup of it back; or delete it: the next `hyb run` begins anew with generation 1",
            code=Exit.CHECK,
        ) from error


def write(store: Store, recipe: str, ledger: Ledger) -> None:
    """Write a recipe's generations when they changed; the caller holds `changing`. Raises HybError."""
    file = path(store, recipe)
    data = json.dumps(_raw(ledger), indent=1).encode()
    with store.writing():
        if file.exists() and file.read_bytes() == data:
            return
        file.parent.mkdir(exist_ok=True)
        fs.write_atomic(file, data)


def _raw(ledger: Ledger) -> Mapping[str, Any]:
    listed = [
        {"number": g.number, "made": g.made, "after": g.after, "lock": lockfile.as_dict(g.lock)}
        for g in ledger.generations
    ]
    head = {"hyb-generations": _FORMAT, "current": ledger.current, "moving": ledger.moving}
    return {**head, "keep": ledger.keep, "last": ledger.last, "generations": listed}


def record(store: Store, recipe: str, lock: Lock, made: datetime) -> Ledger:
    """Note what a run gave; the ledger afterwards. Nothing is written when nothing changed, or nothing is kept.

    A store that can't be written (a medium that was brought in) keeps no generations.
    """
    if not _writable(store):
        return read(store, recipe)
    with changing(store, recipe):
        before = read(store, recipe)
        after = before.with_(lock, made) if before.keep else before
        if after != before:
            write(store, recipe, after)
    return after


@contextlib.contextmanager
def changing(store: Store, recipe: str) -> Iterator[None]:
    """Held while a recipe's file is read and written."""
    with store.writing(), fs.locked(store.root / "locks" / f"{FOLDER}.{recipe}"):
        yield


@contextlib.contextmanager
def running(store: Store, recipe: str) -> Iterator[None]:
    """Held by every run of a recipe; several may. A rollback waits for none of them: it says that one is going on."""
    if not _writable(store):
        yield
        return
    with store.writing(), fs.locked(_running(store, recipe), shared=True):
        yield


@contextlib.contextmanager
def alone(store: Store, recipe: str) -> Iterator[None]:
    """Held by a rollback. Raises HybError (exit 3) while a run or another rollback of the recipe is going on."""
    with store.writing():
        pass
    try:
        with fs.locked(_running(store, recipe), wait=False):
            yield
    except BlockingIOError as error:
        hint = "wait for it, then try again; nothing was changed"
        raise HybError(f"a run or rollback of `{recipe}` is going on", hint=hint) from error


def reached(store: Store) -> set[str]:
    """The digests that all kept generations name: what `gc` must keep. Raises HybError for a damaged file."""
    ledgers = (read(store, name) for name in names(store))
    return {d for ledger in ledgers for g in ledger.generations for d in g.outputs.values()}


def _running(store: Store, recipe: str) -> Path:
    return store.root / "locks" / f"running.{recipe}"


def _writable(store: Store) -> bool:
    """False for a store on a read-only medium; one that is not there yet can be made."""
    return not store.root.exists() or os.access(store.root, os.W_OK)
