"""`hyb link` as a program: the folders, the exit codes, and not one socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hyb.linking import folder as linking
from hyb.store import Store
from tests.need import need

GOOD = ("link", "service", "--namespace", "chat", "--apps-domain", "apps.example.com")


class Machine:
    """A home with a store in it that knows one service."""

    def __init__(self, root: Path) -> None:
        self.root = root / "müller home"
        self.root.mkdir()
        store = Store(self.root / "store")
        meta = {"name": "bot", "port": 8000, "host": "127.0.0.1", "targets": ["quadlet"]}
        store.tag("service", store.add_artifact("service", [], meta=meta).digest)

    def hyb(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HYB_", "XDG_"))}
        env |= {
            "HOME": str(self.root),
            "HYB_STORE": str(self.root / "store"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [*before, sys.executable, "-m", "hyb", *arguments]
        return subprocess.run(command, env=env, cwd=self.root, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_service_becomes_two_folders_that_pass_the_check(machine: Machine) -> None:
    done = machine.hyb(*GOOD, "--offline", "--out", "öut put")
    assert done.returncode == 0, done.stderr
    out = machine.root / "öut put"
    assert linking.check_folder(out, now=datetime.now(UTC)) == []
    assert f"wrote {Path('öut put') / 'APPLY.md'}" in done.stdout
    assert "PRIVATE" not in done.stdout + done.stderr
    again = machine.hyb(*GOOD, "--offline", "--out", "öut put", "--json")
    answer: dict[str, Any] = json.loads(again.stdout)
    assert again.returncode == 0 and len(answer["written"]) == 9
    digest = answer["link"].removeprefix("sha256:")
    assert (machine.root / "store" / "blobs" / "sha256" / digest).is_file()


def test_renewing_changes_the_secrets_and_nothing_else(machine: Machine) -> None:
    machine.hyb(*GOOD)
    before = {p: p.read_bytes() for p in (machine.root / "link").rglob("*.yaml")}
    assert machine.hyb(*GOOD, "--renew").returncode == 0
    changed = {p.name for p, data in before.items() if p.read_bytes() != data}
    assert changed == {"Secret-link-public.yaml", "Secret-hyb-link-server.yaml"}
    assert linking.check_folder(machine.root / "link") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--namespace", "team_chat"), "is no RFC 1123 label"),
        (("--namespace", "n" * 50), "67 characters, 63 are the most"),
        (("--port", "70000"), "less than or equal to 65535"),
        (("--apps-domain", "https://apps.example.com"), "is no DNS name"),
    ],
)
def test_bad_input_ends_with_3_and_writes_nothing(machine: Machine, arguments: tuple[str, ...], said: str) -> None:
    before = sorted(machine.root.rglob("*"))
    done = machine.hyb(*GOOD, *arguments)
    assert done.returncode == 3 and said in done.stderr and "Traceback" not in done.stderr
    assert sorted(machine.root.rglob("*")) == before


def test_somebody_elses_folder_is_left_as_it_is(machine: Machine) -> None:
    (machine.root / "link").mkdir()
    (machine.root / "link" / "notes.txt").write_text("mine")
    done = machine.hyb(*GOOD)
    assert done.returncode == 3 and "was not written by hyb" in done.stderr
    assert [p.name for p in (machine.root / "link").iterdir()] == ["notes.txt"]


def test_not_one_socket_is_opened(machine: Machine) -> None:
    need("strace")
    trace = machine.root / "trace"
    done = machine.hyb(*GOOD, before=("strace", "-f", "-qq", "-e", "trace=openat,socket,connect", "-o", str(trace)))
    assert done.returncode == 0, done.stderr
    lines = trace.read_text(errors="replace").splitlines()
    assert any("APPLY.md" in line for line in lines), "the trace has seen the work"
    assert not [line for line in lines if "socket(" in line or "connect(" in line]
