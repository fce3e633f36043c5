"""ls, show, log, rm, gc: what is in the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import columns, size
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.artifact import Artifact

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A name, or the digest (its first 8 digits will do).")
]


@command
def ls(
    s: Session,
    everything: Annotated[bool, typer.Option("--all", help="Unnamed artifacts and receipts, too.")] = False,
) -> None:
    """List what is in the store.

    Example: hyb ls --json
    """
    from hyb.artifact import short

    store = s.store
    names: dict[str, list[str]] = {}
    for name, digest in store.tags().items():
        names.setdefault(digest, []).append(name)
    found = [a for a in store.artifacts() if everything or a.digest in names]
    items: list[dict[str, Any]] = [
        {
            "names": sorted(names.get(a.digest, [])),
            "digest": a.digest,
            "kind": a.kind,
            "size": a.size,
            "about": about(a),
        }
        for a in found
    ]
    rows = [(", ".join(i["names"]) or "-", i["kind"], short(i["digest"]), size(i["size"]), i["about"]) for i in items]
    s.show(items, columns(sorted(rows), ("NAME", "KIND", "DIGEST", "SIZE", "WHAT")) if rows else "the store is empty")


@command
def show(
    s: Session,
    name: NameArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the artifact's files to this folder.")
    ] = None,
) -> None:
    """Show one artifact: files, facts, what it was made from, what speaks of it.

    --out writes a Modelfile for Ollama beside a GGUF.

    Example: hyb show quickstart/bot --out adapter/
    """
    store = s.store
    artifact = store.artifact(store.resolve(name))
    if out is not None and not s.dry_run:
        _write_files(s, artifact, out)
    referrers = [{"digest": a.digest, "kind": a.kind} for a in store.referrers(artifact.digest)]
    names = sorted(n for n, d in store.tags().items() if d == artifact.digest)
    value = {
        "digest": artifact.digest, "names": names, "kind": artifact.kind, "size": artifact.size,
        "meta": dict(artifact.meta),
        "needs": list(artifact.needs), "subject": artifact.subject, "referrers": referrers,
        "files": [{"path": f.path, "digest": f.blob.digest, "size": f.blob.size} for f in artifact.files],
    }  # fmt: skip
    text = _show_text(value)
    if artifact.kind == "report" and not s.json:
        from hyb.cli.report import report_text

        text = f"{text}\n\n{report_text(artifact, store)}"
    s.show(value, text)


@command
def log(s: Session) -> None:
    """List what was done, newest first: the receipts of the store.

    Example: hyb log --json
    """
    from hyb.artifact import short

    receipts = [a for a in s.store.artifacts() if a.kind == "receipt"]
    receipts.sort(key=lambda a: (str(a.meta.get("finished")), str(a.meta.get("started"))), reverse=True)
    items = [{**a.meta, "output": a.subject, "receipt": a.digest} for a in receipts]
    rows = [(i["finished"], i["stage"], i["name"], short(str(i["output"])), short(i["receipt"])) for i in items]
    s.show(items, columns(rows, ("FINISHED", "STAGE", "NAME", "OUTPUT", "RECEIPT")) if rows else "nothing was done yet")


@command
def rm(
    s: Session, names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names, as `hyb ls` shows them.")]
) -> None:
    """Take names away. What no name and no kept generation reaches is removed by `hyb gc`.

    Example: hyb rm bot && hyb gc
    """
    from hyb.store import unknown_name

    tags = s.store.tags()
    for name in names:
        if name not in tags:
            raise unknown_name(name, tags)
    removed = {name: tags[name] if s.dry_run else s.store.untag(name) for name in names}
    word = "would take away" if s.dry_run else "took away"
    s.show({"removed": removed, "dry_run": s.dry_run}, "\n".join(f"{word} {n}" for n in removed))


@command
def gc(s: Session) -> None:
    """Remove what no name and no kept generation reaches: blobs, old outputs, what killed runs left.

    `hyb rollback RECIPE --keep N` says how many generations of a recipe are kept.

    Example: hyb gc --dry-run
    """
    from hyb import upkeep

    count, freed = upkeep.gc(s.store, dry_run=s.dry_run)
    word = "would remove" if s.dry_run else "removed"
    s.show({"removed": count, "bytes": freed, "dry_run": s.dry_run}, f"{word} {count} things, {size(freed)}")


def about(a: Artifact) -> str:
    """One line on an artifact, from its facts."""
    m = a.meta
    text = {
        "model": lambda: f"{m.get('name', '')} {m.get('format', '')} {m.get('quantization') or ''}",
        "adapter": lambda: (
            f"{m.get('name', '')} LoRA rank {m.get('rank')} gguf {m.get('quantization')}"
            if m.get("format") == "gguf"
            else f"LoRA rank {m.get('rank')} {m.get('quantize')} {m.get('steps')} steps, loss {m.get('loss')}"
        ),
        "dataset": lambda: ", ".join(f"{n} {k}" for k, n in m.get("counts", {}).items()),
        "report": lambda: (
            "perplexity: " + ", ".join(f"{k} {v}" for k, v in m["perplexity"].items())
            if "compares" in m
            else ("passed: " if m.get("passed") else "failed: ")
            + ", ".join(f"{k} {v}" for k, v in m.get("scores", {}).items())
        ),
        "image": lambda: str(m.get("name", "")),
        "service": lambda: f"{m.get('name')} port {m.get('port')}: {', '.join(m.get('targets', []))}",
        "link": lambda: f"{m.get('routing_key')} → namespace {m.get('namespace')}",
        "receipt": lambda: f"{m.get('stage')} {m.get('name')} {m.get('finished')}",
    }.get(a.kind)
    return " ".join(text().split()) if text else ""


def _write_files(s: Session, artifact: Artifact, out: Path) -> None:
    from hyb import fs
    from hyb.artifact import safe_path
    from hyb.cli.modelfile import NAME as MODELFILE
    from hyb.cli.modelfile import modelfile
    from hyb.errors import HybError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HybError(f"`{out}` is there and not empty", hint="give a folder that is empty or does not exist yet")
    with fs.explained(f"can't write to `{out}`"):
        for f in artifact.files:
            s.store.check(f.blob)
            place = out / safe_path(f.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            fs.copy_new(s.store.blob_path(f.blob.digest), place)
        if text := modelfile(artifact, s.store):
            (out / MODELFILE).write_text(text, encoding="utf-8")
            s.talk(f"wrote {out / MODELFILE}: `ollama create NAME -f {MODELFILE}` takes the model")
    s.talk(f"wrote {len(artifact.files)} files to {out}")


def _show_text(v: dict[str, Any]) -> str:
    lines = [
        f"{v['kind']}  {', '.join(v['names']) or 'no name'}",
        f"digest   {v['digest']}",
        f"size     {size(v['size'])}",
    ]
    lines += [f"needs    {d}" for d in v["needs"]]
    lines += [f"of       {v['subject']}"] if v["subject"] else []
    lines += [f"{r['kind']:<8} {r['digest']}" for r in v["referrers"]]
    hidden = ("failed", "scores", "right") if v["kind"] == "report" else ()  # the report's own table has them
    lines += [f"{k}: {x}" for k, x in v["meta"].items() if x not in (None, "", [], {}) and k not in hidden]
    rows = [(f["path"], size(f["size"]), f["digest"]) for f in v["files"]]
    return "\n".join(lines) + ("\n" + columns(rows, ("FILE", "SIZE", "DIGEST")) if rows else "")
