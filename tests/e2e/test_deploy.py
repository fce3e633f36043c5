"""`hyb deploy` as a program: from a link to a folder that kustomize builds, without a socket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.store import Store
from tests.deployments import DIGEST
from tests.hyb import Hyb
from tests.need import kustomize, need

IMAGE = f"registry.example.com/hyb-chat{DIGEST}"
GOOD = ("deploy", "van", "--image", IMAGE, "--host", "chat.example.com")


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    """A home with a link `van` in its store."""
    found = Hyb(tmp_path / "a home")
    found.home.mkdir()
    store = Store(found.store)
    meta = {"name": "bot", "port": 8000, "host": "127.0.0.1", "targets": ["quadlet"]}
    store.tag("service", store.add_artifact("service", [], meta=meta).digest)
    link = ("link", "service", "--namespace", "chat", "--apps-domain", "apps.example.com", "--name", "van")
    found.ok(*link, "--out", "link", cwd=found.home)
    return found


def test_a_link_becomes_a_folder_and_the_second_call_changes_nothing(hyb: Hyb) -> None:
    said = hyb.ok(*GOOD, cwd=hyb.home)
    assert "wrote deploy/overlays/openshift/route.yaml" in said
    assert said.endswith("next: deploy/APPLY.md says what to run\n")
    before = {p: p.stat().st_mtime_ns for p in (hyb.home / "deploy").rglob("*")}
    again = hyb.json(*GOOD, "--offline", cwd=hyb.home)
    assert again["overlays"] == ["openshift"] and "deploy/base/deployment.yaml" in again["written"]
    assert {p: p.stat().st_mtime_ns for p in (hyb.home / "deploy").rglob("*")} == before


def test_the_link_and_its_folder_give_the_same_bytes_on_two_machines(hyb: Hyb, tmp_path: Path) -> None:
    hyb.ok(*GOOD, "--out", "one", cwd=hyb.home)
    other = Hyb(tmp_path / "other")
    other.home.mkdir()
    other.ok("deploy", str(hyb.home / "link"), *GOOD[2:], "--out", "two", cwd=other.home)
    one, two = (
        {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
        for place in (hyb.home / "one", other.home / "two")
    )
    assert one == two


def test_all_four_ways_in_are_built_by_kustomize(hyb: Hyb) -> None:
    need("kustomize")
    more = (
        "--for",
        "all",
        "--ingress-class",
        "nginx",
        "--gateway",
        "gateways/public",
        "--pod-network",
        "10.244.0.0/16",
    )
    hyb.ok(*GOOD, *more, "--nginx-image", f"registry.example.com/nginx{DIGEST}", cwd=hyb.home)
    for overlay, kind in (
        ("openshift", "Route"), ("nginx", "Ingress"), ("gateway", "HTTPRoute"), ("loadbalancer", "Service"),
    ):  # fmt: skip
        command = [*kustomize(), f"deploy/overlays/{overlay}"]
        done = subprocess.run(command, cwd=hyb.home, capture_output=True, text=True, check=True)
        kinds = [d["kind"] for d in yaml.safe_load_all(done.stdout)]
        assert kind in kinds and "Deployment" in kinds


def test_the_difference_is_shown_with_4_and_nothing_is_written(hyb: Hyb) -> None:
    hyb.ok(*GOOD, cwd=hyb.home)
    assert hyb.ok(*GOOD, "--diff", "deploy", cwd=hyb.home) == ""
    before = (hyb.home / "deploy/base/configmap.yaml").read_bytes()
    done = hyb(*GOOD, "--title", "Lab", "--diff", "deploy", cwd=hyb.home)
    assert (done.returncode, done.stderr) == (4, "")
    assert "-  HYB_CHAT_TITLE: Chat\n+  HYB_CHAT_TITLE: Lab\n" in done.stdout
    told = hyb(*GOOD, "--title", "Lab", "--diff", "deploy", "--json", cwd=hyb.home)
    assert told.returncode == 4
    assert json.loads(told.stdout)["differs"] is True
    assert (hyb.home / "deploy/base/configmap.yaml").read_bytes() == before


def test_an_edited_folder_and_another_pages_folder_are_kept_without_force(hyb: Hyb) -> None:
    hyb.ok(*GOOD, cwd=hyb.home)
    edited = hyb.home / "deploy/base/service.yaml"
    edited.write_text(edited.read_text() + "# mine\n")
    assert "`base/service.yaml` was edited" in hyb.fails(3, *GOOD, cwd=hyb.home)
    assert "# mine" in edited.read_text()
    hyb.ok(*GOOD, "--force", cwd=hyb.home)
    assert "# mine" not in edited.read_text()
    assert "is about page `chat` of `chat`, not page `page` of `chat`" in hyb.fails(
        3, *GOOD, "--name", "page", cwd=hyb.home
    )
    assert "was not written by hyb" in hyb.fails(3, *GOOD, "--out", "link", "--force", cwd=hyb.home)


def test_a_dry_run_writes_nothing(hyb: Hyb) -> None:
    assert "would write deploy/base/deployment.yaml" in hyb.ok(*GOOD, "--dry-run", cwd=hyb.home)
    assert not (hyb.home / "deploy").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--image", "registry.example.com/hyb-chat:latest"), 3, "has no digest"),
        (("--host", "*.example.com"), 3, "is a wildcard"),
        (("--host", "10.0.0.1"), 3, "is an address"),
        (("--namespace", "default"), 3, "no such listener"),
        (("--listener", "gpt"), 3, "no such listener"),
        (("--for", "istio"), 3, "`istio` is none of openshift, nginx, gateway, loadbalancer"),
        (("--for", "nginx"), 3, "`kubectl get ingressclass` lists them"),
        (("--gateway", "public"), 2, "`public` is no Gateway"),
        (("--name", "c" * 64), 3, "has 64 characters"),
        (("--name", "llm"), 3, "which the link makes"),
        (("--replicas", "two"), 2, "is not a valid int"),
        (("--legacy-ingress-nginx",), 3, "needs the class of its controller"),
    ],
)
def test_bad_input_has_its_code_and_writes_nothing(hyb: Hyb, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in hyb.fails(code, *GOOD, *arguments, cwd=hyb.home)
    assert not (hyb.home / "deploy").exists()
    error = json.loads(hyb(*GOOD, *arguments, "--json", cwd=hyb.home).stdout)["error"]
    assert error["code"] == code


def test_ingress_nginx_is_warned_of(hyb: Hyb) -> None:
    more = ("--ingress-class", "nginx", "--legacy-ingress-nginx", "--pod-network", "10.244.0.0/16")
    done = hyb(*GOOD, *more, cwd=hyb.home)
    assert done.returncode == 0 and "no support since March 2026" in done.stderr
    assert (hyb.home / "deploy/overlays/nginx/ingress.yaml").exists()
    assert not (hyb.home / "deploy/overlays/openshift").exists()


def test_no_socket_is_opened_and_no_program_started(hyb: Hyb) -> None:
    code = """
import socket, subprocess, sys
def refuse(*a, **k): raise AssertionError("no network, no program")
socket.socket = subprocess.Popen = refuse
from hyb.cli import main
sys.argv = ["hyb", *sys.argv[1:]]
main()
"""
    root = Path(__file__).parents[2]
    environment: dict[str, Any] = {**hyb.env, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code, *GOOD], cwd=hyb.home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (hyb.home / "deploy" / "APPLY.md").is_file()
