"""A walk through the chain for an ML engineer, in cells: `python examples/walkthrough.py MODEL DATA`.

It calls the same commands that one types; each prints one JSON document, so a notebook can go on with the result.
"""

# %% How hyb is called
from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def hyb(*arguments: str) -> Any:
    """One command, its JSON."""
    done = subprocess.run(["hyb", *arguments, "--json", "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"hyb {arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


MODEL, DATA = sys.argv[1:3] if len(sys.argv) > 2 else ("smollm2-135m", "recipes/quickstart/data/facts.jsonl")

# %% The data: what shape is it, how much is held out?
facts = hyb("data", DATA, "--holdout", "0.2", "--name", "walk-facts")["steps"][-1]
print("data:", facts["meta"]["counts"])

# %% What would a run cost here? Nothing is done yet.
plan = hyb("tune", MODEL, "--data", "walk-facts", "--name", "walk-bot", "--epochs", "1", "--dry-run")
print("plan:", [(s["name"], s["makes"]) for s in plan["steps"]])

# %% Tune: a LoRA adapter; interrupt it and run the cell again, it goes on from its last checkpoint
bot = hyb("tune", MODEL, "--data", "walk-facts", "--name", "walk-bot", "--epochs", "1")["steps"][-1]
print("adapter:", bot["meta"]["steps"], "steps, loss", bot["meta"]["loss"])

# %% Evaluate on what was held out
report = hyb("eval", "walk-bot", "--data", "walk-facts", "--name", "walk-report")["steps"][-1]
print("scores:", report["meta"]["scores"])

# %% Merge, measured against the live adapter; then one file for llama.cpp
merged = hyb("export", "walk-bot", "--format", "safetensors", "--name", "walk-merged")["steps"][-1]
print("divergence:", merged["meta"]["divergence"])
gguf = hyb("export", "walk-merged", "--format", "gguf", "--quantize", "q8_0", "--name", "walk-gguf")["steps"][-1]
print("gguf:", gguf["digest"])

# %% Where did it come from?
for entry in hyb("log")[:5]:
    print(entry["finished"], entry["stage"], entry["name"])
