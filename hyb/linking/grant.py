"""`hyb link grant`: an AccessGrant as a file, and how its token is taken out of the cluster."""

from __future__ import annotations

from pathlib import Path

from hyb import fs
from hyb.errors import HybError
from hyb.render import names
from hyb.render.dump import dump
from hyb.render.skupper import documents as sk
from hyb.render.skupper.fields import spec_of
from hyb.render.skupper.guide import token_commands
from hyb.render.skupper.kinds import kind_mistakes


def grant_text(name: str, namespace: str, link: str, uses: int, window: str) -> str:
    """The AccessGrant as YAML. Raises HybError with all that is wrong."""
    found = []
    for what, text in (("--name", name), ("--namespace", namespace), ("--link", link)):
        if problem := names.label_problem(text):
            found.append(f"`{what}` {problem}")
    document = sk.grant(name, namespace, uses, window)
    texts = kind_mistakes("AccessGrant", spec_of(document), public=True, kubernetes=True)
    words = {"spec.redemptionsAllowed": "`--uses`", "spec.expirationWindow": "`--window`"}
    for text in texts:
        field, _, rest = text.partition(" ")
        found.append(f"{words.get(field, field)} {rest}")
    if found:
        raise HybError(found[0], details=found[1:])
    return dump(document)


def take_out(name: str, namespace: str, link: str, file: str) -> list[str]:
    """The commands that apply a grant and leave its token in `token.yaml`."""
    return [f"oc apply -f {file} -n {namespace}", *token_commands("oc", name, namespace, link, "token.yaml")]


def write(out: Path, text: str, *, force: bool) -> None:
    """Write the file; the same text again changes nothing. Raises HybError when something else is there."""
    with fs.explained(f"can't write `{out}`"):
        if out.exists() and not force and out.read_bytes() != text.encode():
            raise HybError(f"`{out}` is there already", hint="give another `--out`, or `--force`; nothing was changed")
        out.parent.mkdir(parents=True, exist_ok=True)
        fs.write_atomic(out, text.encode())
