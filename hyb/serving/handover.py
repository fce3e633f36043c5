"""Which services that run have to change when a recipe goes to another generation, and how each is changed and back.

A service is a recipe's when what it serves, or an adapter beside it, is an output that a generation names. What is
served under hyb's own name but belongs to no generation is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.progress import Say
from hyb.serving import live, manager
from hyb.serving.service import Service
from hyb.store import Store

Beside = tuple[str, Artifact, float]
"""An adapter's name, the adapter, its percent of the requests."""


@dataclass
class Change:
    """A service and what it is to serve. `do` and `back` may each be called when there is nothing to do."""

    store: Store
    environ: Mapping[str, str]
    say: Say
    service: Service
    before: tuple[Artifact, tuple[Beside, ...]]
    after: tuple[Artifact, tuple[Beside, ...]]
    done: bool = field(default=False)

    def do(self) -> None:
        """Have it serve the other artifact. Raises HybError; then it goes on as it was."""
        self.say(f"{self.service.name}: loading the other model beside this one")
        self.service = self._exchange(*self.after)
        self.done = True

    def back(self) -> None:
        """Have it serve again what it served. Raises HybError."""
        if self.done:
            self.service = self._exchange(*self.before)
            self.done = False

    def _exchange(self, artifact: Artifact, beside: Sequence[Beside]) -> Service:
        return manager.exchange(self.store, self.service, artifact, beside, environ=self.environ, say=self.say)


@dataclass(frozen=True)
class Plan:
    """The services to change."""

    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """(name, digest before, digest after)."""
        return [(c.service.name, c.before[0].digest, c.after[0].digest) for c in self.changes]


def plan(
    store: Store, environ: Mapping[str, str], known: Sequence[Mapping[str, str]], outputs: Mapping[str, str], say: Say
) -> Plan:
    """The services of a recipe that serve something else than `outputs` (stage → digest) name.

    `known`: the outputs of all its generations. Raises HybError (exit 3) for one that can't change while it runs.
    """
    stages = {digest: stage for one in known for stage, digest in one.items()}
    changes, notes = [], []
    for found in manager.ps(environ):
        if found.artifact in stages and stages[found.artifact] not in outputs:
            notes.append(f"`{found.name}` goes on with `{stages[found.artifact]}`, which that generation does not have")
            continue
        state = live.ask_owner(found)
        beside = [(str(a["name"]), str(a["digest"]), float(a["weight"])) for a in state.get("adapters", ())]
        served = (found.artifact, *(digest for _, digest, _ in beside))
        then = [outputs.get(stages.get(digest, ""), digest) for digest in served]
        if list(served) == then:
            continue
        before = store.artifact(found.artifact), tuple((n, store.artifact(d), w) for n, d, w in beside)
        after = (
            store.artifact(then[0]),
            tuple((n, store.artifact(d), w) for (n, _, w), d in zip(beside, then[1:], strict=True)),
        )
        try:
            manager.exchangeable(store, found, *after)
        except HybError as error:
            raise HybError(
                f"`{found.name}` is being served and can't change over: {error.message}",
                hint=error.hint or f"`hyb stop {found.name}` first; nothing was changed", details=error.details,
            ) from error  # fmt: skip
        changes.append(Change(store, environ, say, found, before, after))
    return Plan(tuple(changes), tuple(notes))
