"""What a fetch gives, and what it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb.progress import Say, silent
from hyb.store import Store


@dataclass(frozen=True)
class Fetched:
    """A file of a model that is here and was checked.

    `path`: its place in the model. `file`: a real file. `digest`: `sha256:<hex>`, just computed. `how`: how the store
    may take it, "link" (it belongs to a cache), "copy" or "move".
    """

    path: str
    file: Path
    digest: str
    how: str = "link"


@dataclass(frozen=True)
class Place:
    """Where a fetch works. `work` outlives a kill; `folder`: where relative paths of a source start."""

    store: Store
    work: Path
    folder: Path = Path()
    offline: bool = False
    say: Say = silent
    record: Callable[[str, Any], None] = lambda _name, _value: None
