"""The stages: one module each, the same three names in every module (see hyb.stages.base)."""

from __future__ import annotations

import importlib
from typing import cast

from hyb.stages.base import Stage

NAMES = ("pull", "data", "tune", "eval", "export", "pack", "serve", "link")
"""In the order of the chain."""


def load(name: str) -> Stage:
    """The module of a stage. Raises KeyError for a name that is none."""
    if name not in NAMES:
        raise KeyError(name)
    return cast(Stage, importlib.import_module(f"hyb.stages.{name}"))


KINDS = {
    "pull": "model",
    "data": "dataset",
    "tune": "adapter",
    "eval": "report",
    "export": "model",
    "pack": "image",
    "serve": "service",
    "link": "link",
}
"""Stage → the kind of artifact that it makes."""
