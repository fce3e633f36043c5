"""Secrets planted wherever a user keeps them, in a run from a gated hub to a link, with its failures: they are in no
command line, output, log, receipt, document or image, and in no file but those that are there to hold them."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import hubserver
from tests.e2e.faults.chain import QUICK, ROWS
from tests.hubserver import Hub
from tests.hyb import Hyb


@contextmanager
def watched(needles: dict[str, bytes]) -> Iterator[list[str]]:
    """Every command line on this machine, looked at again and again: those with a secret in them."""
    found: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                found.extend(f"{n}: {line[:200]!r}" for n, needle in needles.items() if needle in line)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def forms(secret: str) -> list[bytes]:
    """A secret as it is, and within base64 as HTTP's basic authorization has it."""
    return [secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")]


def test_the_watcher_sees_a_secret_in_a_command_line() -> None:
    with watched({"planted": b"planted-7f3a"}) as found:
        child = subprocess.Popen(["sleep", "30", "--", "planted-7f3a"], stderr=subprocess.DEVNULL)
        shell = subprocess.Popen(["sh", "-c", "sleep 5; : planted-7f3a"])
        end = time.monotonic() + 20
        while not found and time.monotonic() < end:
            time.sleep(0.01)
        for one in (child, shell):
            one.kill()
            one.wait()
    assert found


@pytest.fixture
def planted() -> dict[str, str]:
    names = ("hf token", "wrong hf token", "password in HF_ENDPOINT", "registry password", "teacher key", "passphrase")
    return {name: f"hf_{secrets.token_hex(16)}" for name in names}


def test_no_secret_is_anywhere_but_where_it_is_kept(tmp_path: Path, planted: dict[str, str]) -> None:
    hyb, recipe, out = Hyb(tmp_path / "home"), tmp_path / "recipe", tmp_path / "outputs"
    kept = tmp_path / "kept"
    for folder in (recipe, out, kept, hyb.home):
        folder.mkdir()
    said: list[str] = []

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = hyb(*arguments, cwd=out, env={"HF_HUB_CACHE": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1", **env})
        said.append(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def secret_file(name: str, text: str) -> str:
        path = kept / name.replace(" ", "-")
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    (recipe / "hyb.yaml").write_text(QUICK.replace("file:model", "hf://org/m"))
    (recipe / "facts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    teacher = secret_file("teacher key", planted["teacher key"])
    login = base64.b64encode(f"me:{planted['registry password']}".encode()).decode()
    auth = {"auths": {"127.0.0.1:9": {"auth": login}}}
    auth_file = secret_file("auth.json", json.dumps(auth))
    passphrase = secret_file("passphrase", planted["passphrase"] + "\n")
    with Hub() as hub, watched({n: s.encode() for n, s in planted.items()}) as lines:
        hub.add("org/m", hubserver.model(), token=planted["hf token"])
        where = hub.url.replace("http://", f"http://user:{planted['password in HF_ENDPOINT']}@")
        gone = f"http://user:{planted['password in HF_ENDPOINT']}@127.0.0.1:9"
        assert run("run", str(recipe), HF_ENDPOINT=hub.url, HF_TOKEN=planted["wrong hf token"]).returncode == 3
        assert run("pull", "hf://org/other", HF_ENDPOINT=gone, HYB_HUB_TIMEOUT="1").returncode
        assert run("pull", "hf://org/other", "--json", HF_ENDPOINT=gone, HYB_HUB_TIMEOUT="1").returncode
        assert run("plan", str(recipe), HF_ENDPOINT=where, HF_TOKEN=planted["hf token"]).returncode == 0
        assert run("run", str(recipe), HF_ENDPOINT=hub.url, HF_TOKEN=planted["hf token"]).returncode == 0
        assert run("push", "quick/base", "oci://127.0.0.1:9/x/y:1", REGISTRY_AUTH_FILE=auth_file).returncode
        assert run("pull", "oci://127.0.0.1:9/x/y:1", REGISTRY_AUTH_FILE=auth_file).returncode
        failed = run(
            "data", "generate", str(recipe / "facts.jsonl"), "--teacher", "http://127.0.0.1:9/v1", "--model", "x",
            HYB_TEACHER_KEY_FILE=teacher,
        )  # fmt: skip
        assert failed.returncode
        assert run("link", "quick/van").returncode == 0
        assert run("link", "passphrase", "--new", passphrase).returncode == 0
        key = json.loads(run("key", "add", "bot", "--label", "me", "--json").stdout)["key"]
        said.pop()  # the one place where a key is shown
        for words in (["ls", "--all"], ["log", "--json"], ["show", "quick/van"], ["key", "list"]):
            run(*words)
        run("verify", str(recipe))
        run("show", "quick/image", "--out", str(out / "image"))
        run("show", "quick/van", "--out", str(out / "van"))
    assert not lines, "in a command line"
    planted["api key"] = key
    pages = [p for p in tmp_path.rglob("*") if p.is_file() and kept not in p.parents]
    assert len(pages) > 60
    for name, secret in planted.items():
        for form in forms(secret):
            assert not [s for s in said if form.decode() in s], f"{name}: in an output"
            assert not [str(p) for p in pages if form in p.read_bytes()], f"{name}: in a file"
    _private_keys_are_where_they_belong(hyb, pages, said)


def _private_keys_are_where_they_belong(hyb: Hyb, pages: list[Path], said: list[str]) -> None:
    """The private keys that a link minted: in the credentials' folder, and in the two documents that are secrets."""
    folder = hyb.home / "data" / "hyb" / "credentials"
    keys = [m for p in folder.rglob("*.pem") for m in re.findall(rb"PRIVATE KEY-----\n(.+?)\n", p.read_bytes())]
    assert keys
    for path in pages:
        data = path.read_bytes()
        for key in keys:
            if key in data or base64.b64encode(key)[:40] in data:
                assert path.is_relative_to(folder) or path.name.startswith(("Secret-", "Link-")), path
                assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
    assert not [s for s in said if "PRIVATE KEY" in s]


def test_no_private_key_of_a_signature_a_seal_or_a_bundle_leaves_its_file(tmp_path: Path) -> None:
    """Signed, sealed and bundled, and read again on the other side, each with a key in a file of its own."""
    import pyrage
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    hyb, inside, recipe, kept = Hyb(tmp_path / "home"), Hyb(tmp_path / "inside"), tmp_path / "recipe", tmp_path / "kept"
    for folder in (recipe, kept, hyb.home, inside.home):
        folder.mkdir()
    (recipe / "hyb.yaml").write_text(QUICK.replace("file:model", "file:m"))
    (recipe / "facts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (recipe / "m").mkdir()
    for name, content in hubserver.model(8).items():
        if isinstance(content, bytes) and not name.startswith("."):
            (recipe / "m" / name).write_bytes(content)
    age, sealing = pyrage.x25519.Identity.generate(), ec.generate_private_key(ec.SECP256R1())
    pem = sealing.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    for name, data in (("age", f"{age}\n".encode()), ("seal.pem", pem)):
        (kept / name).write_bytes(data)
        (kept / name).chmod(0o600)
    (tmp_path / "seal.pub.pem").write_bytes(sealing.public_key().public_bytes(*public))
    hyb.ok("sign", "--new-key", str(kept / "signing"))
    signing = next((kept / "signing").glob("*.key"))
    needles = {"age": str(age).encode(), "seal": pem.splitlines()[1], "sign": signing.read_bytes().splitlines()[1]}
    assert all(len(n) > 40 for n in needles.values())
    bundle, said = str(tmp_path / "bundle"), []
    with watched(needles) as lines:
        for one, words in (
            (hyb, ("run", str(recipe))),
            (hyb, ("sign", "quick/base", "--key", str(signing))),
            (hyb, ("pack", "quick/base", "--encrypt-to", str(tmp_path / "seal.pub.pem"), "--name", "sealed")),
            (hyb, ("bundle", "create", str(recipe), "-o", bundle, "--no-wheels", "--sign-key", str(signing),
                   "--encrypt-to", str(age.to_public()))),
            (hyb, ("bundle", "verify", bundle, "--identity", str(kept / "age"))),
            (inside, ("bundle", "load", bundle, "--identity", str(kept / "age"), "--out", str(tmp_path / "loaded"))),
            (hyb, ("log", "--json")),
            (hyb, ("show", "sealed", "--json")),
        ):  # fmt: skip
            done = one(*words, cwd=tmp_path)
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
            said.append(done.stdout + done.stderr)
        # each key given where another is wanted, or where its public half is: refused without a word of it
        for words in (
            ("bundle", "create", str(recipe), "-o", f"{bundle}2", "--no-wheels", "--encrypt-to", str(kept / "age")),
            ("bundle", "create", str(recipe), "-o", f"{bundle}3", "--no-wheels", "--sign-key", str(kept / "age")),
            ("bundle", "verify", bundle, "--identity", str(signing)),
            ("pack", "quick/base", "--encrypt-to", str(kept / "seal.pem"), "--name", "other"),
            ("sign", "quick/base", "--key", str(kept / "age")),
        ):
            done = hyb(*words, cwd=tmp_path)
            assert done.returncode not in (0, 1), words
            said.append(done.stdout + done.stderr)
    assert not lines, "in a command line"
    for name, needle in needles.items():
        assert not [s for s in said if needle.decode() in s], f"{name}: in an output"
        files = [p for p in tmp_path.rglob("*") if p.is_file() and kept not in p.parents]
        assert len(files) > 60
        assert not [p for p in files if needle in p.read_bytes()], f"{name}: in a file"
