"""Training speed of hyb's worker against a plain transformers Trainer: same model, same rows, same LoRA, same machine.

    python bench/tune.py [--model FOLDER] [--rows 64] [--turns 2] [--quantize nf4|none]

Both train rank 16 on all linear layers, batch 8, one epoch over the first rows of the quickstart's data, and both pad a
batch to its longest row. hyb puts rows of like length together and applies the head to the answers' tokens only. The
speed is real tokens (no pad counted) by the seconds of the training loop alone. The two run in turn, each in a process
of its own. A run whose loss does not fall, or whose gradient is zero, fails: a fast loop that learns nothing is no
result. Without `--model` the model is random, of SmolLM2-135M's shape (30 layers, vocabulary 49,152).
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

from hyb import engine

ROOT = Path(__file__).parents[1]
DATA = ROOT / "recipes" / "quickstart" / "data" / "facts.jsonl"
RANK, BATCH, LR = 16, 8, 1e-3


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
    """The worker's job."""
    return {
        "model": str(model), "train": str(folder / "train.jsonl"), "out": str(folder / "out"), "name": "bench",
        "checkpoints": str(folder / "checkpoints"), "quantize": quantize, "rank": RANK, "alpha": 32.0, "dropout": 0.0,
        "targets": "all-linear", "rslora": False, "lr": LR, "warmup": 0.1, "epochs": 1.0, "batch": BATCH,
        "grad_accum": 1, "max_length": 512, "long": "error", "think": "", "seed": 0, "gradient_checkpointing": "none",
        "group_by_length": True, "device": "auto", "checkpoint_seconds": 1e9, "checkpoint_steps": 0,
    }  # fmt: skip


def ours(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run of hyb's worker, in a child process."""
    from hyb import engine

    done = engine.worker("sft", settings, folder, lambda _event: None)
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return {
        "tokens": done["tokens"], "seconds": done["seconds"], "peak": done["peak_memory"],
        "losses": [x["loss"] for x in lines], "norms": [x["grad_norm"] for x in lines],
    }  # fmt: skip


def theirs(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run of the Trainer, in a child process (`peer` below)."""
    path = folder / "peer.json"
    path.write_text(json.dumps(settings))
    env = {**os.environ, **engine.openmp(os.environ), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, __file__, "--peer", str(path)], env=env, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode()[-3000:])
    return json.loads(path.with_suffix(".out").read_text())  # type: ignore[no-any-return]


def peer(path: Path) -> None:
    """The Trainer's side: model, rows and LoRA as in hyb's worker, everything else transformers' own."""
    import torch
    import transformers
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    from hyb.workers import labels, lora, models

    settings = json.loads(path.read_text())
    device = models.pick_device()
    tokenizer = models.load_tokenizer(settings["model"])
    model = models.load_causal_lm(settings["model"], quantize=settings["quantize"], device=device)
    rows = [json.loads(line) for line in Path(settings["train"]).read_text().splitlines()]
    encoder = labels.Encoder(tokenizer, models.stop_ids(model, tokenizer))
    found = labels.encode(rows, encoder, max_length=512, long="error").examples
    transformers.set_seed(0)
    model, _ = lora.add_lora(model, settings)
    clock: dict[str, float] = {}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock["begin"] = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            clock["end"] = time.perf_counter()

    arguments = TrainingArguments(
        output_dir=str(path.parent / "peer"), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LR,
        lr_scheduler_type="linear", logging_steps=1, save_strategy="no", report_to="none", seed=0, disable_tqdm=True,
        use_cpu=device.type == "cpu", bf16=device.type == "cuda", dataloader_pin_memory=False, weight_decay=0.0,
        remove_unused_columns=False,
    )  # fmt: skip
    data = [{"input_ids": list(e.ids), "attention_mask": [1] * len(e.ids), "labels": list(e.labels)} for e in found]
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, callbacks=[Clock()],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )  # fmt: skip
    torch.set_num_threads(models.usable_cores())
    trainer.train()
    logs = [x for x in trainer.state.log_history if "grad_norm" in x]
    result = {
        "tokens": sum(len(e.ids) for e in found), "seconds": clock["end"] - clock["begin"],
        "peak": models.peak_memory(device), "losses": [x["loss"] for x in logs],
        "norms": [float(x["grad_norm"]) for x in logs],
    }  # fmt: skip
    path.with_suffix(".out").write_text(json.dumps(result))


def learnt(who: str, result: dict[str, Any]) -> dict[str, Any]:
    """The result, when it is one. Raises SystemExit for a loop that learnt nothing."""
    first, last = sum(result["losses"][:3]) / 3, sum(result["losses"][-3:]) / 3
    if not last < first or not all(norm > 0 for norm in result["norms"]):
        raise SystemExit(f"{who} learnt nothing: loss {first:.3f} to {last:.3f}, least gradient {min(result['norms'])}")
    return {**result, "speed": result["tokens"] / result["seconds"], "first": first, "last": last}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--quantize", default="nf4", choices=["nf4", "none"])
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
        found: dict[str, list[dict[str, Any]]] = {"hyb": [], "transformers Trainer": []}
        for turn in range(options.turns):
            runs = {"hyb": ours, "transformers Trainer": theirs}
            for who in runs if turn % 2 == 0 else reversed(runs):  # in turn, so that neither always goes first
                found[who].append(learnt(who, runs[who](settings, folder)))
    base = median([r["speed"] for r in found["transformers Trainer"]])
    table = []
    for who, results in found.items():
        speed = median([r["speed"] for r in results])
        table.append({
            "loop": who, "tokens/s": round(speed, 1), "ratio": speed / base, "peak GB": results[0]["peak"] / 1e9,
            "loss first": results[0]["first"], "loss last": results[0]["last"], "steps": len(results[0]["losses"]),
        })  # fmt: skip
    which = options.model.name if options.model else "random, SmolLM2-135M's shape"
    report("tune", f"tune, {options.quantize}, {which}: real tokens per second of training", table)
    return None


if __name__ == "__main__":
    main()
