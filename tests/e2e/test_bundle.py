"""`hyb bundle`, as people use it: on this side, on a medium, and inside, where there is neither network nor hyb."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bundles
from tests.hyb import Hyb
from tests.need import need
from tests.netns import Machine


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hyb, Path]:
    """The connected side: a recipe that was run."""
    home = tmp_path_factory.mktemp("outside")
    hyb, recipe = Hyb(home), bundles.recipe(home / "recipe")
    hyb.ok("run", str(recipe), "--offline")
    return hyb, recipe


def key(hyb: Hyb, folder: Path) -> Path:
    hyb.ok("sign", "--new-key", str(folder))
    return next(folder.glob("*.key"))


def age_key(folder: Path) -> tuple[Path, str]:
    """A private key's file and its public half."""
    identity = folder / "identity"
    subprocess.run(["age-keygen", "-o", str(identity)], check=True, capture_output=True)
    return identity, re.findall("age1[a-z0-9]+", identity.read_text())[0]


def shell(text: str, folder: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    """Run a script where these programs are all that there is, and the folder is the home."""
    tools = folder.parent / f"tools-{folder.name}"
    tools.mkdir(exist_ok=True)
    for program in programs:
        found = shutil.which(program, path="/usr/bin:/bin")
        assert found, program
        (tools / program).unlink(missing_ok=True)
        (tools / program).symlink_to(found)
    env = {"PATH": str(tools), "HOME": str(folder)}
    return subprocess.run(
        ["/bin/sh", "-eu", "-c", text], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def commands(readme: str) -> str:
    """What README.txt has indented: the commands that a person would copy."""
    return "\n".join(line[4:] for line in readme.splitlines() if line.startswith("    "))


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_the_readme_is_enough_with_sha256sum_tar_and_openssl_alone(
    outside: tuple[Hyb, Path], tmp_path: Path, sealed: bool, kind: str
) -> None:
    need("openssl", *(["age"] if sealed else []))
    hyb, recipe = outside
    hyb.ok("sign", "--new-key", str(tmp_path / "keys"), "--kind", kind)
    medium, programs = tmp_path / "medium", ["mkdir", "sha256sum", "tar", "openssl", "cat", "rm", "cp"]
    options = ["--sign-key", str(tmp_path / "keys" / "hyb.key"), "--no-wheels", "--max-size", "400k"]
    if sealed:
        need("age")
        options += ["--encrypt-to", age_key(tmp_path)[1]]
        programs.append("age")
    hyb.ok("bundle", "create", str(recipe), "-o", str(medium), *options)
    script = commands((medium / "README.txt").read_text()).replace("KEY.pub", "../keys/hyb.pub")
    script = script.replace(" KEY ", " ../identity ")
    done = shell(script, medium, *programs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stdout
    unpacked = medium / "small"  # $HOME is the medium's folder here
    for path in sorted((unpacked / "blobs" / "sha256").iterdir()):
        summed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
        assert summed.startswith(path.name)
    for path in (p for p in recipe.rglob("*") if p.is_file() and p.name != "lock"):
        assert (unpacked / "recipe" / path.relative_to(recipe)).read_bytes() == path.read_bytes()
    assert (unpacked / "keys" / "signed-by.pub").read_bytes() == (tmp_path / "keys" / "hyb.pub").read_bytes()
    index = json.loads((unpacked / "index.json").read_bytes())
    notes = [e["annotations"] for e in index["manifests"] if "annotations" in e]
    assert {n["org.opencontainers.image.ref.name"] for n in notes} == {"small/base", "small/facts"}
    with (medium / "hyb-bundle.json").open("a") as stream:
        stream.write(" ")
    assert shell(script, medium, *programs).returncode != 0


def test_skopeo_reads_what_was_unpacked(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    need("skopeo")
    hyb, recipe = outside
    hyb.ok("bundle", "create", str(recipe), "-o", str(tmp_path / "b"), "--no-wheels")
    assert "`hyb bundle load" in hyb.fails(3, "pull", f"oci:{tmp_path}/b"), "its parts are the layout, not its folder"
    (tmp_path / "unpacked").mkdir()
    for part in (tmp_path / "b").glob("*.tar"):
        subprocess.run(["tar", "-xf", part, "-C", tmp_path / "unpacked"], check=True)
    seen = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{tmp_path}/unpacked:small/base"], capture_output=True, check=True
    )
    assert json.loads(seen.stdout)["annotations"]["io.hyb.kind"] == "model"


def test_every_mistake_has_its_exit_code_and_says_what_to_do(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    hyb, recipe = outside
    out = str(tmp_path / "b")
    assert "no recipe" in hyb.fails(3, "bundle", "create", str(tmp_path / "none"), "-o", out)
    assert "no size" in hyb.fails(2, "bundle", "create", str(recipe), "-o", out, "--max-size", "many")
    assert "--encrypt-to" in hyb.fails(2, "bundle", "create", str(recipe), "-o", out, "--with-data", "--no-wheels")
    assert "no-wheels" in hyb.fails(6, "bundle", "create", str(recipe), "-o", out, "--offline")
    assert "no version" in hyb.fails(2, "bundle", "create", str(recipe), "-o", out, "--python", "latest")
    assert "no extra" in hyb.fails(2, "bundle", "create", str(recipe), "-o", out, "--extra", "nonsense")
    assert "no folder of wheels" in hyb.fails(3, "bundle", "create", str(recipe), "-o", out, "--wheels", "nowhere")
    assert "can't read" in hyb.fails(3, "bundle", "create", str(recipe), "-o", out, "--no-wheels", "--since", "nowhere")
    assert "none" in hyb.fails(3, "bundle", "create", str(recipe), "-o", out, "--no-wheels", "--encrypt-to", "age1x")
    assert "offline" in hyb.fails(
        6, "bundle", "create", str(recipe), "-o", out, "--no-wheels", "--offline", "--image", "docker://example.com/x:1"
    )
    assert not Path(out).exists()
    assert "not there" in hyb.fails(3, "bundle", "verify", out)
    (tmp_path / "empty").mkdir()
    assert "holds no bundle" in hyb.fails(3, "bundle", "load", str(tmp_path / "empty"))
    unrun = bundles.recipe(tmp_path / "unrun", seed=5)
    assert "was not run" in hyb.fails(3, "bundle", "create", str(unrun), "-o", out, "--no-wheels")


def test_a_dry_run_writes_nothing_and_names_the_parts_that_come(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    hyb, recipe = outside
    common = ["bundle", "create", str(recipe), "-o", str(tmp_path / "b"), "--no-wheels", "--max-size", "400k"]
    planned = hyb.json(*common, "--dry-run")
    assert not (tmp_path / "b").exists()
    made = hyb.json(*common)
    assert made["parts"] == [p["name"] for p in planned["parts"]]
    inside = Hyb(tmp_path / "inside")
    inside.home.mkdir()
    assert inside.json("bundle", "load", str(tmp_path / "b"), "--dry-run")["missing"] == []
    assert not list(inside.home.iterdir())
    fresh = Hyb(tmp_path / "fresh")
    shutil.copytree(hyb.store, fresh.store)
    before = sorted(fresh.store.rglob("*"))
    more = ["--image", "docker://quay.example/x:1", "--sign-key", str(key(hyb, tmp_path / "keys"))]
    told = fresh.ok("bundle", "create", str(recipe), "-o", str(tmp_path / "c"), *more, "--dry-run")
    assert "image docker://quay.example/x:1" in told and "wheels for Python" in told
    assert sorted(fresh.store.rglob("*")) == before and not (tmp_path / "c").exists()


def test_a_policy_refuses_what_is_not_signed_and_takes_what_is(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    hyb, recipe = outside
    private = key(hyb, tmp_path / "keys")
    common = ["bundle", "create", str(recipe), "--no-wheels"]
    hyb.ok(*common, "-o", str(tmp_path / "plain"))
    hyb.ok(*common, "-o", str(tmp_path / "signed"), "--sign-key", str(private))
    policy = tmp_path / "trust.yaml"
    policy.write_text(
        f"hyb-trust: 1\nkeys:\n  lab: {{file: {tmp_path}/keys/hyb.pub}}\nrules:\n"
        '  - {pattern: "bundle/*", keys: [lab], mode: enforce}\ndefault: "off"\n'
    )
    inside = Hyb(tmp_path / "inside")
    inside.home.mkdir()
    trusting = ["--trust", str(policy), "--out", str(tmp_path / "out")]
    assert "trust policy refuses" in inside.fails(4, "bundle", "load", str(tmp_path / "plain"), *trusting)
    assert not inside.store.exists()
    assert "not signed" in inside.fails(4, "bundle", "verify", str(tmp_path / "plain"), "--trust", str(policy))
    done = inside.json("bundle", "load", str(tmp_path / "signed"), *trusting)
    assert done["signed_by"].startswith("sha256:")
    inside.ok("bundle", "load", str(tmp_path / "plain"), "--allow-unsigned", *trusting)
    records = [json.loads(p.read_bytes()) for p in (inside.store / "bundles").iterdir()]
    said = {(r["unsigned_allowed"], r["signed_by"]) for r in records}
    assert said == {(True, None), (False, done["signed_by"])}
    other = key(hyb, tmp_path / "other")
    public = str(other.with_suffix(".pub"))
    assert "none of the keys" in inside.fails(4, "bundle", "verify", str(tmp_path / "signed"), "--key", public)
    document = tmp_path / "signed" / "hyb-bundle.json"
    document.write_bytes(document.read_bytes().replace(b'"left_out": []', b'"left_out": ["x"]'))
    mine = str(private.with_suffix(".pub"))
    assert "another document" in inside.fails(4, "bundle", "verify", str(tmp_path / "signed"), "--key", mine)


@pytest.mark.parametrize("name", ["README.txt", "SHA256SUMS", "SHA256SUMS.sig"])
def test_verify_tells_papers_that_somebody_changed(outside: tuple[Hyb, Path], tmp_path: Path, name: str) -> None:
    hyb, recipe = outside
    private, bundle = key(hyb, tmp_path / "keys"), tmp_path / "b"
    hyb.ok("bundle", "create", str(recipe), "-o", str(bundle), "--no-wheels", "--sign-key", str(private))
    verify = ("bundle", "verify", str(bundle), "--key", str(private.with_suffix(".pub")))
    hyb.ok(*verify)
    data = bytearray((bundle / name).read_bytes())
    data[-20] ^= 1
    (bundle / name).write_bytes(data)
    assert f"`{name.removesuffix('.sig')}`" in hyb.fails(4, *verify)
    if name == "README.txt":  # whoever changes it mends the sums, too, but can't sign them
        subprocess.run("sha256sum *.tar hyb-bundle* README.txt >SHA256SUMS", shell=True, cwd=bundle, check=True)
        assert "is not signed by any of the keys" in hyb.fails(4, *verify)
        hyb.ok("bundle", "verify", str(bundle))


def test_ls_diff_and_inventory_tell_what_there_is(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    hyb, recipe = outside
    hyb.ok("bundle", "create", str(recipe), "-o", str(tmp_path / "b"), "--no-wheels")
    assert hyb.ok("bundle", str(tmp_path / "b")) == hyb.ok("bundle", "ls", str(tmp_path / "b"))
    listed = hyb.json("bundle", "ls", str(tmp_path / "b"))
    assert {tuple(c["names"]) for c in listed["contents"] if c["names"]} == {("small/base",), ("small/facts",)}
    assert listed["files"]["docs/bundle.md"] > 0
    hyb.ok("bundle", "inventory", "-o", str(tmp_path / "have.json"))
    assert hyb.json("bundle", "diff", str(tmp_path / "b"), str(tmp_path / "b"))["changes"] == []
    new = hyb.json("bundle", "diff", str(tmp_path / "have.json"), str(tmp_path / "b"))
    assert not [c for c in new["changes"] if c["name"].startswith("small/")]
    small = ["--no-wheels", "--since", str(tmp_path / "have.json")]
    delta = hyb.json("bundle", "create", str(recipe), "-o", str(tmp_path / "d"), *small)
    assert delta["size"] < listed["size"] / 2


def test_nobody_else_writes_to_a_bundle_at_the_same_time(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    from hyb import fs

    hyb, recipe = outside
    with fs.locked(tmp_path / "b" / ".hyb-bundle.lock"):
        assert "another hyb" in hyb.fails(3, "bundle", "create", str(recipe), "-o", str(tmp_path / "b"), "--no-wheels")


def test_an_image_of_podmans_storage_comes_along_under_its_name(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    need("skopeo")
    hyb, recipe = outside
    hyb.ok("pack", "small/base", "--name", "lab")
    conf = tmp_path / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n')
    env, name = {"CONTAINERS_STORAGE_CONF": str(conf)}, "quay.io/skupper/skupper-router:3.5.1"
    copy = ["skopeo", "copy", "-q", f"oci:{hyb.store}:lab", f"containers-storage:{name}"]
    done = subprocess.run(copy, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no storage for images here: {done.stderr}")
    sums = []
    for out in ("b", "again"):
        hyb.ok("bundle", "create", str(recipe), "-o", str(tmp_path / out), "--no-wheels", "--image",
               f"containers-storage:{name}", env=env)  # fmt: skip
        sums.append((tmp_path / out / "SHA256SUMS").read_bytes())
    assert sums[0] == sums[1]
    inside = Hyb(tmp_path / "inside")
    inside.home.mkdir()
    assert name in inside.json("bundle", "load", str(tmp_path / "b"), "--out", str(tmp_path / "o"))["names"]
    seen = subprocess.run(
        ["skopeo", "inspect", f"oci:{inside.store}:{name}"], capture_output=True, text=True, check=False
    )
    assert seen.returncode == 0, seen.stderr


@pytest.mark.slow
def test_inside_there_is_no_network_no_hyb_and_an_empty_home(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    """README.txt alone, on a machine without any route: check, unpack, pip install --no-index, load, run --offline
    --locked → the same lock; from a sealed, signed medium that can't be written."""
    need("pip", "netns", "age", "openssl")
    hyb, recipe = outside
    medium, identity, private = tmp_path / "medium", age_key(tmp_path), key(hyb, tmp_path / "keys")
    hyb.ok("bundle", "create", str(recipe), "-o", str(medium), "--max-size", "20M", "--encrypt-to", identity[1],
           "--sign-key", str(private), timeout=400)  # fmt: skip
    home = tmp_path / "home"
    home.mkdir()
    machine = Machine("inside", tmp_path / "machine", {})
    clean = ["env", "-i", "PATH=/usr/bin:/bin", f"HOME={home}", "PIP_CONFIG_FILE=/dev/null"]
    try:
        assert machine.ok("ip", "route") == ""
        machine.ok("mount", "--bind", medium, medium)
        machine.ok("mount", "-o", "remount,ro,bind", medium)
        script = commands((medium / "README.txt").read_text()).replace("python3 -m venv", f"{sys.executable} -m venv")
        script = script.replace("KEY.pub", f"{private.with_suffix('.pub')}")
        script = script.replace("-i KEY", f"-i {identity[0]}").replace("--identity KEY", f"--identity {identity[0]}")
        said = machine.ok(*clean, "sh", "-euc", f"cd {medium}\n{script}", timeout=300)
        assert "loaded small" in said and said.count("in the store") == 2
        loaded, inside = home / "small" / "loaded", home / "small" / "venv" / "bin" / "hyb"
        assert (loaded / "recipe" / "hyb.lock").read_bytes() == (recipe / "hyb.lock").read_bytes()
        machine.ok(*clean, inside, "bundle", "verify", medium, "--identity", identity[0])
    finally:
        machine.close()


def test_a_delta_is_unpacked_by_its_readme_into_the_folder_of_its_base(tmp_path: Path) -> None:
    need("age")
    hyb, identity = Hyb(tmp_path / "outside"), age_key(tmp_path)
    recipe = bundles.recipe(tmp_path / "my recipe")
    data = recipe / "data"
    (data / "it's $HOME, ü.jsonl").write_bytes((data / "facts.jsonl").read_bytes())
    (recipe / "README.md").write_bytes((data / "facts.jsonl").read_bytes())
    text = (recipe / "hyb.yaml").read_text()
    (recipe / "hyb.yaml").write_text(text.replace("data/facts.jsonl", '"data/it\'s $HOME, ü.jsonl"'))
    options = ["--no-wheels", "--max-size", "400k", "--encrypt-to", identity[1]]
    programs = ["mkdir", "sha256sum", "tar", "cat", "rm", "cp", "age"]
    for name, since in (("first", []), ("next", ["--since", str(tmp_path / "first")])):
        hyb.ok("run", str(recipe), "--offline")
        made = hyb.json("bundle", "create", str(recipe), "-o", str(tmp_path / name), *options, *since)
        assert max((tmp_path / name / p).stat().st_size for p in made["parts"]) <= 400_000, "sealed parts, too"
        script = commands((tmp_path / name / "README.txt").read_text()).replace(" KEY ", f" {identity[0]} ")
        done = shell(script.replace("into=$HOME", f"into='{tmp_path}'"), tmp_path / name, *programs)
        assert done.returncode == 0, done.stdout + done.stderr
        for path in (p for p in recipe.rglob("*") if p.is_file() and p.name != "facts.jsonl"):
            assert (tmp_path / "small" / "recipe" / path.relative_to(recipe)).read_bytes() == path.read_bytes()
        (data / "it's $HOME, ü.jsonl").write_text("".join(json.dumps(bundles.row(n)) + "\n" for n in range(40)))
    layout = tmp_path / "small"
    listed = json.loads((layout / "index.json").read_bytes())["manifests"]
    for digest in {e["digest"] for e in listed}:
        manifest = json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())
        for blob in (manifest["config"], *manifest["layers"]):
            assert (layout / "blobs" / blob["digest"].replace(":", "/")).stat().st_size == blob["size"]


def test_what_the_trust_policy_refuses_gets_no_name_by_a_load(outside: tuple[Hyb, Path], tmp_path: Path) -> None:
    hyb, recipe = outside
    private, bundle = key(hyb, tmp_path / "keys"), str(tmp_path / "b")
    rule = {"pattern": "small/base", "keys": ["lab"], "mode": "enforce"}
    keys = {"lab": {"file": str(private.with_suffix(".pub"))}}
    policy = tmp_path / "trust.yaml"
    policy.write_text(json.dumps({"hyb-trust": 1, "keys": keys, "rules": [rule], "default": "off"}))
    hyb.ok("bundle", "create", str(recipe), "-o", bundle, "--no-wheels")
    inside = Hyb(tmp_path / "inside")
    load = ("bundle", "load", bundle, "--out", str(tmp_path / "out"), "--trust", str(policy))
    assert "small/base" in inside.fails(4, *load)
    assert inside.json("ls") == [] and not (tmp_path / "out").exists()
    inside.ok(*load, "--allow-unsigned")
    assert "small/base" in inside.fails(4, "pack", "small/base", "--trust", str(policy)), "and it is judged again"
    hyb.ok("sign", "small/base", "--key", str(private))
    hyb.ok("bundle", "create", str(recipe), "-o", str(tmp_path / "c"), "--no-wheels")
    other = Hyb(tmp_path / "other")
    other.ok("bundle", "load", str(tmp_path / "c"), "--out", str(tmp_path / "out2"), "--trust", str(policy))
    assert {n for a in other.json("ls") for n in a["names"]} >= {"small/base", "small/facts"}
