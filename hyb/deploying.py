"""From a link to a folder that puts the chat page before it: what `hyb deploy` does.

What the page calls is read from the link's own documents, in the store or in a folder (the public side has no store):
the two can't differ. Nothing here opens a socket.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hyb import fs, owned
from hyb.errors import Exit, HybError
from hyb.render.deploy.check import mistakes
from hyb.render.deploy.facts import DeployFacts
from hyb.render.deploy.kustomize import folder
from hyb.store import Store

KIND = "hyb-deploy"
_ACCESS = "--link-access-type"


@dataclass(frozen=True)
class Target:
    """What the page calls: a Service of a namespace. `port` is as the document says it: the check is another's."""

    namespace: str
    host: str
    port: Any
    access: str = "route"
    in_cluster: bool = False
    secret: str = ""
    """Secret with the model's key that is there already."""
    taken: tuple[str, ...] = ()
    """Services that the link makes there beside `host`."""


def targets(text: str, store: Store, namespace: str = "") -> list[Target]:
    """What a page could call, from a link's folder, or a link or service in the store. Raises HybError."""
    place = Path(text).expanduser()
    if text not in store.tags() and place.is_dir():
        files = _read(place)
        return _of_scripts(files) or _of_documents(list(_documents(files)), text)
    artifact = store.artifact(store.resolve(text))
    if artifact.kind == "link":
        files = {f.path: store.read(f.blob.digest) for f in artifact.files}
        documents = list(_documents(files))
        return _of_documents(documents, text) if documents else _of_meta(artifact.meta)
    if artifact.kind != "service":
        raise HybError(f"`{text}` is a {artifact.kind}, not a link", hint="give a link, its folder, or a service")
    if "kubernetes" not in artifact.meta.get("targets", ()):
        raise HybError(
            f"service `{text}` is not for a cluster: a page reaches it by a link",
            hint=f"`hyb link {text} --namespace … --apps-domain …`, then `hyb deploy` with that link",
        )
    if not namespace:
        raise HybError("a service says no namespace", hint="give `--namespace`, where the model runs", code=Exit.USAGE)
    meta = artifact.meta
    secret = str(meta.get("secret", ""))
    return [Target(namespace, str(meta.get("name", "")), meta.get("port"), in_cluster=True, secret=secret)]


def choose(found: list[Target], text: str, *, namespace: str = "", listener: str = "") -> Target:
    """The one that is meant. Raises HybError (exit 2) when several could be, exit 3 when none is."""
    fitting = [t for t in found if namespace in ("", t.namespace) and listener in ("", t.host)]
    there = [f"`{t.host}` in namespace `{t.namespace}`" for t in fitting or found]
    if not fitting:
        raise HybError(f"`{text}` has no such listener", details=there, hint="`--namespace` and `--listener` choose")
    if len(fitting) > 1:
        raise HybError(
            f"`{text}` has {len(fitting)} listeners", details=there,
            hint="`--namespace` and `--listener` choose; a page for each needs its own `--name`, host and folder",
            code=Exit.USAGE,
        )  # fmt: skip
    return fitting[0]


def files_of(facts: DeployFacts, taken: tuple[str, ...] = ()) -> dict[str, str]:
    """Path → text of the folder. Raises HybError with everything that is wrong with the facts."""
    if wrong := mistakes(facts, taken):
        raise HybError("the page can't be deployed so", details=wrong, hint="`hyb deploy --help` lists the options")
    return folder(facts)


def write(facts: DeployFacts, files: Mapping[str, str], out: Path, *, force: bool = False) -> list[Path]:
    """Make `out` hold exactly these files. Raises HybError when it holds something else, or was edited."""
    mark = owned.Mark(KIND, of=f"page `{facts.name}` of `{facts.namespace}`")
    place = out.resolve()
    with fs.explained(f"can't read `{out}`"):
        owned.check_target(place, out, mark, force=force)
    with fs.explained(f"can't write `{out}`"):
        owned.publish(place, out, {path: text.encode() for path, text in files.items()}, mark, force=force)
    return [out / path for path in files]


def difference(files: Mapping[str, str], place: Path) -> str:
    """A unified diff from what is in the folder `place` to what would be; empty when nothing changes."""
    if place.exists() and not place.is_dir():
        raise HybError(f"`{place}` is no folder", hint="give the folder that `hyb deploy --out` wrote")
    marker = owned.Mark(KIND).file
    with fs.explained(f"can't read `{place}`"):
        there = {path: _text(place / path) for path in owned.files_in(place) - {marker}} if place.exists() else {}
    lines: list[str] = []
    for path in sorted({*there, *files}):
        before, after = (side.get(path, "").splitlines(keepends=True) for side in (there, files))
        old, new = (path if path in side else "/dev/null" for side in (there, files))
        lines += difflib.unified_diff(before, after, old, new)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n" for line in lines)


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="backslashreplace")


# -- reading a link ------------------------------------------------------------------------------------------------


def _read(place: Path) -> dict[str, bytes]:
    """The YAML files and scripts of a link's folder, or of one side of it."""
    with fs.explained(f"can't read `{place}`"):
        paths = [p for p in sorted(place.rglob("*")) if p.suffix in (".yaml", ".yml", ".sh") and p.is_file()]
        return {p.relative_to(place).as_posix(): p.read_bytes() for p in paths}


def _documents(files: Mapping[str, bytes]) -> Iterator[Mapping[str, Any]]:
    for path, data in files.items():
        if not path.endswith((".yaml", ".yml")) or path.rpartition("/")[2].startswith("Secret-"):
            continue
        try:
            found = list(yaml.safe_load_all(data.decode()))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise HybError(f"`{path}` of the link is no YAML", hint="write the link's folder again") from error
        yield from (d for d in found if isinstance(d, dict))


def _of_meta(meta: Mapping[str, Any]) -> list[Target]:
    """Of a link without documents: one that is made by commands."""
    services = meta.get("models") or [meta]
    ports = {str(m["host"]): m["port"] for m in services}  # several models may answer behind one name
    access, own = str(meta.get("access", "route")), str(meta.get("router_access", ""))
    spaces = meta.get("namespaces") or [meta["namespace"]]
    taken = (own, *ports)
    return [Target(space, host, port, access, taken=taken) for space in spaces for host, port in ports.items()]


def _of_scripts(files: Mapping[str, bytes]) -> list[Target]:
    """Of a folder of a link that is made by commands, where its scripts for the namespaces say the same."""
    found: list[Target] = []
    for path, data in files.items():
        lines = data.decode(errors="replace").splitlines() if path.endswith(".sh") else ()
        commands = [shlex.split(line, comments=True) for line in lines if line.startswith("skupper ")]
        access = next((c[c.index(_ACCESS) + 1] for c in commands if _ACCESS in c[:-1]), "route")
        made = [c for c in commands if c[1:3] == ["listener", "create"] and len(c) > 4]
        options = [dict(zip(c[5::2], c[6::2], strict=False)) for c in made]
        ports = {o.get("--host", c[3]): int(c[4]) for c, o in zip(made, options, strict=True) if c[4].isdecimal()}
        spaces = dict.fromkeys(o.get("--namespace", "") for o in options)
        found += [Target(n, host, port, access, taken=tuple(ports)) for n in spaces for host, port in ports.items()]
    return found


def _of_documents(documents: list[Mapping[str, Any]], text: str) -> list[Target]:
    def of(*kinds: str) -> list[tuple[str, str, Mapping[str, Any]]]:
        found = [(d, d.get("metadata"), d.get("spec")) for d in documents if d.get("kind") in kinds]
        whole = [(m, s) for _, m, s in found if isinstance(m, dict) and isinstance(s, dict)]
        return [(str(m.get("namespace") or ""), str(m.get("name") or ""), s) for m, s in whole]

    access = {space: (name, str(spec.get("accessType") or "route")) for space, name, spec in of("RouterAccess")}
    listeners = of("Listener", "MultiKeyListener")
    if not listeners:
        raise HybError(f"`{text}` has no Listener", hint="give a link of `hyb link`, by its name or its folder")
    found = []
    for space, _, spec in listeners:
        name, kind = access.get(space, ("", "route"))
        others = [str(s.get("host")) for n, _, s in listeners if n == space]
        found.append(Target(space, str(spec.get("host") or ""), spec.get("port"), kind, taken=(name, *others)))
    return found
