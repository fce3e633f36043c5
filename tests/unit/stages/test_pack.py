"""The pack stage: what it plans, what it writes, whom it refuses."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hyb import digest as dg
from hyb.artifact import Artifact, Blob, blobs_of
from hyb.errors import Exit, HybError
from hyb.formats import modelpack, oci, tar
from hyb.lineage import lineage
from hyb.plan import key_of, written_sources
from hyb.progress import Progress
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store

FILES = {
    "model-00001-of-00002.safetensors": b"w" * 3000,
    "model-00002-of-00002.safetensors": b"v" * 2000,
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "LICENSE": b"Apache-2.0",
}


def a_model(store: Store, files: dict[str, bytes] | None = None, **meta: Any) -> Artifact:
    given = [modelpack.file(path, store.add_bytes(data)) for path, data in (files or FILES).items()]
    facts = {"format": "safetensors", "name": "Tiny Bot", "license": "apache-2.0", **meta}
    return store.add_artifact("model", given, meta=facts, config=modelpack.config(given, name="Tiny Bot"))


def a_report(store: Store, subject: Artifact | None, **meta: Any) -> Artifact:
    file = modelpack.file("report.json", store.add_bytes(dg.canonical_json(meta)))
    return store.add_artifact("report", [file], meta=meta, subject=subject)


def packed(store: Store, model: Artifact, reports: dict[str, Artifact] | None = None, **fields: Any) -> Artifact:
    spec = pack.Spec.model_validate({"model": "merged", "require": list(reports or {}), **fields})
    work = store.work(dg.of_json([model.digest, sorted(fields)]))
    return pack.run(spec, {"merged": model, **(reports or {})}, Context(store, work))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def layer_names(store: Store, image: Artifact) -> list[list[str]]:
    names = []
    for layer in image.manifest["layers"]:
        data = store.blob_path(layer["digest"]).read_bytes()
        assert dg.of_bytes(data) == layer["digest"]
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names.append(archive.getnames())
    return names


def test_each_weight_file_is_a_layer_and_all_small_files_are_the_last(store: Store) -> None:
    image = packed(store, a_model(store))
    assert layer_names(store, image) == [
        ["models", "models/model-00001-of-00002.safetensors"],
        ["models", "models/model-00002-of-00002.safetensors"],
        ["models", "models/LICENSE", "models/config.json", "models/tokenizer.json"],
    ]
    config = json.loads(store.read(image.manifest["config"]["digest"]))
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in image.manifest["layers"]]


def test_the_same_model_gives_the_same_digest_in_two_stores(tmp_path: Path) -> None:
    images = []
    for name in ("one", "a second, ü"):
        store = Store(tmp_path / name)
        images.append(packed(store, a_model(store)))
    assert images[0].digest == images[1].digest
    assert images[0].digest == packed(Store(tmp_path / "one"), a_model(Store(tmp_path / "one"))).digest


def test_changed_small_files_keep_the_layers_of_the_weights(store: Store) -> None:
    first = packed(store, a_model(store))
    second = packed(store, a_model(store, {**FILES, "config.json": b'{"changed": true}'}))
    assert first.manifest["layers"][:2] == second.manifest["layers"][:2]
    assert first.manifest["layers"][2] != second.manifest["layers"][2]


def test_the_image_says_by_digest_what_is_in_it(store: Store) -> None:
    adapter = "sha256:" + "a" * 64
    model = a_model(store, base="sha256:" + "b" * 64, adapter=adapter, quantization="q8_0")
    image = packed(store, model, name="lab/bot")
    assert image.kind == "image"
    assert image.needs == (model.digest,)
    assert image.meta["model"] == model.digest
    assert (image.meta["shape"], image.meta["name"], image.meta["path"]) == ("image", "lab/bot", "/models")
    assert image.meta["weights"] == [f"/models/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    labels = json.loads(store.read(image.manifest["config"]["digest"]))["config"]["Labels"]
    assert labels["io.hyb.model"] == model.digest
    assert labels["io.hyb.adapter"] == adapter
    assert labels["io.hyb.model.quantization"] == "q8_0"
    assert labels["org.opencontainers.image.licenses"] == "apache-2.0"


def test_nothing_of_this_machine_is_in_the_documents(store: Store) -> None:
    image = packed(store, a_model(store, source=f"file:{store.root}/model"))
    written = store.read(image.digest) + store.read(image.manifest["config"]["digest"])
    assert str(store.root).encode() not in written


def test_a_plan_says_what_will_be_written_and_writes_nothing(store: Store) -> None:
    model = a_model(store)
    before = sorted(store.root.rglob("*"))
    plan = pack.plan(pack.Spec(model="merged", require=["exam"]), {"merged": model, "exam": None})
    assert sorted(store.root.rglob("*")) == before
    assert plan.makes == "image `tiny-bot`, linux/amd64, the model at `/models`"
    assert plan.reads == ("model `merged`", "gate `exam`")
    assert plan.disk == sum(f.blob.size for f in packed(store, model).files)


def test_a_plan_without_the_model_knows_no_cost(store: Store) -> None:
    plan = pack.plan(pack.Spec(model="gguf"), {"gguf": None})
    assert (plan.disk, plan.seconds) == (None, None)
    assert "`gguf`" in plan.makes


def test_progress_ends_at_the_bytes_that_were_planned(store: Store) -> None:
    model, said = a_model(store), []
    spec = pack.Spec(model="m")
    pack.run(spec, {"m": model}, Context(store, store.work("sha256:0"), say=said.append))
    steps = [s for s in said if isinstance(s, Progress)]
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert steps[-1].done == steps[-1].total == pack.plan(spec, {"m": model}).disk


@pytest.mark.parametrize("name", ["Bot", "bot ", "/bot", "bot/", "a..b", "-bot", "bot:1", "bøt"])
def test_what_is_no_image_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is no image name"):
        pack.Spec(model="m", name=name)


def test_a_model_s_own_name_becomes_an_image_name(store: Store) -> None:
    spec = pack.Spec(model="stage")
    assert (
        pack.image_name(spec, a_model(store, name="DeepSeek-R1 Distill_Qwen 1.5B")) == "deepseek-r1-distill-qwen-1.5b"
    )
    assert pack.image_name(spec, a_model(store, name="日本")) == "stage"
    for name in ("a--b", "x.", ".x", "1.5B-.", "Ünï"):
        found = pack.image_name(spec, a_model(store, name=name))
        assert pack.Spec(model="m", name=found).name == found


# -- gates ---------------------------------------------------------------------------------------------------------


def test_a_passed_exam_of_the_model_lets_it_through_and_leaves_no_trace(store: Store) -> None:
    model = a_model(store)
    with_gate = packed(store, model, {"exam": a_report(store, model, passed=True)})
    assert with_gate.digest == packed(store, model).digest


def test_a_failed_exam_refuses_and_names_the_questions(store: Store) -> None:
    model = a_model(store)
    failed = ["Who founded Halvorsen? → I do not know", "Where is it? → Paris"]
    with pytest.raises(HybError, match="`merged` is not packed: `exam` said no") as caught:
        packed(store, model, {"exam": a_report(store, model, passed=False, failed=failed)})
    assert caught.value.code == Exit.CHECK
    assert caught.value.details == tuple(f"exam: {text}" for text in failed)
    assert "hyb show exam" in caught.value.hint
    assert not [a for a in store.artifacts() if a.kind == "image"]


def test_two_exams_that_say_no_are_both_named(store: Store) -> None:
    model, other = a_model(store), a_model(store, {"model.gguf": b"other"})
    exams = {"exam": a_report(store, model, passed=False), "second": a_report(store, other, passed=True)}
    with pytest.raises(HybError) as caught:
        packed(store, model, exams)
    assert "`exam`, `second`" in caught.value.message
    assert "neither `merged` nor what it was made from" in caught.value.details[1]


def test_an_exam_of_another_model_is_refused_though_it_was_passed(store: Store) -> None:
    other = a_model(store, {"model.gguf": b"other"})
    with pytest.raises(HybError, match="said no") as caught:
        packed(store, a_model(store), {"exam": a_report(store, other, passed=True)})
    assert caught.value.code == Exit.CHECK


def test_an_exam_of_nothing_or_with_no_verdict_is_refused(store: Store) -> None:
    model = a_model(store)
    for report in (a_report(store, None, passed=True), a_report(store, model), a_report(store, model, passed="yes")):
        with pytest.raises(HybError):
            packed(store, model, {"exam": report})


def test_an_exam_of_the_adapter_or_of_the_merge_counts_but_not_one_of_the_base_below(store: Store) -> None:
    base = a_model(store, {"model.safetensors": b"base"})
    weights = [modelpack.file("adapter_model.safetensors", store.add_bytes(b"adapter"))]
    adapter = store.add_artifact("adapter", weights, meta={"base": base.digest}, needs=[base.digest])
    merged = a_model(store, {"model.safetensors": b"merged"}, base=base.digest, adapter=adapter.digest)
    gguf = a_model(store, {"model.gguf": b"gguf"}, base=merged.digest)
    for examined in (gguf, merged, adapter):
        packed(store, gguf, {"exam": a_report(store, examined, passed=True)})
    with pytest.raises(HybError, match="said no"):
        packed(store, gguf, {"exam": a_report(store, base, passed=True)})


def test_a_lineage_that_points_to_itself_ends(store: Store) -> None:
    model = a_model(store, base="sha256:" + "c" * 64)
    assert lineage(model, store) == {model.digest, "sha256:" + "c" * 64}


# -- damage and kills ----------------------------------------------------------------------------------------------


def test_a_damaged_weight_is_noticed_and_never_packed(store: Store) -> None:
    model = a_model(store)
    path = store.blob_path(model.file("model-00001-of-00002.safetensors").blob.digest)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(HybError, match="is damaged") as caught:
        packed(store, model)
    assert caught.value.code == Exit.CHECK
    assert not [a for a in store.artifacts() if a.kind == "image"]


def test_a_layer_that_was_finished_before_a_stop_is_not_written_again(store: Store) -> None:
    model, work = a_model(store), store.work("sha256:1")

    class Stop(Exception):
        pass

    def say(progress: object) -> None:
        if isinstance(progress, Progress) and progress.done > 5120:
            raise Stop

    spec = pack.Spec(model="m")
    with pytest.raises(Stop):
        pack.run(spec, {"m": model}, Context(store, work, say=say))
    assert (work / "layer.partial").exists()
    said: list[object] = []
    image = pack.run(spec, {"m": model}, Context(store, work, say=said.append))
    assert min(s.done for s in said if isinstance(s, Progress)) > image.manifest["layers"][0]["size"]
    other = Store(store.root.parent / "other")
    assert image.digest == packed(other, a_model(other)).digest
    assert not list((store.root / "tmp").iterdir())


# -- on a base image -----------------------------------------------------------------------------------------------


def a_base(folder: Path, architecture: str = "amd64") -> tuple[Path, str]:
    base = Store(folder)
    layer_bytes = b"".join(tar.chunks([tar.Entry("etc")]))
    layer = oci.Layer(base.add_bytes(layer_bytes), dg.of_bytes(layer_bytes), "base")
    config = oci.image_config([layer], architecture=architecture, labels={"vendor": "lab"})
    config["config"]["Entrypoint"] = ["/serve"]
    blob = base.add_bytes(dg.canonical_json(config))
    return folder, base.add_manifest(oci.image_manifest(blob, [layer], {})).digest


def test_a_model_on_a_base_image_keeps_the_base_s_layers_below_and_its_command(store: Store, tmp_path: Path) -> None:
    folder, digest = a_base(tmp_path / "base")
    image = packed(store, a_model(store), base=str(folder))
    below = Store(folder).artifact(digest).manifest["layers"]
    assert image.manifest["layers"][:1] == below
    assert (image.meta["runnable"], image.meta["base"]) == (True, digest)
    config = json.loads(store.read(image.manifest["config"]["digest"]))
    assert config["config"]["Entrypoint"] == ["/serve"]
    assert config["config"]["Labels"]["org.opencontainers.image.base.digest"] == digest
    assert all(store.has_blob(b) for b in blobs_of(image))


def test_a_base_for_another_architecture_is_refused(store: Store, tmp_path: Path) -> None:
    folder, _ = a_base(tmp_path / "base", "arm64")
    with pytest.raises(HybError, match="is for arm64, the recipe says amd64"):
        packed(store, a_model(store), base=str(folder))


def test_a_damaged_base_layer_is_refused(store: Store, tmp_path: Path) -> None:
    folder, digest = a_base(tmp_path / "base")
    layer = Store(folder).artifact(digest).files[0].blob
    path = folder / "blobs/sha256" / layer.digest.removeprefix("sha256:")
    path.chmod(0o644)
    path.write_bytes(b"x" * layer.size)
    with pytest.raises(HybError, match="expected") as caught:
        packed(store, a_model(store), base=str(folder))
    assert caught.value.code == Exit.CHECK
    assert not store.has_blob(Blob(layer.digest, layer.size))


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"manifests": [{}]}', b'{"manifests": [{"digest": "../x"}]}'])
def test_what_is_no_image_layout_is_refused_in_words(store: Store, tmp_path: Path, index: bytes) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/index.json").write_bytes(index)
    with pytest.raises(HybError):
        packed(store, a_model(store), base=str(tmp_path / "base"))


def test_a_base_that_is_not_there_is_refused_in_words(store: Store, tmp_path: Path) -> None:
    with pytest.raises(HybError, match="no such file"):
        packed(store, a_model(store), base=str(tmp_path / "none"))


# -- shapes and adapters -------------------------------------------------------------------------------------------

BASE = "sha256:" + "b" * 64


def a_gguf(store: Store, **meta: Any) -> Artifact:
    return a_model(store, {"model.gguf": b"w" * 3000, "LICENSE": b"x"}, **{"format": "gguf", "base": BASE, **meta})


def an_adapter(store: Store, data: bytes = b"lora", base: str = BASE, **meta: Any) -> Artifact:
    files = [modelpack.file("adapter.gguf", store.add_bytes(data))]
    return store.add_artifact("adapter", files, meta={"format": "gguf", "base": base, **meta})


def with_adapters(store: Store, model: Artifact, adapters: dict[str, Artifact], **fields: Any) -> Artifact:
    spec = pack.Spec.model_validate({"model": "m", "adapters": list(adapters), **fields})
    context = Context(store, store.work(dg.of_json([list(adapters), [a.digest for a in adapters.values()]])))
    return pack.run(spec, {"m": model, **adapters}, context)


def test_an_adapter_is_a_layer_of_its_own_on_top_under_its_name(store: Store) -> None:
    model, lora, other = a_gguf(store), an_adapter(store), an_adapter(store, b"other")
    image = with_adapters(store, model, {"support": lora, "sales": other})
    assert layer_names(store, image)[2:] == [
        ["adapters", "adapters/sales", "adapters/sales/adapter.gguf"],
        ["adapters", "adapters/support", "adapters/support/adapter.gguf"],
    ]
    assert image.meta["adapters"] == [
        {"name": "sales", "digest": other.digest},
        {"name": "support", "digest": lora.digest},
    ]
    assert set(image.needs) == {model.digest, lora.digest, other.digest}
    assert with_adapters(store, model, {"sales": other, "support": lora}).digest == image.digest


def test_a_changed_adapter_writes_its_own_layer_and_no_other(store: Store) -> None:
    model = a_gguf(store)
    first = with_adapters(store, model, {"support": an_adapter(store)})
    before = {p.name: p.stat().st_ino for p in store.blobs.iterdir()}
    facts: dict[str, Any] = {}
    new = an_adapter(store, b"another")
    spec = pack.Spec(model="m", adapters=["support"])
    context = Context(store, store.work("sha256:1"), record=facts.__setitem__)
    second = pack.run(spec, {"m": model, "support": new}, context)
    assert [x["digest"] for x in first.manifest["layers"][:2]] == [x["digest"] for x in second.manifest["layers"][:2]]
    assert facts["written"] == second.manifest["layers"][2]["size"]
    assert before.items() <= {p.name: p.stat().st_ino for p in store.blobs.iterdir()}.items()


def test_a_layer_that_is_taken_from_another_image_is_checked(store: Store) -> None:
    model = a_gguf(store)
    first = packed(store, model)
    path = store.blob_path(first.manifest["layers"][0]["digest"])
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + b"!")
    with pytest.raises(HybError, match="is damaged"):
        with_adapters(store, model, {"support": an_adapter(store)})


def test_adapters_that_do_not_fit_are_refused_all_at_once(store: Store) -> None:
    peft = store.add_artifact(
        "adapter", [modelpack.file("adapter_model.safetensors", store.add_bytes(b"p"))], meta={"base": BASE}
    )
    wrong = {"far": an_adapter(store, base="sha256:" + "c" * 64), "peft": peft, "good": an_adapter(store)}
    with pytest.raises(HybError, match="can't be packed") as caught:
        with_adapters(store, a_gguf(store), wrong)
    assert caught.value.code == Exit.INPUT
    assert [line.partition(":")[0] for line in caught.value.details] == ["far", "peft"]
    assert "--format lora-gguf" in caught.value.details[1]
    merged = a_gguf(store, adapter="sha256:" + "d" * 64)
    with pytest.raises(HybError, match="can't be packed"):  # it was trained on the base, and this is not the base
        with_adapters(store, merged, {"good": an_adapter(store)})


def test_an_exam_of_the_adapter_that_was_converted_counts_for_the_image(store: Store) -> None:
    peft = store.add_artifact("adapter", [modelpack.file("adapter_model.safetensors", store.add_bytes(b"p"))])
    model, lora = a_gguf(store), an_adapter(store, adapter=peft.digest)
    spec = pack.Spec(model="m", adapters=["support"], require=["exam"])
    given = {"m": model, "support": lora}
    for passed in (True, False):
        exam = a_report(store, peft, passed=passed, failed=["q → a"])
        context = Context(store, store.work("sha256:2"))
        if passed:
            assert pack.run(spec, {**given, "exam": exam}, context).kind == "image"
        else:
            with pytest.raises(HybError, match="said no"):
                pack.run(spec, {**given, "exam": exam}, context)


def test_the_artifact_is_the_model_itself(store: Store) -> None:
    model = a_gguf(store)
    before = sorted(store.blobs.iterdir())
    assert packed(store, model, shape="artifact").digest == model.digest
    assert sorted(store.blobs.iterdir()) == before
    spec = pack.Spec(model="m", shape="artifact")
    assert (spec.makes(), pack.plan(spec, {"m": model}).disk) == ("model", 0)


def test_a_runnable_image_gets_another_adapter_on_the_same_base(store: Store, tmp_path: Path) -> None:
    folder, digest = a_base(tmp_path / "base")
    model, lora = a_gguf(store), an_adapter(store)
    first = packed(store, model, base=str(folder))
    assert first.meta["shape"] == "runnable"
    spec = pack.Spec(model="m", adapters=["support"], base_of="before")
    context = Context(store, store.work("sha256:3"))
    second = pack.run(spec, {"m": model, "support": lora, "before": first}, context)
    assert second.digest == with_adapters(store, model, {"support": lora}, base=str(folder)).digest
    assert second.meta["base"] == digest
    with pytest.raises(HybError, match="made on no base"):
        pack.run(spec, {"m": model, "support": lora, "before": packed(store, model)}, context)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"shape": "runnable"}, "go together"),
        ({"shape": "image", "base": "x"}, "go together"),
        ({"base": "x", "base_of": "y"}, "exclude each other"),
        ({"shape": "artifact", "adapters": ["a"]}, "is one model"),
        ({"adapters": ["a", "a"]}, "names one twice"),
        ({"shape": "tar"}, "Input should be"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        pack.Spec.model_validate({"model": "m", **fields})


def test_a_recipient_may_be_written_without_a_list_and_their_order_makes_no_other_step() -> None:
    one = pack.Spec.model_validate({"model": "m", "encrypt_to": "a.pem"})
    assert one.encrypt_to == ["a.pem"]
    pins = {"a.pem": "sha256:1", "b.pem": "sha256:2", "c.pem": "sha256:1"}
    keys = {
        key_of(pack.Spec(model="m", encrypt_to=to), pins, {"m": "sha256:0"})
        for to in (["a.pem", "b.pem"], ["b.pem", "a.pem"], ["b.pem", "c.pem"])
    }
    assert len(keys) == 1
    assert key_of(one, pins, {"m": "sha256:0"}) not in keys
    assert written_sources(one) == ["a.pem"]
