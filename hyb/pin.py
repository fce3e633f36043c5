"""A moving source → an immutable one. The only network before a run; a source that the lock pins needs none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hyb import digest as dg
from hyb.errors import Exit, HybError
from hyb.progress import Say
from hyb.recipe import Recipe
from hyb.stages.base import sources, written_in


def pin(
    recipe: Recipe,
    locked: Mapping[str, str],
    *,
    offline: bool,
    update: bool = False,
    lenient: bool = False,
    say: Say,
) -> dict[str, str]:
    """Source as written → pinned, for every source of the recipe.

    A path's pin is the digest of its content, computed each time. A model's comes from the lock unless `update`.
    Raises HybError: exit 3 for a path that is not there, exit 6 when offline and not pinned. With `lenient` a model's
    source that can't be pinned is left out, and said so: enough for a plan.
    """
    pins: dict[str, str] = {}
    for name, field, kind, source in written(recipe):
        if kind == "path":
            pins[source] = _path(recipe, name, field, source)
        elif source in locked and not update and not _on_disk(source):
            pins[source] = locked[source]
        elif source not in pins:
            try:
                pins[source] = _model(recipe, source, offline, say)
            except HybError as error:
                if not lenient or error.code is Exit.INPUT:
                    raise
                say(f"{name}: `{source}` is not pinned: {error.message}")
    return pins


def written(recipe: Recipe, *, all_of_it: bool = False) -> Iterator[tuple[str, str, str, str]]:
    """(stage name, field, kind, source) of every source that is written in a recipe, or in the whole of its file."""
    for entry in recipe.whole if all_of_it and recipe.whole else recipe.entries:
        for field, marker in sources(type(entry.spec)).items():
            for value in written_in(getattr(entry.spec, field)):
                yield entry.name, field, marker.kind, value


def outside(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """(stage name, real path) of what a recipe reads of this machine that does not lie in its folder: whoever runs a
    stranger's recipe wants to know. One path a source."""
    home = recipe.folder.resolve()
    for name, _, kind, source in written(recipe):
        text = source if kind == "path" else source.removeprefix("file:") if source.startswith("file:") else ""
        place = recipe.folder / Path(text.partition("#sha256=")[0]).expanduser()
        if not text or not place.exists():
            continue
        inside = place.rglob("*") if place.is_dir() else ()
        real = (p.resolve() for p in (place, *inside) if p == place or p.is_symlink())
        if found := next((p for p in real if not p.is_relative_to(home)), None):
            yield name, found


def _path(recipe: Recipe, name: str, field: str, source: str) -> str:
    path = recipe.folder / source
    try:
        if not path.exists():
            raise HybError(
                f"{name}: `{field}` names `{path}`, which is not there", hint="paths start at the recipe's folder"
            )
        return dg.of_tree(path)
    except OSError as error:
        raise HybError(f"{name}: `{path}` can't be read: {error.strerror}") from error


def _model(recipe: Recipe, source: str, offline: bool, say: Say) -> str:
    from hyb import hub

    return hub.pin(source, offline=offline, say=say, folder=recipe.folder)


def _on_disk(source: str) -> bool:
    """True for a folder or layout of this machine: what is in it may change, so its pin is computed each time."""
    return source.startswith("file:") or (source.startswith("oci:") and not source.startswith("oci://"))
