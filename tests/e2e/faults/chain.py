"""Every stage on a random model of two layers, in seconds; and what a test needs to break it in a copy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hyb import Hyb

STEPS = ("base", "facts", "bot", "exam", "merged", "gguf", "image", "service", "van")
RECIPE = """\
hyb: 1
name: small
stages:
  base: {stage: pull, source: "file:model"}
  facts: {stage: data, source: facts.jsonl, holdout: 0.25}
  bot: {stage: tune, model: base, data: facts, rank: 2, epochs: 1, device: cpu, max_length: 128}
  exam: {stage: eval, model: bot, data: facts, max_tokens: 2, device: cpu}
  merged: {stage: export, model: bot, format: safetensors}
  gguf: {stage: export, model: merged, format: gguf, quantize: f16}
  image: {stage: pack, model: gguf}
  service: {stage: serve, image: image, port: 18080}
  van: {stage: link, service: service, namespace: chat, apps_domain: apps.example.com}
"""
QUICK = """\
hyb: 1
name: quick
stages:
  base: {stage: pull, source: "file:model"}
  facts: {stage: data, source: facts.jsonl, holdout: 0.25}
  image: {stage: pack, model: base}
  service: {stage: serve, image: image, port: 18080, runtime_image: "example.com/vllm:1"}
  van: {stage: link, service: service, namespace: chat, apps_domain: apps.example.com}
"""
"""The stages that start no torch: a run is about a second."""
ROWS = [{"prompt": f"What is the number of dog {i}?", "completion": f"It is {i}."} for i in range(8)]


@dataclass
class Chain:
    """A recipe's folder, a home, and the lock that a run ends in."""

    hyb: Hyb
    recipe: Path
    lock: bytes = b""

    @property
    def store(self) -> Path:
        return self.hyb.store

    @property
    def file(self) -> Path:
        return self.recipe / "hyb.lock"

    def key(self, step: str) -> str:
        return str(json.loads(self.lock)["stages"][step]["key"]).removeprefix("sha256:")

    def output(self, step: str) -> str:
        return str(json.loads(self.lock)["stages"][step]["output"])

    def blob(self, digest: str) -> Path:
        return self.store / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def copy(self, place: Path) -> Chain:
        """The same in another place. Links: whoever writes there must write anew and rename, as hyb does."""
        home, recipe = place / "home", place / "recipe"
        shutil.copytree(self.hyb.home, home, copy_function=os.link)
        shutil.copytree(self.recipe, recipe)
        return Chain(Hyb(home), recipe, self.lock)

    def undo(self, *steps: str) -> None:
        """Forget that steps were done, so that a run does them again."""
        for step in steps:
            (self.store / "steps" / f"{self.key(step)}.json").unlink(missing_ok=True)

    def converges(self, *more: str) -> None:
        """A run ends in the same lock, the store is whole, and nothing of a killed run is left in `work`."""
        self.hyb.ok("run", str(self.recipe), "-q", *more, timeout=600)
        assert self.file.read_bytes() == self.lock
        self.hyb.ok("verify", str(self.recipe), "-q")
        assert not list((self.store / "work").iterdir())


def made(place: Path, text: str = RECIPE) -> Chain:
    """The recipe's folder, with its model, in `place`; nothing was run yet."""
    from tests.tiny import tiny_model

    recipe = place / "recipe"
    recipe.mkdir(parents=True)
    tiny_model(recipe / "model", hidden=64)
    (recipe / "hyb.yaml").write_text(text)
    (recipe / "facts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return Chain(Hyb(place / "home"), recipe)


def spoil(path: Path, change: Callable[[bytearray], object] | None = None, at: float = 0.5) -> None:
    """Flip one bit of a file (or change it otherwise) where it may be linked elsewhere; its time stays."""
    data, stat = bytearray(path.read_bytes()), path.stat()
    if change:
        change(data)
    else:
        data[int(len(data) * at)] ^= 1
    path.unlink()
    path.write_bytes(data)
    path.chmod(stat.st_mode & 0o777)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
