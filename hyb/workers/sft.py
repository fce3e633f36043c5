"""Fine-tune a causal language model with LoRA on a chat data set: QLoRA (NF4), or LoRA without it; answers, or
preferences (DPO).

Read it from top to bottom: `work` is the whole story, `hyb.workers.training` the loop.

Job: `model`, `train`, `heldout` ("" for none), `out`, `checkpoints`, `done` ("" or where the result is written, too:
paths), `name` (of the model, goes into
adapter_config.json), `checkpoint_seconds`, `checkpoint_steps`, and the fields of `hyb.stages.tune.Spec`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from hyb import fs
from hyb.formats import memory
from hyb.workers import dpo, labels, lora, models, protocol, ranks, shards, sound, training, weights
from hyb.workers.heldout import HeldOut
from hyb.workers.net import Net, Speed
from hyb.workers.noise import Noise
from hyb.workers.objective import Answers
from hyb.workers.protocol import Failed

OFF: dict[str, Any] = {
    "method": "sft", "beta": 0.1, "dora": False, "neftune": 0.0, "schedule": "linear", "decay": 0.2, "heldout": "",
    "patience": 0, "evaluate_every": 0.5, "deterministic": False, "gpus": 1, "shard": False, "pack": "auto",
    "speed": {},
}  # fmt: skip
"""What a job need not say, as that of a benchmark: plain tuning."""
METRICS = ("step", "loss", "lr", "grad_norm", "heldout_loss")


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train, and write `adapter_model.safetensors`, `adapter_config.json` and `metrics.jsonl` into `job["out"]`."""
    job = {**OFF, **job}
    models.make_deterministic(job["seed"], strict=job["deterministic"], share=ranks.count())
    device = models.pick_device(job["device"], ranks.local())
    count, data, heldout = prepared(job)  # the user's mistakes, before the slow part
    protocol.emit("note", text=f"loading the model on {device.type}")
    ranks.start(device)
    apart = bool(job["shard"]) and ranks.count() > 1
    model = loaded(job, device, apart)
    size = models.parameters(model)
    sound.check_loaded(job, model)
    model, targets = lora.add_lora(model, job)
    away = shards.split(model, device) if apart else 0
    longest = sorted(len(e.ids) for e in data.examples)[-job["batch"] * job["grad_accum"] :]
    plan, random = make_plan(job, model, device, size, longest), bool(job["dropout"] or job["neftune"])
    net, noise = Net(model, device, Speed(**job["speed"]), plan, noisy=random), Noise(model, job["neftune"])
    objective = dpo.Preferences(net, noise, job["beta"]) if job["method"] == "dpo" else Answers(net, noise)
    run = training.Run(job, net, objective, data.examples, heldout)
    sequences = [row for e in data.examples for row in ((e.better, e.worse) if job["method"] == "dpo" else (e,))]
    levers = net.install(sorted(sequences, key=lambda e: (len(e.ids), e.ids)))
    weights.give_back()
    resumed = run.resume()
    begun, burnt = time.monotonic(), time.process_time()
    run.train()
    seconds, burnt = time.monotonic() - begun, time.process_time() - burnt
    if ranks.mine() == 0:
        out = Path(job["out"])
        lora.write_adapter(model, targets, job["name"], out)
        kept = [{name: line[name] for name in METRICS if name in line} for line in run.metrics]
        lora.write(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept).encode())
    last = [line["loss"] for line in run.metrics[-max(1, len(run.metrics) // 10) :]]
    done = {
        "steps": len(run.metrics), "planned_steps": run.total, "loss": round(sum(last) / len(last), 6),
        "targets": targets, "rows": count, "skipped": list(data.skipped), "truncated": list(data.truncated),
        "seconds": round(seconds, 3), "cpu_seconds": round(burnt, 3), "tokens": run.tokens,
        "tokens_per_second": round(run.tokens / max(seconds, 1e-9), 1),
        "plan": {**asdict(plan), **levers}, "peak_memory": models.peak_memory(device),
        "device": _device_name(device), "resumed_from_step": resumed, "sharded_bytes": away,
        "trainable_parameters": sum(p.numel() for p in run.trainable.values()), "parameters": size,
        "heldout": dict(zip(("step", "loss"), heldout.best, strict=True)) if heldout.seen else {},
    }  # fmt: skip
    if job.get("done") and ranks.mine() == 0:
        fs.write_atomic(Path(job["done"]), (json.dumps({"job": job, "done": done}, indent=1) + "\n").encode())
    ranks.stop()
    return done


def prepared(job: dict[str, Any]) -> tuple[int, Any, HeldOut]:
    """How many rows there are, they as items of the job's method, and the held-out ones. The tokenizer is let go: it
    takes as much memory as a small model. Raises Failed."""
    tokenizer, config = models.load_tokenizer(job["model"]), models.load_config(job["model"])
    sound.check(config, tokenizer)
    encoder = labels.Encoder(tokenizer, models.load_stop_ids(job["model"], config, tokenizer), job["think"])
    rows = read(job["train"])
    data = encoded(rows, encoder, config, job)
    return len(rows), data, HeldOut(unseen(encoder, config, job, len(data.examples)), job["patience"])


def loaded(job: dict[str, Any], device: torch.device, apart: bool) -> Any:
    """The base on its device; or, to be split (`apart`), as for that device but in the host's memory."""
    dtype = str(models.compute_dtype(device)).removeprefix("torch.")
    place = torch.device("cpu") if apart else device
    return models.load_causal_lm(job["model"], quantize=job["quantize"], dtype=dtype, device=place)


def read(path: str) -> list[dict[str, Any]]:
    """The rows of a data set's file."""
    return [json.loads(line) for line in Path(path).read_bytes().split(b"\n") if line.strip()]


def encoded(rows: list[dict[str, Any]], encoder: labels.Encoder, config: Any, job: dict[str, Any]) -> Any:
    """The rows as items of the job's method. Raises Failed."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None) or job["max_length"]
    limit = min(context, job["max_length"])
    encode = dpo.encode if job["method"] == "dpo" else labels.encode
    return encode(
        rows, encoder, max_length=limit, long=job["long"], context=context if context < job["max_length"] else None
    )


def unseen(encoder: labels.Encoder, config: Any, job: dict[str, Any], trained: int) -> tuple[Any, ...]:
    """The held-out items that have what a loss needs: an answer, or two; numbered after the `trained` ones.

    Raises Failed when there are none.
    """
    if not job["patience"]:
        return ()
    rows = read(job["heldout"]) if job["heldout"] else []
    usable = (
        [row for row in rows if row.get("rejected")] if job["method"] == "dpo" else [r for r in rows if answered(r)]
    )
    if not usable:
        what = "a better and a worse answer" if job["method"] == "dpo" else "an answer"
        raise Failed(
            f"early stopping needs held-out rows with {what}; of {len(rows)} there are none",
            hint="give the data stage a `holdout`, or leave `patience` out",
        )
    found = encoded(usable, encoder, config, {**job, "long": "truncate"}).examples
    return tuple(replace(e, number=trained + e.number) for e in found) if job["method"] == "dpo" else tuple(found)


def answered(row: dict[str, Any]) -> bool:
    """Whether a row has something to learn from."""
    if row.get("label") is False:
        return False
    return "messages" not in row or any(m["role"] == "assistant" and m.get("train", True) for m in row["messages"])


def make_plan(job: dict[str, Any], model: Any, device: torch.device, size: int, rows: list[int]) -> memory.Plan:
    """How the run uses this machine's memory; `rows`: tokens of the longest items of a step."""
    shape = memory.Shape.of(model.config.get_text_config(), model.dtype.itemsize, fusing(job))
    resident = job["speed"].get("resident", "auto") if not shards.is_split(model) else False
    return memory.plan(
        shape, device=device.type, free=ranks.least(models.free_memory(device), device), parameters=size,
        pack=job["pack"], mode=job["gradient_checkpointing"], resident=resident,
        quantized=job["quantize"] == "nf4" and fusing(job), rows=rows, batch=job["batch"],
    )  # fmt: skip


def fusing(job: dict[str, Any]) -> bool:
    """Whether LoRA is computed as one function."""
    return bool(job["speed"].get("fused", True)) and not job["dropout"] and not job["dora"]


def _device_name(device: torch.device) -> str:
    return (
        str(torch.cuda.get_device_name(device)) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    protocol.main(work)
