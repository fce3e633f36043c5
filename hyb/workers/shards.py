"""A base model split among the processes, for one that does not fit each of them (`shard: true`): torch's FSDP2
(`torch.distributed.fsdp.fully_shard`), layer by layer.

What is split is what is large: the frozen weights of the linear layers, as they are kept, in 4 bits or not. A layer is
put together from all processes' parts when it is computed, forwards and backwards, and let go again; FSDP fetches the
next one meanwhile. The other things each process has whole:

- the adapter: it is a hundredth of the model. So the step is that of `hyb.workers.ranks`, the checkpoint one that any
  number of processes can go on from, and the first process writes the adapter as if it were alone;
- the scales of 4-bit weights (a 30th of their bytes), norms and biases;
- embeddings and head, which are needed whole, while they are used, and are used in every micro-step.

A layer is fetched by all processes together, so all must compute the same number of micro-steps: see
`hyb.workers.training.Run.micros`. The model is loaded into the host's memory and moved to the GPU layer by layer, so
that a GPU never holds more than its part and a layer or two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from hyb.workers import models
from hyb.workers.protocol import Failed


def split(model: Any, device: torch.device) -> int:
    """Split the base below `model`, which has its LoRA layers on and is in the host's memory, and move it to `device`.

    Returns the bytes that this process does not hold. Raises Failed: layers that we don't find, or no room.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    base = model.get_base_model()
    layers = getattr(base.get_decoder(), "layers", None)
    if not layers:
        raise Failed("the layers of this model are not found, so it can't be split", hint="leave `shard` out")
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    saved = 0
    for layer in layers:
        _move(layer, device)
        large, small = _sorted(layer)
        whole = sum(p.nbytes for p in large)
        for module in layer.modules():  # FSDP gives a layer a plain parameter, which knows nothing of its scales
            if state := getattr(getattr(module, "weight", None), "quant_state", None):
                module.quant_state = state
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=small)
        saved += whole - sum(p.to_local().nbytes for p in layer.parameters() if hasattr(p, "to_local"))
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) not in inside:
            module._apply(lambda t: t.to(device), recurse=False)
    root = base.get_decoder()  # so that a layer is fetched while the one before it is computed
    fully_shard(root, mesh=mesh, ignored_params=set(root.parameters()))
    return saved


def _move(layer: torch.nn.Module, device: torch.device) -> None:
    """Move a layer, whole, to where it is split. Raises Failed: this process's GPU has no room for it."""
    try:
        layer.to(device)
    except torch.cuda.OutOfMemoryError as error:
        raise Failed(
            f"the parts of the model that a process holds do not fit into the GPU's memory: {models.room(device)}",
            hint="take more GPUs, `quantize: nf4`, or end what else runs on them", alone=True,
        ) from error  # fmt: skip


def _sorted(layer: torch.nn.Module) -> tuple[set[torch.nn.Parameter], set[torch.nn.Parameter]]:
    """What of a layer is split, and what is not."""
    found = set(layer.parameters())
    large = {p for p in found if not p.requires_grad and p.ndim > 1}
    return large, found - large


def is_split(model: Any) -> bool:
    """Whether this process holds a part of the model alone."""
    return bool(_layers(model.get_base_model() if hasattr(model, "get_base_model") else model))


@contextlib.contextmanager
def _whole(layer: Any) -> Iterator[Any]:
    layer.unshard()
    try:
        yield layer
    finally:
        layer.reshard()


def each(model: Any) -> Iterator[Any]:
    """The parts of a model one by one, each of them whole as long as it is looked at: the model, or its layers."""
    layers = _layers(model)
    if not layers:
        yield model
    for layer in layers:
        with _whole(layer):
            yield layer


def _layers(model: Any) -> list[Any]:
    if not torch.distributed.is_available():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [m for m in getattr(model.get_decoder(), "layers", ()) if isinstance(m, FSDPModule)]
