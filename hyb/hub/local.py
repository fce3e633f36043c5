"""Models from a folder or a GGUF file of this machine: `file:PATH`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyb import digest as dg
from hyb import fs
from hyb.errors import Exit, HybError
from hyb.hub import checks, select
from hyb.hub.names import Local
from hyb.hub.types import Fetched, Place


def pin(source: Local, folder: Path) -> Local:
    """The content's digest. Reads every byte. Raises HybError when there is nothing."""
    return source if source.immutable else Local(source.path, _digest(_there(source, folder)))


def fetch(source: Local, place: Place) -> list[Fetched]:
    """The files that a causal LM needs, checked. The store copies them: their owner may go on changing them.

    Raises HybError: exit 4 when the content is no longer what was pinned.
    """
    path = _there(source, place.folder)
    if source.sha256 and (found := _digest(path)) != source.sha256:
        raise HybError(
            f"`{path}` changed since it was pinned",
            hint="`hyb run --update` takes it as it is now",
            details=[f"expected sha256:{source.sha256}", f"got      sha256:{found}"],
            code=Exit.CHECK,
        )
    return check(path, str(source).partition("#")[0])


def check(path: Path, what: str, how: str = "copy") -> list[Fetched]:
    """The files of a model's folder, or a GGUF file, that are needed, each checked and hashed. Raises HybError."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise HybError(f"`{path}` is neither a folder nor a GGUF file", hint="name the model's folder")
        files = [Fetched(path.name, path, dg.of_file(path)[0], how)]
    else:
        present = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        chosen = select.select([p for p in present if not p.startswith(".")], what)
        files = [Fetched(p, path / p, dg.of_file(path / p)[0], how) for p in chosen]
    check_files(files, what)
    check_whole(files, what)
    return files


def check_files(files: Sequence[Fetched], what: str) -> None:
    """Refuse files that are not what their names say, and configurations that ask for foreign code. Raises HybError."""
    configs = [(f.path, checks.json_file(f.file, f.path)) for f in files if f.path.endswith(".json")]
    checks.no_remote_code(configs, what)
    for f in files:
        if f.path.endswith(".safetensors"):
            checks.safetensors(f.file, f.path)
        elif f.path.endswith(".gguf"):
            checks.gguf(f.file, f.path)


def check_whole(files: Sequence[Fetched], what: str) -> None:
    """Refuse a sharded model whose index names files that are not here. Raises HybError (exit 4)."""
    names = {f.path: f.file for f in files}
    if select.INDEX not in names:
        return
    shards = checks.json_file(names[select.INDEX], select.INDEX).get("weight_map")
    missing = sorted({str(s) for s in shards.values()} - set(names)) if isinstance(shards, dict) else ["weight_map"]
    if missing:
        raise HybError(
            f"`{what}` is not whole: `{select.INDEX}` names what it does not have",
            hint="it was damaged where it was made; take another revision",
            details=missing[:10],
            code=Exit.CHECK,
        )


def _there(source: Local, folder: Path) -> Path:
    path = folder / Path(source.path).expanduser()
    if not path.exists():
        raise HybError(f"`{path}` is not there", hint="give the folder of a model, with its `config.json`")
    return path


def _digest(path: Path) -> str:
    with fs.explained(f"`{path}` can't be read"):
        return dg.of_tree(path).removeprefix("sha256:")
