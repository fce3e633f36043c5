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

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from hyb import digest as dg
from hyb.workers import checkpoints, labels, models, protocol
from hyb.workers.protocol import Failed

CLIP = 1.0  # largest norm of the gradient
BETAS = (0.9, 0.999)
NOT_THE_RESULT = ("model", "train", "out", "checkpoints", "checkpoint_seconds", "checkpoint_steps")
METRICS = ("step", "loss", "lr", "grad_norm")
MEGABATCH = 16  # batches among which rows of like length are put together


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
    model, targets = add_lora(model, job)
    run = Run(job, model, device, data.examples)
    if use_checkpointing(job, model, device, size, run.widest):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    resumed = run.resume()
    begun = time.monotonic()
    try:
        run.train()
    except torch.cuda.OutOfMemoryError as error:
        raise Failed(
            "the GPU's memory does not suffice for this batch",
            hint="lower `batch` and raise `grad_accum` as much, or set `gradient_checkpointing: on`",
        ) from error
    seconds = time.monotonic() - begun
    out = Path(job["out"])
    write_adapter(model, targets, job["name"], out)
    lines = [json.dumps({name: line[name] for name in METRICS}) + "\n" for line in run.metrics]
    _write(out / "metrics.jsonl", "".join(lines).encode())
    last = [line["loss"] for line in run.metrics[-max(1, run.total // 10) :]]
    return {
        "steps": run.total, "loss": round(sum(last) / len(last), 6), "targets": targets,
        "rows": len(rows), "skipped": list(data.skipped), "truncated": list(data.truncated),
        "seconds": round(seconds, 3), "tokens": run.tokens,
        "tokens_per_second": round(run.tokens / max(seconds, 1e-9), 1),
        "peak_memory": models.peak_memory(device), "device": _device_name(device), "resumed_from_step": resumed,
        "trainable_parameters": sum(p.numel() for p in run.trainable.values()), "parameters": size,
    }  # fmt: skip


# -- the model -------------------------------------------------------------------------------------------------------


def add_lora(model: Any, job: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model with fresh LoRA layers, everything else frozen, and the names of the modules that got one."""
    targets = target_modules(model, job["targets"])
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=job["rank"], lora_alpha=job["alpha"], lora_dropout=job["dropout"], bias="none",
        target_modules=targets, use_rslora=job["rslora"],
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return peft.get_peft_model(model, config), targets


def target_modules(model: Any, wanted: str | list[str]) -> list[str]:
    """Names of linear layers to adapt: `all-linear` means all but the head. Raises Failed naming what exists."""
    head = model.get_output_embeddings()
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    names = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if wanted == "all-linear":
        return names
    asked = sorted({wanted} if isinstance(wanted, str) else set(wanted))
    unknown = [a for a in asked if not any(n == a or n.endswith("." + a) for n in linear)]
    if unknown:
        raise Failed(
            f"the model has no linear layer {', '.join(f'`{u}`' for u in unknown)}",
            hint=f"`targets` takes `all-linear` or a list of: {', '.join(names)}",
        )
    return asked


def use_checkpointing(job: dict[str, Any], model: Any, device: torch.device, size: int, widest: int) -> bool:
    """Whether to recompute activations in the backward pass: slower by a third, for a fraction of the memory.

    `auto`: on the CPU for models over 500 M parameters; on CUDA when the activations of the widest batch (an estimate)
    would take more than 60 % of what is free.
    """
    if job["gradient_checkpointing"] != "auto":
        return bool(job["gradient_checkpointing"] == "on")
    if device.type == "cpu":
        return size > 500_000_000
    c = model.config.get_text_config()
    a_token = (
        2
        * c.num_hidden_layers
        * (16 * c.hidden_size + 5 * (getattr(c, "intermediate_size", None) or 4 * c.hidden_size))
    )
    return bool(widest * (a_token + 4 * c.vocab_size) > 0.6 * models.free_memory(device))


def write_adapter(model: Any, targets: list[str], name: str, out: Path) -> None:
    """Write the adapter as plain PEFT reads it. Same weights, same bytes: no path, time or set's order."""
    out.mkdir(parents=True, exist_ok=True)
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = out / "adapter_model.safetensors"
    save_file({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    config = model.peft_config["default"].to_dict()
    config |= {
        "base_model_name_or_path": name,
        "target_modules": sorted(targets),
        "inference_mode": True,
        "revision": None,
    }
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    _write(out / "adapter_config.json", text.encode() + b"\n")


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A training run: what changes from step to step, and how."""

    job: dict[str, Any]
    model: Any
    device: torch.device
    examples: tuple[labels.Example, ...]
    metrics: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0  # real (not pad) tokens of this process's steps

    def __post_init__(self) -> None:
        self.trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trainable.values(), lr=self.job["lr"], betas=BETAS, weight_decay=0.0, fused=self.device.type == "cuda"
        )
        self.per_epoch = -(-len(self.examples) // self.rows_a_step)
        self.total = max(1, math.ceil(self.per_epoch * self.job["epochs"]))
        settings = {k: v for k, v in self.job.items() if k not in NOT_THE_RESULT}
        self.fingerprint = dg.of_json({**settings, "examples": [[e.ids, e.labels] for e in self.examples]})
        self.head = AnswerHead(self.model.get_output_embeddings())

    @property
    def rows_a_step(self) -> int:
        """Sequences that one optimizer step sees."""
        return int(self.job["batch"] * self.job["grad_accum"])

    @property
    def widest(self) -> int:
        """Tokens of the largest micro-batch, padding counted."""
        return int(max(len(e.ids) for e in self.examples) * min(self.job["batch"], len(self.examples)))

    def train(self) -> None:
        """All steps that are left, a checkpoint now and then. Raises Failed when training went wrong."""
        self.model.train()
        first = len(self.metrics)
        begun = saved = time.monotonic()
        for step in range(first, self.total):
            epoch, at = divmod(step, self.per_epoch)
            if step == first or at == 0:
                steps = batches(
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
        count = sum(label != labels.IGNORED for e in rows for label in e.labels)
        loss = 0.0
        for i in range(0, len(rows), self.job["batch"]):
            part = self.loss_sum(rows[i : i + self.job["batch"]]) / count
            part.backward()
            loss += float(part.detach())
        if look:
            check_gradients(self.trainable)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trainable.values(), CLIP))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Failed(
                f"the loss is no number any more at step {step + 1} (loss {loss}, gradient norm {norm})",
                hint=f"lower `lr` (it is {self.job['lr']:g}); the last checkpoint is kept",
            )
        rate = learning_rate(step, self.total, self.job["lr"], self.job["warmup"])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens += sum(len(e.ids) for e in rows)
        return {"step": step + 1, "loss": round(loss, 6), "lr": rate, "grad_norm": round(norm, 6)}

    def loss_sum(self, rows: list[labels.Example]) -> torch.Tensor:
        """The sum of the cross-entropy over the labelled tokens of a micro-batch; a scalar with its gradient."""
        width = max(len(e.ids) for e in rows)
        ids = torch.tensor([[*e.ids, *[0] * (width - len(e.ids))] for e in rows], device=self.device)
        wanted = torch.tensor(
            [[*e.labels, *[labels.IGNORED] * (width - len(e.labels))] for e in rows], device=self.device
        )
        wanted = F.pad(wanted[:, 1:], (0, 1), value=labels.IGNORED)  # position t says token t + 1
        autocast = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()
        with autocast, self.head.only(wanted != labels.IGNORED):
            logits = self.model(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits.float(), wanted[wanted != labels.IGNORED], reduction="sum")

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


class AnswerHead:
    """Applies the model's head to chosen positions only. A hook, so that whatever a model does to its logits stays."""

    def __init__(self, head: torch.nn.Module) -> None:
        self.positions: torch.Tensor | None = None
        head.register_forward_pre_hook(self._choose)

    @contextlib.contextmanager
    def only(self, positions: torch.Tensor) -> Iterator[None]:
        """Inside, logits are (chosen positions, vocabulary) instead of (batch, positions, vocabulary)."""
        self.positions = positions
        try:
            yield
        finally:
            self.positions = None

    def _choose(self, _head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return args if self.positions is None else (args[0][self.positions], *args[1:])


def check_gradients(trainable: dict[str, torch.Tensor]) -> None:
    """Raise Failed when the gradient does not reach the LoRA layers.

    At the start every B is zero, so what reaches the layers below went through the frozen weights: where those have no
    gradient of their own (bitsandbytes on a CPU, see `hyb.workers.models`), most B get none. Half may be without one:
    experts that no token chose.
    """
    ups = [p.grad for name, p in trainable.items() if "lora_B" in name]
    dead = sum(grad is None or not bool(grad.any()) for grad in ups)
    if dead * 2 > len(ups):
        raise Failed(
            f"no gradient reaches {dead} of {len(ups)} layers: training would learn nothing",
            hint="try `quantize: none`; please report it with your processor's name and `hyb doctor`",
        )


def learning_rate(step: int, total: int, peak: float, warmup: float) -> float:
    """The rate of step 0, 1, …: up in a line over the first `warmup` (a share of `total`), then down in a line."""
    rising = round(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (total - step) / (total - rising)


def batches(examples: tuple[labels.Example, ...], size: int, seed: int, group: bool) -> list[list[labels.Example]]:
    """The steps of one epoch. `group`: rows of like length together, so that few pads are fed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator).tolist()
    if group:
        pools = [order[i : i + MEGABATCH * size] for i in range(0, len(order), MEGABATCH * size)]
        order = [i for pool in pools for i in sorted(pool, key=lambda i: -len(examples[i].ids))]
    steps = [order[i : i + size] for i in range(0, len(order), size)]
    if group:
        steps = [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]
    return [[examples[i] for i in step] for step in steps]


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)


def _plain(value: Any) -> Any:
    """JSON for what PEFT keeps as sets and enums."""
    return sorted(value) if isinstance(value, (set, frozenset)) else getattr(value, "value", str(value))


def _device_name(device: torch.device) -> str:
    return (
        str(torch.cuda.get_device_name(device)) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    protocol.main(work)
