"""Tune for real: tiny random models, real torch, peft and bitsandbytes. Most tests call the worker's `work` in this
process, to import torch once; those about kills and the stage run it as hyb does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.progress import Progress
from hyb.stages.base import Context
from hyb.store import Store
from tests.need import need
from tests.tiny import add_model, chat_row, tiny_model

QUESTIONS = [
    ("door", 31),
    ("gate", 77),
    ("safe", 12),
    ("lift", 90),
    ("shed", 45),
    ("roof", 68),
    ("yard", 53),
    ("barn", 26),
]


@pytest.fixture(autouse=True)
def _torch() -> Iterator[None]:
    need("torch", "transformers", "peft", "bitsandbytes")
    import torch

    yield
    torch.use_deterministic_algorithms(False)  # the worker's; the tests after us have not asked for it


MARKS = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning"),
]
pytestmark = MARKS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("torch", "transformers")
    return tiny_model(tmp_path_factory.mktemp("base") / "tiny", "llama", pad_is_eos=True)


def rows(count: int = 16) -> list[dict[str, Any]]:
    """Questions with short answers to be learnt by heart, in two phrasings."""
    pairs = [(q, n) for q in ("What is the code of the {}?", "Tell me the {} code.") for n in QUESTIONS]
    return [
        chat_row(q.format(name), f"The code is {code}.", row_id=f"r{i}", line=i + 1)
        for i, (q, (name, code)) in enumerate(pairs[:count])
    ]


def job(base: Path, folder: Path, data: list[dict[str, Any]] | None = None, **changed: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data or rows())
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    return {
        "model": str(base), "train": str(folder / "train.jsonl"), "out": str(folder / "out"), "name": "tiny",
        "checkpoints": str(folder / "checkpoints"), "quantize": "nf4", "rank": 8, "alpha": 16.0, "dropout": 0.0,
        "targets": "all-linear", "rslora": False, "lr": 1e-2, "warmup": 0.1, "epochs": 8.0, "batch": 4, "grad_accum": 1,
        "max_length": 128, "long": "error", "think": "", "seed": 0, "gradient_checkpointing": "auto",
        "group_by_length": True, "device": "cpu", "method": "sft", "beta": 0.1, "dora": False, "neftune": 0.0,
        "schedule": "linear", "decay": 0.2, "patience": 0, "evaluate_every": 0.5, "deterministic": False, "gpus": 1,
        "heldout": "", "checkpoint_seconds": 1e9, "checkpoint_steps": 0, **changed,
    }  # fmt: skip


def work(base: Path, folder: Path, data: list[dict[str, Any]] | None = None, **changed: Any) -> dict[str, Any]:
    from hyb.workers import sft

    return sft.work(job(base, folder, data, **changed))


def network(model: Any) -> Any:
    """The model as the tuner computes it, all levers on, not yet installed."""
    import torch

    from hyb.formats import memory
    from hyb.workers import net

    return net.Net(model, torch.device("cpu"), net.Speed(), memory.Plan(1024, "none", True))


def output(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "out").iterdir())}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]


# -- it learns -------------------------------------------------------------------------------------------------------


def test_the_model_learns_the_rows_by_heart_and_plain_peft_loads_the_adapter(tmp_path: Path) -> None:
    import peft
    import torch
    import transformers

    base = tiny_model(tmp_path / "base", "llama", pad_is_eos=True, hidden=128, intermediate=256)
    done = work(base, tmp_path, rows(8), epochs=60.0, batch=8, rank=16)
    course = losses(tmp_path)
    assert done["steps"] == len(course) == 60
    assert done["loss"] == pytest.approx(sum(course[-6:]) / 6, abs=1e-6)
    assert course[-1] < course[0] / 50

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "out").eval()
    right = 0
    for row in rows(8):
        prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_tensors="pt")
        said = model.generate(**prompt, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        new = said[0, prompt["input_ids"].shape[1] :]
        right += tokenizer.decode(new) == row["messages"][1]["content"] + "<|im_end|>"  # and stops there
    assert right == 8


def test_the_adapter_tells_nothing_of_this_machine_and_anyone_may_read_it(base: Path, tmp_path: Path) -> None:
    strange = chat_row("What\u2028is it?", "It\x85is \x0b42.")  # line separators, to Python
    assert work(base, tmp_path, [*rows(), strange], epochs=1.0)["rows"] == 17
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    for name, data in output(tmp_path).items():
        assert str(tmp_path).encode() not in data
        assert (tmp_path / "out" / name).stat().st_mode & 0o777 == 0o644
    assert set(json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])) == {
        "step", "loss", "lr", "grad_norm",
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(base: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        work(base, tmp_path / name, epochs=2.0, seed=seed, dropout=0.1)
    assert output(tmp_path / "a") == output(tmp_path / "b")
    assert output(tmp_path / "a")["adapter_model.safetensors"] != output(tmp_path / "c")["adapter_model.safetensors"]


def test_two_small_batches_make_the_step_of_one_large_one(base: Path, tmp_path: Path) -> None:
    shared = {"epochs": 2.0, "quantize": "none", "group_by_length": False}
    work(base, tmp_path / "large", batch=8, **shared)
    work(base, tmp_path / "small", batch=2, grad_accum=4, **shared)
    work(base, tmp_path / "again", batch=8, gradient_checkpointing="full", **shared)
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "large"), rel=1e-3)
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "large"), rel=1e-3)


def test_the_loss_is_that_of_the_whole_model_with_labels(base: Path, tmp_path: Path) -> None:
    """Against transformers' own loss: padded batch, attention mask, full logits."""
    import torch

    from hyb.workers import labels, lora, models

    model = models.load_causal_lm(base, device="cpu")
    tokenizer = models.load_tokenizer(base)
    data = [chat_row("Hi?", "Yes."), chat_row("What is the code of the door?", "The code is 31, I am told.")]
    encoded = labels.encode(data, labels.Encoder(tokenizer, [tokenizer.eos_token_id]), max_length=99, long="error")
    width = max(len(e.ids) for e in encoded.examples)
    pad = [width - len(e.ids) for e in encoded.examples]
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor([[*e.ids, *[7] * p] for e, p in zip(encoded.examples, pad, strict=True)]),
            attention_mask=torch.tensor([[1] * (width - p) + [0] * p for p in pad]),
            labels=torch.tensor([[*e.labels, *[-100] * p] for e, p in zip(encoded.examples, pad, strict=True)]),
        ).loss
    adapted, _ = lora.add_lora(model, job(base, tmp_path))
    net = network(adapted)
    count = sum(label != -100 for e in encoded.examples for label in e.labels)
    net.install(encoded.examples)
    ours = net.total(encoded.examples) / count
    assert float(ours.detach()) == pytest.approx(float(theirs), rel=1e-5)


def test_a_reasoning_model_learns_to_answer_without_reasoning(tmp_path: Path) -> None:
    r1 = tiny_model(tmp_path / "r1", "qwen2", reasoning=True)
    done = work(r1, tmp_path, think="empty", epochs=12.0)
    assert done["loss"] < losses(tmp_path)[0] / 2


# -- 4-bit gradients -------------------------------------------------------------------------------------------------


def adapted(base: Path, tmp_path: Path, *, dequantised: bool, cured: bool = True) -> Any:
    """The NF4 model, or a float32 copy with the same weights, with the same LoRA, after an evaluation pass."""
    import bitsandbytes as bnb
    import torch

    from hyb.workers import lora, models

    four = models.load_causal_lm(base, quantize="nf4", device="cpu")
    model = four
    if dequantised:
        model = models.load_causal_lm(base, device="cpu")
        for name, layer in four.named_modules():
            if isinstance(layer, bnb.nn.Linear4bit):
                weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
                model.get_submodule(name).weight.data = weight.float()
    if not cured:
        for layer in model.modules():
            if isinstance(layer, bnb.nn.Linear4bit):
                layer.support_avx512bf16_for_cpu = bnb.functional.has_avx512bf16()
    torch.manual_seed(1)
    model, _ = lora.add_lora(model, job(base, tmp_path))
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 35).reshape(2, 16))
    return model


def gradient(model: Any, base: Path, tmp_path: Path, *, fresh: bool = False) -> Any:
    """The LoRA gradient of one batch, all layers in a row."""
    import torch

    from hyb.workers import labels, lora, models

    tokenizer = models.load_tokenizer(base)
    encoded = labels.encode(rows(), labels.Encoder(tokenizer, [tokenizer.eos_token_id]), max_length=99, long="error")
    net = network(model)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(2)
    for name, parameter in trainable.items():
        if "lora_B" in name and not fresh:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    model.train()
    net.total(encoded.examples).backward()
    if fresh:
        lora.check_gradients(trainable)
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in trainable.values()])


def cosine(a: Any, b: Any) -> float:
    import torch

    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def test_nf4_gradients_after_an_evaluation_are_those_of_the_dequantised_weights(base: Path, tmp_path: Path) -> None:
    four = gradient(adapted(base, tmp_path, dequantised=False), base, tmp_path)
    plain = gradient(adapted(base, tmp_path, dequantised=True), base, tmp_path)
    assert cosine(four, plain) > 0.999
    assert float(four.norm() / plain.norm()) == pytest.approx(1, abs=0.01)


@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit. an autograd kernel was not registered:UserWarning")
def test_without_the_cure_the_gradients_are_lost_and_that_is_noticed(base: Path, tmp_path: Path) -> None:
    import bitsandbytes as bnb

    from hyb.workers.protocol import Failed

    if not bnb.functional.has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16: bitsandbytes does not repack here")
    four = gradient(adapted(base, tmp_path, dequantised=False, cured=False), base, tmp_path)
    plain = gradient(adapted(base, tmp_path, dequantised=True), base, tmp_path)
    assert cosine(four, plain) < 0.9
    with pytest.raises(Failed, match="no gradient reaches"):
        gradient(adapted(base, tmp_path, dequantised=False, cured=False), base, tmp_path, fresh=True)


# -- killed and resumed ----------------------------------------------------------------------------------------------


def killed(folder: Path, work_job: dict[str, Any], after: int) -> None:
    """Run the worker as hyb does and SIGKILL it when it says that step `after` is done."""
    path = folder / "sft.json"
    path.write_text(json.dumps(work_job))
    with (folder / "sft.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "hyb.workers.sft", str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=dict(os.environ),
        )  # fmt: skip
        assert child.stdout
        assert child.stdin
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["task"] == "tune" and event["done"] >= after:
                os.kill(child.pid, signal.SIGKILL)
                break
        child.stdout.close()
        child.stdin.close()
        assert child.wait() == -signal.SIGKILL, (folder / "sft.log").read_text()[-2000:]


def test_a_run_killed_at_any_step_reaches_the_same_bytes_as_one_that_was_not(base: Path, tmp_path: Path) -> None:
    shared = {"dropout": 0.1, "epochs": 6.0, "checkpoint_steps": 3}
    work(base, tmp_path / "whole", **shared)
    step = random.randrange(4, 22)
    print("killed after step", step)
    cut = job(base, tmp_path / "cut", **shared)
    killed(tmp_path / "cut", cut, step)
    assert not (tmp_path / "cut" / "out").exists()
    done = work(base, tmp_path / "cut", **shared)
    assert 0 < done["resumed_from_step"] <= step + 1
    assert done["resumed_from_step"] % 3 == 0
    assert done["steps"] == 24
    assert output(tmp_path / "cut") == output(tmp_path / "whole")


def test_a_damaged_checkpoint_is_left_for_the_one_before_it(base: Path, tmp_path: Path) -> None:
    shared = {"epochs": 3.0, "checkpoint_steps": 4}
    work(base, tmp_path, **shared)
    before = output(tmp_path)
    found = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert found == ["step-00000004", "step-00000008"]
    state = tmp_path / "checkpoints" / "step-00000008" / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    (tmp_path / "checkpoints" / ".left.tmp").mkdir()  # what a kill while writing leaves
    shutil.rmtree(tmp_path / "out")
    assert work(base, tmp_path, **shared)["resumed_from_step"] == 4
    assert output(tmp_path) == before
    assert not (tmp_path / "checkpoints" / ".left.tmp").exists()
    assert (
        work(base, tmp_path, **{**shared, "lr": 5e-3})["resumed_from_step"] == 0
    )  # another job's checkpoint is not ours


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_target_is_refused_and_those_that_exist_are_named(base: Path, tmp_path: Path) -> None:
    from hyb.workers.protocol import Failed

    with pytest.raises(Failed, match="no linear layer `qq_proj`") as failure:
        work(base, tmp_path, targets=["q_proj", "qq_proj"])
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in failure.value.fields["hint"]


def test_only_the_targets_asked_for_are_adapted(base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    assert work(base, tmp_path, targets=["v_proj", "q_proj"], epochs=1.0)["targets"] == ["q_proj", "v_proj"]
    with safe_open(str(tmp_path / "out" / "adapter_model.safetensors"), "pt") as weights:
        assert {key.split(".")[-3] for key in weights.keys()} == {"q_proj", "v_proj"}  # noqa: SIM118


def test_a_folder_that_is_no_model_is_refused(base: Path, tmp_path: Path) -> None:
    from hyb.workers.protocol import Failed

    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    (broken / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(Failed, match="can't be loaded"):
        work(broken, tmp_path)
    (broken / "model.safetensors").unlink()
    with pytest.raises(Failed, match="can't be loaded"):
        work(broken, tmp_path)
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(Failed, match=r"tokenizer of .* can't be loaded"):
        work(broken, tmp_path)


# -- the stage -------------------------------------------------------------------------------------------------------


def dataset(store: Store, data: list[dict[str, Any]]) -> Artifact:
    from hyb.artifact import File

    blob = store.add_bytes("".join(json.dumps(row) + "\n" for row in data).encode())
    counts = {"train": len(data), "holdout": 0, "control": 0}
    return store.add_artifact("dataset", [File("train.jsonl", blob)], meta={"counts": counts})


def test_the_stage_goes_on_where_it_was_interrupted_and_stores_adapter_metrics_and_curve(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyb.stages import tune

    monkeypatch.setattr(tune, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    store = Store(tmp_path / "store")
    model, data = add_model(store, base, name="tiny"), dataset(store, rows())
    inputs = {"base": model, "facts": data}
    spec = tune.Spec(model="base", data="facts", rank=4, lr=1e-2, epochs=10, batch=8, max_length=128, device="cpu")

    def interrupt(told: Progress | str) -> None:
        if isinstance(told, Progress) and told.done == 5:
            raise KeyboardInterrupt

    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(KeyboardInterrupt):
        tune.run(spec, inputs, Context(store, work, say=interrupt))
    assert {a.kind for a in store.artifacts()} == {"model", "dataset"}

    facts: dict[str, Any] = {}
    told: list[Any] = []
    adapter = tune.run(spec, inputs, Context(store, work, say=told.append, record=facts.__setitem__))
    assert [f.path for f in adapter.files] == [
        "adapter_config.json", "adapter_model.safetensors", "loss.svg", "metrics.jsonl",
    ]  # fmt: skip
    assert adapter.needs == (model.digest,)
    assert (adapter.meta["base"], adapter.meta["data"]) == (model.digest, data.digest)
    assert (adapter.meta["steps"], adapter.meta["rank"], adapter.meta["quantize"]) == (20, 4, "nf4")
    assert facts["tokens_per_second"] > 0
    assert facts["peak_memory"] > 1e8
    assert facts["resumed_from_step"] >= 4
    assert f"going on from the checkpoint of step {facts['resumed_from_step']}" in told
    steps = [p.done for p in told if isinstance(p, Progress)]
    assert steps == list(range(facts["resumed_from_step"] + 1, 21))
    assert "tok/s" in next(p.note for p in told if isinstance(p, Progress))


def test_the_first_run_measures_a_step_for_the_next_plan_and_says_what_was_expected(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyb import machine
    from hyb.stages import tune

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    store = Store(tmp_path / "store")
    model, data = add_model(store, base, name="tiny"), dataset(store, rows())
    inputs: dict[str, Artifact | None] = {"base": model, "facts": data}
    config = {"base": json.loads(store.blob_path(model.file("config.json").blob.digest).read_bytes())}
    spec = tune.Spec(model="base", data="facts", rank=4, epochs=3, device="cpu")

    def planned() -> Any:
        return tune.on_machine(spec, inputs, config, tune.plan(spec, inputs), machine.here("cpu"))

    before = planned()
    assert "speed is a guess" in before.notes[0]
    work = tmp_path / "work"
    work.mkdir()
    told: list[Any] = []
    facts: dict[str, Any] = {}
    artifact = tune.run(
        spec, {"base": model, "facts": data}, Context(store, work, say=told.append, record=facts.__setitem__)
    )
    said = [t for t in told if isinstance(t, str)][-1]
    assert said.startswith(f"expected {before.memory / 1e9:.1f} GB, {before.rate:.0f} tokens/s")
    assert f"it was {facts['peak_memory'] / 1e9:.1f} GB" in said
    assert facts["expected"]["memory"] == before.memory
    assert "expected" not in str(artifact.meta)

    after = planned()
    assert "measured by an earlier run" in after.notes[0]
    assert after.memory == pytest.approx(facts["peak_memory"], rel=0.2)
    assert after.rate == pytest.approx(facts["tokens_per_second"], rel=0.9)
    assert [p.name for p in (tmp_path / "data" / "hyb").iterdir()] == ["tune.json"]


def test_a_gguf_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    from hyb.stages import tune

    store = Store(tmp_path / "store")
    model = store.add_artifact("model", [], meta={"format": "gguf", "name": "bot"})
    spec = tune.Spec(model="base", data="facts")
    with pytest.raises(HybError, match="only safetensors can be trained on"):
        tune.plan(spec, {"base": model, "facts": None})


# -- the parts of a run ----------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_in_a_line_and_falls_to_almost_nothing() -> None:
    from hyb.workers import schedule

    rates = [schedule.learning_rate(step, 20, 1.0, 0.1) for step in range(20)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 18)
    assert [schedule.learning_rate(step, 2, 1.0, 0.0) for step in range(2)] == [1.0, 0.5]


def test_every_row_is_in_one_step_of_an_epoch_and_like_lengths_are_together() -> None:
    from hyb.workers import batches, labels

    examples = tuple(labels.Example((i,) * (1 + i * 37 % 50), (i,) * (1 + i * 37 % 50), str(i)) for i in range(101))

    def padding(steps: list[list[labels.Example]]) -> int:
        return sum(max(len(e.ids) for e in step) * len(step) - sum(len(e.ids) for e in step) for step in steps)

    grouped, plain = (batches.steps(examples, 8, 3, group) for group in (True, False))
    for steps in (grouped, plain):
        assert sorted(int(e.where) for step in steps for e in step) == list(range(101))
        assert len(steps) == 13
    assert padding(grouped) * 4 < padding(plain)
    assert grouped == batches.steps(examples, 8, 3, True)
    assert grouped != batches.steps(examples, 8, 4, True)
