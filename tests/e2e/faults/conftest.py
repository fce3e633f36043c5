"""Two chains, each run once a session; every test breaks a copy."""

from __future__ import annotations

import pytest

from tests.e2e.faults.chain import QUICK, RECIPE, Chain, made
from tests.need import need


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Every stage: half a minute."""
    need("torch", "transformers", "peft", "xllamacpp")
    return _run(made(tmp_path_factory.mktemp("chain"), RECIPE))


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The stages without torch: a second."""
    need("torch", "transformers")  # they make the model
    return _run(made(tmp_path_factory.mktemp("quick"), QUICK))


def _run(one: Chain) -> Chain:
    one.hyb.ok("run", str(one.recipe), "-q", timeout=600)
    one.lock = one.file.read_bytes()
    return one
