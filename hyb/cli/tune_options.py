"""Options of `hyb tune` for fields of its Spec that few runs change. Left out, the Spec's defaults hold."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Dropout = Annotated[float | None, typer.Option("--dropout", help="Of the LoRA layers, 0 to 1.", show_default=False)]
Dora = Annotated[bool, typer.Option("--dora", help="Train the length of each weight's rows apart (DoRA): slower.")]
Rslora = Annotated[bool, typer.Option("--rslora", help="Scale LoRA by the root of its rank (rsLoRA).")]
Neftune = Annotated[
    float | None, typer.Option("--neftune", help="Noise on the embeddings; 5 is usual.", show_default=False)
]
Beta = Annotated[
    float | None, typer.Option("--beta", help="With --method dpo: how close to the base.", show_default=False)
]
Warmup = Annotated[
    float | None, typer.Option("--warmup", help="Share of the steps in which the rate rises.", show_default=False)
]
Decay = Annotated[
    float | None, typer.Option("--decay", help="With --schedule wsd: share in which it falls.", show_default=False)
]
EvaluateEvery = Annotated[
    float | None, typer.Option("--evaluate-every", help="With --patience: epochs between looks.", show_default=False)
]
GradAccum = Annotated[int | None, typer.Option("--grad-accum", help="Batches a step.", show_default=False)]
Long = Annotated[
    str | None, typer.Option("--long", metavar="error|skip|truncate", help="What becomes of a row over --max-length.")
]
ThinkTokens = Annotated[
    int | None, typer.Option("--think-tokens", help="With --think generate: most tokens.", show_default=False)
]
Pack = Annotated[
    str | None, typer.Option("--pack", metavar="auto|off|TOKENS", help="Most tokens of a micro-step; off: pad rows.")
]
Checkpointing = Annotated[
    str | None,
    typer.Option("--checkpointing", metavar="auto|none|selective|full", help="What the backward pass computes again."),
]
Switches = Annotated[
    list[str] | None,
    typer.Option("--speed", metavar="NAME=on|off", help="fused, kernels, share, chunked, varlen, resident, compile."),
]
Group = Annotated[
    bool | None,
    typer.Option("--group-by-length/--no-group-by-length", help="Rows of like length in one step, or as they come."),
]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="On a GPU: the same bits each time, or an error.")]
Device = Annotated[str | None, typer.Option("--device", metavar="auto|cuda|cpu", help="Where to train.")]


def switches(given: list[str] | None) -> dict[str, Any] | None:
    """`--speed share=off` → {"share": False}; `auto` stays a word. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    found: dict[str, Any] = {}
    for text in given or []:
        name, _, value = text.partition("=")
        if not name or value not in ("on", "off", "auto"):
            raise HybError(f"`--speed {text}` is no switch", hint="write NAME=on or NAME=off", code=Exit.USAGE)
        found[name] = {"on": True, "off": False}.get(value, value)
    return found or None
