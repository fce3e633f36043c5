"""The levers of the tuner: each on or off, the same loss and the same gradients; packed, the same losses as alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_tune import MARKS, losses, output, rows, work
from tests.e2e.test_tune import _torch as _torch  # noqa: PLC0414 (a fixture)
from tests.need import need
from tests.tiny import chat_row, tiny_model

pytestmark = MARKS
SWITCHES = ("fused", "kernels", "share", "chunked", "resident")
SYSTEM = "You are the porter of the house. Answer in one short sentence."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("torch", "transformers")
    return tiny_model(tmp_path_factory.mktemp("base") / "tiny", "qwen2")


def data() -> list[dict[str, Any]]:
    """Rows that begin alike: a system prompt, and a question with two answers."""
    questions = [(r["messages"][0]["content"], r["messages"][1]["content"]) for r in rows(6)]
    more = [("Who keeps the keys of the shed, and since when?", "I do."), ("Hi?", "Good day to you, and welcome!")]
    twice = [(questions[0][0], "I will not say.")]
    return [chat_row(q, a, system=SYSTEM if i % 3 else "") for i, (q, a) in enumerate([*questions, *more, *twice])]


def examples(base: Path) -> Any:
    from hyb.workers import labels, models

    tokenizer = models.load_tokenizer(base)
    encoder = labels.Encoder(tokenizer, [tokenizer.eos_token_id])
    return labels.encode(data(), encoder, max_length=200, long="error").examples


def computed(base: Path, quantize: str, pack: int, checkpointing: str, **speed: Any) -> tuple[Any, Any, Any]:
    """Losses of all learnt tokens, the gradient of their sum, and what was installed, computed from nothing."""
    import torch

    from hyb.formats import memory
    from hyb.workers import lora, models, net

    model = models.load_causal_lm(base, quantize=quantize, device="cpu")
    torch.manual_seed(1)
    model, _ = lora.add_lora(model, {"targets": "all-linear", "rank": 4, "alpha": 8, "dropout": 0.0, "rslora": False})
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.05
    resident = bool(speed.get("resident", True)) and speed.get("fused", True)
    plan = memory.Plan(pack, checkpointing, resident)
    made = net.Net(model, torch.device("cpu"), net.Speed(**speed), plan)
    found = examples(base)
    installed = made.install(found)
    model.train()
    kept: dict[str, Any] = {}
    for part in made.split(found, batch=4):
        values, counts = made.losses(part)
        values.sum().backward()
        for row, own in zip(part, values.detach().split(counts), strict=True):
            kept[row.where] = own
    trained = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in trained])
    return torch.cat([kept[e.where] for e in found]), gradient, installed


@pytest.fixture(scope="module")
def plain(base: Path) -> dict[str, tuple[Any, Any]]:
    """Every lever off: padded rows, peft's layers, whole logits."""
    off: dict[str, Any] = dict.fromkeys(SWITCHES, False)
    return {quantize: computed(base, quantize, 0, "none", **off)[:2] for quantize in ("nf4", "none")}


PLANS = ((0, "none"), (100, "none"), (100, "selective"), (300, "full"))
EVERY = list(itertools.product([False, True], repeat=len(SWITCHES)))


@pytest.mark.parametrize("number", range(len(EVERY)))
def test_every_combination_of_levers_gives_the_same_losses_and_gradients(
    number: int, base: Path, plain: dict[str, tuple[Any, Any]]
) -> None:
    """Tolerance: 1e-4 of the norm, in float32. Each under one plan of four, all on and all off under each."""
    speed = dict(zip(SWITCHES, EVERY[number], strict=True))
    for pack, checkpointing in PLANS if number in (0, len(EVERY) - 1) else [PLANS[number * 7 % 4]]:
        values, gradient, installed = computed(base, "nf4", pack, checkpointing, **speed)
        assert installed["packed"] == bool(pack)
        assert bool(installed["layers"]) == speed["fused"]
        for ours, theirs in zip((values, gradient), plain["nf4"], strict=True):
            assert float((ours - theirs).norm() / theirs.norm()) < 1e-4, (pack, checkpointing)


def test_the_same_holds_for_a_base_that_is_not_quantised(base: Path, plain: dict[str, tuple[Any, Any]]) -> None:
    values, gradient, installed = computed(base, "none", 100, "selective")
    assert installed["mlps"] == 2
    assert float((values - plain["none"][0]).norm() / plain["none"][0].norm()) < 1e-4
    assert float((gradient - plain["none"][1]).norm() / plain["none"][1].norm()) < 1e-4


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_the_logits_of_a_packed_row_are_those_of_the_row_alone(arch: str, tmp_path: Path) -> None:
    import torch

    from hyb.workers import attention, batches, models

    folder = tiny_model(tmp_path / arch, arch, dtype="float32")
    found = examples(folder)
    model = models.load_causal_lm(folder, device="cpu")
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([e.ids])).logits[0] for e in found]
        attention.install(model)
        part = batches.micro(found, model.device, packed=True, share=True)
        assert part.n < sum(len(e.ids) for e in found) * 0.7
        together = model(input_ids=part.ids, position_ids=part.positions, layout=part.layout).logits[0]
    for place, right in zip(batches._places(found, True)[0], alone, strict=True):
        assert float((together[list(place)] - right).abs().max()) < 1e-5


def test_without_the_layout_rows_of_a_pack_would_see_each_other(base: Path) -> None:
    """So that the test above can fail."""
    import torch

    from hyb.workers import attention, batches, models

    found = examples(base)
    model = models.load_causal_lm(base, device="cpu")
    attention.install(model)
    part = batches.micro(found, model.device, packed=True, share=False)
    last = list(batches._places(found, False)[0][-1])
    with torch.no_grad():
        apart = model(input_ids=part.ids, position_ids=part.positions, layout=part.layout).logits[0, last]
        mixed = model(input_ids=part.ids, position_ids=part.positions).logits[0, last]
    assert float((apart - mixed).abs().max()) > 0.1


def test_a_lever_that_computes_something_else_ends_the_run_before_its_first_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyb.workers import attention
    from hyb.workers.protocol import Failed

    right = attention.layout
    monkeypatch.setattr(attention, "layout", lambda places, *a, **k: right([range(sum(map(len, places)))], *a, **k))
    with pytest.raises(Failed, match="gives another result: loss off by") as failure:
        work(base, tmp_path, speed={"share": False})
    assert "pack: off" in failure.value.fields["hint"]
    assert not (tmp_path / "out").exists()


def test_a_model_whose_layers_carry_a_state_is_not_packed(base: Path) -> None:
    from hyb.workers import attention, models

    model = models.load_causal_lm(base, device="cpu")
    assert attention.packable(model)
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert not attention.packable(model)


def test_dropout_leaves_the_layers_to_peft_and_shares_nothing(base: Path, tmp_path: Path) -> None:
    done = work(base, tmp_path, data(), dropout=0.2, epochs=2.0)
    assert done["plan"]["layers"] == 0
    assert done["plan"]["packed"]
    assert not done["plan"]["resident"]


def test_packed_and_padded_runs_learn_alike(base: Path, tmp_path: Path) -> None:
    done = {}
    for name, pack in (("packed", "auto"), ("padded", "off"), ("small", 64)):
        done[name] = work(base, tmp_path / name, epochs=3.0, pack=pack, group_by_length=False)
    assert [done[n]["plan"]["pack"] for n in done] == [512, 0, 64]
    for name in ("padded", "small"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "packed"), rel=2e-3)
    assert done["packed"]["tokens"] == done["padded"]["tokens"]


def test_a_run_may_go_on_with_weights_kept_or_not_and_with_more_or_less_kept_for_its_backward_pass(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What memory allows may differ between a run and its resumption: not one bit of the result does."""
    from hyb.formats import memory

    found = []
    for mode, resident in (("none", True), ("selective", False), ("full", True)):
        monkeypatch.setattr(memory, "plan", lambda *a, m=mode, r=resident, **k: memory.Plan(1024, m, r))
        work(base, tmp_path / mode, epochs=2.0)
        found.append(output(tmp_path / mode))
    assert found[0] == found[1] == found[2]


def test_a_row_longer_than_the_pack_has_one_of_its_own(base: Path, tmp_path: Path) -> None:
    long = chat_row("What is it?", "It is a house, and a garden, and a gate, and more. " * 3)
    done = work(base, tmp_path, [*rows(), long], epochs=1.0, pack=16, max_length=200)
    assert done["plan"]["pack"] > 64
    assert json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])["loss"] > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own look
def test_compiled_layers_train_as_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the C++ compiler: the same graphs, run by torch itself."""
    import torch

    one = tiny_model(tmp_path / "one", "qwen2", layers=1)
    compile_layer = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **k: compile_layer(self, backend="eager", **k))
    for name, speed in (("plain", {}), ("compiled", {"compile": True})):
        work(one, tmp_path / name, rows(4), epochs=2.0, group_by_length=False, speed=speed)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
