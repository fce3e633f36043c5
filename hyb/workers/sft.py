"""Fine-tune a causal language model with LoRA on the answers of a chat data set: QLoRA (NF4), or LoRA without it.

Read it from top to bottom: `work` is the whole story. The loop is our own, so that each of these is in plain sight:

- The loss is the mean cross-entropy in float32 over the answers' tokens of all rows of a step, however many
  micro-batches that step has. The head is applied to the positions that have a label, and to no others.
- Batches are right-padded and no attention mask is passed: under causal attention no real token sees a pad to its
  right, and no pad has a label. So nothing is ever derived from the pad id, which is the end-of-turn id in some models.
- The order of rows is a function of (seed, epoch) alone and the learning rate one of the step, so a checkpoint needs
  the step, the adapter, the optimizer and the random generators, and a resumed run is bit-identical on the CPU.

Job: `model`, `train`, `out`, `checkpoints` (paths), `name` (of the model, goes into adapter_config.json), `quantize`,
`rank`, `alpha`, `dropout`, `targets`, `rslora`, `lr`, `warmup`, `epochs`, `batch`, `grad_accum`, `max_length`, `long`,
`think`, `seed`, `gradient_checkpointing`, `group_by_length`, `device`, `checkpoint_seconds`, `checkpoint_steps`.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hyb import digest as dg
from hyb.workers import batches, checkpoints, labels, lora, memory, models, protocol, schedule
from hyb.workers.net import Net, Speed
from hyb.workers.protocol import Failed

CLIP = 1.0  # largest norm of the gradient
BETAS = (0.9, 0.999)
NOT_THE_RESULT = ("model", "train", "out", "checkpoints", "checkpoint_seconds", "checkpoint_steps")
METRICS = ("step", "loss", "lr", "grad_norm")


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train, and write `adapter_model.safetensors`, `adapter_config.json` and `metrics.jsonl` into `job["out"]`."""
    models.make_deterministic(job["seed"])
    device = models.pick_device(job["device"])
    tokenizer = models.load_tokenizer(job["model"])
    rows = [json.loads(line) for line in Path(job["train"]).read_bytes().split(b"\n") if line.strip()]
    config = models.load_config(job["model"])
    limit = min(job["max_length"], getattr(config, "max_position_embeddings", None) or job["max_length"])
    encoder = labels.Encoder(tokenizer, models.load_stop_ids(job["model"], config, tokenizer), job["think"])
    data = labels.encode(rows, encoder, max_length=limit, long=job["long"])  # the user's mistakes, before the slow part
    protocol.emit("note", text=f"loading the model on {device.type}")
    model = models.load_causal_lm(job["model"], quantize=job["quantize"], device=device)
    size = models.parameters(model)
    model, targets = lora.add_lora(model, job)
    longest = sorted(len(e.ids) for e in data.examples)[-job["batch"] * job["grad_accum"] :]
    plan = make_plan(job, model, device, size, longest)
    net = Net(model, device, Speed(**job.get("speed", {})), plan, noisy=bool(job["dropout"]))
    run = Run(job, net, data.examples)
    levers = net.install(sorted(data.examples, key=lambda e: (len(e.ids), e.ids)))
    resumed = run.resume()
    begun, burnt = time.monotonic(), time.process_time()
    try:
        run.train()
    except torch.cuda.OutOfMemoryError as error:
        raise Failed(
            "the GPU's memory does not suffice for this batch",
            hint="give fewer tokens to a micro-step (`pack: 2048`), or set `gradient_checkpointing: full`",
        ) from error
    seconds, burnt = time.monotonic() - begun, time.process_time() - burnt
    out = Path(job["out"])
    lora.write_adapter(model, targets, job["name"], out)
    lines = [json.dumps({name: line[name] for name in METRICS}) + "\n" for line in run.metrics]
    lora.write(out / "metrics.jsonl", "".join(lines).encode())
    last = [line["loss"] for line in run.metrics[-max(1, run.total // 10) :]]
    return {
        "steps": run.total, "loss": round(sum(last) / len(last), 6), "targets": targets,
        "rows": len(rows), "skipped": list(data.skipped), "truncated": list(data.truncated),
        "seconds": round(seconds, 3), "cpu_seconds": round(burnt, 3), "tokens": run.tokens,
        "tokens_per_second": round(run.tokens / max(seconds, 1e-9), 1),
        "plan": {**asdict(plan), **levers}, "peak_memory": models.peak_memory(device),
        "device": _device_name(device), "resumed_from_step": resumed,
        "trainable_parameters": sum(p.numel() for p in run.trainable.values()), "parameters": size,
    }  # fmt: skip


def make_plan(job: dict[str, Any], model: Any, device: torch.device, size: int, rows: list[int]) -> memory.Plan:
    """How the run uses this machine's memory; `rows`: tokens of the longest rows of a step."""
    shape = memory.Shape.of(model.config.get_text_config(), model.dtype.itemsize, fusing(job))
    return memory.plan(
        shape, device=device.type, free=models.free_memory(device), parameters=size, pack=job.get("pack", "auto"),
        mode=job["gradient_checkpointing"], resident=job.get("speed", {}).get("resident", "auto"),
        quantized=job["quantize"] == "nf4" and fusing(job), rows=rows, batch=job["batch"],
    )  # fmt: skip


def fusing(job: dict[str, Any]) -> bool:
    """Whether LoRA is computed as one function."""
    return bool(job.get("speed", {}).get("fused", True)) and not job["dropout"]


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A training run: what changes from step to step, and how."""

    job: dict[str, Any]
    net: Net
    examples: tuple[labels.Example, ...]
    metrics: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0  # real (not pad) tokens of this process's steps

    def __post_init__(self) -> None:
        self.model, self.device = self.net.model, self.net.device
        self.trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trainable.values(), lr=self.job["lr"], betas=BETAS, weight_decay=0.0, fused=True
        )
        self.per_epoch = -(-len(self.examples) // self.rows_a_step)
        self.total = max(1, math.ceil(self.per_epoch * self.job["epochs"]))
        settings = {k: v for k, v in self.job.items() if k not in NOT_THE_RESULT}
        self.fingerprint = dg.of_json({**settings, "examples": [[e.ids, e.labels] for e in self.examples]})

    @property
    def rows_a_step(self) -> int:
        """Sequences that one optimizer step sees."""
        return int(self.job["batch"] * self.job["grad_accum"])

    def train(self) -> None:
        """All steps that are left, a checkpoint now and then. Raises Failed when training went wrong."""
        self.model.train()
        first = len(self.metrics)
        begun = saved = time.monotonic()
        for step in range(first, self.total):
            epoch, at = divmod(step, self.per_epoch)
            if step == first or at == 0:
                steps = batches.steps(
                    self.examples, self.rows_a_step, epoch + (self.job["seed"] << 20), self.job["group_by_length"]
                )
            self.metrics.append(self.step(step, steps[at], look=step == first))
            now = time.monotonic()
            self.tell(step + 1, now - begun)
            due = self.job["checkpoint_steps"] and (step + 1) % self.job["checkpoint_steps"] == 0
            if step + 1 < self.total and (due or now - saved >= self.job["checkpoint_seconds"]):
                self.save(step + 1)
                saved = time.monotonic()

    def step(self, step: int, rows: list[labels.Example], look: bool) -> dict[str, float]:
        """One optimizer step; its line of metrics. `look`: check that the gradient reaches all layers."""
        count = batches.labelled(rows)
        loss = torch.zeros((), device=self.device)
        for part in self.net.split(rows, self.job["batch"]):
            share = self.net.total(part) / count
            share.backward()
            loss += share.detach()
        if look:
            lora.check_gradients(self.trainable)
        length = torch.nn.utils.clip_grad_norm_(self.trainable.values(), CLIP)
        total, norm = torch.stack([loss, length]).tolist()  # the one time that a step waits for the device
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise Failed(
                f"the loss is no number any more at step {step + 1} (loss {total}, gradient norm {norm})",
                hint=f"lower `lr` (it is {self.job['lr']:g}); the last checkpoint is kept",
            )
        rate = schedule.learning_rate(step, self.total, self.job["lr"], self.job["warmup"])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens += sum(len(e.ids) for e in rows)
        return {"step": step + 1, "loss": round(total, 6), "lr": rate, "grad_norm": round(norm, 6)}

    def tell(self, done: int, seconds: float) -> None:
        """Progress: loss, real tokens per second, memory. Who shows it adds the time left."""
        speed, memory = self.tokens / max(seconds, 1e-9), models.peak_memory(self.device) / 1e9
        note = f"loss {self.metrics[-1]['loss']:.3f}  {speed:.0f} tok/s  {memory:.1f} GB"
        protocol.progress("tune", done, self.total, "step", note)

    def save(self, step: int) -> None:
        """Write a checkpoint."""
        tensors = {f"adapter.{n}": p for n, p in self.trainable.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        state = {"step": step, "metrics": self.metrics, "fingerprint": self.fingerprint}
        checkpoints.save(Path(self.job["checkpoints"]), tensors, state)

    def resume(self) -> int:
        """Go back to the last whole checkpoint; returns its step, 0 when there is none."""
        found = checkpoints.load(Path(self.job["checkpoints"]), self.fingerprint)
        if found is None:
            return 0
        tensors, state = found
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(tensors[f"adapter.{name}"])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.metrics = state["metrics"]
        protocol.emit("note", text=f"going on from the checkpoint of step {state['step']}")
        return int(state["step"])


def _device_name(device: torch.device) -> str:
    return (
        str(torch.cuda.get_device_name(device)) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    protocol.main(work)
