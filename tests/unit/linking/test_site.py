"""The site of this host: whose files are whose, and what the programs are told."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.cli.commands import run_command
from hyb.errors import Exit, HybError
from hyb.linking import local, sides, status
from hyb.linking import site as sites
from hyb.linking.folder import MARKER
from hyb.linking.sides import Side
from hyb.linking.site import Copy, Site
from hyb.render.skupper.documents import PLATFORM
from tests import link_peers as peers

CA = peers.Authority.new()
CLIENT = CA.leaf()
ALL = ("Connector-llm.yaml", "Link-link-public.yaml", "Secret-link-public.yaml", "Site-private.yaml")

SKUPPER = """#!/bin/sh
# Stands for the `skupper` program: records its calls and its environment, and leaves what the real one leaves.
echo "$SKUPPER_PLATFORM $SKUPPER_ROUTER_IMAGE $*" >> "{0}/calls"
ns="{0}/data/skupper/namespaces/default"
case "$1 $2" in
"version "*) printf 'COMPONENT\\tVERSION\\nrouter\\t3.5.1\\ncli      {1}\\n';;
"system start") if [ -f "{0}/broken" ]; then echo "failed to pull router image" >&2; exit 1; fi
  mkdir -p "$ns/runtime/resources"; echo 'Site "private" has been created';;
"system reload") echo reloaded;;
"system stop") rm -rf "$ns"; echo 'Namespace "default" has been removed';;
"system generate-bundle") mkdir -p "{0}/data/skupper/bundles" "{0}/b"
  printf '#!/bin/sh\\necho "install $*" >> "{0}/calls"\\nmkdir -p "%s/runtime/resources"\\n' "$ns" > "{0}/b/install.sh"
  tar -czf "{0}/data/skupper/bundles/$3.tar.gz" -C "{0}/b" install.sh;;
"link status") printf 'NAME\\tSTATUS\\tCOST\\tMESSAGE\\nlink-public\\tReady\\t1\\tOK\\n';;
esac
"""
PODMAN = """#!/bin/sh
# Stands for `podman` where only its answer matters; the real one is asked in tests/e2e/test_link_live.py.
echo "podman $*" >> "{0}/calls"
case "$*" in
*"image inspect"*) [ -f "{0}/image.json" ] && cat "{0}/image.json" || exit 125;;
*"container inspect"*) echo 'Error: no such container' >&2; exit 125;;
esac
"""


class Host:
    """A user's home with stand-ins for `skupper` and `podman`, and a link's folder."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.link = peers.link_folder(root, CA, CLIENT, [("inter-router", "localhost", 443)], 8000)
        self.bin = root / "bin"
        self.bin.mkdir()
        self.program("skupper", SKUPPER.format(root, "2.2.1"))
        self.program("podman", PODMAN.format(root))
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        for name in ("SKUPPER_PLATFORM", "SKUPPER_ROUTER_IMAGE", "HYB_STORE", sites.AUTO):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(root))
        monkeypatch.setenv("XDG_DATA_HOME", str(root / "data"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root's place is fixed, and not a test's to write to

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def image(self, digest: str = "sha256:" + "a" * 64) -> None:
        """Podman has the router's image."""
        found = [{"Id": "1", "RepoDigests": [f"quay.io/skupper/skupper-router@{digest}"]}]
        (self.root / "image.json").write_text(json.dumps(found))

    @property
    def site(self) -> Site:
        return Site(self.root / "data" / "skupper", "default", "podman")

    @property
    def side(self) -> Side:
        return sides.private(sides.read(self.link), self.link)

    @property
    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def copy(self) -> Copy:
        return sites.copy(self.side, self.site, os.environ)

    def hyb(self, *arguments: str) -> int:
        return run_command("link", list(arguments))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_copy_is_private_and_whole_and_a_second_one_writes_nothing(host: Host) -> None:
    assert host.copy() == Copy(ALL, (), ())
    assert {p.name for p in host.site.resources.iterdir()} == {*ALL, MARKER}
    assert all(mode(p) == 0o600 for p in host.site.resources.iterdir())
    assert (mode(host.site.base), mode(host.site.resources)) == (0o700, 0o700)
    before = {p: p.stat().st_mtime_ns for p in host.site.resources.glob("*.yaml")}
    assert host.copy() == Copy((), (), ALL)
    assert {p: p.stat().st_mtime_ns for p in host.site.resources.glob("*.yaml")} == before


def test_what_is_no_longer_in_the_link_goes_and_what_others_put_there_stays(host: Host) -> None:
    host.copy()
    (host.site.resources / "Connector-db.yaml").write_text("kind: Connector\n")
    (host.link / "private" / "Connector-llm.yaml").rename(host.link / "private" / "Connector-llm2.yaml")
    assert host.copy() == Copy(("Connector-llm2.yaml",), ("Connector-llm.yaml",), ALL[1:])
    assert (host.site.resources / "Connector-db.yaml").read_text() == "kind: Connector\n"
    assert not (host.site.resources / "Connector-llm.yaml").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("Connector-llm.yaml", "kind: Connector\n", "was edited since hyb copied it"),
        ("site.yaml", "kind: Site\nmetadata: {name: mine}\n", "is another Site"),
    ],
)
def test_somebody_else_s_work_is_never_touched(host: Host, name: str, text: str, said: str) -> None:
    host.copy()
    (host.site.resources / name).write_text(text)
    (host.link / "private" / "Link-link-public.yaml").touch()
    with pytest.raises(HybError) as caught:
        host.copy()
    assert said in caught.value.details[0] and caught.value.code == Exit.INPUT
    assert (host.site.resources / name).read_text() == text


def test_a_file_of_the_same_name_that_hyb_did_not_write_is_not_overwritten(host: Host) -> None:
    host.site.resources.mkdir(parents=True)
    (host.site.resources / "Site-private.yaml").write_text("kind: Site\n")
    with pytest.raises(HybError, match="not hyb's"):
        host.copy()
    assert not (host.site.resources / MARKER).exists()


def test_equal_files_that_a_person_copied_by_hand_are_taken_over(host: Host) -> None:
    host.site.resources.mkdir(parents=True)
    for path in (host.link / "private").iterdir():
        (host.site.resources / path.name).write_bytes(path.read_bytes())
    assert host.copy() == Copy((), (), ALL)
    assert mode(host.site.resources / "Secret-link-public.yaml") == 0o600


KILL = """
import os, signal, sys
from pathlib import Path
from hyb import fs
from hyb.linking import sides, site
count, real = [int(sys.argv[3])], fs.write_atomic
def write(path, data, mode=0o644):
    count[0] -= 1
    if count[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, data, mode=mode)
fs.write_atomic = write
folder = Path(sys.argv[1])
side = sides.private(sides.read(folder), folder)
site.copy(side, site.Site(Path(sys.argv[2]), "default", "podman"), os.environ)
"""


@pytest.mark.parametrize("writes", range(6))
def test_killed_between_any_two_writes_the_next_copy_makes_it_whole(host: Host, writes: int) -> None:
    argv = [sys.executable, "-c", KILL, str(host.link), str(host.site.base), str(writes)]
    done = subprocess.run(argv, check=False, capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    host.copy()
    assert {p.name for p in host.site.resources.iterdir()} == {*ALL, MARKER}


# -- commands ----------------------------------------------------------------------------------------------------------


def test_start_copies_and_starts_with_the_image_by_digest(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.image()
    assert host.hyb("start", str(host.link), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    image = f"quay.io/skupper/skupper-router@sha256:{'a' * 64}"
    assert answer["router_image"] == image and answer["written"] == list(ALL)
    assert f"podman {image} system start --namespace default" in host.calls
    assert "pull" not in " ".join(host.calls), "it was here"


def test_start_of_a_site_that_is_there_says_reload_and_the_reverse(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.image()
    assert host.hyb("reload", str(host.link)) == 3
    assert "hyb link start" in capsys.readouterr().err
    assert host.hyb("start", str(host.link)) == 0
    assert host.hyb("start", str(host.link)) == 3
    assert "hyb link reload" in capsys.readouterr().err
    assert host.hyb("reload", str(host.link)) == 0
    assert host.calls[-1].endswith("system reload --namespace default")


def test_stop_removes_the_site_and_start_brings_it_back(host: Host) -> None:
    host.image()
    assert (host.hyb("start", str(host.link)), host.hyb("stop", str(host.link))) == (0, 0)
    assert not host.site.resources.exists(), "so does the real program"
    assert host.hyb("stop", str(host.link)) == 3
    assert host.hyb("start", str(host.link)) == 0
    assert host.site.resources.is_dir()


def test_offline_refuses_an_image_that_is_not_here_and_names_it(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.hyb("start", str(host.link), "--offline") == 6
    assert "`quay.io/skupper/skupper-router:3.5.1` is not here" in capsys.readouterr().err
    assert "pull" not in " ".join(host.calls) and "system" not in " ".join(host.calls)


def test_offline_goes_the_way_of_the_bundle_and_leaves_no_key_behind(host: Host) -> None:
    host.image()
    assert host.hyb("start", str(host.link), "--offline") == 0
    verbs = [c.split(" ", 2)[2] for c in host.calls if " system " in c]
    source = host.link / "private"
    assert verbs == [f"system generate-bundle hyb-default --type tarball --input {source} --namespace default"]
    assert host.calls[-1] == "install -p podman -n default"
    assert "pull" not in " ".join(host.calls)
    assert list((host.site.base / "bundles").iterdir()) == []


def test_offline_reload_removes_the_site_before_it_installs_it_again(host: Host) -> None:
    host.image()
    assert host.hyb("start", str(host.link)) == 0
    assert host.hyb("reload", str(host.link), "--offline") == 0
    generate, stop, install = host.calls[-3:]
    assert generate.endswith("generate-bundle hyb-default --type tarball --namespace default"), "from its own input"
    assert stop.endswith("system stop --namespace default") and install == "install -p podman -n default"


def test_a_failure_of_the_program_is_shown_with_what_to_do(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.image()
    (host.root / "broken").touch()
    assert host.hyb("start", str(host.link)) == 5
    said = capsys.readouterr().err
    assert "failed to pull router image" in said and "--offline" in said


@pytest.mark.parametrize("version", ["2.0.1", "1.9.6"])
def test_an_older_skupper_is_refused(host: Host, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    host.program("skupper", SKUPPER.format(host.root, version))
    assert host.hyb("start", str(host.link)) == 3
    assert "needs 2.1 or newer" in capsys.readouterr().err


def test_without_skupper_the_bundle_is_the_way(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (host.bin / "skupper").unlink()
    assert host.hyb("start", str(host.link)) == 3
    said = capsys.readouterr().err
    assert "generate-bundle" in said and "install.sh" in said and "skupper.io/install" in said
    assert not host.site.resources.exists()


def test_without_anything_podman_is_named_too(host: Host, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", str(host.root))
    assert host.hyb("start", str(host.link)) == 3
    assert "Podman is not here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "Secret-link-public.yaml").chmod(0o644), "other users can read this key"),
        (lambda p: (p / "Secret-link-public.yaml").unlink(), "which is not there"),
        (lambda p: (p / "Link-link-public.yaml").write_text("kind: [\n"), "is no YAML"),
    ],
)
def test_a_folder_that_would_not_work_is_not_copied(
    host: Host, damage: Callable[[Path], Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(host.link / "private")
    assert host.hyb("start", str(host.link)) in (3, 4)
    assert said in capsys.readouterr().err
    assert not host.site.resources.exists() and host.calls == []


def test_an_expired_certificate_is_not_started(tmp_path: Path, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil
    from datetime import timedelta

    shutil.rmtree(host.link)
    old = CA.leaf(days=1, now=peers.NOW - timedelta(days=3))
    peers.link_folder(tmp_path, CA, old, [("inter-router", "localhost", 443)], 8000)
    assert host.hyb("start", str(host.link)) == 4
    assert "the client certificate expired" in capsys.readouterr().err


def test_a_dry_run_says_all_and_does_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("start", "reload", "stop"):
        assert host.hyb(verb, str(host.link), "--dry-run") == 0
    said = capsys.readouterr().out
    assert str(host.site.resources / "Link-link-public.yaml") in said and "system start" in said
    assert host.calls == [] and not host.site.base.exists()


def test_with_automatic_reloading_copying_is_all(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.image()
    monkeypatch.setenv(sites.AUTO, "auto")
    assert host.hyb("start", str(host.link)) == 0
    assert host.site.resources.is_dir() and not any("system start" in c for c in host.calls)


def test_install_comes_first_and_only_when_it_is_asked_for(host: Host) -> None:
    host.image()
    assert host.hyb("start", str(host.link), "--install") == 0
    verbs = [c.split(" system ")[1].split()[0] for c in host.calls if " system " in c]
    assert verbs == ["install", "start"]


def test_status_tells_what_is_known_and_what_is_not(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.hyb("status", str(host.link), "--json") == 0
    before = json.loads(capsys.readouterr().out)
    assert (before["documents"], before["running"], before["container"]) == ("absent", False, None)
    assert before["links"] == [{"name": "link-public", "status": "Ready", "message": "OK"}]
    host.copy()
    (host.link / "private" / "Connector-llm.yaml").unlink()
    assert status.look(host.side, host.site).documents == "changed"
    (host.bin / "skupper").unlink()
    assert "`skupper` program is not installed" in status.look(host.side, host.site).text()


@pytest.mark.parametrize(("uid", "base"), [(0, "/var/lib/skupper"), (1000, "/d/skupper")])
def test_root_s_site_lies_elsewhere(uid: int, base: str) -> None:
    assert sites.base({"HOME": "/h", "XDG_DATA_HOME": "/d"}, uid) == Path(base)


def test_kubernetes_is_no_platform_of_this_host(host: Host) -> None:
    with pytest.raises(HybError, match="is no platform") as caught:
        sites.of(host.side, {"HOME": "/h"}, 1000, "kubernetes")
    assert "kubectl" in caught.value.hint


# -- what programs print -----------------------------------------------------------------------------------------------


def test_a_container_is_read_from_what_podman_prints() -> None:
    printed = {"Name": "default-skupper-router", "ImageName": "quay.io/skupper/skupper-router:3.5.1",
               "ImageDigest": "sha256:abc", "RestartCount": 2,
               "State": {"Status": "running", "StartedAt": "2026-11-22T10:00:00.123Z"}}  # fmt: skip
    found = local.parsed(json.dumps([printed]).encode())
    assert "running since 2026-11-22 10:00:00, restarted 2 times" in found.text and "sha256:abc" in found.text


@pytest.mark.parametrize("printed", [b"", b"[]", b"{}", b'[{"Name": "x"}]', b"nonsense"])
def test_something_else_is_no_container(printed: bytes) -> None:
    with pytest.raises(HybError, match="unknown"):
        local.parsed(printed)


@pytest.mark.parametrize(
    ("text", "names"),
    [("", []), ("There are no link resources in the namespace\n", []), ("NAME\tSTATUS\nx\tPending\n", ["x"])],
)
def test_link_status_is_read_as_a_table(text: str, names: list[str]) -> None:
    assert [x.name for x in local.parsed_lines(text)] == names


def test_a_site_that_the_documents_put_into_kubernetes_is_none_of_this_host(host: Host) -> None:
    site = host.link / "private" / "Site-private.yaml"
    document = yaml.safe_load(site.read_text())
    document["metadata"]["annotations"] = {PLATFORM: "kubernetes"}
    site.write_text(yaml.safe_dump(document))
    with pytest.raises(HybError, match="`kubernetes` is no platform of this host") as error:
        sites.of(host.side, os.environ, 1000)
    assert "kubectl" in error.value.hint
    assert sites.of(host.side, os.environ, 1000, "docker").platform == "docker", "what is said counts more"
