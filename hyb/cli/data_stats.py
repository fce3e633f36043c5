"""data stats: what is in a data set, before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.store import Store


@command
def data_stats(
    s: Session,
    data: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A data set in the store, or a file or folder.")],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A model in the store, whose tokens are counted.")
    ] = "",
    max_length: Annotated[int, typer.Option("--max-length", help="Most tokens a row.")] = 1024,
    pack: Annotated[int, typer.Option("--pack", help="Tokens of a pack.")] = 8192,
) -> None:
    """Show lengths, duplicates exact and near, held-out rows that are nearly trained, languages, odd answers.

    With a model also tokens, rows that would be cut, and how much of the positions padding or packing would waste.
    Languages need `hyb[data]`.

    Example: hyb data stats facts --model smollm2-135m
    """
    from hyb.formats import chat_report

    artifact = dataset(s, data)
    if artifact is None:
        return
    folder = s.store.view(artifact)
    parts = {name: _rows(folder / f"{name}.jsonl") for name in ("train", "holdout", "control")}
    found = chat_report.report(
        parts, count=_counter(s.store, model), max_length=max_length, pack=pack, language=_language()
    )
    s.show(found, chat_report.text_of(found))


def dataset(s: Session, text: str, **fields: str) -> Artifact | None:
    """A data set of the store, or a path read into one; None for a dry run of that. `fields`: more of the data stage's.

    Raises HybError.
    """
    from hyb.cli.chain import Chain, path_text, slug
    from hyb.errors import HybError

    if Path(text).expanduser().exists() and text not in s.store.tags():
        return Chain(s).add(slug(text), stage="data", source=path_text(text), **fields).run(show=False)
    artifact = s.store.artifact(s.store.resolve(text))
    if artifact.kind != "dataset":
        raise HybError(f"`{text}` is a {artifact.kind}, not a data set", hint="`hyb ls` lists the store")
    return artifact


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        yield from map(json.loads, lines)


def _counter(store: Store, model: str) -> Callable[[str], int] | None:
    if not model:
        return None
    from hyb.stages.data import counter

    return counter(store.artifact(store.resolve(model)), store)


def _language() -> Callable[[str], str] | None:
    """A classifier of languages, where it is installed."""
    try:
        import py3langid
    except ImportError:
        return None
    return lambda text: str(py3langid.classify(text[:2000])[0])
