"""`hyb link` as a program: the folders, the exit codes, and not one socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.linking import folder as linking
from hyb.store import Store
from tests.need import need
from tests.unit.linking.test_token import token as token_document

GOOD = ("link", "service", "--namespace", "chat", "--apps-domain", "apps.example.com")


class Machine:
    """A home with a store in it that knows one service."""

    def __init__(self, root: Path) -> None:
        self.root = root / "müller home"
        self.root.mkdir()
        store = Store(self.root / "store")
        meta = {"name": "bot", "port": 8000, "host": "127.0.0.1", "targets": ["quadlet"]}
        store.tag("service", store.add_artifact("service", [], meta=meta).digest)
        store.tag("coder", store.add_artifact("service", [], meta={**meta, "name": "coder", "port": 8001}).digest)

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
        (("--apps-domain", "*.apps.example.com"), "a wildcard stands for many"),
        (("--apps-domain", "192.0.2.1"), "is an IP address, not a DNS name"),
        (("--namespace", "default"), "is the private side's own"),
        (("--private-namespace", "chat"), "is the private side's own"),
        (("--selector", "app=llm"), "there are none on platform `podman`"),
        (("--strategy", "weighted"), "chooses among several"),
    ],
)
def test_bad_input_ends_with_3_and_writes_nothing(machine: Machine, arguments: tuple[str, ...], said: str) -> None:
    before = sorted(machine.root.rglob("*"))
    done = machine.hyb(
        *(g for g in GOOD if "--namespace" not in arguments or g not in ("--namespace", "chat")), *arguments
    )
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "http"), "not a valid int"),
        (("--link-port", "edge=http"), "takes NAME=NUMBER"),
        (("--weight", "a"), "takes NAME=NUMBER"),
        (("--private-site", "a=cheap"), "is not NAME or NAME=COST"),
        (("--private-site", "a", "--private-site", "a=2"), "once a name"),
        (("--link-host", "chat="), "is not NAME=VALUE"),
    ],
)
def test_an_option_that_can_not_be_read_ends_with_2(machine: Machine, arguments: tuple[str, ...], said: str) -> None:
    done = machine.hyb(*GOOD, *arguments)
    assert done.returncode == 2 and said in done.stderr and not (machine.root / "link").exists()


def test_several_models_hosts_and_namespaces_go_into_folders_of_their_own(machine: Machine) -> None:
    done = machine.hyb(
        "link", "service", "coder", "--namespace", "chat", "--namespace", "shop", "--apps-domain", "apps.example.com",
        "--private-site", "alpha", "--private-site", "beta=10",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = machine.root / "link"
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == [
        "openshift-chat", "openshift-shop", "private-alpha", "private-beta",
    ]  # fmt: skip
    assert {p.name for p in (out / "openshift-chat").glob("Listener-*")} == {"Listener-bot.yaml", "Listener-coder.yaml"}
    assert linking.check_folder(out) == []


def test_the_folder_of_another_link_is_replaced_only_by_force(machine: Machine) -> None:
    machine.hyb(*GOOD)
    other = ("link", "service", "--namespace", "shop", "--apps-domain", "apps.example.com")
    refused = machine.hyb(*other)
    assert refused.returncode == 3 and "not link `link-public` of `shop`" in refused.stderr
    assert "hyb-edge-chat" in (machine.root / "link/private/Link-link-public.yaml").read_text()
    assert machine.hyb(*other, "--force").returncode == 0
    assert "hyb-edge-shop" in (machine.root / "link/private/Link-link-public.yaml").read_text()


def test_a_link_that_is_made_takes_no_options_of_a_new_one(machine: Machine) -> None:
    machine.hyb(*GOOD, "--name", "van")
    done = machine.hyb("link", "van", "--namespace", "shop")
    assert done.returncode == 2 and "`van` is a link already" in done.stderr
    assert machine.hyb("link", "van", "--out", "again").returncode == 0


def test_a_load_balancer_without_an_address_is_refused_or_asked_for_later(machine: Machine) -> None:
    balanced = ("link", "service", "--namespace", "chat", "--access", "loadbalancer")
    refused = machine.hyb(*balanced)
    assert refused.returncode == 3 and "`way: issuer` or `way: token`" in refused.stderr
    first = machine.hyb(*balanced, "--way", "issuer", "--json")
    assert first.returncode == 0 and not [p for p in json.loads(first.stdout)["written"] if "private" in p]
    second = machine.hyb(*balanced, "--way", "issuer", "--host", "192.0.2.7")
    assert second.returncode == 0, second.stderr
    assert linking.check_folder(machine.root / "link") == []


def test_a_token_goes_from_its_grant_into_the_folder(machine: Machine) -> None:
    granted = machine.hyb("link", "grant", "--namespace", "chat", "--window", "1d")
    assert granted.returncode == 3 and "`--window` `1d` is no duration" in granted.stderr
    granted = machine.hyb("link", "grant", "--namespace", "chat", "--json")
    commands = json.loads(granted.stdout)["commands"]
    assert any("accessgrant hyb -n chat" in c for c in commands)
    assert machine.hyb("link", "grant", "--namespace", "shop").returncode == 3, "another file is there"
    assert machine.hyb("link", "grant", "--namespace", "shop", "--force").returncode == 0
    machine.hyb("link", "service", "--namespace", "chat", "--way", "token")
    token = machine.root / "token.yaml"
    token.write_text(yaml.safe_dump(token_document()))
    token.chmod(0o644)
    os.utime(token, (time.time() - 3600, time.time() - 3600))
    done = machine.hyb("link", "accept", "token.yaml", "--offline")
    assert done.returncode == 0, done.stderr
    assert "can be read by others" in done.stderr and "is 60 minutes old" in done.stderr
    assert "s3cretCode" not in done.stdout + done.stderr
    assert (machine.root / "link/AccessToken-link-public.yaml").stat().st_mode & 0o777 == 0o600
    assert machine.hyb("link", "accept", "token.yaml", "--redeem", "--offline").returncode == 6
    assert machine.hyb("link", "accept", "grant.yaml").returncode == 4


def test_dry_runs_of_tokens_write_nothing(machine: Machine) -> None:
    assert machine.hyb("link", "grant", "--namespace", "chat", "--dry-run").returncode == 0
    assert not (machine.root / "grant.yaml").exists()
