"""Settings of every test."""

from __future__ import annotations

import os
import signal

import pytest

# Two OpenMP threads that spin on two busy cores make training many times slower. Must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that starts the tests in the background has them ignore SIGINT, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs side by side: files; those with Podman one after the other, for they share its default network."""
    for item in items:
        group = "podman" if item.get_closest_marker("podman") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
