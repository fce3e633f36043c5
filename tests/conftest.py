"""Settings of every test."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hyb import engine, offline

os.environ.update(engine.openmp(os.environ))  # before torch is loaded

# A shell that starts the tests in the background has them ignore SIGINT, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with --offline that a test calls in its own process closes this process for that test alone: a guard
    can't be taken off. What the guard does is tested in processes that have it."""
    for name in ("HYB_OFFLINE", *offline.SWITCHES):
        before = os.environ.get(name)
        monkeypatch.setenv(name, before or "")  # noted, so that it is put back whatever the test does
        if before is None:
            monkeypatch.delenv(name)
    monkeypatch.setattr(offline, "guard", lambda: None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What runs side by side: files. Those with Podman run one after the other, for they share its default network."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "podman" if _uses_podman(config.rootpath / path) else path

    return ByFile(config, log)


@functools.cache
def _uses_podman(path: Path) -> bool:
    return "mark.podman" in path.read_text()
