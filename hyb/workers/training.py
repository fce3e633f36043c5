"""The loop of a training run. It is our own, so that each of these is in plain sight:

- The loss of a step is a mean over all its rows (`hyb.workers.objective`), however many micro-batches and processes
  that step has.
- The order of rows is a function of (seed, epoch) alone and the learning rate one of the step, so a checkpoint needs
  the step, the adapter, the optimizer, the random generators and what was seen of the held-out rows, and a resumed run
  is bit-identical on the CPU.
- What goes wrong is told with the step and the rows (`hyb.workers.guard`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hyb import digest as dg
from hyb.workers import batches, checkpoints, guard, lora, models, protocol, ranks, schedule, shards
from hyb.workers.heldout import HeldOut
from hyb.workers.net import Net

CLIP = 1.0  # largest norm of the gradient
BETAS = (0.9, 0.999)
NOT_THE_RESULT = (
    "model", "train", "heldout", "out", "checkpoints", "done", "inputs", "checkpoint_seconds", "checkpoint_steps",
    "gpus", "shard",
)  # fmt: skip
REFERENCES = "references"


@dataclass
class Run:
    """A training run: what changes from step to step, and how. `examples`: items of the objective."""

    job: dict[str, Any]
    net: Net
    objective: Any
    examples: tuple[Any, ...]
    heldout: HeldOut
    metrics: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0  # real (not pad) tokens of this process's steps

    def __post_init__(self) -> None:
        self.model, self.device = self.net.model, self.net.device
        self.trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trainable.values(), lr=self.job["lr"], betas=BETAS, weight_decay=0.0, fused=True
        )
        self.batch, self.halved = int(self.job["batch"]), False
        self.apart = shards.is_split(self.model)
        self.per_epoch = -(-len(self.examples) // self.rows_a_step)
        self.total = max(1, math.ceil(self.per_epoch * self.job["epochs"]))
        self.heldout.every = max(1, round(self.job["evaluate_every"] * self.per_epoch))
        settings = {k: v for k, v in self.job.items() if k not in NOT_THE_RESULT}
        seen = [[e.ids, e.labels] for e in (*self.examples, *self.heldout.items)]
        self.fingerprint = dg.of_json({**settings, "examples": seen})

    @property
    def rows_a_step(self) -> int:
        """Items that one optimizer step sees, in all processes together."""
        return int(self.job["batch"] * self.job["grad_accum"])

    # -- steps ---------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """All steps that are left, a checkpoint now and then; afterwards the adapter is the one to keep."""
        first = len(self.metrics)
        if not first:
            self.prepare()
            torch.manual_seed(self.job["seed"] + ranks.mine())  # processes must not draw the same dropout
        self.model.train()
        begun = saved = time.monotonic()
        for step in range(first, self.total):
            if self.heldout.over:
                break
            epoch, at = divmod(step, self.per_epoch)
            if step == first or at == 0:
                steps = batches.steps(
                    self.examples, self.rows_a_step, epoch + (self.job["seed"] << 20), self.job["group_by_length"]
                )
            at_step = time.monotonic()
            self.metrics.append(self.step(step, steps[at], look=step == first))
            now = time.monotonic()
            if step == first + (self.total > first + 1):  # the second one: the first also pays for what is done once
                self.measured(steps[at], now - at_step)
            if self.heldout.due(step + 1, self.total):
                self.look(step + 1)
            self.tell(step + 1, now - begun)
            due = self.job["checkpoint_steps"] and (step + 1) % self.job["checkpoint_steps"] == 0
            late = ranks.any_of(now - saved >= self.job["checkpoint_seconds"], self.device)
            if step + 1 < self.total and (due or late):
                self.save(step + 1)
                saved = time.monotonic()
        if self.heldout.seen:
            self.choose()

    def prepare(self) -> None:
        """Once, before the first step: what the objective needs to know of the base."""
        if hasattr(self.objective, "prepare"):
            self.objective.prepare([*self.examples, *self.heldout.items], self.batch)

    def step(self, step: int, rows: list[Any], look: bool) -> dict[str, float]:
        """One optimizer step; its line of metrics. `look`: check that the gradient reaches all layers."""
        total = float(self.gradients(rows))
        ranks.add(self.trainable.values())
        if look:
            lora.check_gradients(self.trainable)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trainable.values(), CLIP))
        self.watch(step, rows, total, norm)
        rate = schedule.learning_rate(
            step, self.total, self.job["lr"], self.job["warmup"], self.job["schedule"], self.job["decay"]
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens += sum(len(e.ids) for e in rows)
        return {"step": step + 1, "loss": round(total, 6), "lr": rate, "grad_norm": round(norm, 6)}

    def gradients(self, rows: list[Any]) -> torch.Tensor:
        """The loss of a step, its gradient added to what is trained. When the memory does not suffice, the micro-batch
        is halved, once in a run, and the step computed anew: the rows of a step stay the same. Raises Failed."""
        while True:
            total = self._gradients(rows)
            if total is not None:
                return ranks.total(total)
            largest = max(self.net.split(ranks.share(rows), self.batch), key=lambda m: sum(len(e.ids) for e in m))
            if self.halved or len(largest) == 1:
                raise guard.too_large(self.device, len(largest))
            self.batch, self.halved = -(-len(largest) // 2), True
            self.net.plan = guard.halved(self.net.plan, [len(e.ids) for e in largest])
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            protocol.emit(
                "note",
                text=f"out of memory ({models.room(self.device)}): half as many rows are computed at once from here "
                f"on, in steps of {self.rows_a_step} as before",
            )

    def _gradients(self, rows: list[Any]) -> torch.Tensor | None:
        """The part of the loss that is this process's; None when some process ran out of memory."""
        weight, total = self.objective.weight(rows), torch.zeros((), device=self.device)
        short = False
        try:
            for micro, counts in self.micros(rows):
                part = self.objective.loss_sum(micro) / weight * counts
                part.backward()
                total += part.detach()
        except RuntimeError as error:
            if not guard.out_of_memory(error):
                raise
            if self.apart:  # the others wait for this process's part of a layer
                raise guard.too_large(self.device, len(micro), alone=True) from error
            short = True
        return None if ranks.any_of(short, self.device) else total

    def micros(self, rows: list[Any]) -> list[tuple[list[Any], float]]:
        """This process's micro-steps, each with 1.0. Where the model is split, processes with fewer of them than
        another compute a row more, which counts 0.0: layers are put together by all."""
        parts = [(micro, 1.0) for micro in self.net.split(ranks.share(rows), self.batch)]
        lacking = ranks.most(len(parts), self.device) - len(parts) if self.apart else 0
        return parts + [([min(rows, key=lambda e: len(e.ids))], 0.0)] * lacking

    def watch(self, step: int, rows: list[Any], loss: float, norm: float) -> None:
        """Raise Failed when the loss or its gradient is no number, or the loss explodes."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            found = rows if math.isfinite(loss) else guard.guilty(rows, self.objective.loss_sum)
            why = f"the loss is no number any more (loss {loss}, gradient norm {norm})"
            raise guard.broken(why, step + 1, found, step - 1, self.job)
        losses = [*(line["loss"] for line in self.metrics), loss]
        if guard.exploding(losses):
            why = f"the loss explodes (it was {losses[0]:.3g}, and is {loss:.3g})"
            raise guard.broken(why, step + 1, rows, step - guard.WINDOW, self.job)

    # -- held out ------------------------------------------------------------------------------------------------------

    def look(self, step: int) -> None:
        """The loss of the held-out items, without dropout or noise."""
        self.model.eval()
        with torch.no_grad():
            parts = [self.objective.loss_sum(part) * n for part, n in self.micros(list(self.heldout.items))]
        self.model.train()
        total = torch.stack(parts).sum() if parts else torch.zeros((), device=self.device)
        loss = round(float(ranks.total(total)) / self.objective.weight(self.heldout.items), 6)
        self.heldout.look(step, loss, self.trainable)
        self.metrics[-1]["heldout_loss"] = loss

    def choose(self) -> None:
        """Take the adapter that was best on the held-out rows."""
        step, loss = self.heldout.best
        self.heldout.restore(self.trainable)
        early = f"stopped after step {len(self.metrics)} of {self.total}; " if len(self.metrics) < self.total else ""
        protocol.emit("note", text=f"{early}keeping step {step}, whose held-out loss of {loss:.4g} is the best")

    # -- telling, keeping ----------------------------------------------------------------------------------------------

    def tell(self, done: int, seconds: float) -> None:
        """Progress: loss, real tokens per second, memory. Who shows it adds the time left."""
        speed, memory = self.tokens / max(seconds, 1e-9), models.peak_memory(self.device) / 1e9
        line = self.metrics[-1]
        held = f"  held-out {line['heldout_loss']:.3f}" if "heldout_loss" in line else ""
        note = f"loss {line['loss']:.3f}{held}  {speed:.0f} tok/s  {memory:.1f} GB"
        protocol.progress("tune", done, self.total, "step", note)

    def measured(self, rows: list[Any], seconds: float) -> None:
        """Say what one real step took, for the plans of later runs."""
        tokens = sum(len(e.ids) for e in rows)
        protocol.emit(
            "measured", mode=self.net.plan.checkpointing, tokens=tokens, seconds=round(seconds, 4),
            length=round(tokens / len(rows)), memory=models.peak_memory(self.device),
        )  # fmt: skip

    def save(self, step: int) -> None:
        """Write a checkpoint: the first process does, with the generators of all."""
        tensors = {f"adapter.{n}": p for n, p in self.trainable.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        tensors |= self.heldout.tensors()
        if hasattr(self.objective, REFERENCES):
            tensors[REFERENCES] = self.objective.references
        mine = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(self.device)
        for rank, states in enumerate(ranks.gathered(mine)):
            tensors |= {f"random.{rank}.{name}": value for name, value in states.items()}
        state = {"step": step, "metrics": self.metrics, "fingerprint": self.fingerprint, "heldout": self.heldout.seen}
        if ranks.mine() == 0:
            checkpoints.save(Path(self.job["checkpoints"]), tensors, state)

    def seed(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Go on with the random numbers of a checkpoint; with others, where that was of fewer processes."""
        mine = f"random.{ranks.mine()}"
        if f"{mine}.cpu" not in tensors:
            torch.manual_seed(self.job["seed"] + (step << 20) + ranks.mine())
            return
        torch.set_rng_state(tensors[f"{mine}.cpu"])
        if self.device.type == "cuda" and f"{mine}.cuda" in tensors:
            torch.cuda.set_rng_state(tensors[f"{mine}.cuda"], self.device)

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
        self.seed(tensors, int(state["step"]))
        self.heldout.resume(tensors, state["heldout"])
        if REFERENCES in tensors:
            self.objective.references = tensors[REFERENCES]
        self.metrics = state["metrics"]
        protocol.emit("note", text=f"going on from the checkpoint of step {state['step']}")
        return int(state["step"])
