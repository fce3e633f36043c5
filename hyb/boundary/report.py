"""What a check says: violations, each with its place, and how much was looked at. Plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

SHOWN = 100
"""Places of one class in one file or member that are listed; the rest is counted."""


@dataclass(frozen=True)
class Place:
    """Where something is: a file, the member of an archive within it (and so on), a line or an offset in bytes there,
    and in a Kubernetes document its kind, name and field."""

    file: str
    members: tuple[str, ...] = ()
    line: int | None = None
    offset: int | None = None
    document: str = ""
    field: str = ""

    def within(self, member: str) -> Place:
        """A member of this."""
        return Place(self.file, (*self.members, member), document=self.document, field=self.field)

    def at(self, **more: Any) -> Place:
        """The same place, told more closely."""
        return replace(self, **more)

    def __str__(self) -> str:
        text = " > ".join((self.file, *self.members))
        if self.line is not None:
            text += f":{self.line}"
        elif self.offset:
            text += f" (byte {self.offset})"
        if self.document or self.field:
            text += f" ({', '.join(filter(None, (self.document, self.field)))})"
        return text

    def as_dict(self) -> dict[str, Any]:
        """What is known of it."""
        found = {"file": self.file, "members": list(self.members), "line": self.line, "offset": self.offset,
                 "document": self.document, "field": self.field}  # fmt: skip
        return {k: v for k, v in found.items() if v not in (None, "", [])}


@dataclass(frozen=True)
class Violation:
    """One thing that must not leave. `kind`: a class of `hyb.formats.boundary`, or `canary` or `unreadable`."""

    kind: str
    what: str
    place: Place

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.what}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"class": self.kind, "what": self.what, "where": self.place.as_dict(), "text": str(self)}


@dataclass
class Report:
    """What was found. `notes`: what a person should know of a clean result."""

    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looked_for: dict[str, int] = field(default_factory=dict)
    files: int = 0
    members: int = 0
    documents: int = 0
    links: int = 0
    """Symbolic links and special files of folders, which were passed over."""
    bytes: int = 0
    """Bytes that were looked at, those of decompressed content included; holes of sparse files are not."""
    _more: Counter[tuple[str, tuple[str, ...], str]] = field(default_factory=Counter)

    def add(self, violation: Violation) -> None:
        """Note one; the hundred-and-first of its class in one file or member is only counted."""
        if violation in self.violations[-SHOWN:]:
            return
        key = (violation.place.file, violation.place.members, violation.kind)
        self._more[key] += 1
        if self._more[key] <= SHOWN:
            self.violations.append(violation)

    @property
    def details(self) -> list[str]:
        """A line a violation."""
        lines = [str(v) for v in self.violations]
        for (file, members, kind), count in self._more.items():
            if count > SHOWN:
                lines.append(f"{Place(file, members)}: {kind}: and {count - SHOWN} more places")
        return lines

    @property
    def clean(self) -> bool:
        """True when nothing was found."""
        return not self.violations

    def looked(self) -> dict[str, int]:
        """How much was looked at."""
        return {"files": self.files, "members": self.members, "documents": self.documents, "bytes": self.bytes}

    def summary(self) -> str:
        """How much was looked at, and for what, in one line."""
        at = _said(self.looked(), {"files": "file", "members": "member", "documents": "document", "bytes": "byte"})
        singular = {
            "known files": "known file",
            "pieces of models": "piece of a model",
            "lines of data": "line of data",
            "credentials": "credential",
            "canaries": "canary",
        }
        return f"looked at {at or 'nothing'}, for {_said(self.looked_for, singular) or 'what is known by its shape'}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "clean": self.clean, "violations": [v.as_dict() for v in self.violations], "looked_at": self.looked(),
            "looked_for": self.looked_for, "notes": self.notes,
        }  # fmt: skip


def _said(counts: dict[str, int], singular: dict[str, str]) -> str:
    return ", ".join(f"{n:,} {singular[word] if n == 1 else word}" for word, n in counts.items() if n)
