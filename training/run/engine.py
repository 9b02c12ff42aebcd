"""The engine of a run: accelerate set up as this trainer wants it, what cannot work refused."""

from __future__ import annotations

import os
import random
from datetime import timedelta

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs

from ..config import RunConfig
from ..model.base_model import pick_device


def make_accelerator(config: RunConfig) -> Accelerator:
    """The engine: one process without any set-up, several under ``accelerate launch``."""
    refuse_lonely_launch()
    device = pick_device(config.base.device)
    if (config.stage, config.train.precision, device.type) == ("motion_module", "fp16", "cpu"):
        raise ValueError(
            "train.precision = 'fp16' needs a GPU in stage motion_module. Use 'fp32', or 'bf16' on a "
            "processor that has it."
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.train.tf32
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(config.train.precision, config.train.precision),
        cpu=device.type == "cpu",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.train.accumulation, sync_with_dataloader=False
        ),
        # The position tables are constants, there is nothing to broadcast.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            # Processes wait for each other after encoding, and one may have hours more of it than another.
            InitProcessGroupKwargs(timeout=timedelta(days=1)),
        ],
    )
    _refuse_sharding(accelerator)
    return accelerator


def _refuse_sharding(accelerator: Accelerator) -> None:
    """Sharding is a setting of ours; accelerate's plugins would divide the weights behind our back.

    Raises:
        ValueError: started with a sharding plugin.
    """
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ValueError(
            f"This trainer cannot run under accelerate's {kind.value}. Start it with `accelerate launch "
            "--multi_gpu`; to divide the weights over the processes, set train.shard = true."
        )


def refuse_lonely_launch() -> None:
    """``accelerate launch --cpu --num_processes 2`` starts a single process without a word; say so.

    Raises:
        ValueError: several processes were asked for on CPUs and one was started.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    if asked and "LOCAL_RANK" not in os.environ:
        raise ValueError(
            "`accelerate launch --cpu` starts one process, whatever --num_processes says. For several "
            "processes on "
            "CPUs use `accelerate launch --multi_gpu --num_processes N` with base.device = 'cpu'."
        )


def close(accelerator: Accelerator, num_processes: int) -> None:
    """Let go of memory and of the other processes.

    Args:
        accelerator: of the run that ends.
        num_processes: as at its start; another run may have reset it.
    """
    accelerator.free_memory()
    if num_processes > 1:
        accelerator.end_training()
    # accelerate keeps its choice of precision for the whole process; a later run may want another.
    AcceleratorState._reset_state(reset_partial_state=num_processes == 1)


def release_memory() -> None:
    """Give freed GPU memory back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reseed(seed: int, step: int, rank: int) -> None:
    """Everyone's global generators from the step's number: what a library draws from them needs no saved
    state."""
    mixed = (seed * 1_000_003 + step * 7919 + rank) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
