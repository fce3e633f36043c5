"""data preview: what a model sees of a data set's rows."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from hyb.cli.session import Session, command

TRAINED, PLAIN = "\x1b[1;32m", "\x1b[0m"


@command
def data_preview(
    s: Session,
    data: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A data set in the store, or a file or folder.")],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A model in the store: its template and tokenizer.")
    ],
    mask: Annotated[bool, typer.Option("--mask", help="Show which tokens are trained.")] = False,
    think: Annotated[str, typer.Option("--think", metavar="keep|empty|generate", help="As `hyb tune` is told.")] = "",
    think_tokens: Annotated[int, typer.Option("--think-tokens", help="With --think generate: most tokens.")] = 1024,
    quantize: Annotated[
        str, typer.Option("--quantize", metavar="nf4|none", help="With --think generate: as for hyb tune.")
    ] = "nf4",
    part: Annotated[str, typer.Option("--part", metavar="train|holdout|control", help="Which rows.")] = "train",
    row: Annotated[int, typer.Option("--row", help="The first row to show, from 1.")] = 1,
    count: Annotated[int, typer.Option("--count", help="How many.")] = 3,
) -> None:
    """Show rows as the model gets them, its chat template applied; with --mask, the tokens that are trained.

    On a terminal trained tokens are green; elsewhere they stand in ⟦ ⟧. --json gives every token with its id. With
    `--think generate` the model writes the reasoning of the rows shown, as `hyb tune` will.

    Example: hyb data preview facts --model smollm2-135m --mask --count 1
    """
    from hyb import engine
    from hyb.cli.data_stats import dataset
    from hyb.errors import Exit, HybError
    from hyb.progress import Progress

    if (
        part not in ("train", "holdout", "control")
        or think not in ("", "keep", "empty", "generate")
        or row < 1
        or count < 1
    ):
        raise HybError("`--part`, `--think`, `--row` or `--count` is none that can be", code=Exit.USAGE)
    if quantize not in ("nf4", "none") or not 16 <= think_tokens <= 65536:
        raise HybError("`--quantize` is nf4 or none, and `--think-tokens` 16 to 65536", code=Exit.USAGE)
    given = s.store.artifact(s.store.resolve(model))
    artifact = dataset(s, data)
    if artifact is None:
        return
    engine.require(["torch", "transformers"], "tune", "data preview")
    job = {
        "model": str(s.store.view(given)), "rows": str(s.store.view(artifact) / f"{part}.jsonl"), "think": think,
        "first": row - 1, "count": count, "digest": given.digest, "cache": str(s.store.root / "cache" / "reasoning"),
        "max_tokens": think_tokens, "quantize": quantize,
    }  # fmt: skip

    def told(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            s.talk(Progress(event["task"], event["done"], event["total"], event["unit"], event["note"]))

    with tempfile.TemporaryDirectory(prefix="hyb-") as work:
        done = engine.worker("preview", job, Path(work), told)
    if not done["rows"]:
        raise HybError(f"`{data}` has no {part} row {row}")
    color = sys.stdout.isatty()
    s.show(done["rows"], "\n\n".join(shown(r, mask=mask, color=color) for r in done["rows"]), colored=color)


def shown(row: dict[str, Any], *, mask: bool, color: bool) -> str:
    """A row for people. A terminal gets no control character of a data set's."""
    from hyb.printable import printable

    if row["problem"]:
        return f"{row['where']}: {row['problem']}"
    opening, closing = (TRAINED, PLAIN) if color else ("⟦", "⟧")
    texts = []
    for sequence in row["sequences"]:
        parts, inside = [], False
        for _, text, trained in sequence:
            if mask and trained != inside:
                parts.append(opening if trained else closing)
                inside = trained
            parts.append(printable(text) if color else text)
        texts.append("".join(parts) + (closing if inside else ""))
    return f"{row['where']}, {', '.join(_counted(x) for x in row['sequences'])}\n" + "\n---\n".join(texts)


def _counted(sequence: list[Any]) -> str:
    return f"{len(sequence)} tokens, {sum(t[2] for t in sequence)} trained"
