"""Checkpoints of a training run: written so that a kill at any byte leaves the last whole one, and read with distrust.

FOLDER/step-00000040/state.safetensors    tensors by name: adapter, optimizer, random generators
FOLDER/step-00000040/state.json           step, metrics so far, the job's fingerprint, sha256 of state.safetensors
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hyb import digest as dg
from hyb import fs

KEEP = 2


def save(folder: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint of `state["step"]` and drop all but the last two. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temporary = folder / f".{secrets.token_hex(6)}.tmp"
    temporary.mkdir()
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / "state.safetensors")
    with (temporary / "state.safetensors").open("rb") as stream:
        os.fsync(stream.fileno())
    digest = dg.of_file(temporary / "state.safetensors")[0]
    fs.write_atomic(temporary / "state.json", dg.canonical_json({**state, "sha256": digest}))
    target = folder / f"step-{state['step']:08d}"
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    fs.sync_folder(folder)
    for old in _all(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and state of the last whole checkpoint of the job with this fingerprint, or None."""
    for path in _all(folder):
        try:
            state = json.loads((path / "state.json").read_bytes())
            if state["fingerprint"] == fingerprint and dg.of_file(path / "state.safetensors")[0] == state["sha256"]:
                return load_file(path / "state.safetensors"), state
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: the one before it will do
    return None


def drop_after(folder: Path, step: int) -> tuple[int, Path] | None:
    """Remove checkpoints of later steps than `step`. Returns step and folder of the latest that is left."""
    for path in _all(folder):
        found = int(path.name.removeprefix("step-"))
        if found <= step:
            return found, path
        shutil.rmtree(path, ignore_errors=True)
    return None


def _all(folder: Path) -> list[Path]:
    """Checkpoints, the latest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _sweep(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
