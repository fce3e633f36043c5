"""Several processes that train one model: each computes a part of a step's rows, and all add up their gradients.

`torchrun` starts them and says who they are in the environment (RANK, WORLD_SIZE, LOCAL_RANK); alone, everything here
does nothing. The loss of a step is divided by the count of the whole step, so the sum of all parts' gradients is the
step's gradient, as that of one process: one all-reduce of the adapter's gradients a step, and no other bookkeeping.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def mine() -> int:
    """Which of them this one is, from 0; the first one talks and writes."""
    return int(os.environ.get("RANK", "0"))


def local() -> int:
    """Which one on this machine, and so which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def start(device: torch.device) -> None:
    """Meet the others. NCCL between GPUs, gloo between CPUs."""
    if count() > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device)
        else:
            dist.init_process_group("gloo")


def stop() -> None:
    """Part from the others."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def add(parameters: Iterable[torch.Tensor]) -> None:
    """Make each gradient the sum of all processes' gradients. One that a process lacks counts as zero there."""
    if count() == 1:
        return
    found = list(parameters)
    for p in found:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    gradients = [p.grad for p in found if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of all processes' values."""
    if count() > 1:
        dist.all_reduce(value)
    return value


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether it is so in some process: all then do the same."""
    if count() == 1:
        return flag
    found = torch.tensor(float(flag), device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def most(value: int, device: torch.device) -> int:
    """The largest of all processes' values."""
    return _of_all(value, device, dist.ReduceOp.MAX)


def least(value: int, device: torch.device) -> int:
    """The smallest of all processes' values."""
    return _of_all(value, device, dist.ReduceOp.MIN)


def _of_all(value: int, device: torch.device, how: Any) -> int:
    if count() == 1:
        return value
    found = torch.tensor(value, device=device)
    dist.all_reduce(found, op=how)
    return int(found)


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def share(items: list[Any]) -> list[Any]:
    """This process's part of a step's rows."""
    return items[mine() :: count()]
