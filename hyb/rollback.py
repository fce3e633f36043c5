"""Back to the generation before: model, adapter, unit and link of a recipe, and what is live of them, as one.

Nothing is changed until the older generation has been read byte by byte and found whole (`hyb.verify.check_lock`), and
until it is known that every service can change over. Then, in this order:

    the generation is noted as the one that is moved to        killed from here on, the next rollback ends it
    link folder, units, services that run                      each can be taken back, and is when a later one fails
    names in the store (one write), hyb.lock, the pointer      what a run and a reader see

So a failure leaves all as it was, and a kill leaves a note that says where it was going. A service is changed over
without a gap: see `hyb.serving.manager.exchange`.

A generation is a pointer's target: going back twice goes two back, and `--to` goes forward as well. `hyb.yaml` and the
data belong to the person: a run that would bring the later generation back is refused (`hyb.run.rolled_back`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyb import generations, pin, receipt, unit_files, verify
from hyb import lock as lockfile
from hyb import recipe as recipes
from hyb.errors import Exit, HybError
from hyb.generations import Generation, Ledger
from hyb.lock import Lock
from hyb.progress import Say, silent
from hyb.recipe import Recipe
from hyb.run import rolled_back
from hyb.serving import handover
from hyb.store import Store

LINK = Path("link")
"""Where `hyb link` writes when it is not told."""


@dataclass(frozen=True)
class Request:
    """What a person asked for."""

    recipe: Path
    """The recipe's file."""
    to: int = 0
    """A generation's number; 0: the one before."""
    out: Path | None = None
    """The link's folder; None: `link`, when it holds this recipe's link."""
    units: Path | None = None
    """A folder with this recipe's units; None: where Podman reads them, when they are there."""


@dataclass(frozen=True)
class Change:
    """One thing that is moved. `what`: `name`, `lock`, `service`, `unit` or `link`."""

    what: str
    where: str
    before: str
    after: str


@dataclass(frozen=True)
class Done:
    """What a rollback did, or would do."""

    recipe: str
    came_from: int
    """0: what stood was no generation: a run that failed, or one `--to` a stage."""
    to: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    """What a person has to do or to know."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "recipe": self.recipe, "from": self.came_from or None, "to": self.to,
            "changes": [asdict(c) for c in self.changes], "notes": list(self.notes),
        }  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """Where a recipe stands: its file, its lock, its generations, and the one of these that it is (0: none)."""

    recipe: Recipe
    lock_path: Path
    lock: Lock
    ledger: Ledger
    number: int


def standing(path: Path, store: Store) -> Standing:
    """Where the recipe at `path` stands in this store; writes nothing. Raises HybError.

    A run that was killed after its last step, before it was noted, has left a whole state: it counts as a generation.
    """
    recipe, lock_path = recipes.read(path), path.with_name(lockfile.FILE)
    lock, ledger = lockfile.read(lock_path), generations.read(store, recipe.name)
    if not ledger.moving and ledger.keep and _unnoted(recipe, lock, ledger, store):
        ledger = ledger.with_(lock, receipt.now())
    return Standing(recipe, lock_path, lock, ledger, _on(recipe, lock, ledger.now, store))


def _on(recipe: Recipe, lock: Lock, now: Generation | None, store: Store) -> int:
    """The number of the current generation, when lock and names are of it; 0 when a run has moved one of them.

    A lock or a name that is not there says nothing: somebody has taken it away.
    """
    if now is None or (lock.stages and now.outputs != generations.outputs(lock)):
        return 0
    tags = store.tags()
    here = {stage: tags.get(f"{recipe.name}/{stage}", digest) for stage, digest in now.outputs.items()}
    return now.number if here == now.outputs else 0


def _unnoted(recipe: Recipe, lock: Lock, ledger: Ledger, store: Store) -> bool:
    """True for the whole state of a run that ended well and was not noted. Names and lock agree on it, so it is no
    lock that was fetched from somewhere."""
    given, tags = generations.outputs(lock), store.tags()
    if not generations.whole(lock, {e.name for e in recipe.entries}) or (ledger.now and ledger.now.outputs == given):
        return False
    if any(tags.get(f"{recipe.name}/{stage}") != digest for stage, digest in given.items()):
        return False
    try:
        return all(store.has(d) and store.artifact(d).meta.get("passed") is not False for d in given.values())
    except HybError:
        return False


def target_of(stands: Standing, to: int) -> Generation:
    """The generation to go to. Raises HybError (exit 3) when there is none."""
    ledger, name = stands.ledger, stands.recipe.name
    if not ledger.generations:
        raise HybError(
            f"no generation of `{name}` is in this store",
            hint="every `hyb run` to its end that changes an output makes one",
        )
    if to:
        found = ledger.get(to)
        if found is None:
            kept = ", ".join(str(g.number) for g in ledger.generations)
            raise HybError(f"`{name}` has no generation {to}", hint=f"kept: {kept}; `hyb rollback --list` shows them")
        return found
    if ledger.moving and (going := ledger.get(ledger.moving)):
        return going
    if not stands.number and ledger.now:
        return ledger.now
    found = ledger.before(ledger.current)
    if found is None:
        raise HybError(
            f"there is no generation of `{name}` before {ledger.current}",
            hint="`hyb rollback --list` shows those that are kept",
        )
    return found


def rollback(request: Request, store: Store, environ: Mapping[str, str], say: Say, *, dry_run: bool = False) -> Done:
    """Return a recipe to a generation. Raises HybError, and then all is as it was: exit 4 when the generation is not
    whole, exit 3 when there is none, a run is going on, or something that would be overwritten was edited."""
    name = recipes.read(request.recipe).name
    if dry_run:
        return _work(request, store, environ, say, dry_run=True)
    from hyb.linking import folder

    with store.in_use(), generations.alone(store, name):
        folder.recover(request.out or LINK)
        return _work(request, store, environ, say, dry_run=False)


def _work(request: Request, store: Store, environ: Mapping[str, str], say: Say, *, dry_run: bool) -> Done:
    stands = standing(request.recipe, store)
    target = target_of(stands, request.to)
    if wrong := verify.check_lock(target.lock, store, say):
        raise HybError(
            f"generation {target.number} of `{stands.recipe.name}` is not whole; all is left as it was",
            hint="`hyb rollback --list` shows the others; `hyb verify` checks the whole store",
            details=wrong, code=Exit.CHECK,
        )  # fmt: skip
    moves = _Moves(request, store, environ, stands, target, say)
    if not dry_run:
        _carry_out(stands, target, store, moves, say)
    came_from = stands.ledger.current if stands.ledger.moving else stands.number
    return Done(stands.recipe.name, came_from, target.number, moves.changes, (*moves.notes, *_after(stands, target)))


def _carry_out(stands: Standing, target: Generation, store: Store, moves: _Moves, say: Say) -> None:
    name = stands.recipe.name
    with generations.changing(store, name):
        generations.write(store, name, replace(stands.ledger, moving=target.number))
    undo: list[Callable[[], object]] = []
    try:
        for do, back in moves.steps():
            undo.append(back)
            do()
    except BaseException:
        _take_back(undo, say)
        with generations.changing(store, name):
            generations.write(store, name, stands.ledger)
        raise
    with generations.changing(store, name):
        generations.write(store, name, replace(stands.ledger, current=target.number, moving=0))


def _take_back(undo: list[Callable[[], object]], say: Say) -> None:
    for back in reversed(undo):
        try:
            back()
        except HybError as error:
            say(f"can't take back: {error.message}")


class _Moves:
    """All that a rollback moves, found out before anything is moved. Raises HybError for what can't be."""

    def __init__(
        self, request: Request, store: Store, environ: Mapping[str, str], stands: Standing, target: Generation, say: Say
    ) -> None:
        self.store, self.stands, self.target = store, stands, target
        known: list[Mapping[str, str]] = [g.outputs for g in stands.ledger.generations]
        known.append(generations.outputs(stands.lock))
        self.tags_before = store.tags()
        prefix = f"{stands.recipe.name}/"
        self.names = {prefix + stage: digest for stage, digest in target.outputs.items()}
        ever = {prefix + stage for one in known for stage in one}
        self.gone = sorted((ever - set(self.names)) & set(self.tags_before))
        self.links = _links(request, store, environ, stands, target, say)
        self.units = unit_files.find(request.units, environ, store, _of_kind(store, known, "service"), target.outputs)
        self.services = handover.plan(store, environ, known, target.outputs, say)
        reload = [
            f"`hyb link reload {one.out}` on the private host makes its router take the link; where the public side"
            " changed, `oc apply` it"
            for one in self.links
        ]
        self.notes = (*self.units.notes, *self.services.notes, *reload)

    @property
    def changes(self) -> tuple[Change, ...]:
        """For people and programs."""
        old = self.tags_before
        found = [Change("name", n, old.get(n, ""), d) for n, d in self.names.items() if old.get(n) != d]
        found += [Change("name", n, old[n], "") for n in self.gone]
        if lockfile.dump(self.stands.lock) != lockfile.dump(self.target.lock):
            found.append(Change("lock", str(self.stands.lock_path), "", ""))
        found += [Change("service", *one) for one in self.services.lines]
        found += [Change("unit", str(path), "", "") for path in self.units.changed]
        found += [Change("link", str(one.out), one.before, one.after) for one in self.links]
        return tuple(found)

    def steps(self) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
        """What is to be done, in order, each with what takes it back."""
        for link in self.links:
            yield link.write, link.back
        yield self.units.write, self.units.back
        for change in self.services.changes:
            yield change.do, change.back
        yield self._move_names, self._names_back
        path, before = self.stands.lock_path, self.stands.lock
        yield lambda: lockfile.write(path, self.target.lock), lambda: before.stages and lockfile.write(path, before)

    def _move_names(self) -> None:
        self.store.move_names(self.names, self.gone)

    def _names_back(self) -> None:
        before = {n: self.tags_before[n] for n in (*self.names, *self.gone) if n in self.tags_before}
        self.store.move_names(before, [n for n in self.names if n not in before])


def _of_kind(store: Store, known: Sequence[Mapping[str, str]], kind: str) -> dict[str, str]:
    """Digest → stage, of all artifacts of a kind that generations name and that are here."""
    found = {}
    for outputs in known:
        for stage, digest in outputs.items():
            with contextlib.suppress(HybError):
                if store.artifact(digest).kind == kind:
                    found[digest] = stage
    return found


@dataclass(frozen=True)
class _Link:
    """A folder with a link, from one generation's to another's."""

    out: Path
    before: str
    after: str
    put: Callable[[str], object]

    def write(self) -> None:
        """Write the other generation's link."""
        self.put(self.after)

    def back(self) -> None:
        """Write the link that was there."""
        self.put(self.before)


def _links(
    request: Request, store: Store, environ: Mapping[str, str], stands: Standing, target: Generation, say: Say
) -> list[_Link]:
    """The link's folder, when it holds a link of this recipe. Raises HybError for `--out` with something else in it."""
    from hyb.linking import folder

    out = request.out or LINK
    known = [g.outputs for g in stands.ledger.generations] + [generations.outputs(stands.lock)]
    ours = _of_kind(store, known, "link")
    held = next((digest for digest in ours if folder.holds(out, store.artifact(digest))), None)
    if held is None:
        if request.out is not None and ours:
            raise HybError(
                f"`{out}` holds no link of `{stands.recipe.name}`", hint="give the folder that `hyb link` wrote"
            )
        return []
    after = target.outputs.get(ours[held])
    if after is None or after == held:
        return []
    folder.check_target(out)

    def put(digest: str) -> object:
        return folder.materialise(store, store.artifact(digest), out, environ, say=say, force=True)

    return [_Link(out, held, after, put)]


def _after(stands: Standing, target: Generation) -> list[str]:
    """What a person should know of the recipe's file afterwards."""
    ledger = replace(stands.ledger, current=target.number, moving=0)
    with contextlib.suppress(HybError):  # data that is not there, say: a run will tell
        pins = pin.pin(stands.recipe, target.lock.pins, offline=True, lenient=True, say=silent)
        if rolled_back(stands.recipe, pins, ledger):
            return ["recipe and data are still those of a later generation: `hyb run` is refused until one changes"]
    return []


def keep(path: Path, store: Store, count: int, *, dry_run: bool = False) -> Ledger:
    """Keep the last `count` generations of a recipe from now on; the ledger then. 0: none, and none is noted."""
    stands = standing(path, store)
    ledger = stands.ledger.pruned(count)
    if dry_run:
        return ledger
    with generations.alone(store, stands.recipe.name), generations.changing(store, stands.recipe.name):
        generations.write(store, stands.recipe.name, ledger)
    return ledger
