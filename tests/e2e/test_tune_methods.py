"""How a model is tuned, for real: schedules, DoRA, noise, early stopping, preferences; each against its definition."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_tune import MARKS, job, losses, output, rows, work
from tests.e2e.test_tune import _torch as _torch  # noqa: PLC0414 (a fixture)
from tests.e2e.test_tune import base as base  # noqa: PLC0414 (a fixture)
from tests.tiny import chat_row, tiny_model

pytestmark = MARKS


def preferences(count: int = 8) -> list[dict[str, Any]]:
    """The rows of `rows`, each with a worse answer."""
    worse = {"role": "assistant", "content": "I will not tell.", "train": False}
    return [{**row, "rejected": worse} for row in rows(count)]


def heldout(folder: Path, data: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "holdout.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return str(path)


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]


# -- the learning rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd", "constant"])
def test_a_schedule_rises_to_the_peak_and_ends_as_its_name_says(kind: str) -> None:
    from hyb.workers import schedule

    rates = [schedule.learning_rate(step, 100, 2.0, 0.1, kind, 0.3) for step in range(100)]
    assert rates[:10] == [pytest.approx(0.2 * (i + 1)) for i in range(10)]
    assert max(rates) == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    halfway = rates[55]
    end = {"linear": 2 / 90, "cosine": 1 - math.cos(math.pi / 90), "wsd": 2 / 30, "constant": 2.0}[kind]
    assert rates[-1] == pytest.approx(end)
    assert halfway == pytest.approx({"linear": 1.0, "cosine": 1.0}.get(kind, 2.0))


def test_a_run_of_one_step_has_its_whole_rate_under_every_schedule() -> None:
    from hyb.workers import schedule

    for kind in ("linear", "cosine", "wsd", "constant"):
        assert schedule.learning_rate(0, 1, 1.0, 0.1, kind) == 1.0


def test_the_metrics_hold_the_rates_of_the_schedule_asked_for(base: Path, tmp_path: Path) -> None:
    work(base, tmp_path, epochs=2.0, schedule="cosine", warmup=0.0)
    assert [line["lr"] for line in curve(tmp_path)] == [
        pytest.approx(1e-2 * (1 + math.cos(math.pi * step / 8)) / 2) for step in range(8)
    ]


# -- DoRA, rsLoRA, noise ---------------------------------------------------------------------------------------------


def test_dora_learns_and_plain_peft_gives_the_same_answers(base: Path, tmp_path: Path) -> None:
    import peft
    import torch
    import transformers

    from hyb.workers import labels, models
    from tests.tiny import plain_net

    work(base, tmp_path, dora=True, rslora=True, epochs=4.0)
    course = losses(tmp_path)
    assert course[-1] < course[0] / 1.5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (True, True)
    tokenizer = models.load_tokenizer(base)
    found = labels.encode(rows(), labels.Encoder(tokenizer, [tokenizer.eos_token_id]), max_length=128, long="error")
    four = models.load_causal_lm(base, quantize="nf4", device="cpu")
    model = peft.PeftModel.from_pretrained(four, tmp_path / "out").eval()
    with torch.no_grad():
        tuned, _ = plain_net(model).losses(found.examples)
        with model.disable_adapter():
            plain, _ = plain_net(model).losses(found.examples)
    assert float(tuned.mean()) < course[0] / 1.5
    assert float(plain.mean()) == pytest.approx(course[0], rel=0.3)
    assert transformers


def test_noise_is_as_large_as_neftune_says_and_absent_when_a_model_is_asked(base: Path) -> None:
    import torch

    from hyb.workers import models
    from hyb.workers.noise import Noise

    model = models.load_causal_lm(base, device="cpu")
    noise, layer = Noise(model, 5.0), model.get_input_embeddings()
    noise.length = 20.0
    ids = torch.zeros(400, dtype=torch.long)
    exact = layer(ids)
    reach = 5 / math.sqrt(20 * exact.shape[-1])
    layer.train()
    off = (layer(ids) - exact).detach()
    assert float(off.abs().max()) == pytest.approx(reach, rel=0.01)
    assert float(off.std()) == pytest.approx(reach / math.sqrt(3), rel=0.05)
    layer.eval()
    assert torch.equal(layer(ids), exact)


# -- held out --------------------------------------------------------------------------------------------------------


def test_training_stops_when_the_held_out_loss_rises_and_the_best_adapter_is_kept(base: Path, tmp_path: Path) -> None:
    """The held-out rows contradict the training rows: the more these are learnt, the worse those."""
    import peft
    import torch

    from hyb.workers import labels, models
    from tests.tiny import plain_net

    other = [chat_row(r["messages"][0]["content"], "Nobody knows it, ask again tomorrow.") for r in rows(4)]
    shared = {"epochs": 40.0, "lr": 3e-2, "patience": 3, "evaluate_every": 0.5, "quantize": "none"}
    done = work(base, tmp_path, heldout=heldout(tmp_path, other), **shared)
    looks = [(int(line["step"]), line["heldout_loss"]) for line in curve(tmp_path) if "heldout_loss" in line]
    assert [step for step, _ in looks] == list(range(2, 2 * len(looks) + 1, 2))
    best = min(looks, key=lambda x: x[1])
    assert done["heldout"] == {"step": best[0], "loss": best[1]}
    assert done["steps"] == best[0] + 6 < done["planned_steps"] == 160
    model = peft.PeftModel.from_pretrained(models.load_causal_lm(base, device="cpu"), tmp_path / "out").eval()
    tokenizer = models.load_tokenizer(base)
    found = labels.encode(other, labels.Encoder(tokenizer, [tokenizer.eos_token_id]), max_length=128, long="error")
    with torch.no_grad():
        again, _ = plain_net(model).losses(found.examples)
    assert float(again.mean()) == pytest.approx(best[1], rel=1e-4)


def test_early_stopping_without_an_answer_held_out_is_refused(base: Path, tmp_path: Path) -> None:
    from hyb.workers.protocol import Failed

    asked = [{"messages": [{"role": "user", "content": "What?"}], "expect": {"contains": ["x"]}}]
    with pytest.raises(Failed, match="needs held-out rows with an answer; of 1 there are none"):
        work(base, tmp_path, heldout=heldout(tmp_path, asked), patience=1)
    with pytest.raises(Failed, match="a better and a worse answer"):
        work(base, tmp_path, preferences(), heldout=heldout(tmp_path, rows()), patience=1, method="dpo")


# -- preferences -----------------------------------------------------------------------------------------------------


def test_the_loss_and_its_gradient_are_those_of_the_formula_in_float64() -> None:
    import torch

    from hyb.workers import dpo

    generator = torch.Generator().manual_seed(0)
    said = [torch.randn(50, generator=generator, dtype=torch.float64) * 30 - 40 for _ in range(4)]
    said[0].requires_grad_()
    found = dpo.loss(said[0], said[1], said[2], said[3], 0.3)
    margins = [0.3 * ((a - c) - (b - d)) for a, b, c, d in zip(*(x.tolist() for x in said), strict=True)]
    wanted = [math.log1p(math.exp(-m)) if m > 0 else -m + math.log1p(math.exp(m)) for m in margins]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    found.sum().backward()
    assert said[0].grad is not None
    slopes = [-0.3 * (1 / (1 + math.exp(m)) if m > -700 else 1.0) for m in margins]
    assert said[0].grad.tolist() == pytest.approx(slopes, rel=1e-12)
    assert dpo.loss(*[torch.zeros(1)] * 4, 0.1).item() == pytest.approx(math.log(2))


def test_preferences_are_learnt_and_the_reference_is_the_base_with_the_adapter_off(base: Path, tmp_path: Path) -> None:
    import torch

    from hyb.workers import dpo, labels, lora, models
    from hyb.workers.noise import Noise
    from tests.tiny import plain_net

    work(base, tmp_path, preferences(), method="dpo", epochs=8.0, lr=5e-3, quantize="none")
    course = losses(tmp_path)
    assert course[0] == pytest.approx(math.log(2), abs=1e-4)  # nothing is learnt yet: both are the base
    assert course[-1] < 0.1

    model = models.load_causal_lm(base, device="cpu")
    tokenizer = models.load_tokenizer(base)
    encoder = labels.Encoder(tokenizer, [tokenizer.eos_token_id])
    pairs = dpo.encode(preferences(), encoder, max_length=128, long="error").examples
    before = [[float(_logprob(model, row)) for row in (p.better, p.worse)] for p in pairs]
    model, _ = lora.add_lora(model, job(base, tmp_path, dropout=0.5))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    objective = dpo.Preferences(plain_net(model), Noise(model, 5.0), 0.1)
    model.train()
    objective.prepare(pairs, 3)
    assert model.training
    assert objective.references.flatten().tolist() == pytest.approx([x for pair in before for x in pair], rel=1e-4)


def _logprob(model: Any, row: Any) -> Any:
    """By the definition, one token after the other."""
    import torch

    with torch.no_grad():
        said = model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return sum(said[t - 1, token] for t, token in enumerate(row.labels) if token != -100)


def test_only_the_last_answer_of_a_pair_is_learnt_and_both_answer_the_same(base: Path) -> None:
    from hyb.workers import dpo, labels, models

    tokenizer = models.load_tokenizer(base)
    encoder = labels.Encoder(tokenizer, [tokenizer.eos_token_id])
    row = chat_row("Hi?", "Yes.")
    more = {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No.", "train": True}
    row = {**row, "messages": [*row["messages"], *more], "rejected": {"role": "assistant", "content": "Well, perhaps."}}
    (pair,) = dpo.encode([row], encoder, max_length=128, long="error").examples
    for example, text in ((pair.better, "No."), (pair.worse, "Well, perhaps.")):
        assert tokenizer.decode([x for x in example.labels if x != -100]) == text + "<|im_end|>"
    asked = [example.labels.count(-100) for example in (pair.better, pair.worse)]
    assert asked[0] == asked[1]
    assert pair.better.ids[: asked[0]] == pair.worse.ids[: asked[0]]


def test_a_row_without_a_worse_answer_is_refused_with_its_line_and_a_pair_goes_whole(base: Path) -> None:
    from hyb.workers import dpo, labels, models
    from hyb.workers.protocol import Failed

    tokenizer = models.load_tokenizer(base)
    encoder = labels.Encoder(tokenizer, [tokenizer.eos_token_id])
    with pytest.raises(Failed, match=r"1 row\(s\) have no worse answer") as failure:
        dpo.encode([*preferences(2), *rows(3)[2:]], encoder, max_length=128, long="error")
    assert failure.value.fields["details"] == ["facts.jsonl:3 (r2)"]
    long = {**rows(3)[2], "rejected": {"role": "assistant", "content": "word " * 90}}
    found = dpo.encode([*preferences(2), long], encoder, max_length=64, long="skip")
    assert [p.where for p in found.examples] == ["facts.jsonl:1 (r0)", "facts.jsonl:2 (r1)"]
    assert [p.number for p in found.examples] == [0, 1]
    assert len(found.skipped) == 1


# -- killed and resumed ----------------------------------------------------------------------------------------------


def interrupted(base: Path, folder: Path, data: list[dict[str, Any]], after: int, **shared: Any) -> None:
    """A run that ends when it says that step `after` is done. Without a process of its own: a checkpoint is all that
    the next run has of it either way, and what a SIGKILL leaves is tested in test_tune."""
    from hyb.workers import protocol

    class Enough(Exception):
        pass

    def stop(event: str, **fields: Any) -> None:
        if event == "progress" and fields["task"] == "tune" and fields["done"] >= after:
            raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(protocol, "emit", stop)
        work(base, folder, data, **shared)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_broken_off_run_with_all_of_it_reaches_the_same_bytes(base: Path, tmp_path: Path, method: str) -> None:
    """Scheduler, noise, dropout, held-out looks, the best adapter, references: all of it comes back."""
    data, unseen = (preferences(), preferences(8)) if method == "dpo" else (rows(), rows(4))
    shared = {
        "method": method, "schedule": "wsd", "neftune": 5.0, "dropout": 0.1, "patience": 9, "epochs": 5.0,
        "checkpoint_steps": 3, "heldout": heldout(tmp_path, unseen),
    }  # fmt: skip
    whole = work(base, tmp_path / "whole", data, **shared)
    interrupted(base, tmp_path / "cut", data, 7, **shared)
    done = work(base, tmp_path / "cut", data, **shared)
    assert done["resumed_from_step"] >= 6
    assert done["heldout"] == whole["heldout"]
    assert output(tmp_path / "cut") == output(tmp_path / "whole")


def test_a_tiny_r1_learns_preferences_too(tmp_path: Path) -> None:
    r1 = tiny_model(tmp_path / "r1", "qwen2", reasoning=True)
    work(r1, tmp_path, preferences(4), method="dpo", think="empty", epochs=3.0)
    assert losses(tmp_path)[-1] < math.log(2)
