"""hyb.lock: every input and output of a chain by digest.

JSON without time, host or path: two machines write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import fs
from hyb.errors import Exit, HybError

FILE = "hyb.lock"
VERSION = 1


@dataclass(frozen=True)
class Locked:
    """What one stage had and gave: its key, the digests of its inputs by name, the digest of its output."""

    stage: str
    key: str
    inputs: Mapping[str, str]
    output: str


@dataclass(frozen=True)
class Lock:
    """`pins`: source as written → immutable source. `stages`: name → Locked."""

    pins: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, Locked] = field(default_factory=dict)


def read(path: Path) -> Lock:
    """Read a lock; a file that is not there is an empty one. Raises HybError (exit 4) when it is damaged."""
    try:
        raw = json.loads(path.read_bytes())
        if raw["hyb"] != VERSION:
            raise HybError(
                f"`{path}` has version {raw['hyb']}; this hyb knows {VERSION}", hint="use the hyb that wrote it"
            )
        return parse(raw)
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise HybError(f"`{path}` can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HybError(
            f"`{path}` is damaged: {type(error).__name__}: {error}",
            hint="take it back from version control, or delete it: `hyb run` writes it anew, steps are not run again",
            code=Exit.CHECK,
        ) from error


def parse(raw: Mapping[str, Any]) -> Lock:
    """A lock from its JSON. Raises ValueError, KeyError, TypeError, AttributeError when it is none."""
    found = {
        name: Locked(s["stage"], s["key"], {str(k): str(v) for k, v in s["inputs"].items()}, s["output"])
        for name, s in raw["stages"].items()
    }
    for name, locked in found.items():
        if not all(map(dg.is_digest, (locked.key, locked.output, *locked.inputs.values()))):
            raise ValueError(f"stage `{name}` holds something that is no digest")
    return Lock({str(k): str(v) for k, v in raw["pins"].items()}, found)


def as_dict(lock: Lock) -> dict[str, Any]:
    """A lock as JSON."""
    return {
        "hyb": VERSION,
        "pins": dict(lock.pins),
        "stages": {
            name: {"stage": s.stage, "key": s.key, "inputs": dict(s.inputs), "output": s.output}
            for name, s in lock.stages.items()
        },
    }


def dump(lock: Lock) -> bytes:
    """The one byte form of a lock."""
    return json.dumps(as_dict(lock), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def write(path: Path, lock: Lock) -> bool:
    """Write the lock if its bytes changed; says whether they did. Raises HybError."""
    data = dump(lock)
    with fs.explained(f"can't write `{path}`"):
        if path.exists() and path.read_bytes() == data:
            return False
        fs.write_atomic(path, data)
    return True
