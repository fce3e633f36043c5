"""The set of adapters that a service has: their names, their shares, and what each engine calls them. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hyb.errors import HybError
from hyb.serving.choice import LLAMA
from hyb.serving.gateway.types import AdapterSpec, GatewayJob, Model, Pick, UnknownModelError


@dataclass(frozen=True)
class AdapterSet:
    """Some adapters over one base. `number` tells one set from the next: an engine has the adapters of one set."""

    job: GatewayJob
    adapters: tuple[AdapterSpec, ...]
    number: int = 1

    def models(self) -> tuple[Model, ...]:
        """The base first, with the share that the adapters leave it."""
        base = Model(
            self.job.name, "base", self.job.digest, self.job.context, 100 - sum(a.weight for a in self.adapters)
        )
        return base, *(Model(a.name, "adapter", a.digest, self.job.context, a.weight) for a in self.adapters)

    def pick(self, model: str, chance: random.Random) -> Pick:
        """Who answers a request for `model`. Raises UnknownModelError."""
        if model in ("", self.job.name):
            return self._pick(self._by_weight(chance))
        if model not in {a.name for a in self.adapters}:
            raise UnknownModelError(model, [m.id for m in self.models()])
        return self._pick(model)

    def _by_weight(self, chance: random.Random) -> str:
        """The name of an adapter, or "" for the base."""
        if not any(a.weight for a in self.adapters):
            return ""
        point = chance.random() * 100
        for a in self.adapters:
            point -= a.weight
            if point < 0:
                return a.name
        return ""

    def _pick(self, adapter: str) -> Pick:
        patch: dict[str, Any] = {"model": adapter or self.job.name}
        if self.job.engine == LLAMA and self.adapters:
            patch["lora"] = [{"id": i, "scale": float(a.name == adapter)} for i, a in enumerate(self.adapters)]
        return Pick(adapter or self.job.name, adapter, patch, self.number)

    def with_(self, adapter: AdapterSpec) -> AdapterSet:
        """The next set: this one and `adapter`. Raises HybError."""
        if adapter.name == self.job.name or adapter.name in {a.name for a in self.adapters}:
            raise HybError(f"`{adapter.name}` is being served already", hint="drop it first, or give another name")
        return replace(self, adapters=checked((*self.adapters, adapter)), number=self.number + 1)

    def without(self, name: str) -> AdapterSet:
        """The next set: this one but for the adapter `name`. Raises HybError."""
        self._named(name)
        return replace(self, adapters=tuple(a for a in self.adapters if a.name != name), number=self.number + 1)

    def weighed(self, name: str, percent: float) -> AdapterSet:
        """The same set with another share. Raises HybError."""
        self._named(name)
        changed = (replace(a, weight=percent) if a.name == name else a for a in self.adapters)
        return replace(self, adapters=checked(tuple(changed)))

    def _named(self, name: str) -> None:
        if name not in {a.name for a in self.adapters}:
            there = ", ".join(f"`{a.name}`" for a in self.adapters)
            raise HybError(f"there is no adapter `{name}`", hint=f"there is: {there}" if there else "there is none")


def checked(adapters: Sequence[AdapterSpec]) -> tuple[AdapterSpec, ...]:
    """`adapters`, when their shares make sense. Raises HybError."""
    for a in adapters:
        if not 0 <= a.weight <= 100:
            raise HybError(f"`{a.name}` can't have {a.weight:g} percent of the requests", hint="give 0 to 100")
    if (total := sum(a.weight for a in adapters)) > 100:
        raise HybError(f"the adapters would have {total:g} percent of the requests together", hint="at most 100")
    return tuple(adapters)


def shares(texts: Sequence[str]) -> Mapping[str, float]:
    """`NAME=PERCENT` texts. Raises HybError (exit 3)."""
    found = {}
    for text in texts:
        name, _, percent = text.partition("=")
        try:
            found[name] = float(percent.removesuffix("%"))
        except ValueError as error:
            raise HybError(
                f"`{text}` is no share of the requests", hint="write `NAME=PERCENT`, `support=10`"
            ) from error
    return found
