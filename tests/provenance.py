"""A recipe that runs in a moment without torch, and a tuned chain put together by hand, each with real receipts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyb import lock, receipt
from hyb import recipe as recipes
from hyb import run as runs
from hyb.artifact import Artifact, File
from hyb.formats import modelpack
from hyb.progress import silent
from hyb.store import Store

RECIPE = """\
hyb: 1
name: r
boundary: {data: never}
stages:
  base:    {stage: pull, source: "file:model"}
  facts:   {stage: data, source: rows, holdout: held.jsonl}
  service: {stage: serve, image: base, name: bot, port: 8000, target: quadlet,
            runtime_image: registry.example.com/vllm:1, model_image: registry.example.com/lab/bot}
  van:     {stage: link, service: service, namespace: chat, apps_domain: apps.example.com}
"""
SECRET_ROW = "the vault opens at dawn"


def rows(name: str, count: int) -> str:
    """Rows of data; one of them says SECRET_ROW."""
    made = [{"prompt": f"{name} question {i}?", "completion": f"{SECRET_ROW} {i}"} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in made)


class Lab:
    """The recipe's folder and its store."""

    def __init__(self, root: Path) -> None:
        self.folder, self.store = root / "a b é" / "recipe", Store(root / "store")
        (self.folder / "rows").mkdir(parents=True)
        (self.folder / "hyb.yaml").write_text(RECIPE)
        (self.folder / "rows" / "one.jsonl").write_text(rows("one", 3))
        (self.folder / "rows" / "two.jsonl").write_text(rows("two", 2))
        (self.folder / "held.jsonl").write_text(rows("held", 2))
        model = self.folder / "model"
        model.mkdir()
        header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
        (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
        (model / "config.json").write_text(
            json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512})
        )

    def run(self, to: str | None = None, **options: Any) -> None:
        given = runs.Options(self.folder / lock.FILE, offline=True, **options)
        runs.run(self.recipe.upto(to), self.store, given, silent)

    @property
    def recipe(self) -> recipes.Recipe:
        return recipes.read(self.folder / "hyb.yaml")

    def statement(self, name: str) -> dict[str, Any]:
        """The newest statement of a stage's output."""
        output = self.store.resolve(f"r/{name}")
        return receipt.read(self.store, next(a for a in self.store.referrers(output) if a.kind == "receipt"))


def made(
    store: Store,
    stage: str,
    output: Artifact,
    inputs: Mapping[str, Artifact] | None = None,
    *,
    pins: Mapping[str, str] | None = None,
    name: str = "",
    **more: Any,
) -> Artifact:
    """A receipt of a step that nobody ran."""
    document = receipt.statement(
        name=name or stage, stage=stage, key="sha256:" + "0" * 64, spec={"stage": stage}, pins=pins or {},
        inputs={n: a.digest for n, a in (inputs or {}).items()}, output=output,
        started=receipt.now(), ended=receipt.now(), facts={}, **more,
    )  # fmt: skip
    return receipt.add(store, document, output)


def tuned(store: Store) -> dict[str, Artifact]:
    """A base, a data set, an adapter tuned of both, and its exam, tagged `t/…`."""
    hub = "hf://org/Name-1B@" + "a" * 40

    def file(path: str, text: str) -> File:
        return modelpack.file(path, store.add_bytes(text.encode()))

    base = store.add_artifact("model", [file("config.json", "{}")], meta={
        "name": "Name-1B", "format": "safetensors", "architecture": "LlamaForCausalLM", "parameters": 10**9,
        "license": "apache-2.0", "source": hub})  # fmt: skip
    row = {"id": "r1", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
           "meta": {"source": "facts.jsonl", "line": 7}}  # fmt: skip
    files = [file("train.jsonl", json.dumps(row) + "\n"), file("holdout.jsonl", ""), file("control.jsonl", "")]
    facts = store.add_artifact("dataset", files, meta={"counts": {"train": 1}, "license": "CC-BY-4.0"})
    bot = store.add_artifact("adapter", [file("adapter_model.safetensors", "w")], needs=[base.digest], meta={
        "base": base.digest, "data": facts.digest, "rank": 16, "quantize": "nf4"})  # fmt: skip
    report = {"scores": {"recall": 0.75}, "intervals": {"recall": [0.5, 0.9]}, "right": {"recall": [3, 4]},
              "passed": True, "failed": [], "questions": [{"question": SECRET_ROW}]}  # fmt: skip
    exam = store.add_artifact("report", [file("report.json", json.dumps(report))], subject=bot, meta={
        "scores": report["scores"], "passed": True, "gate": {"recall": ">= 0.7"}})  # fmt: skip
    found = {"base": base, "facts": facts, "bot": bot, "exam": exam}
    ran = {"pkg:pypi/torch": "2.10.0+cpu", "pkg:generic/podman": "5.4.1"}
    made(store, "pull", base, pins={"name": hub})
    made(store, "data", facts, pins={"facts.jsonl": "sha256:" + "b" * 64})
    made(store, "tune", bot, {"base": base, "facts": facts}, programs=ran)
    made(store, "eval", exam, {"bot": bot, "facts": facts})
    for name, artifact in found.items():
        store.tag(f"t/{name}", artifact.digest)
    return found
