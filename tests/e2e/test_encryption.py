"""Sealed images against the real skopeo: who can open them, who can't, what a changed byte does, what travels."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hyb import digest as dg
from hyb import engine_podman, layout
from hyb.artifact import KIND, META, NEEDS, Artifact
from hyb.boundary import recorded
from hyb.encryption import opened
from hyb.errors import Exit, HybError
from hyb.formats import oci, sealed
from hyb.hub import names, push
from hyb.progress import silent
from hyb.stages import pack
from hyb.store import Store
from tests.hyb import Hyb
from tests.need import need
from tests.registry_env import Running, registry  # noqa: F401
from tests.sealing import Keys, a_model, an_adapter, pair, sealed_image

CANARY = b"a line of weights that nobody may read " * 100
ADDED = b"a line of an adapter that nobody may read " * 100


@pytest.fixture(autouse=True)
def _skopeo() -> None:
    need("skopeo")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def ops(tmp_path: Path) -> Keys:
    return pair(tmp_path, "ops")


def skopeo(*argv: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["skopeo", "copy", "--quiet", *argv], capture_output=True, check=check)


def blobs(store: Store, image: Artifact) -> list[bytes]:
    return [store.blob_path(f.blob.digest).read_bytes() for f in image.files]


def opens(store: Store, image: Artifact, keys: Keys, place: Path) -> dict[str, bytes]:
    """Path → bytes of what comes out."""
    place.mkdir()
    inner, shown = opened.take_out(store, image, keys.private, place)
    found = [inner.artifact(d) for d in [shown.meta["model"], *(a["digest"] for a in shown.meta["adapters"])]]
    return {f.path: (inner.view(a) / f.path).read_bytes() for a in found for f in a.files}


def says_no(call: Callable[[], object], code: Exit = Exit.CHECK) -> HybError:
    with pytest.raises(HybError) as caught:
        call()
    assert caught.value.code is code, caught.value
    return caught.value


def remade(store: Store, image: Artifact, change: Callable[[dict[str, object]], None]) -> Artifact:
    """Somebody else's image: the same manifest after a change, with a digest of its own."""
    manifest = json.loads(store.read(image.digest))
    change(manifest)
    return store.add_manifest(manifest)


def test_each_recipient_opens_all_of_it_and_nothing_is_in_the_clear(store: Store, tmp_path: Path) -> None:
    both = [pair(tmp_path, "one"), pair(tmp_path, "two", kind="rsa")]
    model = a_model(store, CANARY)
    image = sealed_image(store, model, both, {"tuned": an_adapter(store, ADDED, model)})
    assert sealed.covers(image) == (True, True)
    assert not any(CANARY[:39] in data or ADDED[:42] in data for data in blobs(store, image))
    for number, keys in enumerate(both):
        out = opens(store, image, keys, tmp_path / str(number))
        assert out["model.gguf"] == CANARY
        assert out["adapter.gguf"] == ADDED
        assert out["LICENSE"] == b"Apache-2.0\n"
        assert "README.md" not in out


def test_what_comes_out_has_the_digest_of_the_model_that_went_in(store: Store, ops: Keys, tmp_path: Path) -> None:
    model = a_model(store, os.urandom(3 << 20), context=256)
    (tmp_path / "out").mkdir()
    image = sealed_image(store, model, [ops])
    inner, shown = opened.take_out(store, image, ops.private, tmp_path / "out")
    assert shown.size == image.size, "a container's limit of memory counts it"
    assert inner.artifact(model.digest).meta["context"] == 256
    assert (shown.kind, shown.needs) == ("image", (model.digest,))
    assert not list((tmp_path / "out").rglob("clear"))


def test_another_key_is_refused_before_and_by_skopeo(store: Store, ops: Keys, tmp_path: Path) -> None:
    image, other = sealed_image(store, a_model(store, CANARY), [ops]), pair(tmp_path, "other")
    error = says_no(lambda: opens(store, image, other, tmp_path / "out"))
    assert "is not sealed to the key" in error.message
    assert len([x for x in error.details if re.search("sha256:[0-9a-f]{64}", x)]) == 2

    def lie(manifest: dict[str, object]) -> None:
        notes = manifest["annotations"]
        assert isinstance(notes, dict)
        notes[META] = notes[META].replace(sealed.recipients(image)[0], dg.of_bytes(b""))
        meta = json.loads(notes[META])
        meta["sealed"]["to"] = []
        notes[META] = dg.canonical_json(meta).decode()

    error = says_no(lambda: opens(store, remade(store, image, lie), other, tmp_path / "again"))
    assert "opens none of the image's layers" in error.message


def test_a_flipped_bit_is_found_whoever_flipped_it(store: Store, ops: Keys, tmp_path: Path) -> None:
    image = sealed_image(store, a_model(store, CANARY), [ops])
    layer = image.files[0].blob
    changed = bytearray(store.blob_path(layer.digest).read_bytes())
    changed[len(changed) // 2] ^= 1
    blob = store.add_bytes(bytes(changed))

    def swap(manifest: dict[str, object]) -> None:
        layers = manifest["layers"]
        assert isinstance(layers, list)
        layers[0]["digest"] = blob.digest

    error = says_no(lambda: opens(store, remade(store, image, swap), ops, tmp_path / "out"))
    assert "was changed since it was sealed" in error.message
    path = store.blob_path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(changed)
    assert "is damaged" in says_no(lambda: opens(store, image, ops, tmp_path / "again")).message


def test_a_layer_that_somebody_else_sealed_to_the_same_key_is_not_taken(
    store: Store, ops: Keys, tmp_path: Path
) -> None:
    mine, theirs = (sealed_image(store, a_model(store, data), [ops]) for data in (CANARY, b"evil" * len(CANARY)))

    def swap(manifest: dict[str, object]) -> None:
        layers, others = manifest["layers"], theirs.manifest["layers"]
        assert isinstance(layers, list)
        layers[0] = {**others[0], "annotations": {**others[0]["annotations"]}}

    error = says_no(lambda: opens(store, remade(store, mine, swap), ops, tmp_path / "out"))
    assert "as the image's config says" in error.message


def test_parts_that_were_edited_are_not_believed(store: Store, ops: Keys, tmp_path: Path) -> None:
    image = sealed_image(store, a_model(store, CANARY), [ops])

    def edit(text: str) -> Callable[[dict[str, object]], None]:
        def change(manifest: dict[str, object]) -> None:
            assert isinstance(manifest["annotations"], dict)
            manifest["annotations"][sealed.PARTS] = text

        return change

    held = json.loads(image.manifest["annotations"][sealed.PARTS])
    held[image.meta["model"]]["layers"][0]["annotations"] = {"org.cncf.model.filepath": "../../etc/passwd"}
    for number, text in enumerate((json.dumps(held), "{}", "[]", "not JSON", "[" * 100_000)):
        error = says_no(lambda t=text, n=number: opens(store, remade(store, image, edit(t)), ops, tmp_path / str(n)))  # type: ignore[misc]
        assert "does not say what is in it" in error.message


def test_the_base_stays_clear_and_shared_where_only_adapters_are_sealed(
    store: Store, ops: Keys, tmp_path: Path
) -> None:
    model = a_model(store, CANARY)
    adapter = an_adapter(store, ADDED, model)
    half = sealed_image(store, model, [ops], {"tuned": adapter}, encrypt="adapter")
    plain = sealed_image(store, model, [], {"tuned": adapter})
    assert half.manifest["layers"][:-1] == plain.manifest["layers"][:-1]
    assert sealed.covers(half) == (False, True)
    assert not any(ADDED[:42] in data for data in blobs(store, half))
    out = opens(store, half, ops, tmp_path / "out")
    assert (out["model.gguf"], out["adapter.gguf"]) == (CANARY, ADDED)
    assert plain.needs
    assert half.needs == ()
    assert blobs(store, half)[0] == blobs(store, plain)[0], "a clear layer of the store is not used up"


def test_config_and_plain_digest_are_the_same_each_time_and_the_layers_never(ops: Keys, tmp_path: Path) -> None:
    one, two = (Store(tmp_path / n) for n in ("one", "two"))
    images = [sealed_image(s, a_model(s, CANARY), [ops]) for s in (one, two)]
    plain = sealed_image(one, a_model(one, CANARY), [])
    assert images[0].manifest["config"] == images[1].manifest["config"] == plain.manifest["config"]
    assert {i.meta["sealed"]["plain"] for i in images} == {plain.digest}
    assert not {f.blob.digest for f in images[0].files} & {f.blob.digest for f in images[1].files}
    assert NEEDS not in images[0].manifest["annotations"]
    assert images[0].manifest["annotations"][KIND] == "image"


def test_an_adapter_that_changes_encrypts_its_own_layer_alone(store: Store, ops: Keys) -> None:
    model = a_model(store, CANARY)
    first, second = (sealed_image(store, model, [ops], {"t": an_adapter(store, d, model)}) for d in (ADDED, b"other"))
    assert first.manifest["layers"][:-1] == second.manifest["layers"][:-1]
    assert first.manifest["layers"][-1] != second.manifest["layers"][-1]


def test_other_recipients_get_other_layers(store: Store, ops: Keys, tmp_path: Path) -> None:
    model, more = a_model(store, CANARY), pair(tmp_path, "more")
    first, second = sealed_image(store, model, [ops]), sealed_image(store, model, [ops, more])
    assert not {f.blob.digest for f in first.files} & {f.blob.digest for f in second.files}


def test_a_copy_without_a_key_stays_as_it_is(store: Store, ops: Keys, registry: Running, tmp_path: Path) -> None:  # noqa: F811
    image = sealed_image(store, a_model(store, CANARY), [ops])
    push.push(store, image, names.OCI(f"{registry.host}/lab/bot", ref="1", remote=True), say=silent)
    skopeo("--src-tls-verify=false", f"docker://{registry.host}/lab/bot:1", f"oci:{tmp_path / 'copy'}:it")
    entry = json.loads((tmp_path / "copy" / "index.json").read_bytes())["manifests"][0]
    assert entry["digest"] == image.digest
    far = Hyb(tmp_path / "far")
    far.ok("pull", f"oci://{registry.host}/lab/bot:1", "--name", "bot")
    assert Store(far.store).tags()["bot"] == image.digest
    assert "all whole" in far.ok("verify")
    stored = [p for p in registry.storage.rglob("data") if p.is_file()]
    assert len(stored) >= len(image.files)
    assert not any(CANARY[:39] in p.read_bytes() for p in [*stored, *(tmp_path / "copy").rglob("*")] if p.is_file())


def test_skopeo_alone_opens_what_hyb_sealed(store: Store, ops: Keys, tmp_path: Path) -> None:
    image = sealed_image(store, a_model(store, CANARY), [ops])
    store.tag("bot", image.digest)
    accept = "--dest-oci-accept-uncompressed-layers"
    skopeo(accept, f"--decryption-key={ops.private}", f"oci:{store.root}:bot", f"oci:{tmp_path / 'out'}:it")
    config = json.loads(store.read(image.manifest["config"]["digest"]))
    for digest in config["rootfs"]["diff_ids"]:
        assert dg.of_file(layout.blob_path(tmp_path / "out", digest))[0] == digest


def test_podman_is_not_given_an_image_that_it_can_not_read(store: Store, ops: Keys) -> None:
    image = sealed_image(store, a_model(store, CANARY), [ops])
    assert "is a sealed image" in says_no(lambda: engine_podman.load_image(store, image, "localhost/x:latest")).message


def test_the_boundary_lets_sealed_weights_out_and_only_these(store: Store, ops: Keys) -> None:
    model = a_model(store, CANARY)
    adapter = an_adapter(store, ADDED, model)
    store.tag("lab/model", model.digest)
    whole, half = (sealed_image(store, model, [ops], {"t": adapter}, encrypt=e) for e in ("all", "adapter"))
    plain = sealed_image(store, model, [], {"t": adapter})

    def allowed(image: Artifact, **said: str) -> bool:
        (store.root / recorded.FILE).write_text(json.dumps({"lab": said}))
        try:
            recorded.check_push(store, [image], "registry.example")
        except HybError as error:
            assert error.code is Exit.CHECK
            return False
        return True

    assert [allowed(i, weights="sealed", adapter="sealed") for i in (whole, half, plain)] == [True, False, False]
    assert [allowed(i, weights="allowed", adapter="sealed") for i in (whole, half, plain)] == [True, True, False]
    assert [allowed(i, weights="never", adapter="sealed") for i in (whole, half, plain)] == [False] * 3


def test_a_seal_that_lies_is_no_seal_for_the_boundary(store: Store, ops: Keys) -> None:
    plain = sealed_image(store, a_model(store, CANARY), [])

    def boast(manifest: dict[str, object]) -> None:
        notes = manifest["annotations"]
        assert isinstance(notes, dict)
        notes[META] = dg.canonical_json({**json.loads(notes[META]), "sealed": {"what": "all", "to": ["x"]}}).decode()

    assert not sealed.covers(remade(store, plain, boast))[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"encrypt": "adapter"}, "needs `adapters`"),
        ({"shape": "artifact", "encrypt_to": ["k"]}, "has none of its own"),
        ({"encrypt": "everything"}, "all"),
        ({"encrypt": "adapter", "encrypt_to": ["k"]}, "needs `adapters`"),
    ],
)
def test_a_seal_that_would_seal_nothing_is_a_mistake(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pack.Spec.model_validate({"model": "m", **fields})


def test_an_older_skopeo_that_leaves_a_layer_clear_is_noticed(
    store: Store, ops: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "skopeo"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor a; do case $a in --encryption-key=*) ;; *) set -- "$@" "$a";; esac; shift; done\n'
                    'exec /usr/bin/skopeo "$@"\n')  # fmt: skip
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    error = says_no(lambda: sealed_image(store, a_model(store, CANARY), [ops]), Exit.BELOW)
    assert "did not encrypt" in error.message
    assert not any(sealed.is_sealed(a) for a in store.artifacts() if a.kind == "image")


def test_the_command_line_seals_pulls_verifies_and_pins(tmp_path: Path) -> None:
    lab, ops = Hyb(tmp_path / "lab"), pair(tmp_path, "ops")
    store = Store(lab.store)
    model = a_model(store, CANARY)
    store.tag("m", model.digest)
    store.tag("tuned", an_adapter(store, ADDED, model).digest)
    lab.ok("pack", "m", "--encrypt-to", str(ops.public), "--name", "bot")
    (image,) = [a for a in store.artifacts() if a.kind == "image"]
    said = lab.fails(3, "pack", "m", "--encrypt-to", str(ops.private), "--name", "oops")
    assert "is a private key" in said
    assert base64.b64encode(b"x").decode() not in said
    assert "would not be" in lab.fails(3, "pack", "--update", "bot")
    assert "private key" in lab.fails(2, "pack", "m", "--encrypt-to", str(ops.public), "--to-podman")
    said = lab.json("pack", "--update", "bot", "--adapter", "tuned", "--encrypt-to", str(ops.public), "--name", "next")
    assert said["layers_rewritten"] == 1
    assert sealed.covers(store.artifact(said["digest"])) == (True, True)
    far = Hyb(tmp_path / "far")
    far.ok("pull", f"oci:{lab.store}:bot", "--name", "bot")
    assert Store(far.store).tags()["bot"] == image.digest
    assert "all whole" in far.ok("verify")
    assert "no key was given" in far.fails(4, "serve", "bot", "--port", "0")
    assert "others can read" in far.fails(3, "serve", "bot", "--decryption-key", str(ops.public))
    assert "--decryption-key" in lab.fails(2, "serve", "m", "--decryption-key", str(ops.private))
    assert "llama.cpp" in far.ok("serve", "bot", "--decryption-key", str(ops.private), "--dry-run")
    assert oci.KEY in image.manifest["layers"][0]["annotations"]
