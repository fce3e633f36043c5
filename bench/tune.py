"""Training speed of hyb's tuner against a plain transformers Trainer and TRL's SFTTrainer, on one machine in turn.

    python bench/tune.py [--model FOLDER] [--rows 64] [--turns 2] [--quantize nf4|none] [--trl PYTHON]

Same model, rows, LoRA (rank 16 on all linear layers), optimizer and rows to a step (8) for all; one epoch over the
first rows of the quickstart's data. The Trainer shuffles rows and pads a batch to its longest; TRL runs once with its
defaults and once with `packing=True` and as many tokens to a step. hyb runs with what `speed` has by default, and once
with nothing shared between rows that begin alike. Real tokens count: no pad, and a shared token as often as rows have
it. `CPU ms` is the processor's time for a token: on a machine that others use it moves less than the clock.

A run whose loss does not fall or whose gradient is zero is no result. And the losses must agree: once the Trainer is
given hyb's rows in hyb's order with its learning rates, and each step's loss must be the same within 2 %.

TRL is no dependency of hyb. `--trl` names the Python of an environment that has it beside hyb's packages:

    python -m venv trl
    python -c 'import site; print(site.getsitepackages()[0])' > "$(echo trl/lib/python3.*/site-packages)/hyb.pth"
    trl/bin/python -m pip install trl

Without `--model` the model is random, of SmolLM2-135M's shape (30 layers, vocabulary 49,152).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import median, report

ROOT = Path(__file__).parents[1]
DATA = ROOT / "recipes" / "quickstart" / "data" / "facts.jsonl"
RANK, BATCH, LR, WARMUP = 16, 8, 1e-3, 0.1
HYB = {"hyb": {}, "hyb, nothing shared": {"share": False}}
PEERS = {"transformers Trainer": "plain", "TRL SFTTrainer": "trl", "TRL SFTTrainer, packing": "trl-packed"}


def random_model(folder: Path, texts: list[str]) -> Path:
    """A random model of SmolLM2-135M's shape; its tokenizer is trained on `texts`."""
    sys.path.insert(0, str(ROOT))
    import torch
    import transformers

    from tests.tiny import tiny_model

    tiny_model(folder, "llama", vocab=2048, texts=tuple(texts))  # for its tokenizer
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
        eos_token_id=json.loads((folder / "config.json").read_text())["eos_token_id"],
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def job(model: Path, folder: Path, quantize: str) -> dict[str, Any]:
    """The worker's job: the recipe's defaults but for these."""
    from hyb.stages import tune

    spec = tune.Spec.model_validate({
        "model": "base", "data": "rows", "quantize": quantize, "rank": RANK, "alpha": 32, "lr": LR, "warmup": WARMUP,
        "epochs": 1, "batch": BATCH, "max_length": 512,
    })  # fmt: skip
    return {
        **spec.model_dump(exclude={"stage", "model", "data"}), "model": str(model), "name": "bench",
        "train": str(folder / "train.jsonl"), "out": str(folder / "out"), "checkpoints": str(folder / "checkpoints"),
        "checkpoint_seconds": 1e9, "checkpoint_steps": 0, "heldout": "",
    }  # fmt: skip


def ours(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run of hyb's worker, in a child process."""
    from hyb import engine

    done = engine.worker("sft", settings, folder, lambda _event: None)
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return {
        "tokens": done["tokens"], "seconds": done["seconds"], "cpu": done["cpu_seconds"], "peak": done["peak_memory"],
        "losses": [x["loss"] for x in lines], "norms": [x["grad_norm"] for x in lines],
    }  # fmt: skip


def theirs(settings: dict[str, Any], folder: Path, who: str, python: str = sys.executable) -> dict[str, Any]:
    """One run of another trainer, in a child process (`peer` below)."""
    from hyb import engine

    path = folder / "peer.json"
    path.write_text(json.dumps({**settings, "who": who}))
    env = {**os.environ, **engine.openmp(os.environ), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), env.get("PYTHONPATH", "")) if p)
    done = subprocess.run([python, __file__, "--peer", str(path)], env=env, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode()[-3000:])
    return json.loads(path.with_suffix(".out").read_text())  # type: ignore[no-any-return]


def peer(path: Path) -> None:
    """The other side: model, rows and LoRA as in hyb's worker, everything else the trainer's own."""
    import torch
    from transformers import TrainerCallback

    from hyb.workers import batches, labels, lora, models

    settings = json.loads(path.read_text())
    who, device = settings["who"], models.pick_device()
    models.make_deterministic(0)
    tokenizer = models.load_tokenizer(settings["model"])
    model = models.load_causal_lm(settings["model"], quantize=settings["quantize"], device=device)
    rows = [json.loads(line) for line in Path(settings["train"]).read_text().splitlines()]
    encoder = labels.Encoder(tokenizer, models.stop_ids(model, tokenizer))
    found = labels.encode(rows, encoder, max_length=512, long="error").examples
    model, _ = lora.add_lora(model, {"dora": False, **settings})
    if who == "agree":
        found = tuple(e for step in batches.steps(found, BATCH, 0, settings["group_by_length"]) for e in step)
    clock: dict[str, float] = {}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.update(begin=time.perf_counter(), burnt=time.process_time())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            clock.update(seconds=time.perf_counter() - clock["begin"], cpu=time.process_time() - clock["burnt"])

    data = [{"input_ids": list(e.ids), "labels": list(e.labels)} for e in found]
    trainer = make_trainer(who, path.parent / "peer", model, tokenizer, data, device)
    trainer.add_callback(Clock())
    torch.set_num_threads(models.usable_cores())
    trainer.train()
    logs = [x for x in trainer.state.log_history if "grad_norm" in x]
    result = {
        "tokens": sum(len(e.ids) for e in found), "seconds": clock["seconds"], "cpu": clock["cpu"],
        "peak": models.peak_memory(device), "losses": [x["loss"] for x in logs],
        "norms": [float(x["grad_norm"]) for x in logs],
    }  # fmt: skip
    path.with_suffix(".out").write_text(json.dumps(result))


def make_trainer(who: str, out: Path, model: Any, tokenizer: Any, data: list[dict[str, Any]], device: Any) -> Any:
    """The trainer of that name. A packed step has as many tokens as 8 rows have on average."""
    import torch
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from hyb.workers import schedule

    shared: dict[str, Any] = {
        "output_dir": str(out), "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "learning_rate": LR,
        "lr_scheduler_type": "linear", "warmup_steps": WARMUP, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "seed": 0, "disable_tqdm": True, "use_cpu": device.type == "cpu",
        "bf16": device.type == "cuda", "dataloader_pin_memory": False, "weight_decay": 0.0,
    }  # fmt: skip
    if who.startswith("trl"):
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        if who == "trl-packed":
            tokens = BATCH * -(-sum(len(r["input_ids"]) for r in data) // len(data))
            shared |= {"packing": True, "max_length": tokens, "per_device_train_batch_size": 1}
        return SFTTrainer(
            model=model, args=SFTConfig(**shared), train_dataset=Dataset.from_list(data), processing_class=tokenizer
        )

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

    kind, optimizers = Trainer, (None, None)
    if who == "agree":
        total = -(-len(data) // BATCH)
        kind = InOrder
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.0)
        optimizers = (
            optimizer,
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: schedule.learning_rate(min(step, total - 1), total, 1.0, WARMUP)
            ),
        )
    rows = [{**r, "attention_mask": [1] * len(r["input_ids"])} for r in data]
    return kind(
        model=model, args=TrainingArguments(**shared, remove_unused_columns=False), train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True), optimizers=optimizers,
    )  # fmt: skip


def learnt(who: str, result: dict[str, Any]) -> dict[str, Any]:
    """The result, when it is one. Raises SystemExit for a loop that learnt nothing."""
    first, last = sum(result["losses"][:3]) / 3, sum(result["losses"][-3:]) / 3
    if not last < first or not all(norm > 0 for norm in result["norms"]):
        raise SystemExit(f"{who} learnt nothing: loss {first:.3f} to {last:.3f}, least gradient {min(result['norms'])}")
    return {**result, "speed": result["tokens"] / result["seconds"], "first": first, "last": last}


def agree(settings: dict[str, Any], folder: Path, losses: list[float]) -> float:
    """How far hyb's loss is from the Trainer's at the same step, at most, relatively. Raises SystemExit over 2 %."""
    right = theirs(settings, folder, "agree")["losses"]
    off = max(abs(a - b) / b for a, b in zip(losses, right, strict=True))
    if off > 0.02:
        raise SystemExit(f"the losses differ by {off:.1%}: {losses} and {right}")
    return off


def measured(settings: dict[str, Any], folder: Path, turns: int, trl: str) -> dict[str, list[dict[str, Any]]]:
    """All in turn, so that none always goes first."""
    runs: dict[str, Any] = {
        name: lambda speed=speed: ours({**settings, "speed": {**settings["speed"], **speed}}, folder)
        for name, speed in HYB.items()
    }
    for name, who in PEERS.items():
        if who == "plain" or trl:
            runs[name] = lambda who=who: theirs(settings, folder, who, trl if who != "plain" else sys.executable)
        else:
            print(f"{name}: skipped, no `--trl`")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for turn in range(turns):
        for who in runs if turn % 2 == 0 else reversed(runs):
            found[who].append(learnt(who, runs[who]()))
            last = found[who][-1]
            burnt = last["cpu"] / last["tokens"] * 1e3
            print(f"{who}: {last['speed']:.1f} tokens/s, {burnt:.2f} CPU ms, {last['peak'] / 1e9:.2f} GB", flush=True)
    return found


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--quantize", default="nf4", choices=["nf4", "none"])
    parser.add_argument("--trl", default="", help="the Python of an environment with TRL")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = DATA.read_text().splitlines()[: options.rows]
        (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
        model = options.model or random_model(folder / "model", lines)
        settings = job(model.resolve(), folder, options.quantize)
        found = measured(settings, folder, options.turns, options.trl)
        off = agree(settings, folder, found["hyb"][0]["losses"])
    base = found["transformers Trainer"]
    speed, burnt = median([r["speed"] for r in base]), median([r["cpu"] / r["tokens"] for r in base])
    table = []
    for who, results in found.items():
        own, cpu = median([r["speed"] for r in results]), median([r["cpu"] / r["tokens"] for r in results])
        table.append({
            "loop": who, "tokens/s": round(own, 1), "ratio": own / speed, "CPU ms/token": cpu * 1e3,
            "CPU ratio": burnt / cpu, "peak GB": max(r["peak"] for r in results) / 1e9,
            "loss first": results[0]["first"], "loss last": results[0]["last"], "steps": len(results[0]["losses"]),
        })  # fmt: skip
    which = options.model.name if options.model else "random, SmolLM2-135M's shape"
    report("tune", f"tune, {options.quantize}, {which}: real tokens per second of training", table)
    print(f"loss of each step within {off:.2%} of the Trainer's with the same rows")
    return None


if __name__ == "__main__":
    main()
