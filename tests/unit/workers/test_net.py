"""What becomes of a lever that this machine can't pull."""

from __future__ import annotations

from typing import Any

import pytest

from tests.need import need

need("torch", "transformers", "peft", "bitsandbytes")

import torch  # noqa: E402
import transformers  # noqa: E402

from hyb.formats.memory import Plan  # noqa: E402
from hyb.workers import lora, varlen  # noqa: E402
from hyb.workers.labels import Example  # noqa: E402
from hyb.workers.net import Net, Speed  # noqa: E402
from hyb.workers.protocol import Failed  # noqa: E402

ROWS = [Example((5, 9, 2, 60, 7), (5, 9, 2, 60, 7), "a"), Example((8, 3, 11), (8, 3, 11), "b")]


pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft 0.21.2
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning"),
]


SHAPE = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2
}  # fmt: skip


def net(config: Any = None) -> Net:
    torch.manual_seed(0)
    config = config or transformers.LlamaConfig(**SHAPE)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    job = {"targets": "all-linear", "rank": 2, "alpha": 4, "dropout": 0.0, "rslora": False}
    return Net(lora.add_lora(model, job)[0], torch.device("cpu"), Speed(), Plan(512, "none", False))


def test_where_the_variable_length_kernel_refuses_rows_are_attended_by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> torch.Tensor:
        raise RuntimeError("FlashAttention only supports head dimension of at most 256\nmore")

    right = net()
    right.install(ROWS)
    said: list[str] = []
    monkeypatch.setattr(varlen, "usable", lambda _: True)
    monkeypatch.setattr(varlen, "attend", refuse)
    monkeypatch.setattr("hyb.workers.net.emit", lambda _, text: said.append(text))
    own = net()
    assert own.install(ROWS)["varlen"] is False
    assert said == ["no variable-length attention: FlashAttention only supports head dimension of at most 256"]
    torch.testing.assert_close(own.losses(ROWS)[0], right.losses(ROWS)[0])


def test_a_model_that_turns_a_part_of_each_head_keeps_its_own_rotation() -> None:
    own = net(transformers.GPTNeoXConfig(**SHAPE, rotary_pct=0.5))
    assert own.install(ROWS)["rotation"] is False


def test_a_model_without_linear_layers_is_refused_in_words() -> None:
    with pytest.raises(Failed, match="no linear layer that LoRA could be put on"):
        net(transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2))
