"""What goes wrong while tuning, and what can't be tuned at all: each told in words, with the rows or the remedy."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_tune import MARKS, job, losses, work
from tests.e2e.test_tune import _torch as _torch  # noqa: PLC0414 (a fixture)
from tests.e2e.test_tune import base as base  # noqa: PLC0414 (a fixture)
from tests.tiny import chat_row, tiny_model

pytestmark = MARKS


def spoilt(monkeypatch: pytest.MonkeyPatch, when: Any) -> None:
    """Have the loss of a micro-batch multiplied by what `when` makes of its rows."""
    from hyb.workers.objective import Answers

    plain = Answers.loss_sum
    monkeypatch.setattr(Answers, "loss_sum", lambda self, part: plain(self, part) * when(part))


def test_a_loss_that_is_no_number_is_told_with_step_rows_and_the_last_good_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyb.workers.protocol import Failed

    calls = iter(range(100))

    def third_time(part: list[Any]) -> float:  # from the fifth step on, where row r3 is in it
        return math.nan if next(calls) >= 4 and any("r3)" in row.where for row in part) else 1.0

    spoilt(monkeypatch, third_time)
    with pytest.raises(
        Failed, match=r"the loss is no number any more \(loss nan, gradient norm nan\) at step"
    ) as failure:
        work(base, tmp_path, checkpoint_steps=1)
    fields = failure.value.fields
    assert fields["details"] == ["facts.jsonl:4 (r3)"]
    step = int(str(failure.value).rpartition(" ")[2])
    assert 5 <= step <= 8
    kept = tmp_path / "checkpoints" / f"step-{step - 2:08d}"  # what gave a wrong loss is no good checkpoint
    assert f"after step {step - 2}, is `{kept}`" in str(fields["hint"])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [kept.name]
    assert not (tmp_path / "out").exists()


def test_a_rate_that_blows_the_model_up_names_the_step_and_says_that_nothing_good_is_left(
    base: Path, tmp_path: Path
) -> None:
    from hyb.workers.protocol import Failed

    with pytest.raises(Failed, match=r"no number any more .* at step 2") as failure:
        work(base, tmp_path, lr=1e30, checkpoint_steps=1)
    assert "lower `lr` (it is 1e+30)" in failure.value.fields["hint"]
    assert "there is no good checkpoint yet" in failure.value.fields["hint"]


def test_a_loss_that_explodes_stops_the_run_before_its_last_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyb.workers.protocol import Failed

    calls = iter(range(100))
    spoilt(monkeypatch, lambda _part: 1.0 if next(calls) < 8 else 40.0)
    with pytest.raises(Failed, match=r"the loss explodes \(it was .*, and is .*\) at step") as failure:
        work(base, tmp_path, checkpoint_steps=6)
    assert str(failure.value).endswith("at step 13")
    assert len(failure.value.fields["details"]) == 4
    assert "after step 6" in failure.value.fields["hint"]


def test_the_loss_explodes_only_when_five_steps_are_far_above_the_first_five() -> None:
    from hyb.workers import guard

    start = [3.0, 2.0, 2.5, 4.0, 2.0]
    assert guard.exploding([*start, 1.0, *[6.1] * 5])
    assert not guard.exploding([*start, 1.0, *[6.1] * 4])
    assert not guard.exploding([*start, *[6.1] * 4, 5.9])
    assert not guard.exploding([0.7] * 40)


# -- memory ----------------------------------------------------------------------------------------------------------


def small(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A device on which more than `most` rows at once do not fit; returns the sizes that were tried."""
    import torch

    from hyb.workers.net import Net

    plain, tried = Net.total, []

    def total(self: Any, part: list[Any]) -> Any:
        tried.append(len(part))
        found = plain(self, part)  # as an allocator: some of the work is done when the memory ends
        if len(part) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return found

    monkeypatch.setattr(Net, "total", total)
    return tried


@pytest.mark.parametrize("pack", ["off", "auto"])
def test_out_of_memory_halves_the_micro_batch_and_not_the_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: str
) -> None:
    from hyb.workers import protocol

    said: list[dict[str, Any]] = []
    monkeypatch.setattr(protocol, "emit", lambda event, **fields: said.append({"event": event, **fields}))
    shared = {"epochs": 2.0, "quantize": "none", "group_by_length": False, "batch": 4, "grad_accum": 2, "pack": pack}
    work(base, tmp_path / "roomy", **shared)
    with monkeypatch.context() as patch:
        tried = small(patch, 2 if pack == "off" else 5)
        done = work(base, tmp_path / "tight", **shared)
    notes = [e["text"] for e in said if e["event"] == "note" and "out of memory" in e["text"]]
    assert len(notes) == 1
    assert "half as many rows are computed at once from here on, in steps of 8 as before" in notes[0]
    assert "GB are free" in notes[0]
    assert tried == [4, *[2] * 16] if pack == "off" else tried[0] == 8 and max(tried[1:]) <= 5
    assert done["steps"] == 4
    assert losses(tmp_path / "tight") == pytest.approx(losses(tmp_path / "roomy"), rel=1e-4)


def test_out_of_memory_a_second_time_ends_the_run_with_what_is_free_and_what_to_do(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyb.workers.protocol import Failed

    tried = small(monkeypatch, 1)
    with pytest.raises(Failed, match=r"does not suffice for 2 row\(s\) at once: .* GB are free") as failure:
        work(base, tmp_path, pack="off")
    assert tried[:2] == [4, 2]
    assert "lower `pack`" in failure.value.fields["hint"]


def test_out_of_memory_where_the_base_is_split_ends_the_run_and_is_told_by_the_process_that_ran_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for its part of a layer: they can't be asked to do with less."""
    from hyb.workers import shards
    from hyb.workers.protocol import Failed

    tried = small(monkeypatch, 1)
    monkeypatch.setattr(shards, "is_split", lambda _model: True)
    with pytest.raises(Failed, match=r"does not suffice for 4 row\(s\) at once") as failure:
        work(base, tmp_path, pack="off")
    assert tried == [4]
    assert failure.value.alone


def test_a_gpu_without_room_for_its_part_of_the_base_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from hyb.workers import shards
    from hyb.workers.protocol import Failed

    class Large(torch.nn.Module):
        def to(self, *_: Any, **__: Any) -> Any:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(Failed, match=r"do not fit into the GPU.s memory: .* are free") as failure:
        shards._move(Large(), torch.device("cpu"))
    assert failure.value.alone
    assert "end what else runs on them" in failure.value.fields["hint"]


def test_a_gpu_whose_memory_others_have_says_how_much() -> None:
    from hyb.workers import models

    said = models.taken(int(1.5e9), int(24e9), int(0.5e9))
    assert said.startswith("the GPU has 24.0 GB, of which 1.5 GB are free and 0.5 GB are ours")
    assert "22.0 GB are taken by other programs (`nvidia-smi` lists them)" in said
    assert "other programs" not in models.taken(int(20e9), int(24e9), int(3.5e9))


# -- refused ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_of_another_vocabulary_is_refused_whichever_is_larger(base: Path, tmp_path: Path) -> None:
    from hyb.workers.protocol import Failed

    for name, vocab, said in (("large", 900, "are of different vocabularies"), ("small", 260, "another model's")):
        mixed, other = tmp_path / name, tiny_model(tmp_path / f"{name}-other", "llama", vocab=vocab, texts=TEXTS)
        shutil.copytree(base, mixed)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(other / file, mixed / file)
        with pytest.raises(Failed, match=said) as failure:
            work(mixed, tmp_path)
        assert "the model embeds 448" in str(failure.value)


TEXTS = tuple(f"word{i} {chr(97 + i % 26) * (i % 9)} and more{i * i}" for i in range(900))


def test_a_model_that_is_quantised_already_is_refused(base: Path, tmp_path: Path) -> None:
    from hyb.workers.protocol import Failed

    done = tmp_path / "gptq"
    shutil.copytree(base, done)
    config = json.loads((done / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (done / "config.json").write_text(json.dumps(config))
    for quantize in ("nf4", "none"):
        with pytest.raises(Failed, match=r"quantised already \(gptq\)"):
            work(done, tmp_path, quantize=quantize)


def test_nf4_that_reaches_a_small_part_of_the_weights_is_refused(tmp_path: Path) -> None:
    """A mixture of experts keeps them as one tensor a layer, which bitsandbytes leaves as it is."""
    import torch
    import transformers

    from hyb.workers.protocol import Failed

    folder = tiny_model(tmp_path / "moe")
    config = transformers.Qwen2MoeConfig(
        vocab_size=512, hidden_size=64, intermediate_size=64, moe_intermediate_size=64, num_hidden_layers=2,
        shared_expert_intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, num_experts=8,
    )  # fmt: skip
    for file in folder.glob("*.safetensors"):
        file.unlink()
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    with pytest.raises(Failed, match=r"NF4 reaches \d+% of the model's weights") as failure:
        work(folder, tmp_path)
    assert failure.value.fields["hint"] == "`quantize: none`"


def test_weights_that_are_no_numbers_are_refused_by_nf4(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from hyb.workers.protocol import Failed

    wild = tmp_path / "wild"
    shutil.copytree(base, wild)
    weights = load_file(wild / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = math.inf
    save_file(weights, wild / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Failed, match=r"weights that are no numbers.*up_proj"):
        work(wild, tmp_path)


def test_rows_that_are_all_longer_than_the_context_name_the_context_and_not_an_option(
    base: Path, tmp_path: Path
) -> None:
    from hyb.workers.protocol import Failed

    long = [chat_row(f"What is {i}? " + "word " * 500, "It is that.", line=i) for i in range(3)]
    with pytest.raises(Failed, match=r"3 row\(s\) are longer than the model's context of 512 tokens") as failure:
        work(base, tmp_path, long, max_length=4096)
    assert failure.value.fields["hint"].startswith("512 tokens are all that the model takes")
    with pytest.raises(Failed, match="no row is left to train on: all are longer than 512 tokens"):
        work(base, tmp_path, long, max_length=4096, long="skip")
    with pytest.raises(Failed, match="all are longer than 512 tokens"):  # cut, no token of an answer is left
        work(base, tmp_path, long, max_length=4096, long="truncate")


def test_rows_of_system_messages_alone_are_refused_with_their_lines(base: Path, tmp_path: Path) -> None:
    from hyb.workers.protocol import Failed

    system = [{"messages": [{"role": "system", "content": "Be kind."}], "meta": {"source": "a.jsonl", "line": 7}}]
    with pytest.raises(Failed, match=r"1 row\(s\) can't be trained") as failure:
        work(base, tmp_path, system)
    assert failure.value.fields["details"] == ["a.jsonl:7: no answer of the assistant to learn from"]


def test_more_gpus_than_there_are_are_refused() -> None:
    import torch

    from hyb.workers import models
    from hyb.workers.protocol import Failed

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(Failed, match="no CUDA device"):
        models.pick_device("cuda", 1)


def test_deterministic_mode_makes_a_kernel_that_is_not_an_error(base: Path, tmp_path: Path) -> None:
    import torch

    assert job(base, tmp_path)["deterministic"] is False
    work(base, tmp_path, epochs=1.0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
