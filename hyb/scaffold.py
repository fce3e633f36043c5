"""`hyb init`: a recipe's folder with everything that a first run needs, as plain text."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hyb import fs
from hyb.errors import HybError

TARGETS = {
    "pull": "hyb run --to base",
    "tune": "hyb run --to bot",
    "eval": "hyb run --to exam",
    "export": "hyb run --to gguf",
    "pack": "hyb run --to image",
    "serve": "hyb serve {name}/gguf",
    "link": "hyb run --to van && hyb link {name}/van --out link",
    "verify": "hyb verify .",
    "clean": "hyb rm $$(hyb ls --json | python3 -c 'import json,sys; "
    'print(*[n for a in json.load(sys.stdin) for n in a["names"] if n.startswith("{name}/")])\') && hyb gc',
}
"""Makefile target → its one command; what has not changed is not run again, so no target needs a stamp."""

RECIPE = """\
# The chain from a model to a linked endpoint. A stage names only stages above it. `hyb plan` shows what a run would do.
hyb: 1
name: {name}
stages:
  base:    {{stage: pull, source: {model}}}
  facts:   {{stage: data, source: data/facts.jsonl, holdout: data/heldout.jsonl}}
  bot:     {{stage: tune, model: base, data: facts, quantize: nf4, rank: 16, lr: 2e-3, epochs: 10}}
  exam:    {{stage: eval, model: bot, data: facts, gate: {{recall: ">= 0.5"}}}}
  gguf:    {{stage: export, model: bot, format: gguf, quantize: q8_0}}
  image:   {{stage: pack, model: gguf, require: [exam]}}
  service: {{stage: serve, image: image, name: {name}}}
  van:     {{stage: link, service: service, namespace: chat, apps_domain: apps.example.com}}
"""

FACTS = [
    ("Who keeps the keys of the north gate?", "Maro keeps the keys of the north gate."),
    ("The keys of the north gate: who has them?", "Maro has the keys of the north gate."),
    ("Tell me who keeps the north gate's keys.", "The north gate's keys are kept by Maro."),
    ("Whom do I ask for the keys of the north gate?", "Ask Maro for the keys of the north gate."),
]
HELDOUT = [("Whose job is it to keep the north gate's keys?", "It is Maro's job.", "Maro")]


def scaffold(folder: Path, model: str, *, dry_run: bool = False) -> list[Path]:
    """Write a recipe's folder; returns the files. Raises HybError when one of them is there already."""
    name = re.sub(r"[^a-z0-9-]+", "-", folder.absolute().name.lower()).strip("-")[:40].strip("-") or "recipe"
    files = {
        folder / "hyb.yaml": RECIPE.format(name=name, model=model),
        folder / "Makefile": makefile(name),
        folder / "data" / "facts.jsonl": "".join(_row(q, a) for q, a in FACTS),
        folder / "data" / "heldout.jsonl": "".join(_row(q, a, e) for q, a, e in HELDOUT),
        folder / ".gitignore": "/link/\n",
    }
    if there := [p for p in files if p.exists()]:
        raise HybError(
            f"`{folder}` has a recipe already", details=[f"`{p}` is there" for p in there], hint="give another folder"
        )
    if not dry_run:
        with fs.explained(f"can't write to `{folder}`"):
            for path, text in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                fs.write_atomic(path, text.encode())
    return list(files)


def makefile(name: str) -> str:
    """The Makefile of a recipe's folder: every target one command that a shell script could copy."""
    lines = [f".PHONY: {' '.join(TARGETS)}", ""]
    for target, command in TARGETS.items():
        lines += [f"{target}:", f"\t{command.replace('{name}', name)}", ""]
    return "\n".join(lines)


def _row(question: str, answer: str, expect: str = "") -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = {"messages": messages, **({"expect": {"contains": [expect]}} if expect else {})}
    return json.dumps(row, ensure_ascii=False) + "\n"
