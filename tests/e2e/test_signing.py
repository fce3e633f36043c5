"""Signing through the command line: keys, models, folders, images; the other programs that know the formats."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hyb.signing import keys
from tests.hubserver import model
from tests.hyb import Hyb
from tests.need import need, oracle
from tests.registry_env import Running, registry  # noqa: F401


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder."""
    root = tmp_path / "tiny"
    root.mkdir()
    for path, data in model(64).items():
        if isinstance(data, bytes) and not path.startswith("."):
            (root / path).write_bytes(data)
    return root


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public half lies beside it, as `.pub`."""
    return keys.generate(tmp_path / "keys", "lab").private


def public(key: Path) -> str:
    return str(key.with_suffix(".pub"))


def policy(key: Path, pattern: str, mode: str = "enforce", **more: object) -> str:
    facts = json.dumps({"file": key.with_suffix(".pub").name, **more})
    path = key.with_name("trust.yaml")
    rule = json.dumps({"pattern": pattern, "keys": ["lab"], "mode": mode})
    path.write_text(f"hyb-trust: 1\nkeys: {{lab: {facts}}}\nrules: [{rule}]\ndefault: off\n")
    return str(path)


def test_a_new_users_way_from_key_to_verified_model(hyb: Hyb, folder: Path, tmp_path: Path) -> None:
    made = hyb.json("sign", "--new-key", str(tmp_path / "keys"))
    assert Path(made["private"]).stat().st_mode & 0o777 == 0o600
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    assert "has no good signature" in hyb.fails(4, "verify", "tiny", "--key", made["public"])
    signed = hyb.json("sign", "tiny", "--key", made["private"])
    assert signed["key"] == made["key"]
    assert hyb.json("verify", "tiny", "--key", made["public"])["keys"] == [made["key"]]
    assert signed["signature"] in hyb.ok("show", "tiny")
    other = hyb.json("sign", "--new-key", str(tmp_path / "others"), "--kind", "ed25519")
    said = hyb.fails(4, "verify", "tiny", "--key", other["public"])
    assert keys.load_public(Path(made["public"])).hint[:16] in said
    assert keys.short_id(other["key"]) in said


def test_a_passphrase_comes_from_a_file_or_the_environment_and_is_never_shown(
    hyb: Hyb, folder: Path, tmp_path: Path
) -> None:
    words = tmp_path / "words"
    words.touch(mode=0o600)
    words.write_text("open sesame canary\n")
    made = hyb.json("sign", "--new-key", str(tmp_path / "keys"), "--passphrase-file", str(words))
    assert "ENCRYPTED" in Path(made["private"]).read_text()
    out = ["--out", str(tmp_path / "x.sig")]
    assert "is encrypted" in hyb.fails(3, "sign", str(folder), "--key", made["private"], *out)
    done = hyb("sign", str(folder), "--key", made["private"], *out, "--passphrase-file", str(words))
    assert done.returncode == 0, done.stderr
    done = hyb("sign", str(folder), "--key", made["private"], *out, env={"HYB_SIGN_PASSPHRASE": "open sesame canary"})
    assert done.returncode == 0, done.stderr
    done = hyb("sign", str(folder), "--key", made["private"], *out, env={"HYB_SIGN_PASSPHRASE": "wrong canary"})
    assert done.returncode == 3
    assert "canary" not in done.stdout + done.stderr
    words.chmod(0o644)
    said = hyb.fails(3, "sign", str(folder), "--key", made["private"], *out, "--passphrase-file", str(words))
    assert "other users can get at" in said


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["x"], ["--key", "k"], ["x", "--key", "k", "--attach", "f"], ["x", "--new-key", "d"],
        ["--new-key", "d", "--key", "k"],
    ],
)  # fmt: skip
def test_half_a_command_says_what_is_missing(hyb: Hyb, arguments: list[str]) -> None:
    assert "hyb sign NAME --key FILE" in hyb.fails(2, "sign", *arguments)


def test_a_dry_run_signs_nothing(hyb: Hyb, folder: Path, key: Path, tmp_path: Path) -> None:
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    hyb.ok("sign", "tiny", "--key", str(key), "--dry-run")
    hyb.ok("sign", str(folder), "--key", str(key), "--out", str(tmp_path / "x.sig"), "--dry-run")
    hyb.ok("sign", "--new-key", str(tmp_path / "new"), "--dry-run")
    assert not (tmp_path / "x.sig").exists()
    assert not (tmp_path / "new").exists()
    hyb.fails(4, "verify", "tiny", "--key", public(key))


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    need("model_signing")
    program = oracle("model_signing")
    assert program
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, env={"HOME": "/nowhere"})


def test_model_signing_verifies_what_hyb_signed(hyb: Hyb, folder: Path, key: Path, tmp_path: Path) -> None:
    need("model_signing")
    (folder / "sub").mkdir()
    (folder / "sub" / "ünïcode name").write_text("x")
    signature = tmp_path / "tiny.sig"
    hyb.ok("sign", str(folder), "--key", str(key), "--out", str(signature))
    verify = ["verify", "key", "--signature", signature, "--public_key", public(key)]
    assert model_signing(*verify, folder).returncode == 0
    (folder / "extra").touch()
    assert model_signing(*verify, folder).returncode == 1


def test_model_signing_verifies_an_artifact_of_the_store(hyb: Hyb, folder: Path, key: Path, tmp_path: Path) -> None:
    need("model_signing")
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    hyb.ok("sign", "tiny", "--key", str(key), "--out", str(tmp_path / "tiny.sig"))
    hyb.ok("show", "tiny", "--out", str(tmp_path / "files"))
    verify = ["verify", "key", "--signature", tmp_path / "tiny.sig", "--public_key", public(key)]
    done = model_signing(*verify, tmp_path / "files")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [[], ["--ignore-git-paths"], ["--no-ignore-git-paths"]])
def test_hyb_verifies_what_model_signing_signed(
    hyb: Hyb, folder: Path, key: Path, tmp_path: Path, options: list[str]
) -> None:
    need("model_signing")
    signature = tmp_path / "theirs.sig"
    done = model_signing("sign", "key", *options, "--private_key", key, "--signature", signature, folder)
    assert done.returncode == 0, done.stderr
    verify = ["verify", str(folder), "--signature", str(signature), "--key", public(key)]
    hyb.ok(*verify)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]")
    assert "pass over" in hyb.fails(4, *verify)  # model-signing itself would not see it
    shutil.rmtree(folder / ".git")
    (folder / "empty").mkdir()
    assert "empty folder" in hyb.fails(4, *verify)


def test_a_publishers_signature_comes_along_and_is_judged_by_the_policy(
    hyb: Hyb, folder: Path, key: Path, tmp_path: Path
) -> None:
    trust = policy(key, "file:*")
    assert "it has no signature" in hyb.fails(4, "pull", f"file:{folder}", "--name", "tiny", "--trust", trust)
    assert "nothing in the store is called" in hyb.fails(3, "show", "tiny")
    hyb.ok("sign", str(folder), "--key", str(key), "--out", str(folder / "model.sig"))
    hyb.ok("pull", f"file:{folder}", "--name", "tiny", "--trust", trust)
    assert "model.sig" not in hyb.ok("show", "tiny")
    hyb.ok("verify", "tiny", "--trust", trust)
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b"\n")
    said = hyb.fails(4, "pull", f"file:{folder}", "--name", "worse", "--trust", trust)
    assert "`config.json` is not what was signed" in said


def test_pack_and_serve_and_push_ask_the_policy(hyb: Hyb, folder: Path, key: Path) -> None:
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    hyb.ok("pack", "tiny", "--name", "box")
    trust = {"HYB_TRUST": policy(key, "*")}
    for command in (
        ["pack", "tiny", "--name", "box2"], ["serve", "tiny", "--port", "0"],
        ["push", "tiny", "oci://127.0.0.1:1/x:1"], ["push", "box", "oci://127.0.0.1:1/x:1"], ["verify", "box"],
    ):  # fmt: skip
        said = hyb.fails(4, *command, env=trust)
        assert "pattern `*` wants a signature by lab" in said, said
        assert keys.short_id(keys.load_public(Path(public(key))).key_id) in said
        assert f"hyb sign {command[1]} --key FILE" in said
    assert "box2" not in hyb.ok("ls")
    hyb.ok("sign", "tiny", "--key", str(key))
    assert hyb("pack", "tiny", "--name", "box2", env=trust).returncode == 0
    policy(key, "*", revoked=True)
    assert "revoked" in hyb.fails(4, "pack", "tiny", "--name", "box3", env=trust)
    policy(key, "*", expires="2020-01-01")
    assert "expired on 2020-01-01" in hyb.fails(4, "pack", "tiny", "--name", "box3", env=trust)
    policy(key, "*", "warn", revoked=True)
    done = hyb("pack", "tiny", "--name", "box3", env=trust)
    assert done.returncode == 0
    assert "trust: pattern `*` wants" in done.stderr
    assert "is not there" in hyb.fails(3, "pack", "tiny", "--trust", "absent.yaml")


def test_a_policy_in_the_current_folder_has_no_say(hyb: Hyb, folder: Path, key: Path, tmp_path: Path) -> None:
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    policy(key, "*")
    hyb.ok("pack", "tiny", "--name", "box", cwd=key.parent)
    home = hyb.home / ".config" / "hyb"
    home.mkdir(parents=True)
    for name in ("trust.yaml", "lab.pub"):
        shutil.copy(key.with_name(name), home)
    hyb.fails(4, "pack", "tiny", "--name", "box2")


def test_a_run_in_a_recipe_is_refused_before_anything_is_locked(
    hyb: Hyb, folder: Path, key: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "r"
    recipe.mkdir()
    (recipe / "hyb.yaml").write_text(
        f"hyb: 1\nname: r\nstages:\n  base: {{stage: pull, source: 'file:{folder}'}}\n"
        "  image: {stage: pack, model: base}\n"
    )
    trust = policy(key, "r/*")
    said = hyb.fails(4, "run", str(recipe), "--trust", trust)
    assert "does not pull" in said
    assert not (recipe / "hyb.lock").exists()
    hyb.ok("run", str(recipe))
    hyb.ok("sign", "r/base", "--key", str(key), "--receipts")
    hyb.ok("run", str(recipe), "--trust", trust)
    receipt = next(x for x in hyb.json("log") if x["name"] == "r/base")["receipt"]
    hyb.ok("verify", receipt, "--key", public(key))


def test_a_licence_that_the_recipe_does_not_allow_stops_the_run(hyb: Hyb, folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r"
    recipe.mkdir()
    (recipe / "facts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q{i}", "completion": "a"}) + "\n" for i in range(9))
    )

    def write(allowed: str, said: str = "") -> None:
        licence = f", license: {said}" if said else ""
        (recipe / "hyb.yaml").write_text(
            f"hyb: 1\nname: r\nlicences: {allowed}\nstages:\n  base: {{stage: pull, source: 'file:{folder}'}}\n"
            f"  facts: {{stage: data, source: facts.jsonl, holdout: 0.2{licence}}}\n"
        )

    card = folder / "README.md"
    card.write_text("---\nlicense: gpl-3.0\n---\n")
    write("[apache-2.0, mit]")
    said = hyb.fails(4, "run", str(recipe))
    assert "base: the licence of this model is `gpl-3.0`, which is not allowed" in said
    assert not (recipe / "hyb.lock").exists()
    write("[gpl-3.0]")
    assert "facts: the licence of this dataset is not known" in hyb.fails(4, "run", str(recipe))
    write("[gpl-3.0, mit]", "MIT")
    hyb.ok("run", str(recipe))
    lock = (recipe / "hyb.lock").read_bytes()
    write("[mit]", "MIT")
    assert "`gpl-3.0`, which is not allowed" in hyb.fails(4, "plan", str(recipe))
    hyb.fails(4, "run", str(recipe), "--locked")
    assert (recipe / "hyb.lock").read_bytes() == lock
    write("[]")
    assert "hyb.yaml:3: `licences` is a list" in hyb.fails(3, "plan", str(recipe))


def test_signatures_go_to_a_registry_and_come_back(
    hyb: Hyb,
    folder: Path,
    key: Path,
    registry: Running,  # noqa: F811
    tmp_path: Path,
) -> None:
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    hyb.ok("sign", "tiny", "--key", str(key))
    source = f"oci://{registry.host}/lab/tiny:1"
    hyb.ok("push", "tiny", source)
    other = Hyb(tmp_path / "other")
    other.ok("pull", source, "--name", "tiny", "--trust", policy(key, "oci:*"))
    other.ok("verify", "tiny", "--key", public(key))
    other.ok("push", "tiny", f"oci://{registry.host}/lab/copy:1")
    layout = Hyb(tmp_path / "third")
    layout.ok("pull", f"oci:{other.store}:tiny", "--name", "tiny", "--trust", policy(key, "oci:*"))
    layout.ok("verify", "tiny", "--key", public(key))


def skopeo(
    tmp_path: Path, host: str, key: str, source: str, identity: object = None
) -> subprocess.CompletedProcess[str]:
    """Copy an image out of the registry as a policy wants it that knows one key."""
    need("sigstore_skopeo")  # Debian 12 builds its own without sigstore
    rule: dict[str, object] = {"type": "sigstoreSigned", "keyPath": key}
    if identity:
        rule["signedIdentity"] = identity
    (tmp_path / "policy.json").write_text(
        json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {host: [rule]}}})
    )
    (tmp_path / "registries.d").mkdir(exist_ok=True)
    (tmp_path / "registries.d" / "x.yaml").write_text(f"docker:\n  {host}:\n    use-sigstore-attachments: true\n")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    return subprocess.run(
        [oracle("sigstore_skopeo"), "--policy", tmp_path / "policy.json",
         "--registries.d", tmp_path / "registries.d", "copy", "-q",
         "--src-tls-verify=false", f"docker://{source}", f"dir:{tmp_path / 'out'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_podmans_policy_lets_in_the_image_that_hyb_signed_and_no_other(
    hyb: Hyb,
    folder: Path,
    key: Path,
    registry: Running,  # noqa: F811
    tmp_path: Path,
) -> None:
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    hyb.ok("pack", "tiny", "--name", "box")
    place = f"{registry.host}/lab/box:1"
    assert "for an image" in hyb.fails(2, "sign", "tiny", "--key", str(key), "--for", f"oci://{place}")
    hyb.ok("push", "box", f"oci://{place}")
    assert "A signature was required" in skopeo(tmp_path, registry.host, public(key), place).stderr
    hyb.ok("sign", "box", "--key", str(key), "--for", f"oci://{place}")
    hyb.ok("push", "box", f"oci://{place}")
    done = skopeo(tmp_path, registry.host, public(key), place)
    assert done.returncode == 0, done.stderr
    other = keys.generate(tmp_path / "keys", "other")
    assert skopeo(tmp_path, registry.host, str(other.public), place).returncode
    # a second signer: the first one's signature stays
    hyb.ok("sign", "box", "--key", str(other.private), "--for", f"oci://{place}")
    hyb.ok("push", "box", f"oci://{place}")
    for one in (public(key), str(other.public)):
        assert skopeo(tmp_path, registry.host, one, place).returncode == 0
    # another repository has no signature for itself
    elsewhere = f"{registry.host}/lab/elsewhere:1"
    hyb.ok("push", "box", f"oci://{elsewhere}")
    assert skopeo(tmp_path, registry.host, public(key), elsewhere).returncode
    ed = keys.generate(tmp_path / "keys", "ed", kind="ed25519")
    assert "needs a key on P-256" in hyb.fails(3, "sign", "box", "--key", str(ed.private), "--for", f"oci://{place}")


def test_cosign_verifies_what_hyb_signed_and_its_own_signature_stays(
    hyb: Hyb,
    folder: Path,
    key: Path,
    registry: Running,  # noqa: F811
    tmp_path: Path,
) -> None:
    need("cosign")
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    hyb.ok("pack", "tiny", "--name", "box")
    place = f"{registry.host}/lab/cosigned:1"
    hyb.ok("sign", "box", "--key", str(key), "--for", f"oci://{place}")
    hyb.ok("push", "box", f"oci://{place}")

    def cosign(*arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {"HOME": str(tmp_path), "COSIGN_PASSWORD": "", "PATH": "/usr/bin:/bin"}
        argv = [str(oracle("cosign")), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path)

    verify = ["verify", "--insecure-ignore-tlog", "--allow-insecure-registry", "--key"]
    done = cosign(*verify, public(key), place)
    assert done.returncode == 0, done.stderr
    theirs = keys.generate(tmp_path / "keys", "theirs")
    assert cosign(*verify, str(theirs.public), place).returncode
    # the statement about the manifest, as a plain attestation: a registry's manifest is the blob that it speaks of
    bundle, manifest = tmp_path / "box.sig", hyb.store / "blobs/sha256" / hyb.json("show", "box")["digest"][7:]
    hyb.ok("sign", "box", "--key", str(key), "--out", str(bundle))
    roots = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [], "ctlogs": [],
             "certificateAuthorities": [], "timestampAuthorities": []}  # fmt: skip
    (tmp_path / "roots.json").write_text(json.dumps(roots))
    attested = ["verify-blob-attestation", "--new-bundle-format", "--insecure-ignore-tlog", "--trusted-root",
                "roots.json", "--type", "urn:hyb:signature:v1", "--bundle", str(bundle), "--key"]  # fmt: skip
    done = cosign(*attested, public(key), str(manifest))
    assert done.returncode == 0, done.stderr
    assert cosign(*attested, str(theirs.public), str(manifest)).returncode
    assert cosign(*attested, public(key), str(bundle)).returncode


def test_no_private_key_is_in_the_store_or_in_what_is_said(hyb: Hyb, folder: Path, key: Path) -> None:
    hyb.ok("pull", f"file:{folder}", "--name", "tiny")
    done = hyb("sign", "tiny", "--key", str(key), "--receipts")
    secret = key.read_bytes().splitlines()[1]
    assert secret not in (done.stdout + done.stderr).encode()
    for path in hyb.home.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
