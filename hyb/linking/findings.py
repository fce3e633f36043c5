"""What a check has found, part by part, and the walk that finds it. Nothing here touches the network.

A part that fails, or was not tried, keeps those that build on it from being tried; the others are tried all the same,
so that one call shows what each side has to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from hyb.linking.causes import CAUSES

OK, FAILED, WARNING, NOT_TRIED = "ok", "failed", "warning", "not tried"
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One part: what was looked at, how it is, how long it took, who must act and how."""

    part: str
    state: str
    seen: str
    ms: float | None = None
    cause: str = ""
    """A key of CAUSES; empty when there is nothing to mend."""
    side: str = ""
    do: str = ""


@dataclass(frozen=True)
class Report:
    """All parts of one check, in order."""

    side: str
    target: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed and something was tried."""
        states = [f.state for f in self.findings]
        return FAILED not in states and OK in states

    @property
    def cause(self) -> str:
        """The first failure's cause, or ""."""
        return next((f.cause for f in self.findings if f.state == FAILED), "")

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        parts = [{k: v for k, v in asdict(f).items() if v not in ("", None)} for f in self.findings]
        return {"ok": self.ok, "cause": self.cause, "side": self.side, "target": self.target, "parts": parts}

    def text(self) -> str:
        """For people: a line a part, then who must do what, then the verdict."""
        width = max(len(f.part) for f in self.findings)
        lines = []
        for f in self.findings:
            took = f"  {f.ms:.1f} ms" if f.ms is not None else ""
            lines.append(f"{f.state:<9}  {f.part:<{width}}  {f.seen}{took}")
        told: dict[tuple[str, str, str], list[str]] = {}
        for f in (f for f in self.findings if f.do):
            told.setdefault((f.side, f.cause, f.do), []).append(f.part)
        lines += [f"{s}: {CAUSES[c].title} ({', '.join(names)}): {do}" for (s, c, do), names in told.items()]
        return "\n".join([*lines, self.verdict])

    @property
    def verdict(self) -> str:
        """One line."""
        titles = dict.fromkeys(CAUSES[f.cause].title for f in self.findings if f.state == FAILED)
        if titles:
            return f"the link does not work: {'; '.join(titles)}"
        return "the link works" if self.ok else "nothing could be tried from here"


class FaultError(Exception):
    """A part that failed: its cause, what was seen, and side and advice where the usual ones are not right.

    `warning`: it works all the same, and `value` is what it gives.
    """

    def __init__(
        self, cause: str, seen: str, *, side: str = "", do: str = "", warning: bool = False, value: Any = None
    ) -> None:
        super().__init__(seen)
        self.cause, self.seen, self.warning, self.value = cause, seen, warning, value
        self.side, self.do = side or CAUSES[cause].side, do or CAUSES[cause].do


class UntriedError(Exception):
    """A part that can't be tried here, and why."""


@dataclass
class Walk:
    """The parts tried so far."""

    findings: list[Finding] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    """Parts that nothing can build on."""

    def step(
        self,
        part: str,
        do: Callable[[], tuple[T, str]],
        *,
        needs: Sequence[str] = (),
        timed: bool = False,
        optional: bool = False,
    ) -> T | None:
        """Try a part: `do` gives a value and what was seen, or raises FaultError or UntriedError; the value, or None.

        `needs`: parts that must have worked. `timed`: its duration means something. `optional`: a failure warns.
        """
        if missing := next((n for n in needs if n in self.stopped), None):
            self._stop(Finding(part, NOT_TRIED, f"needs `{missing}`"))
            return None
        start = time.perf_counter()
        try:
            value, seen = do()
        except UntriedError as why:
            self._stop(Finding(part, NOT_TRIED, str(why)))
            return None
        except FaultError as fault:
            state = WARNING if fault.warning or optional else FAILED
            ms = self._since(start) if timed else None
            finding = Finding(part, state, fault.seen, ms, fault.cause, fault.side, fault.do)
            if not fault.warning:
                self._stop(finding)
                return None
            self.findings.append(finding)
            given: T | None = fault.value
            return given
        self.findings.append(Finding(part, OK, seen, self._since(start) if timed else None))
        return value

    def _stop(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.stopped.add(finding.part)

    @staticmethod
    def _since(start: float) -> float:
        return round((time.perf_counter() - start) * 1000, 2)
