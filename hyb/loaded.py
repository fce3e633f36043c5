"""Which Python packages a process has really loaded, for the receipt of what it did. Read after the work is done."""

from __future__ import annotations

import functools
import importlib.metadata
import sys

from hyb import __version__


def packages() -> dict[str, str]:
    """Package → version of each distribution of which a module is loaded now. hyb itself is among them, also when it
    runs from a folder."""
    owners = _owners()
    names = {name for module in {n.partition(".")[0] for n in sys.modules} for name in owners.get(module, ())}
    found = {name: importlib.metadata.version(name) for name in names}
    return dict(sorted({**found, "hyb": __version__}.items(), key=lambda item: item[0].lower()))


@functools.cache
def _owners() -> dict[str, list[str]]:
    """Top-level module → the distributions that have it. Takes about 0.2 s where many are installed."""
    return {module: list(names) for module, names in importlib.metadata.packages_distributions().items()}
