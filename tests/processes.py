"""What the tests ask of several processes, in one go, since each start of them takes seconds: a program for torchrun.

    torchrun --standalone --nproc-per-node=2 -m tests.processes MODEL FOLDER

Each of CASES is a base split among the processes against the same one whole, levers on as a run has them; the first
process writes FOLDER/cases.json: per case the bytes that are elsewhere, and how far losses and gradients are apart.
And each FOLDER/NAME/job.json is run by `hyb.workers.sft`, its result written to FOLDER/NAME/result.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "nf4": {},
    "nf4, selective": {"mode": "selective"},
    "nf4, full": {"mode": "full"},
    "nf4, peft's layers, full": {"fused": False, "mode": "full"},
    "nf4, DoRA": {"dora": True, "fused": False},
    "float32": {"quantize": "none"},
    "float32, padded, full": {"quantize": "none", "pack": 0, "mode": "full"},
}


def computed(base: Path, case: dict[str, Any], apart: bool) -> tuple[dict[str, int], Any, Any]:
    """Bytes of the layers' weights, the losses of the rows, and the gradient of their sum.

    Bytes: `weights` of the whole layers, `away` that are elsewhere, `held` in 4 bits in this process.
    """
    import torch

    from hyb.formats import memory
    from hyb.workers import lora, models, net, shards
    from tests.e2e.test_tune_speed import examples

    cpu = torch.device("cpu")
    torch.manual_seed(1)
    model = models.load_causal_lm(base, quantize=case.get("quantize", "nf4"), device=cpu)
    job = {"targets": "all-linear", "rank": 4, "alpha": 8, "dropout": 0.0, "rslora": False}
    model, _ = lora.add_lora(model, {**job, "dora": case.get("dora", False)})
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.05
    layers = model.get_base_model().get_decoder().layers
    sizes = {"weights": sum(p.nbytes for p in layers.parameters() if p.ndim > 1 and not p.requires_grad)}
    sizes["away"] = shards.split(model, cpu) if apart else 0
    plan = memory.Plan(case.get("pack", 100), case.get("mode", "none"), resident=False)
    made = net.Net(model, cpu, net.Speed(fused=case.get("fused", True)), plan)
    rows = examples(base)
    installed = made.install(rows)
    assert bool(installed["layers"]) == case.get("fused", True)
    assert installed["rotation"]
    model.train()
    losses = []
    for part in made.split(rows, batch=4):
        values = made.losses(part)[0]
        values.sum().backward()
        losses.append(values.detach())
    sizes["held"] = four_bit()
    return sizes, torch.cat(losses), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def four_bit() -> int:
    """Bytes of all 4-bit weights, and of the 8-bit scales of theirs, that live in this process, whoever holds them."""
    import gc

    import torch

    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.dtype == torch.uint8]
    plain = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in plain}.values())


def cases(base: Path) -> dict[str, dict[str, float]]:
    """What became of each case. On the CPU what is computed again changes no bit: such cases share the whole one."""
    wholes: dict[str, Any] = {}
    found = {}
    for name, case in CASES.items():
        key = json.dumps({k: v for k, v in case.items() if k != "mode"})
        if key not in wholes:
            wholes[key] = computed(base, {**case, "mode": "none"}, apart=False)[1:]
        sizes, *apart = computed(base, case, apart=True)
        off = [float((a - w).norm() / w.norm()) for a, w in zip(apart, wholes[key], strict=True)]
        found[name] = {**sizes, "loss": off[0], "gradient": off[1], "norm": float(wholes[key][1].norm())}
    return found


def main(base: Path, folder: Path) -> None:
    """All cases, and all jobs."""
    import torch

    from hyb.workers import ranks, sft

    ranks.start(torch.device("cpu"))
    stop, ranks.stop = ranks.stop, lambda: None  # a job parts from the others, and the next one is still to come
    found = cases(base)
    done = {path.parent: sft.work(json.loads(path.read_text())) for path in sorted(folder.glob("*/job.json"))}
    if ranks.mine() == 0:
        (folder / "cases.json").write_text(json.dumps(found))
        for its, result in done.items():
            (its / "result.json").write_text(json.dumps(result))
    stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
