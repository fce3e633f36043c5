"""A base split among processes against the same one whole: a program for torchrun.

    torchrun --standalone --nproc-per-node=2 -m tests.sharded MODEL RESULT.json

Each case is computed twice by each process, whole and split, levers on as a run has them; the first process writes
what became of it: per case the bytes that are elsewhere, and how far losses and gradients are apart.
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
    """Bytes of the layers' weights, the losses of two passes over the rows, and the gradient of their sum.

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
    for _ in range(2):
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


def main(base: Path, result: Path) -> None:
    """All cases."""
    import torch

    from hyb.workers import ranks

    torch.set_num_threads(1)
    ranks.start(torch.device("cpu"))
    found = {}
    for name, case in CASES.items():
        _, *whole = computed(base, case, apart=False)
        sizes, *apart = computed(base, case, apart=True)
        off = [float((a - w).norm() / w.norm()) for a, w in zip(apart, whole, strict=True)]
        found[name] = {**sizes, "loss": off[0], "gradient": off[1], "norm": float(whole[1].norm())}
    if ranks.mine() == 0:
        result.write_text(json.dumps(found))
    ranks.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
