"""APPLY.md and the scripts of the way `cli`: what they say, and that a shell runs them as they are meant."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyb.render.skupper import facts as f
from hyb.render.skupper import guide, scripts
from tests.skupper_docs import ACCESSES, link_facts
from tests.unit.render.skupper.test_documents import COMBINATIONS, GOLDEN, SIMPLE, made


def test_the_guide_of_the_simplest_link_is_the_golden_one() -> None:
    assert guide.guide(SIMPLE) == (GOLDEN / "APPLY.md").read_text()


def test_the_guide_follows_platform_and_namespace() -> None:
    text = guide.guide(link_facts(platform="linux"))
    assert "SKUPPER_PLATFORM=linux" in text and "skupper system start -n skupper-private" in text
    assert "system install" not in text and "skrouterd" in text
    assert "namespaces/skupper-private/input/resources" in text


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(map(str, c)))
def test_every_guide_names_all_folders_endpoints_and_services_and_is_plain_text(combination: Any) -> None:
    facts = made(*combination)
    text = guide.guide(facts)
    for site in (*facts.private, *facts.public):
        assert f"{site.folder}/" in text
    for service in facts.services:
        assert f"http://{service.host}:{service.port}" in text
    if facts.access.kind != "route" or facts.access.apps_domain:
        for end in guide.all_endpoints(facts):
            assert end.host in text
    assert not any(line != line.rstrip() for line in text.splitlines()) and "None" not in text and "{{." not in text
    assert text.count("## 1.") == len(facts.public) and text.count("## 2.") == len(facts.private)


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ("loadbalancer", "Services of type LoadBalancer"),
        ("nodeport", "SKUPPER_CLUSTER_HOST=192.0.2.7"),
        ("ingress-nginx", "SKUPPER_INGRESS_DOMAIN=in.example.com"),
        ("ingress-nginx", "--enable-ssl-passthrough"),
        ("ingress-nginx", "out of support since March 2026"),
        ("local", "from inside the cluster only"),
    ],
)
def test_the_guide_says_what_an_access_type_needs(access: str, said: str) -> None:
    text = guide.guide(link_facts(access=access, platform="kubernetes"))
    assert said in text and "kubectl apply -f openshift/ -n chat" in text and "oc " not in text.replace("oc wait", "")


def test_the_guide_of_a_link_without_an_address_says_what_comes_next_and_has_no_private_part() -> None:
    facts = replace(link_facts("issuer"), access=f.Access("loadbalancer"))
    text = guide.guide(facts)
    assert "--link-host HOST" in text and "get routeraccess hyb -n chat" in text and "input/resources" not in text
    nodes = guide.guide(replace(facts, access=f.Access("nodeport", hosts={"chat": "192.0.2.7"})))
    assert "--link-port inter-router=N,edge=N" in nodes


def test_what_only_newer_skuppers_know_is_said() -> None:
    assert "**2.1.0 or newer**" in guide.guide(SIMPLE)
    for service in (
        f.Service("llm", 80, ("a", "b"), strategy="priority"),
        f.Service("llm", 80, ("a",), observer="none"),
    ):
        for way in ("given", "issuer", "token"):
            assert "**2.2.0 or newer**" in guide.guide(link_facts(way, services=(service,)))


def test_the_template_makes_a_token_of_a_grants_status() -> None:
    """Go's template is filled in by hand: `printf "%q"` of these texts is a JSON text."""
    (_, command) = guide.token_commands("oc", "hyb", "chat", "link-public", "token.yaml")
    template = command.split("go-template='")[1].split("'")[0]
    status = {"url": "https://g.example.com/uid", "code": 'a"b\\c', "ca": "-----BEGIN CERTIFICATE-----\nx\n"}
    for name, value in status.items():
        template = template.replace(f'{{{{printf "%q" .status.{name}}}}}', json.dumps(value))
    document = json.loads(template)
    assert document["spec"] == status and document["metadata"] == {"name": "link-public"}
    assert command.startswith("(umask 077; oc get accessgrant hyb -n chat ") and command.endswith("> token.yaml)")


# -- scripts ---------------------------------------------------------------------------------------------------------

CLI = [
    link_facts("cli", access, platform, private=private, public=public, services=services)
    for access, platform in itertools.product(f.CLI_ACCESS, f.PLATFORMS)
    for private, public, services in (
        (("private",), ("chat",), (f.Service("llm", 8000, ("llm",)),)),
        (("alpha", "beta"), ("chat", "shop"), (f.Service("a", 80, ("a",)), f.Service("b", 81, ("b",), name="b-81"))),
    )
]


def run(script: str, folder: Path, *arguments: str) -> list[list[str]]:
    """What the programs of a script were called with. They are stand-ins that record their arguments."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    record = folder / "calls"
    for name in ("skupper", "kubectl"):
        stand_in = programs / name
        stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" "" >> "{record}"\necho printed\n')
        stand_in.chmod(0o755)
    (folder / "script.sh").write_text(script)
    record.unlink(missing_ok=True)
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["sh", "script.sh", *arguments], cwd=folder, env=env, check=True, capture_output=True)
    return [call.split("\n") for call in record.read_text().removesuffix("\n\n").split("\n\n")]


@pytest.mark.parametrize("facts", CLI, ids=lambda x: f"{x.access.kind}-{x.private[0].platform}-{len(x.private)}")
def test_the_scripts_make_the_same_link_by_skuppers_own_program(facts: f.LinkFacts, tmp_path: Path) -> None:
    for public in facts.public:
        calls = run(scripts.public_script(facts, public), tmp_path)
        assert calls[0][:3] == ["skupper", "site", "create"] and facts.access.kind in calls[0]
        assert [c[3:5] for c in calls if c[1] == "listener"] == [
            [s.name or s.host, str(s.port)] for s in facts.services
        ]
        assert sum(c[1:3] == ["link", "generate"] for c in calls) == len(facts.private)
        assert all(c[c.index("--namespace") + 1] == public.namespace for c in calls)
        for private in facts.private:
            written = tmp_path / scripts.link_file(facts, public, private)
            assert written.read_text() == "printed\n" and written.stat().st_mode & 0o077 == 0
    for private in facts.private:
        files = [scripts.link_file(facts, public, private) for public in facts.public]
        calls = run(scripts.private_script(facts, private), tmp_path, *files)
        assert [c[3:5] for c in calls if c[1] == "connector"] == [[t.name, str(t.port)] for t in private.targets]
        applied = [c for c in calls if "apply" in c]
        assert [c[c.index("--filename") + 1] for c in applied] == files
        assert (calls[-1][1:3] == ["system", "start"]) is (private.platform != "kubernetes")
        assert ("--selector" in calls[1]) is (private.platform == "kubernetes")


def test_a_private_script_without_its_file_says_so_and_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(scripts.private_script(CLI[0], CLI[0].private[0]), tmp_path)
    assert b"link-public.yaml" in caught.value.stderr and not (tmp_path / "calls").exists()


@pytest.mark.parametrize("facts", CLI, ids=lambda x: f"{x.access.kind}-{x.private[0].platform}-{len(x.private)}")
def test_the_guide_of_the_scripts_names_each_with_its_files(facts: f.LinkFacts) -> None:
    text = scripts.guide(facts)
    for site in (*facts.private, *facts.public):
        assert f"sh {site.folder}/{scripts.SCRIPT}" in text
    for private in facts.private:
        for public in facts.public:
            assert scripts.link_file(facts, public, private) in text
    assert (f"SKUPPER_PLATFORM={facts.private[0].platform} skupper system install" in text) is (
        facts.private[0].platform in ("podman", "docker")
    )


def test_accesses_of_the_samples_are_those_that_exist() -> None:
    assert {a.kind for a in ACCESSES.values()} == set(f.ACCESS)
