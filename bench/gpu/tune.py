"""QLoRA on one GPU against its limit and its peers: DeepSeek-R1-Distill-Qwen-1.5B's shape, random weights, one script.

    python bench/gpu/tune.py [--wheels FOLDER] [--tokens 16384] [--length 1024] [--steps 8] [--only NAME;…] [--out FILE]
    python bench/gpu/tune.py --tiny        two small layers on the CPU: that it still runs; its figures say nothing

No download: the model is made here. What the machine lacks lies in FOLDER as wheels (`pip download --no-deps
bitsandbytes peft liger-kernel trl`, transformers where it is older than 5.23, and what TRL needs: datasets, dill,
multiprocess, xxhash, pyarrow, pandas); pure or not, they are unpacked and put first on the path. Each row of the table
is a process of its own:

- hyb with every lever on, and with each of them off (or on, where it is off by default); with selective and full
  checkpointing, and once more in 8k tokens with full checkpointing for the memory that it needs at least;
- peft + transformers Trainer, TRL packed, Unsloth (where they can be imported), as they are usually set up.

Speed is real tokens by the seconds between synchronised steps, the first two left out. The limit is that of the frozen
base's arithmetic, nothing computed twice, at the speed of a large matrix product that is measured in the same run:

    F = 4 N + 6 P + 3.5 A + 4 f H per token      N, P, H parameters of linear layers, LoRA, head; f learnt tokens' share
    A = layers · 4 · heads · d · L / 2           causal attention over rows of L tokens

A loop whose gradient is zero or whose loss does not fall is no result. One that can't be run or learns nothing is told
as such and the others go on; --out is written anew after each, with what it gave or why it gave nothing. At the end a
row of hyb's without a result is a failure (but for whole logits, which may not fit, and compilation, which needs a
compiler), as is a peer that learnt nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHAPE = {
    "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 131072,
    "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip
TINY = SHAPE | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
HYB: dict[str, dict[str, Any]] = {
    "hyb": {},
    "hyb, no fused LoRA": {"fused": False},
    "hyb, no kernels": {"kernels": False},
    "hyb, whole logits": {"chunked": False},
    "hyb, SDPA by groups": {"varlen": False},
    "hyb, weights dequantised each pass": {"resident": False},
    "hyb, padded": {"pack": 0},
    "hyb, compiled": {"compile": True},
    "hyb, selective checkpointing": {"mode": "selective"},
    "hyb, full checkpointing": {"mode": "full"},
    "hyb, 8k tokens, full checkpointing": {"mode": "full", "resident": False, "tokens": 8192},
}
PEERS = ("peft + Trainer", "TRL, packed", "Unsloth")
WARM = 2  # steps that are not counted
RANK, LR, WORDS = 16, 1e-3, 512  # the rows are drawn from so many words, so that there is something to learn


def rows(count: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Token ids, some words far more frequent than others."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    words = min(WORDS, vocabulary)
    chance = 1 / torch.arange(1, words + 1)
    return torch.multinomial(chance, count * length, replacement=True, generator=generator).view(count, length).tolist()  # type: ignore[no-any-return]


def make_model(folder: Path, shape: dict[str, Any], device: str) -> None:
    """A random model as a folder, bfloat16."""
    import torch
    import transformers

    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen2Config(**shape), dtype=torch.bfloat16)
    model.save_pretrained(folder)


def flops(shape: dict[str, Any], length: int, share: float) -> float:
    """Operations that a token costs at least: F above."""
    h, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    keys = h // shape["num_attention_heads"] * shape["num_key_value_heads"]
    linear = layers * (2 * h * h + 2 * h * keys + 3 * h * inner)
    lora = layers * RANK * (2 * (h + h) + 2 * (h + keys) + 3 * (h + inner))
    attention = layers * 4 * h * length / 2
    return 4 * linear + 6 * lora + 3.5 * attention + 4 * share * shape["vocab_size"] * h


def gemm(device: str, size: int) -> float:
    """Operations per second of a square matrix product, the best of several."""
    import torch

    kind = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait(device)
        begun = time.perf_counter()
        for _ in range(5):
            a @ b
        wait(device)
        best = min(best, (time.perf_counter() - begun) / 5)
    return 2 * size**3 / best


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def free(device: str) -> None:
    """Give back the memory that torch holds and does not use."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()


def result(
    tokens: int, clock: list[float], losses: list[float], norms: list[float], peak: int, **more: Any
) -> dict[str, Any]:
    """One loop's figures; `clock`: seconds at the end of each step, `tokens` those of a step."""
    steps = len(clock) - WARM
    return {
        "tokens_per_second": tokens * steps / (clock[-1] - clock[WARM - 1]), "peak": peak,
        "losses": losses, "norms": norms, **more,
    }  # fmt: skip


def hyb(settings: dict[str, Any]) -> dict[str, Any]:
    """hyb's own loop over `Net`, as `hyb.workers.training` has it, without what a run needs besides."""
    import torch

    from hyb.formats.memory import Plan
    from hyb.workers import batches, lora, models
    from hyb.workers.labels import Example
    from hyb.workers.net import Net, Speed

    levers = dict(settings["levers"])
    tokens, length, device = levers.pop("tokens", settings["tokens"]), settings["length"], settings["device"]
    plan = Plan(levers.pop("pack", tokens), levers.pop("mode", "none"), levers.get("resident", True))
    if not levers.get("fused", True):
        plan = Plan(plan.pack, plan.checkpointing, False)
    models.make_deterministic(0)
    if device == "cuda":
        torch.use_deterministic_algorithms(False)  # speed is asked for here, as of the others
    place = models.pick_device(device)
    model = models.load_causal_lm(settings["model"], quantize="nf4", device=place)
    adapter = {"targets": "all-linear", "rank": RANK, "alpha": 32, "dropout": 0.0, "rslora": False, "dora": False}
    model, _ = lora.add_lora(model, adapter)
    net = Net(model, place, Speed(**levers), plan)
    found = rows(tokens // length * settings["steps"], length, model.config.vocab_size, 1)
    examples = [Example(tuple(r), tuple(r), str(i)) for i, r in enumerate(found)]
    installed = net.install(examples)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0, fused=True)
    clock, losses, norms = [], [], []
    for step in range(settings["steps"]):
        own = examples[step * (tokens // length) : (step + 1) * (tokens // length)]
        total = torch.zeros((), device=place)
        for part in net.split(own, max(1, len(own) // 4)):
            loss = net.total(part) / batches.labelled(own)
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(total))
        norms.append(float(norm))
        wait(device)
        clock.append(time.perf_counter())
    return result(tokens, clock, losses, norms, models.peak_memory(place), installed=installed)


def peer(settings: dict[str, Any]) -> dict[str, Any]:
    """One of the others, in the way of its own documentation: bfloat16, rank 16 on all linear layers, NF4."""
    if settings["who"] == "Unsloth":
        import unsloth  # noqa: F401  (first of all: it changes what is imported after it)

    import torch
    import transformers
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from hyb.workers import lora, models

    device, length, tokens = settings["device"], settings["length"], settings["tokens"]
    place = models.pick_device(device)
    if settings["who"] == "Unsloth":
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(settings["model"], max_seq_length=length, load_in_4bit=True)
        model = FastLanguageModel.get_peft_model(model, r=RANK, lora_alpha=32, lora_dropout=0, bias="none")
    else:
        model = models.load_causal_lm(settings["model"], quantize="nf4", device=place)
        adapter = {"targets": "all-linear", "rank": RANK, "alpha": 32, "dropout": 0.0, "rslora": False, "dora": False}
        model, _ = lora.add_lora(model, adapter)
    step = tokens // length
    data = [{"input_ids": r, "labels": r} for r in rows(step * settings["steps"], length, model.config.vocab_size, 1)]
    clock: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(device)
            clock.append(time.perf_counter())

    small = max(1, step // 4)  # rows at once: whole logits of all would not fit
    shared: dict[str, Any] = {
        "output_dir": str(Path(settings["model"]).parent / "peer"), "per_device_train_batch_size": small,
        "gradient_accumulation_steps": -(-step // small), "max_steps": settings["steps"], "learning_rate": LR,
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 0,
        "disable_tqdm": True, "use_cpu": device == "cpu", "bf16": device == "cuda", "weight_decay": 0.0,
    }  # fmt: skip
    if settings["who"] == "TRL, packed":
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        packed = {"packing": True, "max_length": length, "gradient_checkpointing": False}
        trainer = SFTTrainer(model=model, args=SFTConfig(**shared, **packed), train_dataset=Dataset.from_list(data))
    else:
        full = [{**r, "attention_mask": [1] * length} for r in data]

        class Pad:
            """What the collator asks of a tokenizer, for rows that are all of one length."""

            padding_side = "right"

            def pad(self, features: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
                return {k: torch.tensor([f[k] for f in features]) for k in features[0]}

        trainer = Trainer(
            model=model, args=TrainingArguments(**shared, remove_unused_columns=False), train_dataset=full,
            data_collator=DataCollatorForSeq2Seq(Pad(), padding=True),
        )  # fmt: skip
    trainer.add_callback(Clock())
    trainer.train()
    logs = [x for x in trainer.state.log_history if "grad_norm" in x]
    losses, norms = [x["loss"] for x in logs], [float(x["grad_norm"]) for x in logs]
    return result(step * length, clock, losses, norms, models.peak_memory(place))


def apart(settings: dict[str, Any], folder: Path, wheels: Path | None) -> dict[str, Any]:
    """A loop in a process of its own; {"skipped": why} where it can't be run."""
    path = folder / "one.json"
    path.write_text(json.dumps(settings))
    where = [str(wheels)] if wheels else []
    env = {
        **os.environ, "PYTHONPATH": os.pathsep.join([*where, str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    command = [sys.executable, __file__, "--one", str(path)]
    try:
        done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=settings["limit"])
    except subprocess.TimeoutExpired:
        return {"skipped": f"not done after {settings['limit']} s"}
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        return {"skipped": lines[-1][:200], "error": lines[-30:]}
    return json.loads(path.with_suffix(".out").read_text())  # type: ignore[no-any-return]


def wrong(who: str, found: dict[str, Any]) -> str:
    """Why a row makes the whole run fail; "" when it does not."""
    if "skipped" in found:
        may = not who.startswith("hyb") or who in ("hyb, whole logits", "hyb, compiled")
        return "" if may else f"{who}: {found['skipped']}"
    losses, norms = found["losses"], found["norms"]
    third = max(1, len(losses) // 3)
    learnt = all(n > 0 for n in norms) and sum(losses[-third:]) < sum(losses[:third])
    return "" if learnt else f"{who} learnt nothing: losses {losses}, gradient norms {norms}"


def unpack(folder: Path | None, into: Path) -> Path | None:
    """The wheels of `folder` as a folder for the path."""
    if folder is None:
        return None
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    return into


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", default="", help="names of rows, with semicolons")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a row may take")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        settings = json.loads(options.one.read_text())
        loop = hyb if settings["who"].startswith("hyb") else peer
        options.one.with_suffix(".out").write_text(json.dumps(loop(settings)))
        return
    sys.path.insert(0, str(ROOT))
    tokens, length, shape = options.tokens, options.length, SHAPE
    if options.tiny:
        tokens, length, shape = 128, 32, TINY
    device = "cpu" if options.tiny else "cuda"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels = unpack(options.wheels, folder / "wheels")
        sys.path[:0] = [str(wheels)] if wheels else []
        make_model(folder / "model", shape, device)
        limit = gemm(device, 256 if options.tiny else 8192)
        free(device)  # the rows have the GPU to themselves
        common = {"model": str(folder / "model"), "device": device, "tokens": tokens, "length": length}
        common |= {"steps": options.steps, "limit": options.limit}

        def run(who: str) -> dict[str, Any]:
            settings = {**common, "who": who, "levers": dict(HYB.get(who, {}))}
            if options.tiny and who.startswith("hyb"):  # one process: torch is imported once
                settings["levers"].pop("tokens", None)
                return hyb(settings)
            return apart(settings, folder, wheels)

        wanted = [n for n in (*HYB, *PEERS) if not options.only or n in options.only.split(";")]
        if options.tiny:
            wanted = [n for n in wanted if n not in ("hyb, compiled", "TRL, packed", "Unsloth")]
        show(wanted, run, shape, length, limit, options.out)


def show(
    names: list[str], run: Callable[[str], dict[str, Any]], shape: dict[str, Any], length: int, limit: float,
    out: Path | None,
) -> None:  # fmt: skip
    """Run them one after the other, print and keep each. Raises SystemExit when some are no result."""
    need = flops(shape, length, 1.0)
    print(
        f"matrix product {limit / 1e12:.1f} TFLOP/s; {need / 1e9:.2f} GFLOP a token; limit {limit / need:.0f} tokens/s"
    )
    kept, failed = [], []
    for name in names:
        found = run(name)
        if why := wrong(name, found):
            failed.append(why)
        if "skipped" in found:
            print(f"{name:40} skipped: {found['skipped']}", flush=True)
        else:
            speed = found["tokens_per_second"]
            share, first, last = 100 * speed * need / limit, found["losses"][0], found["losses"][-1]
            memory = found["peak"] / 1e9
            print(f"{name:40} {speed:9.0f} tokens/s {share:5.1f} % {memory:6.2f} GB  loss {first:.2f} to {last:.2f}")
            sys.stdout.flush()
        kept.append({"loop": name, **found})
        if out:
            out.write_text(json.dumps({"limit": limit, "flops": need, "rows": kept}, indent=1) + "\n")
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
