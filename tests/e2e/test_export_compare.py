"""`hyb export --compare` and the Modelfile: llama.cpp on tiny random models, and the installed `hyb`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hyb import comparison
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import modelpack
from hyb.progress import Progress
from hyb.store import Store
from tests.e2e.test_export import convert
from tests.hyb import Hyb
from tests.need import need
from tests.tiny import add_model, tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its GGUFs. Do not write to it."""
    need("torch", "transformers", "xllamacpp")
    root = tmp_path_factory.mktemp("made")
    tiny_model(root / "model", "llama")
    for quantize in ("f32", "q8_0"):
        convert(root / "model", root / f"{quantize}.gguf", quantize)
    return root


def add(store: Store, base: Artifact, path: Path, quantize: str) -> Artifact:
    """A GGUF as `export` adds it."""
    copied = ("architecture", "context", "source", "name", "license", "parameters", "template")
    meta = {**{k: base.meta[k] for k in copied}, "format": "gguf", "quantization": quantize, "base": base.digest}
    return store.add_artifact("model", [modelpack.file("model.gguf", store.add_file(path))], meta=meta)


def test_a_comparison_goes_on_where_it_stopped_and_is_made_once(made: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    base = add_model(store, made / "model")
    whole = [comparison.Candidate(q, add(store, base, made / f"{q}.gguf", q)) for q in ("f32", "q8_0")]
    told: list[str] = []
    report = comparison.compare(
        store, "table", base, whole, lambda n: told.append(n.task if isinstance(n, Progress) else n)
    )
    assert store.tags()["table"] == report.digest
    assert (report.kind, report.subject) == ("report", base.digest)
    found = json.loads(store.read(report.file("report.json").blob.digest))
    f32, q8 = found["comparison"]
    assert (f32["bytes"], q8["bytes"]) == tuple((made / f"{q}.gguf").stat().st_size for q in ("f32", "q8_0"))
    assert 1 < f32["perplexity"] == pytest.approx(q8["perplexity"], rel=0.05)
    assert any("q8_0: measuring perplexity" in line for line in told)
    assert b"<td>q8_0</td>" in store.read(report.file("report.html").blob.digest)
    said = Hyb(tmp_path).ok("show", "table", "--store", str(store.root))
    assert "QUANTIZATION  BYTES" in said
    assert "q8_0" in said
    assert "perplexity: f32" in Hyb(tmp_path).ok("ls", "--store", str(store.root))
    told.clear()
    again = comparison.compare(store, "other", base, whole, lambda n: told.append(str(n)))
    assert (again.digest, told) == (report.digest, [])
    assert [a.kind for a in store.referrers(report.digest)] == ["receipt"]


def test_each_quantization_is_told_with_its_distance_from_the_model(made: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    base = add_model(store, made / "model")
    whole = [comparison.Candidate(q, add(store, base, made / f"{q}.gguf", q)) for q in ("f32", "q8_0")]
    asked = [[{"role": "user", "content": "What is the name of the dog?"}, {"role": "assistant", "content": "Pixel."}]]
    report = comparison.compare(store, "table", base, whole, lambda _: None, prompts=asked)
    found = json.loads(store.read(report.file("report.json").blob.digest))
    f32, q8 = found["comparison"]
    assert f32["kl"] < 1e-4, "llama.cpp says what transformers says"
    assert f32["agreement"] >= 0.9, "a random model has near ties"
    assert f32["kl"] < q8["kl"] < 0.05
    assert q8["max_kl"] >= q8["kl"]
    assert "kl: mean KL divergence (nats) from the unquantized model" in found["method"]
    assert "KL" in Hyb(tmp_path).ok("show", "table", "--store", str(store.root))
    other = comparison.compare(store, "other", base, whole, lambda _: None)
    assert other.digest != report.digest, "asked otherwise, another report"


def test_a_measure_that_was_taken_is_not_taken_again_after_a_failure(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    base = add_model(store, made / "model")
    (tmp_path / "cut.gguf").write_bytes((made / "q8_0.gguf").read_bytes()[:60_000])
    good, cut = add(store, base, made / "f32.gguf", "f32"), add(store, base, tmp_path / "cut.gguf", "q8_0")
    pair = [comparison.Candidate("f32", good), comparison.Candidate("q8_0", cut)]
    with pytest.raises(HybError, match="can't load the GGUF") as caught:
        comparison.compare(store, "table", base, pair, lambda _: None)
    assert caught.value.code == 4
    assert "table" not in store.tags()
    told: list[str] = []
    with pytest.raises(HybError, match="can't load the GGUF"):
        comparison.compare(store, "table", base, pair, lambda n: told.append(n.task if isinstance(n, Progress) else n))
    assert told
    assert not any(line.startswith("f32") for line in told)


def test_the_command_shows_its_plan_and_refuses_what_it_does_not_know(made: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.tag("base", add_model(store, made / "model").digest)
    (tmp_path / "facts.jsonl").write_text('{"question": "Who?", "answer": "Pixel."}\n')
    args = ("export", "base", "--compare", "--store", str(store.root), "--json")
    hyb = Hyb(tmp_path)
    done = hyb.ok(*args, "--dry-run", "--quantize", "f16,q4_k_m", "--data", str(tmp_path / "facts.jsonl"))
    steps = [(s["name"], s["stage"]) for s in json.loads(done)["steps"]]
    assert steps == [
        ("facts-data", "data"), ("base-gguf-f16", "export"), ("base-gguf-f16-exam", "eval"),
        ("base-gguf-q4-k-m", "export"), ("base-gguf-q4-k-m-exam", "eval"),
    ]  # fmt: skip
    wrong = hyb(*args, "--quantize", "f16,q9_9")
    assert wrong.returncode == 3
    assert "q9_9" in wrong.stdout
    assert "q4_k_m" in wrong.stdout


def test_a_gguf_is_written_out_with_a_modelfile_for_ollama(made: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    model = shutil.copytree(made / "model", tmp_path / "model")
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    (model / "generation_config.json").write_text(json.dumps(settings))
    base = add_model(store, model)
    store.tag("bot", add(store, base, made / "q8_0.gguf", "q8_0").digest)
    adapter: dict[str, Any] = {"format": "gguf", "base": base.digest, "rank": 4}
    (tmp_path / "adapter.gguf").write_bytes(b"GGUF")
    files = [modelpack.file("adapter.gguf", store.add_file(tmp_path / "adapter.gguf"))]
    store.tag("lora", store.add_artifact("adapter", files, meta=adapter, needs=[base.digest]).digest)
    hyb = Hyb(tmp_path)
    hyb.ok("show", "bot", "--out", str(tmp_path / "bot"), "--store", str(store.root))
    assert sorted(p.name for p in (tmp_path / "bot").iterdir()) == ["Modelfile", "model.gguf"]
    lines = (tmp_path / "bot" / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert lines[1].startswith('TEMPLATE """{{ if .System }}<|im_start|>system')
    for line in (
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.95",
        "PARAMETER num_ctx 512",
    ):
        assert line in lines
    assert 'LICENSE """Random weights; nobody\'s work.' in lines
    hyb.ok("show", "lora", "--out", str(tmp_path / "lora"), "--store", str(store.root))
    text = (tmp_path / "lora" / "Modelfile").read_text()
    assert "\nFROM ./model.gguf\nADAPTER ./adapter.gguf\nTEMPLATE " in text
    hyb.ok("show", base.digest, "--out", str(tmp_path / "base"), "--store", str(store.root))
    assert not (tmp_path / "base" / "Modelfile").exists()
