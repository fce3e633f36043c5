"""A folder with a tuning step as a Kubeflow TrainJob: documents, the job, and what a person does with them.

DIR/APPLY.md        what to run, in order
DIR/trainjob.yaml   ConfigMap, NetworkPolicy, TrainJob
DIR/job.json        what the worker is told, as it stands in the ConfigMap
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyb import fs
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import tune_cost
from hyb.render import trainjob as render
from hyb.render.dump import dump
from hyb.stages import tune
from hyb.store import Store

PLACES = tune.Places(
    f"{render.VOLUME}/model", f"{render.VOLUME}/data/train.jsonl", "", f"{render.VOLUME}/out",
    f"{render.VOLUME}/checkpoints", f"{render.VOLUME}/{tune.DONE}",
)  # fmt: skip
ROOM = 4 << 30  # bytes of a pod beyond what the run is expected to take


@dataclass(frozen=True)
class Order:
    """What the TrainJob is called, the tuner's image, how many pods, and the volume's claim."""

    name: str
    image: str
    nodes: int
    claim: str


def write(
    store: Store, spec: Any, inputs: Mapping[str, Artifact], order: Order, folder: Path, *, dry_run: bool = False
) -> list[Path]:
    """Write the folder; returns its files. Raises HybError: names that a cluster refuses, a folder that can't be
    written, inputs that can't be tuned."""
    model, data = inputs[spec.model], inputs[spec.data]
    tune.plan(spec, inputs)
    unit = unit_of(store, spec, model, data, order)
    if wrong := render.mistakes(unit):
        raise HybError("a cluster would refuse this", details=wrong, hint="`--name`, `--image`, `--claim`, `--nodes`")
    settings = spec.model_dump(exclude_defaults=True, exclude={"stage", "model", "data"})
    said = {k: ",".join(v) if isinstance(v, list) else v for k, v in settings.items() if k in FLAGS}
    flags = [f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in said.items()]
    command = shlex.join(["hyb", "tune", spec.model, "--data", spec.data, "--name", order.name, *flags, "--from", "."])
    files = {
        "APPLY.md": render.guide(unit, spec.model, spec.data, command),
        "trainjob.yaml": dump(render.documents(unit)),
        "job.json": json.dumps(unit.job, indent=1, ensure_ascii=False, sort_keys=True) + "\n",
    }
    paths = [folder / name for name in files]
    if dry_run:
        return paths
    with fs.explained(f"can't write `{folder}`"):
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, files.values(), strict=True):
            fs.write_atomic(path, text.encode())
    return paths


FLAGS = (
    "quantize", "rank", "alpha", "lr", "epochs", "batch", "max_length", "targets", "think", "method", "schedule",
    "patience", "gpus", "shard", "seed",
)  # fmt: skip
"""Fields of the spec that `hyb tune` takes as options of the same name."""


def unit_of(store: Store, spec: Any, model: Artifact, data: Artifact, order: Order) -> render.TuneUnit:
    """The TrainJob as plain data: paths on the volume, memory by the tuner's own estimate for a GPU."""
    gpu = spec.device != "cpu"
    holds = any(f.path == "holdout.jsonl" for f in data.files)
    places = replace(PLACES, heldout=f"{render.VOLUME}/data/holdout.jsonl" if holds else "")
    config = json.loads(store.blob_path(model.file("config.json").blob.digest).read_bytes())
    machine = tune_cost.Machine("cuda" if gpu else "cpu", "the cluster", 80 << 30, 2)
    shape = tune_cost.shape(config, machine.device, fused=True)
    needed = tune_cost.cost(shape, tune.wanted(spec, data), machine).memory if shape and not gpu else 4 << 30
    if shape and gpu and spec.shard:  # each process loads the base into the host's memory before it is split
        needed += spec.gpus * tune_cost.loaded(shape, spec.quantize)
    return render.TuneUnit(
        order.name, order.image, order.claim, tune.job_of(spec, model, data, places), order.nodes,
        spec.gpus if gpu else 0, spec.gpus, -(-(needed + ROOM) >> 30 << 30),
    )  # fmt: skip
