"""The serve stage: what it takes, what it writes, whom it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import modelpack
from hyb.stages import pack, serve
from hyb.stages.base import Context
from hyb.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def a_model(store: Store, name: str = "model.gguf", **meta: Any) -> Artifact:
    files = [modelpack.file(name, store.add_bytes(b"GGUF" + b"w" * 5000))]
    facts = {"format": "gguf", "name": "Tiny Bot", "context": 2048, **meta}
    return store.add_artifact("model", files, meta=facts, config=modelpack.config(files))


def an_image(store: Store, model: Artifact) -> Artifact:
    spec = pack.Spec(model="gguf", name="lab/bot")
    return pack.run(spec, {"gguf": model}, Context(store, store.work("sha256:" + "0" * 64)))


def served(store: Store, given: Artifact, name: str = "image", **fields: Any) -> Artifact:
    spec = serve.Spec.model_validate({"image": name, "name": "bot", **fields})
    return serve.run(spec, {name: given}, Context(store, store.root))


def text(store: Store, artifact: Artifact, path: str) -> str:
    return store.read(artifact.file(path).blob.digest).decode()


def test_an_image_becomes_units_for_both_targets(store: Store) -> None:
    image = an_image(store, model := a_model(store))
    service = served(store, image)
    assert service.kind == "service"
    assert sorted(f.path for f in service.files) == ["APPLY.md", "kubernetes/bot.yaml", "quadlet/bot.container"]
    assert service.needs == (image.digest,)
    assert dict(service.meta) == {
        "name": "bot", "port": 8000, "host": "127.0.0.1", "model_name": "bot", "model": model.digest,
        "secret": "bot-api-key", "targets": ["quadlet", "kubernetes"],
    }  # fmt: skip
    unit = text(store, service, "quadlet/bot.container")
    assert f"source=localhost/lab/bot@{image.digest}," in unit
    assert "HYB_CONTEXT=2048" in unit, "no more context than the model was made for"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("quadlet", ["quadlet"]),
        ("both", ["quadlet", "kubernetes"]),
        (["kubernetes", "kubernetes"], ["kubernetes"]),
        (["kserve", "compose", "kube"], ["kube", "compose", "kserve"]),
    ],
)
def test_only_the_targets_that_were_asked_for_are_written(store: Store, target: Any, expected: list[str]) -> None:
    service = served(store, an_image(store, a_model(store)), target=target)
    assert service.meta["targets"] == expected
    assert {f.path.partition("/")[0] for f in service.files} == {"APPLY.md", *expected}
    how = text(store, service, "APPLY.md")
    assert ("systemctl" in how) == ("quadlet" in expected)
    assert ("deployment/bot" in how) == ("kubernetes" in expected)
    assert ("podman kube play" in how) == ("kube" in expected)
    assert ("podman-compose" in how) == ("compose" in expected)
    assert ("llminferenceservice/bot" in how) == ("kserve" in expected)


def test_the_same_input_gives_the_same_digest_in_another_store(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other päth")
    assert (
        served(store, an_image(store, a_model(store))).digest == served(other, an_image(other, a_model(other))).digest
    )


def test_a_runnable_image_needs_no_second_one(store: Store) -> None:
    image = an_image(store, a_model(store))
    ready = Artifact(image.digest, "image", meta={**image.meta, "runnable": True}, needs=image.needs)
    unit = serve.describe(serve.Spec(image="image", name="bot"), ready, store)
    assert (unit.runtime_image, unit.model_image) == (f"localhost/lab/bot@{image.digest}", "")


def test_a_model_in_a_registry_is_mounted_as_an_artifact(store: Store) -> None:
    model = a_model(store)
    service = served(store, model, model_image="registry.example.com/lab/bot:v1")
    mount = f"type=artifact,source=registry.example.com/lab/bot@{model.digest},destination=/models"
    assert mount in text(store, service, "quadlet/bot.container")
    assert "Podman 5.5" in text(store, service, "APPLY.md")
    deployment = list(yaml.safe_load_all(text(store, service, "kubernetes/bot.yaml")))[2]
    volume = deployment["spec"]["template"]["spec"]["volumes"][0]
    assert volume["image"]["reference"] == f"registry.example.com/lab/bot@{model.digest}"


def test_a_model_in_no_registry_is_refused(store: Store) -> None:
    with pytest.raises(HybError, match="no container can mount it") as caught:
        served(store, a_model(store))
    assert "pack" in caught.value.hint


def test_a_runtime_for_gguf_is_not_given_safetensors(store: Store) -> None:
    model = a_model(store, "model.safetensors", format="safetensors")
    with pytest.raises(HybError, match="serves GGUF") as caught:
        served(store, an_image(store, model))
    assert "format: gguf" in caught.value.hint
    assert served(store, an_image(store, model), runtime_image="localhost/torch:1").kind == "service"


def with_meta(image: Artifact, **facts: Any) -> Artifact:
    return Artifact(image.digest, "image", meta={**image.meta, **facts}, needs=image.needs)


def test_the_images_adapters_become_models_and_one_gets_a_share_of_the_requests(store: Store) -> None:
    image = with_meta(an_image(store, a_model(store)), adapters=[{"name": "support", "digest": "sha256:0"}])
    unit = serve.describe(serve.Spec(image="image", canary={"support": 10}), image, store)
    assert (unit.adapters, unit.canary) == (("support",), {"support": 10})
    with pytest.raises(HybError, match="`canary` names sales; adapters of `image`: support"):
        serve.describe(serve.Spec(image="image", canary={"sales": 10}), image, store)


@pytest.mark.parametrize(
    ("fields", "facts", "message"),
    [
        ({"model_volume": "copy"}, {}, "nothing in `image` can copy its model"),
        ({"userns": "auto", "target": "quadlet"}, {}, "can't mount an image in a user namespace"),
        ({"target": "kserve"}, {"runnable": True}, "the runtime holds the model"),
        ({"target": "kserve"}, {"adapters": [{"name": "support"}]}, "not its adapters"),
    ],
)
def test_settings_that_a_target_cant_have_are_refused(
    store: Store, fields: dict[str, Any], facts: dict[str, Any], message: str
) -> None:
    image = with_meta(an_image(store, a_model(store)), **facts)
    with pytest.raises(HybError, match=message) as caught:
        served(store, image, **fields)
    assert caught.value.hint


def test_a_pushed_artifact_is_no_volume_of_compose_or_of_a_pod(store: Store) -> None:
    model = a_model(store)
    for target in ("compose", "kube"):
        with pytest.raises(HybError, match="OCI artifact"):
            served(store, model, model_image="registry.example.com/lab/bot", target=target)


def test_an_image_with_a_base_is_copied_from_or_run_as_asked(store: Store) -> None:
    image = with_meta(an_image(store, a_model(store)), runnable=True, base="sha256:" + "c" * 64)
    copied = serve.describe(serve.Spec(image="image", model_volume="copy"), image, store)
    assert (copied.runtime_image, copied.copy) == (serve.RUNTIME, True)
    assert copied.model_image == f"localhost/lab/bot@{image.digest}"
    assert serve.describe(serve.Spec(image="image", userns="auto", target="quadlet"), image, store).userns == "auto"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"host": "192.0.2.7"}, "set `tls: true`"),
        ({"host": "server"}, "no IP address"),
        ({"unix_socket": True}, "not for kubernetes"),
        ({"canary": {"a": 60, "b": 60}}, "120 percent"),
        ({"runtime": "runsc --debug"}, "no OCI runtime"),
        ({"gpu_device": "all; rm"}, "pattern"),
        ({"podman": "3.0"}, "4.4"),
        ({"model_volume": "pvc"}, "copy"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        serve.Spec.model_validate({"image": "image", **fields})


def test_another_address_is_published_with_tls(store: Store) -> None:
    service = served(store, an_image(store, a_model(store)), host="192.0.2.7", tls=True, target="quadlet")
    unit = text(store, service, "quadlet/bot.container")
    assert "PublishPort=192.0.2.7:8000:8000" in unit and "HYB_TLS_KEY=/etc/hyb/tls.key" in unit
    assert "podman secret create bot-tls-key TLSFILE" in text(store, service, "APPLY.md")


def test_the_memory_limit_covers_model_and_cache() -> None:
    spec = serve.Spec(image="image", context=4096, parallel=4)
    assert serve.estimate(spec, 1 << 30) >= (1 << 30) + 4 * 4096 * serve.BYTES_A_TOKEN
    assert serve.estimate(spec, 1 << 30) % serve.STEP == 0
    assert serve.estimate(serve.Spec(image="image", memory=700), 1 << 30) == 700 << 20


def test_the_plan_says_what_will_be_opened() -> None:
    plan = serve.plan(serve.Spec(image="r/image", port=9000), {"r/image": None})
    assert plan.makes == "service `image`: quadlet, kubernetes"
    assert plan.opens == ("when applied: 127.0.0.1 port 9000",)
    closed = serve.plan(serve.Spec(image="r/image", unix_socket=True, target="quadlet"), {"r/image": None})
    assert closed.opens == ("when applied: a socket",)


def test_a_stage_name_that_is_no_dns_label_needs_another_name() -> None:
    with pytest.raises(HybError, match="RFC 1123 label") as caught:
        serve.plan(serve.Spec(image="My_image"), {})
    assert caught.value.hint == "set `name:`"


def test_all_mistakes_of_a_spec_are_found() -> None:
    wrong = {
        "image": "image", "port": 70000, "name": "My Bot", "host": "0.0.0.0", "runtime_image": "bot", "parallel": 0,
        "target": [], "kata": True,
    }  # fmt: skip
    with pytest.raises(ValidationError) as caught:
        serve.Spec.model_validate(wrong)
    assert {e["loc"][0] for e in caught.value.errors()} == set(wrong) - {"image"}


@pytest.mark.parametrize("value", [0, -1, 65536, "http", 80.5])
def test_a_port_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        serve.Spec.model_validate({"image": "image", "port": value})
