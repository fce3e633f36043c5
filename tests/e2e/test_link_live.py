"""`hyb link check` as a program, and the private router as a real container of Podman."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hyb import engine_podman
from hyb.cli.commands import run_command
from hyb.containers import Container
from hyb.errors import Exit, HybError
from hyb.linking import local, router_image
from hyb.store import Store
from tests import link_peers as peers
from tests.hyb import Hyb
from tests.need import need
from tests.podman_env import BASE, podman_home, run  # noqa: F401

CA = peers.Authority.new()
ROUTER = "quay.io/skupper/skupper-router:3.5.1"


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path)


def bare(tmp_path: Path) -> dict[str, str]:
    """An environment without podman, skupper and oc."""
    return {"PATH": str(tmp_path)}


# -- check -------------------------------------------------------------------------------------------------------------


def test_a_whole_link_is_checked_with_exit_0_and_told_part_by_part(hyb: Hyb, tmp_path: Path) -> None:
    need("proton")
    with peers.router(CA, CA.leaf("localhost")) as (port, _), peers.model(key="hyb_sk_1") as model:
        folder = peers.link_folder(tmp_path, CA, CA.leaf(), [("inter-router", "localhost", port)], model)
        (tmp_path / "key").write_text("hyb_sk_1\n")
        argv = ("link", "check", str(folder), "--key-file", str(tmp_path / "key"))
        told = hyb.ok(*argv, env=bare(tmp_path))
        found = hyb.json(*argv, env=bare(tmp_path))
        assert hyb.ok(*argv, "--offline", env=bare(tmp_path)), "all of it is on this machine"
    assert told.splitlines()[-1] == "the link works" and "hyb_sk_1" not in told + json.dumps(found)
    assert (found["ok"], found["cause"], found["side"]) == (True, "", "private")
    assert all(p["ms"] > 0 for p in found["parts"] if p["part"].startswith(("tcp", "tls", "peer", "model")))


def test_a_link_that_is_down_ends_with_4_and_one_json_document(hyb: Hyb, tmp_path: Path) -> None:
    folder = peers.link_folder(tmp_path, CA, CA.leaf(), [("inter-router", "localhost", peers.free_port())], 1)
    done = hyb("link", "check", str(folder), "--json", env=bare(tmp_path))
    assert done.returncode == 4 and "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert found["cause"] == "refused" and {p["state"] for p in found["parts"]} == {"ok", "failed", "not tried"}


def test_a_client_needs_no_folder(hyb: Hyb, tmp_path: Path) -> None:
    with peers.model(key="hyb_sk_1") as port:
        url = f"http://127.0.0.1:{port}"
        assert hyb("link", "check", "--url", url, cwd=tmp_path).returncode == 4
        assert hyb.ok("link", "check", "--url", url, cwd=tmp_path, env={"HYB_API_KEY": "hyb_sk_1"})
    done = hyb("link", "check", "--url", url, cwd=tmp_path)
    assert done.returncode == 4 and done.stdout.splitlines()[-1] == "the link does not work: link down"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere",), 3, "no folder `nowhere`"),
        ((".",), 3, "no folder of a link"),
        (("--side", "left"), 2, "no side of a link"),
        (("--timeout", "0"), 2, "no time to wait"),
        (("--timeout", "nan"), 2, "no time to wait"),
        (("--url", "http://u:p@h/v1"), 3, "no place in a URL"),
        (("--url", "ftp://h"), 3, "no http URL"),
        (("--url", "http://h", "--key-file", "none"), 3, "can't read the key file"),
        (("--url", "http://h", "--offline"), 6, "`h` is another machine"),
        (("--side", "client"), 3, "no folder"),
    ],
)
def test_bad_input_has_its_code_and_words(
    hyb: Hyb, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert said in hyb.fails(code, "link", "check", *arguments, cwd=tmp_path)


def test_a_dry_run_opens_nothing(hyb: Hyb, tmp_path: Path) -> None:
    folder = peers.link_folder(tmp_path, CA, CA.leaf(), [("inter-router", "router.example.com", 443)], 8000)
    told = hyb.ok("link", "check", str(folder), "--dry-run")
    assert "would check inter-router `router.example.com:443`" in told


def test_a_link_of_the_store_means_the_folder_that_was_written_for_it(hyb: Hyb, tmp_path: Path) -> None:
    store = Store(hyb.store)
    store.tag("service", store.add_artifact("service", [], meta={"name": "bot", "port": 8000}).digest)
    store.tag("quickstart/van", store.add_artifact("link", [], meta={"hosts": ["localhost"]}).digest)
    assert "not a link" in hyb.fails(3, "link", "check", "service", cwd=tmp_path)
    assert "`hyb link quickstart/van --out DIR`" in hyb.fails(3, "link", "check", "quickstart/van", cwd=tmp_path)
    peers.link_folder(tmp_path, CA, CA.leaf(), [("inter-router", "localhost", 443)], 8000)
    assert "inter-router `localhost:443`" in hyb.ok("link", "check", "quickstart/van", "--dry-run", cwd=tmp_path)


# -- Podman ------------------------------------------------------------------------------------------------------------

SKUPPER = """#!/bin/sh
# Stands for `skupper`: a bundle whose install.sh runs a real container, as the real bundle's does.
[ "$1" = version ] && printf 'cli      2.2.1\\n' && exit 0
[ "$1 $2" = "system generate-bundle" ] || {{ echo "unexpected: $*" >&2; exit 9; }}
mkdir -p "{0}/data/skupper/bundles" "{0}/b"
run="podman --remote=false run -d --name=default-skupper-router --network=host"
echo "$run $SKUPPER_ROUTER_IMAGE sleep 600" > "{0}/b/install.sh"
tar -czf "{0}/data/skupper/bundles/$3.tar.gz" -C "{0}/b" install.sh
"""


@pytest.mark.podman
class TestWithPodman:
    @pytest.fixture
    def image(self, podman_home: Path) -> Any:  # noqa: F811
        """The name of the router's image on something else that can run: no registry is here to give the real one."""
        engine_podman._call([*engine_podman.PODMAN, "tag", BASE, ROUTER])
        yield ROUTER
        engine_podman._call([*engine_podman.PODMAN, "untag", BASE, ROUTER])

    def test_an_image_that_is_here_is_taken_by_digest_without_a_network(self, image: str, tmp_path: Path) -> None:
        pinned = router_image.pinned(image, Store(tmp_path / "store"), offline=True)
        assert pinned.startswith("quay.io/skupper/skupper-router@sha256:")
        assert router_image.pinned(pinned, Store(tmp_path / "store"), offline=True) == pinned

    def test_an_image_that_is_nowhere_is_not_pulled(self, podman_home: Path, tmp_path: Path) -> None:  # noqa: F811
        with pytest.raises(HybError) as caught:
            router_image.pinned("quay.io/skupper/none:1", Store(tmp_path / "store"), offline=True)
        assert caught.value.code == Exit.OFFLINE and "`quay.io/skupper/none:1`" in caught.value.message

    def test_a_router_s_container_is_seen_running_and_gone(self, podman_home: Path) -> None:  # noqa: F811
        name = local.router_name("default")
        assert local.container("default") is None
        engine_podman.run_container(Container(image=BASE, command=("sleep", "600"), name=name, detach=True))
        try:
            found = local.container("default")
            assert found and found.status == "running" and found.digest.startswith("sha256:") and found.since
        finally:
            engine_podman.remove_container(name)
        assert local.container("default") is None

    def test_offline_the_bundle_starts_a_container_from_the_image_that_is_here(
        self, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = peers.link_folder(tmp_path, CA, CA.leaf(), [("inter-router", "localhost", 443)], 8000)
        program = tmp_path / "bin" / "skupper"
        program.parent.mkdir()
        program.write_text(SKUPPER.format(tmp_path))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root's place is fixed, and not a test's to write to
        try:
            assert run_command("link", ["start", str(folder), "--offline"]) == 0, capsys.readouterr().err
            capsys.readouterr()
            assert run_command("link", ["status", str(folder), "--json"]) == 0
            found = json.loads(capsys.readouterr().out)
            assert found["running"] and found["container"]["image"].startswith("quay.io/skupper/skupper-router")
        finally:
            engine_podman.remove_container(local.router_name("default"))
