"""What a recipe says of its boundary holds for a push, under whatever name or digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb.artifact import Artifact
from hyb.boundary import recorded
from hyb.errors import Exit, HybError
from hyb.formats import modelpack
from hyb.formats.boundary import Boundary
from hyb.recipe import Recipe
from hyb.signing import attached, keys
from hyb.store import Store

OUTSIDE = "registry.example.com"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, kind: str, name: str = "", **more: object) -> Artifact:
    file = modelpack.file("x", store.add_bytes(f"{kind} {name}".encode()))
    made = store.add_artifact(kind, [file], **more)  # type: ignore[arg-type]
    if name:
        store.tag(name, made.digest)
    return made


@pytest.mark.parametrize("kind", ["dataset", "report", "model", "image", "adapter"])
def test_what_the_boundary_forbids_goes_to_loopback_only(store: Store, kind: str) -> None:
    recorded.record(store, Recipe("r", (), boundary=Boundary()))
    made = add(store, kind, "r/it")
    for host in ("localhost:5000", "127.0.0.1:5000", "[::1]:5000"):
        recorded.check_push(store, [made], host)
    with pytest.raises(HybError, match="must not leave") as caught:
        recorded.check_push(store, [made], OUTSIDE)
    assert caught.value.code is Exit.CHECK


@pytest.mark.parametrize("kind", ["service", "link"])
def test_documents_may_leave(store: Store, kind: str) -> None:
    recorded.record(store, Recipe("r", (), boundary=Boundary()))
    recorded.check_push(store, [add(store, kind, "r/it")], OUTSIDE)


def test_what_was_made_of_it_outside_the_recipe_is_held_back_too(store: Store) -> None:
    recorded.record(store, Recipe("r", (), boundary=Boundary(weights="never")))
    model = add(store, "model", "r/bot")
    gguf = add(store, "model", "mine", meta={"base": model.digest})
    image = add(store, "image", meta={"made": {"of": [gguf.digest]}})
    for made in (gguf, image):
        with pytest.raises(HybError):
            recorded.check_push(store, [made], OUTSIDE)
    recorded.check_push(store, [add(store, "model", "other/bot")], OUTSIDE)


def test_reports_that_go_along_are_data(store: Store) -> None:
    recorded.record(store, Recipe("r", (), boundary=Boundary(weights="allowed")))
    model = add(store, "model", "r/bot")
    report = add(store, "report", subject=model)
    recorded.check_push(store, [model], OUTSIDE)
    with pytest.raises(HybError, match="must not leave"):
        recorded.check_push(store, [model, report], OUTSIDE)


def test_a_recipe_without_a_boundary_restricts_nothing_and_takes_an_old_one_back(store: Store) -> None:
    model = add(store, "model", "r/bot")
    recorded.record(store, Recipe("r", ()))
    assert not (store.root / recorded.FILE).exists()
    recorded.record(store, Recipe("r", (), boundary=Boundary()))
    with pytest.raises(HybError):
        recorded.check_push(store, [model], OUTSIDE)
    recorded.record(store, Recipe("r", ()))
    recorded.check_push(store, [model], OUTSIDE)


@pytest.mark.parametrize("text", ["{", "[]", '{"r": {"weights": "perhaps"}}'])
def test_a_damaged_record_lets_nothing_out(store: Store, text: str) -> None:
    model = add(store, "model", "r/bot")
    (store.root / recorded.FILE).write_text(text)
    with pytest.raises(HybError, match="damaged") as caught:
        recorded.check_push(store, [model], OUTSIDE)
    assert caught.value.code is Exit.CHECK


def test_an_adapter_that_must_be_signed_may_leave_when_a_trusted_key_signed_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ours", "theirs"):
        keys.generate(tmp_path, name)
    policy = tmp_path / "trust.yaml"
    policy.write_text("hyb-trust: 1\nkeys: {ours: {file: ours.pub}}\nrules: []\ndefault: off\n")
    recorded.record(store, Recipe("r", (), boundary=Boundary()))
    adapter = add(store, "adapter", "r/lora")
    for signer in ("", "theirs", "ours"):
        if signer:
            attached.sign(store, adapter, "r/lora", keys.load_private(tmp_path / f"{signer}.key"), lambda _: None)
        for trust in ("", str(policy)):
            monkeypatch.setenv("HYB_TRUST", trust)
            monkeypatch.setenv("HOME", str(tmp_path))
            if signer == "ours" and trust:
                recorded.check_push(store, [adapter, *store.referrers(adapter.digest)], OUTSIDE)
                continue
            with pytest.raises(HybError, match="must not leave") as caught:
                recorded.check_push(store, [adapter], OUTSIDE)
            assert "no signature by a key of your trust policy" in caught.value.details[0]
