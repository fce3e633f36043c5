"""The trained part of a model: LoRA layers put on, their gradients watched, and written as plain PEFT reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file

from hyb.workers.protocol import Failed


def add_lora(model: Any, job: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model with fresh LoRA layers, everything else frozen, and the names of the modules that got one."""
    targets = target_modules(model, job["targets"])
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=job["rank"], lora_alpha=job["alpha"], lora_dropout=job["dropout"], bias="none",
        target_modules=targets, use_rslora=job["rslora"], use_dora=job.get("dora", False),
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return peft.get_peft_model(model, config), targets


def target_modules(model: Any, wanted: str | list[str]) -> list[str]:
    """Names of linear layers to adapt: `all-linear` means all but the head. Raises Failed naming what exists."""
    head = model.get_output_embeddings()
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    names = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if not names:
        raise Failed(
            "the model has no linear layer that LoRA could be put on",
            hint="GPT-2 and its like keep their weights in another form; take a model of the Llama or Qwen kind",
        )
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
    write(out / "adapter_config.json", text.encode() + b"\n")


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


def write(path: Path, data: bytes) -> None:
    """Write a file that anyone may read."""
    path.write_bytes(data)
    path.chmod(0o644)


def _plain(value: Any) -> Any:
    """JSON for what PEFT keeps as sets and enums."""
    return sorted(value) if isinstance(value, (set, frozenset)) else getattr(value, "value", str(value))
