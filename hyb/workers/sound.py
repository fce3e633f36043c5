"""What can't be trained well, refused in words before it costs hours."""

from __future__ import annotations

from typing import Any

import torch

from hyb.workers.protocol import Failed

FEWER = 2 / 3  # a model's embeddings are padded, by a third at most
REACHED = 0.5  # share of a model's weights, the embeddings left out, that must be in 4 bits


def check(config: Any, tokenizer: Any) -> None:
    """Before the weights are loaded. Raises Failed: the tokenizer is another model's, or 4 bits are not sound here."""
    text = config.get_text_config()
    rows, words = int(text.vocab_size), max(tokenizer.get_vocab().values(), default=-1) + 1
    if words > rows:
        raise Failed(
            f"the tokenizer has {words} tokens, the model embeds {rows}: they are of different vocabularies",
            hint="take the tokenizer that came with the model (`tokenizer.json` beside its weights)",
        )
    if words < FEWER * rows:
        raise Failed(
            f"the tokenizer has {words} tokens, the model embeds {rows}: it is most likely another model's",
            hint="take the tokenizer that came with the model (`tokenizer.json` beside its weights)",
        )
    written = getattr(config, "quantization_config", None)
    if written:
        kind = written.get("quant_method") if isinstance(written, dict) else getattr(written, "quant_method", "")
        raise Failed(
            f"the model's weights are quantised already ({getattr(kind, 'value', kind)}): what is trained on them is "
            "sound for them alone, and can't be merged",
            hint="take the model as it was published in 16 bits, and `quantize: nf4`",
        )


def check_loaded(job: dict[str, Any], model: Any) -> None:
    """After the weights are loaded. Raises Failed when NF4 was asked for and does not reach most of them."""
    if job["quantize"] != "nf4":
        return
    four = sum(2 * p.numel() for p in model.parameters() if type(p).__name__ == "Params4bit")
    tables = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
    rest = sum(p.numel() for p in model.parameters() if type(p).__name__ != "Params4bit" and id(p) not in tables)
    if four < REACHED * (four + rest):
        raise Failed(
            f"NF4 reaches {four / max(1, four + rest):.0%} of the model's weights: the others are no linear layers "
            "(experts that are kept as one tensor, convolutions)",
            hint="`quantize: none`",
        )
    wild = [
        name for name, layer in model.named_modules()
        if type(layer).__name__ == "Linear4bit" and not bool(torch.isfinite(_scales(layer)).all())
    ]  # fmt: skip
    if wild:
        raise Failed(
            f"{len(wild)} layer(s) have weights that are no numbers, which 4 bits can't hold: `{wild[0]}`",
            hint="the model's files are damaged; `hyb verify` checks the store, `hyb pull` fetches again",
        )


def _scales(layer: Any) -> torch.Tensor:
    """The scale of each block of a 4-bit layer's weights."""
    state = layer.weight.quant_state
    return state.state2.absmax if state.nested else state.absmax
