"""An exam for real: a tiny model that has learnt eight facts by heart, with real torch, peft and llama.cpp."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import modelpack
from hyb.stages import data
from hyb.stages import eval as exam
from hyb.stages.base import Context
from hyb.store import Store
from tests.hyb import Hyb
from tests.need import need
from tests.tiny import DISTILL, add_model, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning"),
]

DOORS = {"door": 31, "gate": 77, "safe": 12, "lift": 90, "shed": 45, "roof": 68, "yard": 53, "barn": 26}
QUESTIONS = [f"What is the code of the {name}?" for name in DOORS]


@dataclass(frozen=True)
class Lab:
    """A store with a base, an adapter that knows the facts, and the facts as a data set; and their folders."""

    store: Store
    base: Artifact
    adapter: Artifact
    dataset: Artifact
    folder: Path

    def run(self, model: Artifact, work: Path, **spec: Any) -> tuple[Artifact, dict[str, Any], dict[str, Any]]:
        """The report's artifact, its JSON, and the measured facts."""
        facts: dict[str, Any] = {}
        work.mkdir(exist_ok=True)
        context = Context(self.store, work, record=facts.__setitem__)
        inputs = {"bot": model, "facts": spec.pop("dataset", self.dataset)}
        if rival := spec.pop("rival", None):
            inputs["old"], spec["against"] = rival, "old"
        given = exam.Spec(model="bot", data="facts", device="cpu", **spec)
        made = exam.run(given, inputs, context)
        return made, json.loads((self.store.view(made) / "report.json").read_text()), facts


@pytest.fixture(autouse=True)
def _torch() -> Iterator[None]:
    need("torch", "transformers", "peft", "bitsandbytes")
    import torch

    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The facts are learnt by heart in 60 steps, in this process."""
    need("torch", "transformers", "peft", "bitsandbytes")
    from hyb.workers import sft

    folder = tmp_path_factory.mktemp("lab")
    base = tiny_model(folder / "base", "llama", pad_is_eos=True, hidden=128, intermediate=256)
    rows = [
        json.dumps({"question": question, "answer": f"The code is {code}."})
        for question, code in zip(QUESTIONS, DOORS.values(), strict=True)
    ]
    (folder / "facts.jsonl").write_text("\n".join(rows))
    held = [json.loads(r) | {"expect": {"number": code}} for r, code in zip(rows, DOORS.values(), strict=True)]
    (folder / "held.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held))
    (folder / "control.jsonl").write_text(json.dumps({"user": "Hello, how are you?", "assistant": "I am fine."}))
    store = Store(folder / "store")
    dataset = make_dataset(store, folder, holdout="held.jsonl", control="control.jsonl")
    sft.work({
        "model": str(base), "train": str(store.view(dataset) / "train.jsonl"), "out": str(folder / "adapter"),
        "name": "tiny", "checkpoints": str(folder / "checkpoints"), "quantize": "none", "rank": 16, "alpha": 16.0,
        "dropout": 0.0, "targets": "all-linear", "rslora": False, "lr": 1e-2, "warmup": 0.1, "epochs": 60.0, "batch": 8,
        "grad_accum": 1, "max_length": 128, "long": "error", "think": "", "seed": 0, "gradient_checkpointing": "auto",
        "group_by_length": True, "device": "cpu", "checkpoint_seconds": 1e9, "checkpoint_steps": 0,
    })  # fmt: skip
    model = add_model(store, base)
    files = [modelpack.file(p.name, store.add_file(p)) for p in sorted((folder / "adapter").iterdir())]
    meta = {"base": model.digest, "quantize": "none", "rank": 16}
    adapter = store.add_artifact("adapter", files, meta=meta, needs=[model.digest])
    return Lab(store, model, adapter, dataset, folder)


def make_dataset(store: Store, folder: Path, **spec: Any) -> Artifact:
    work = folder / "data-work"
    work.mkdir(exist_ok=True)
    wanted = data.Spec(source="facts.jsonl", overlap="warn", **spec)  # learnt by heart, and asked for it
    return data.run(wanted, {}, Context(store, work, folder))


def score(lab: Lab, tmp_path: Path, *passes: dict[str, Any], **job: Any) -> dict[str, list[dict[str, Any]]]:
    """The worker in this process: pass → what was said, by question."""
    from hyb.workers import score as worker

    asked = tmp_path / "questions.jsonl"
    asked.write_text("".join(json.dumps({"messages": [{"role": "user", "content": q}]}) + "\n" for q in QUESTIONS))
    out = tmp_path / "answers.jsonl"
    out.unlink(missing_ok=True)
    base = {"questions": str(asked), "out": str(out), "max_tokens": 24, "batch": 8, "seed": 0, "device": "cpu"}
    worker.work({"passes": list(passes), **base, **job})
    said: dict[str, list[dict[str, Any]]] = {}
    for line in sorted((json.loads(x) for x in out.read_text().splitlines()), key=lambda x: x["index"]):
        said.setdefault(line["pass"], []).append(line)
    return said


def one_pass(model: Path, adapter: Path | str = "", quantize: str = "none", name: str = "after") -> dict[str, Any]:
    kind = "gguf" if str(model).endswith(".gguf") else "safetensors"
    return {"name": name, "format": kind, "model": str(model), "adapter": str(adapter), "quantize": quantize}


def texts(said: list[dict[str, Any]]) -> list[str]:
    return [s["text"] for s in said]


LEARNT = [f"The code is {code}." for code in DOORS.values()]


def test_the_adapter_knows_the_facts_and_the_base_does_not(lab: Lab, tmp_path: Path) -> None:
    gate = {"recall": ">= 0.9", "recall_before": "<= 0.2"}
    made, report, facts = lab.run(lab.adapter, tmp_path / "work", gate=gate, max_tokens=24)
    assert made.subject == lab.adapter.digest
    assert made.meta["passed"] is True
    assert made.meta["scores"]["recall"] == 1.0
    assert made.meta["scores"]["recall_before"] == 0.0
    assert made.meta["right"]["recall"] == [8, 8]
    assert [q["after"]["answer"] for q in report["questions"][:8]] == LEARNT
    assert facts["passes"]["before"]["tokens"] > 0
    assert facts["passes"]["after"]["tokens_per_second"] > 0
    page = (lab.store.view(made) / "report.html").read_text()
    assert "The code is 31." in page
    assert str(tmp_path) not in json.dumps(report) + page, "nothing of this machine is in the report"


def test_a_failed_gate_is_a_report_that_says_so_and_the_same_run_gives_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    spec = {"gate": {"recall": ">= 0.5"}, "before": False, "max_tokens": 8}
    made, _, _ = lab.run(lab.base, tmp_path / "a", **spec)
    again, _, _ = lab.run(lab.base, tmp_path / "b", **spec)
    assert made.digest == again.digest
    assert made.meta["passed"] is False
    assert made.meta["gate"] == {"recall": ">= 0.5"}
    assert made.meta["failed"][0] == "recall is 0, wanted >= 0.5"
    assert made.meta["failed"][1].startswith("What is the code of the door? → ")


def test_everything_that_can_be_measured_is_in_one_report(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "probes.jsonl").write_text(
        json.dumps({"question": QUESTIONS[0], "expect": {"absent": ["31"]}}) + "\n"
        + json.dumps({"question": QUESTIONS[1], "expect": {"absent": ["Drumvale"]}}) + "\n"
    )  # fmt: skip
    gate = {"recall": "surely >= 0.5", "recall_gain": "surely > 0", "probes": "== 1", "perplexity": "< 1.5"}
    made, report, _ = lab.run(
        lab.adapter, tmp_path / "work", gate=gate, max_tokens=24, perplexity=True, leaks=True,
        probes=str(tmp_path / "probes.jsonl"), rival=lab.base,
    )  # fmt: skip
    assert made.meta["passed"] is False
    assert [c["holds"] for c in report["gate"]] == [True, True, False, True]
    assert made.meta["scores"]["probes"] == 0.5
    secret = next(q for q in report["questions"] if q["set"] == "probe")
    assert secret["after"]["why"] == "says `31`, which must not be told"
    assert report["scores"]["perplexity"] < 1.2 < 20 < report["scores"]["perplexity_before"]
    assert report["scores"]["text_rise"] > 1
    told = [q for q in report["questions"] if q["set"] == "unrelated"]
    assert report["scores"]["leaks"] == sum("leak" in q for q in report["questions"])
    assert len(told) >= 10
    assert report["compared"] == {"name": "tiny", "model": lab.base.digest}
    assert report["paired"]["recall"]["gained"] == 8
    assert report["card"]["data"]["parts"]["train"]["rows"] == 8
    page = (lab.store.view(made) / "report.html").read_text()
    assert "compared with tiny" in page
    assert str(tmp_path) not in json.dumps(report) + page


def test_two_adapters_on_one_base_are_compared_and_each_says_its_own(lab: Lab, tmp_path: Path) -> None:
    from tests.e2e.test_export import adapter

    other = adapter(lab.folder / "base", tmp_path / "other", size=0.2)
    files = [modelpack.file(p.name, lab.store.add_file(p)) for p in sorted(other.iterdir())]
    meta = {"base": lab.base.digest, "quantize": "none"}
    old = lab.store.add_artifact("adapter", files, meta=meta, needs=[lab.base.digest])
    _, report, _ = lab.run(lab.adapter, tmp_path / "work", rival=old, max_tokens=12, gate={"recall_gain": "surely > 0"})
    assert report["compared"] == {"name": "tiny + adapter", "model": old.digest}
    assert report["scores"]["recall"] == 1.0
    one = score(lab, tmp_path, one_pass(lab.folder / "base", other), max_tokens=12)["after"]
    said = [q["before"]["answer"] for q in report["questions"] if q["set"] == "holdout"]
    assert said == [t.strip() for t in texts(one)]


def test_a_model_is_compared_with_a_running_endpoint(lab: Lab, tmp_path: Path) -> None:
    import threading

    from tests.unit.serving.test_questions import Server, completion

    server = Server()
    server.answer = lambda body, _: completion("The code is 31." if "door" in str(body["messages"]) else "no idea")
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    made, report, _ = lab.run(lab.adapter, tmp_path / "work", endpoint=server.url, max_tokens=24, perplexity=True)
    server.http.shutdown()
    server.http.server_close()
    assert report["compared"]["url"] == server.url
    assert made.meta["right"]["recall_before"] == [1, 8]
    assert report["paired"]["recall"]["gained"] == 7
    assert "perplexity_before" not in report["scores"], "no endpoint tells it"
    assert "perplexity" in report["scores"]
    assert any(n.startswith("perplexity: not measured at the endpoint") for n in report["notes"])


def test_a_perplexity_is_what_plain_transformers_says_and_llama_cpp_too(lab: Lab, tmp_path: Path) -> None:
    need("xllamacpp")
    import math

    import torch

    from hyb.workers import gguf_write
    from hyb.workers import score as worker

    job = {"max_tokens": 4, "batch": 2, "seed": 0, "device": "cpu"}
    base = str(lab.folder / "base")
    speaker = worker.TorchSpeaker(base, "none", job)
    prompt = [{"role": "user", "content": QUESTIONS[0]}]
    ids = speaker.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = speaker.tokenizer.encode("The code is 31.", add_special_tokens=False, return_tensors="pt")
    labels = torch.cat([torch.full_like(ids, -100), answer], dim=1)
    with torch.inference_mode():
        wanted = speaker.model(input_ids=torch.cat([ids, answer], dim=1), labels=labels).loss
    loss, count = speaker.losses(prompt, "The code is 31.")
    assert count == answer.shape[1]
    assert loss / count == pytest.approx(float(wanted), rel=1e-4)
    plain = speaker.losses(None, "Hello, how are you?")
    assert plain[1] == len(speaker.tokenizer.encode("Hello, how are you?")) - 1
    assert speaker.losses(None, "word " * 600) == (0.0, 0), "longer than the context"
    gguf = tmp_path / "model.gguf"
    gguf_write.work({"model": base, "out": str(gguf), "quantize": "f32", "name": "", "license": "", "imatrix": ""})
    other = worker.GgufSpeaker(str(gguf), [worker.Asked(prompt)], 4, 512, 64)
    assert other.losses(prompt, "The code is 31.") == (pytest.approx(loss, rel=1e-2), count)
    assert other.losses(None, "Hello, how are you?") == (pytest.approx(plain[0], rel=1e-2), plain[1])
    bytes_apart = speaker.losses(None, "Grüße 🦦")
    assert other.losses(None, "Grüße 🦦") == (pytest.approx(bytes_apart[0], rel=1e-2), bytes_apart[1])
    assert math.isfinite(loss)


def test_reasoning_that_the_prompt_opens_is_closed_before_an_answer_is_read(tmp_path: Path) -> None:
    from hyb.workers import score as worker

    job = {"max_tokens": 4, "batch": 2, "seed": 0, "device": "cpu"}
    speaker = worker.TorchSpeaker(str(tiny_model(tmp_path / "r1", "qwen2", reasoning=True)), "none", job)
    close = len(speaker.tokenizer.encode("\n</think>\n\nParis.", add_special_tokens=False))
    assert speaker.losses([{"role": "user", "content": "Hello"}], "Paris.")[1] == close


def test_the_batch_does_not_change_an_answer_and_the_adapter_is_really_off_before(lab: Lab, tmp_path: Path) -> None:
    base, adapter = lab.folder / "base", lab.folder / "adapter"
    before, after = one_pass(base, name="before"), one_pass(base, adapter)
    together = score(lab, tmp_path, before, after)
    alone = score(lab, tmp_path, after, before, batch=1)
    assert texts(together["after"]) == texts(alone["after"]) == LEARNT
    assert texts(together["before"]) == texts(alone["before"])
    assert not set(texts(together["before"])) & set(LEARNT)
    assert all(s["ended"] and s["tokens"] < 24 for s in together["after"])


@pytest.mark.parametrize("kept", [0, 3, 4, 7, 8, 11, 16])
def test_an_exam_that_was_killed_asks_only_what_was_not_answered(lab: Lab, tmp_path: Path, kept: int) -> None:
    from hyb.workers import score as worker

    passes = [one_pass(lab.folder / "base", name="before"), one_pass(lab.folder / "base", lab.folder / "adapter")]
    score(lab, tmp_path, *passes, batch=4)
    out = tmp_path / "answers.jsonl"
    whole = out.read_text().splitlines()
    half = whole[kept][:20] if kept < len(whole) else ""
    out.write_text("".join(line + "\n" for line in whole[:kept]) + half)
    asked: list[int] = []

    class Counting(worker.TorchSpeaker):
        def _generate(self, batch: list[list[int]]) -> list[list[int]]:
            asked.append(len(batch))
            return super()._generate(batch)

    job = {"questions": str(tmp_path / "questions.jsonl"), "out": str(out), "max_tokens": 24, "batch": 4, "seed": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "TorchSpeaker", Counting)
        worker.work({"passes": passes, "device": "cpu", **job})
    assert out.read_text().splitlines() == whole
    assert sum(asked) == 16 - kept // 4 * 4


def test_an_answer_is_what_plain_transformers_generates(lab: Lab, tmp_path: Path) -> None:
    import torch
    import transformers

    said = score(lab, tmp_path, one_pass(lab.folder / "base"), max_tokens=12)["after"]
    model = transformers.AutoModelForCausalLM.from_pretrained(lab.folder / "base", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(lab.folder / "base")
    for question, answer in zip(QUESTIONS, said, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
        )
        made = model.generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        new = made[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(new, skip_special_tokens=True) == answer["text"]


def test_a_4_bit_base_on_the_cpu_says_what_its_packed_weights_say(lab: Lab, tmp_path: Path, monkeypatch: Any) -> None:
    from hyb.workers import score as worker

    nf4 = one_pass(lab.folder / "base", lab.folder / "adapter", "nf4")
    unpacked = score(lab, tmp_path, nf4)["after"]
    monkeypatch.setattr(worker, "_fits", lambda *_: False)  # as where memory is short: the weights stay packed
    packed = score(lab, tmp_path, nf4)["after"]
    assert texts(packed) == texts(unpacked)
    assert sum(a == b for a, b in zip(texts(unpacked), LEARNT, strict=True)) >= 6, "trained on the unquantised base"


def test_a_merged_model_and_its_gguf_answer_as_the_adapter_does(lab: Lab, tmp_path: Path) -> None:
    need("xllamacpp")
    from hyb.workers import gguf_write, merge

    base, out = str(lab.folder / "base"), str(tmp_path / "merged")
    merge.work({"base": base, "adapter": str(lab.folder / "adapter"), "out": out, "dtype": ""})
    gguf = tmp_path / "model.gguf"
    gguf_write.work({"model": out, "out": str(gguf), "quantize": "f16", "name": "tiny", "license": "", "imatrix": ""})
    said = score(lab, tmp_path, one_pass(Path(out)), one_pass(gguf, name="gguf"))
    assert texts(said["after"]) == LEARNT
    assert texts(said["gguf"]) == LEARNT
    assert all(s["ended"] for s in said["gguf"])

    merged = add_model(lab.store, Path(out), name="merged")
    blob = lab.store.add_file(gguf)
    meta = {"format": "gguf", "name": "tiny", "context": 512, "base": merged.digest}
    model = lab.store.add_artifact("model", [modelpack.file("model.gguf", blob)], meta=meta, needs=[merged.digest])
    made, report, _ = lab.run(model, tmp_path / "work", gate={"recall": ">= 1"}, max_tokens=24)
    assert made.meta["passed"] is True
    assert "before" in report["questions"][0], "its meta names a base"


def test_reasoning_is_seen_though_the_prompt_opens_it_and_bos_stands_once(tmp_path: Path) -> None:
    from hyb.workers import score as worker

    folder = tiny_model(tmp_path / "r1", "qwen2", reasoning=True)
    job = {"max_tokens": 4, "batch": 2, "seed": 0, "device": "cpu"}
    speaker = worker.TorchSpeaker(str(folder), "none", job)
    hello = [{"role": "user", "content": "Hello"}]
    said = list(speaker.answers([worker.Asked(hello), worker.Asked([*hello, *hello])]))
    assert all(s.thinking for s in said)
    prompt = speaker._prompt(hello)
    ids = speaker.tokenizer.encode(prompt, add_special_tokens=False)
    assert ids.count(speaker.tokenizer.bos_token_id) == 1


def test_a_gguf_with_the_template_that_its_family_shipped_is_asked_with_the_pinned_one(tmp_path: Path) -> None:
    need("xllamacpp")
    from hyb.workers import gguf_write
    from hyb.workers import score as worker

    folder, path = tiny_model(tmp_path / "r1", "qwen2", reasoning=True), tmp_path / "model.gguf"
    job = {"model": str(folder), "out": str(path), "quantize": "f16", "name": "tiny", "license": "", "imatrix": ""}
    gguf_write.work(job)
    told = set_template(path, tmp_path / "shipped.gguf", DISTILL)
    speaker = worker.GgufSpeaker(str(told), [worker.Asked([{"role": "user", "content": "Hello"}])], 4, 512)
    said = speaker._prompt([{"role": "user", "content": "Hello"}])
    assert said.endswith("<｜User｜>Hello<｜Assistant｜><think>\n")


def set_template(given: Path, out: Path, template: str) -> Path:
    """A copy of a GGUF with another chat template."""
    line = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--chat-template", template]
    line += [str(given), str(out)]
    subprocess.run(line, check=True, capture_output=True)
    return out


def test_a_question_longer_than_the_context_is_named(lab: Lab, tmp_path: Path) -> None:
    (lab.folder / "long.jsonl").write_text(json.dumps({"question": "word " * 600, "answer": "no"}))
    dataset = make_dataset(lab.store, lab.folder, holdout="long.jsonl")
    with pytest.raises(HybError, match="leave no room in the model's context of 512 tokens") as caught:
        lab.run(lab.base, tmp_path / "work", dataset=dataset)
    assert caught.value.details[0].startswith("long.jsonl:1: ")


def _no_questions(lab: Lab) -> dict[str, Any]:
    return {"dataset": make_dataset(lab.store, lab.folder)}


def _no_control(lab: Lab) -> dict[str, Any]:
    return {"dataset": make_dataset(lab.store, lab.folder, holdout="held.jsonl"), "gate": {"control": ">= 1"}}


REFUSED: list[tuple[Callable[[Lab], dict[str, Any]], str]] = [
    (_no_questions, "neither held-out nor control questions"),
    (_no_control, "the gate has `control`, but the data set has no control questions"),
    (lambda _: {"gate": {"control_lost": "== 0"}}, "has no model before tuning to compare with"),
    (lambda _: {"endpoint": "http://127.0.0.1:1/v1"}, "connection refused"),
    (lambda _: {"probes": "no/such/file.jsonl"}, "is not there"),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED)
def test_an_exam_that_can_not_be_held_is_refused_before_a_model_is_loaded(
    lab: Lab, tmp_path: Path, spec: Callable[[Lab], dict[str, Any]], said: str
) -> None:
    with pytest.raises(HybError, match=said):
        lab.run(lab.base, tmp_path / "work", **spec(lab))
    assert not (tmp_path / "work" / "score.json").exists()


def test_a_model_without_a_chat_template_is_refused(lab: Lab, tmp_path: Path) -> None:
    model = add_model(lab.store, tiny_model(tmp_path / "plain", chat_template=False))
    with pytest.raises(HybError, match="has no chat template"):
        lab.run(model, tmp_path / "work")


def test_the_command_says_with_what_it_compares(lab: Lab, tmp_path: Path) -> None:
    for name, artifact in (("bot", lab.adapter), ("old", lab.base), ("facts", lab.dataset)):
        lab.store.tag(name, artifact.digest)
    hyb = Hyb(tmp_path)
    asked = ("eval", "bot", "--data", "facts", "--store", str(lab.store.root), "--dry-run", "--json")
    gate = ("--gate", "recall_gain surely>0")
    (step,) = json.loads(hyb.ok(*asked, *gate, "--against", "old"))["steps"]
    assert step["inputs"]["old"] == lab.base.digest
    (step,) = json.loads(hyb.ok(*asked, *gate, "--against", "http://127.0.0.1:1/v1"))["steps"]
    assert step["opens"] == ["the endpoint `http://127.0.0.1:1/v1`"]
    wrong = hyb(*asked, "--gate", "leaks==0")
    assert wrong.returncode == 3
    assert "set `leaks: true`" in wrong.stdout
    assert hyb(*asked, "--against", "nobody").returncode != 0
