"""Two chains, each run once a session; every test breaks a copy."""

from __future__ import annotations

import fcntl
import os
import shutil

import pytest

from tests.e2e.faults.chain import QUICK, RECIPE, Chain, made
from tests.hyb import Hyb
from tests.need import need


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Every stage: half a minute."""
    need("torch", "transformers", "peft", "xllamacpp")
    return _shared(tmp_path_factory, "chain", RECIPE)


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The stages without torch: a second."""
    need("torch", "transformers")  # they make the model
    return _shared(tmp_path_factory, "quick", QUICK)


def _shared(factory: pytest.TempPathFactory, name: str, text: str) -> Chain:
    """One for all processes of this session: the first one runs it, the others wait for it."""
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    place.parent.mkdir(exist_ok=True)
    with place.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        one = Chain(Hyb(place / "home"), place / "recipe")
        if not one.file.exists():
            shutil.rmtree(place, ignore_errors=True)
            made(place, text).hyb.ok("run", str(one.recipe), "-q", timeout=600)
    one.lock = one.file.read_bytes()
    return one
