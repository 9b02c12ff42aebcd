"""Sharding: every process keeps a part of the trained weights, their gradients and optimizer state (FSDP).

For the full motion module, the only stage whose weights are worth it: fp32 weights, gradients and AdamW's two
averages take 16 bytes a value, 7 GB for SD1.5, in every process under DDP. Here it is that over the number of
processes, and one module's whole weights at a time while it runs.

PyTorch's own `fully_shard` (FSDP2) on the processes that accelerate started. Sharded weights are `DTensor`s;
outside, in states and exported files, all is whole, so a run may go on sharded or not. PyTorch has it from
2.6 on, and some builds leave it out: hence the late imports, and the looks at what a tensor can do instead of
at its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .denoiser import Denoiser


def shard(denoiser: Denoiser, device: torch.device, num_processes: int) -> None:
    """Divide the motion module over the processes, in place: each of its modules is gathered when it runs.

    Raises:
        ValueError: there is one process, or this PyTorch cannot do it.
    """
    if num_processes < 2:
        raise ValueError(
            "train.shard divides the weights over processes, and there is one. Start with `accelerate launch "
            "--multi_gpu --num_processes N -m animatediff_flipbook.training ...`, or leave it out."
        )
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise ValueError(
            f"train.shard needs fully_shard of PyTorch 2.6 or newer, this is {torch.__version__} ({error}). "
            "Update it, or leave train.shard out."
        ) from error
    mesh = init_device_mesh(device.type, (num_processes,))
    for _, module in denoiser.motion.motion_modules():
        fully_shard(module, mesh=mesh)
    fully_shard(denoiser, mesh=mesh)  # owns no weights: it starts and ends the pass for the others


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor, gathered by all processes together; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A whole tensor, divided as a weight of the same shape is."""
    if hasattr(weight, "full_tensor") and value.shape == weight.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
    return value


def state_like(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole ``state_dict``, divided as its weights are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    divided = {
        index: {
            key: like(value, weights[index]) if isinstance(value, torch.Tensor) else value
            for key, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return {**state, "state": divided}


@contextmanager
def gathered(denoiser: Denoiser) -> Iterator[None]:
    """All weights whole within this block, which all processes enter, for whoever reads them from the
    modules."""
    parts = [module for module in denoiser.modules() if hasattr(module, "unshard")]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
