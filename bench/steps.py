"""One UNet step, and the motion modules of it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..motion_core.module.call import MotionCall
from ..motion_core.module.injection import inserted
from ..motion_core.module.layers import TemporalTransformer
from .machine import GIB, Measured, Meter, gib
from .models import DTYPES, Family, base_model, diffusers_inputs, diffusers_twin, inputs, motion_model
from .rows import Row
from .sizes import (
    ROUNDS_OF_A_CPU,
    ROUNDS_OF_A_GPU,
    Budget,
    TooLarge,
    best,
    climb,
    highest,
    measured_at,
    pairs,
    ratio,
    rounds_after,
    times,
)

WHOLE_STEP = (
    "the step holds the image model too, ComfyUI's code against diffusers' own; what is ours alone is "
    "compared below, module by module"
)
ONE_MODULE = (
    "on a CPU the first motion module alone ({}), eager against compiled: compiling the whole takes longer "
    "than all else here; the same module against diffusers' is among the modules above"
)
MORE_KERNELS = (
    "slower than diffusers: {} kernels against {}; at a size this small calling them takes longer than what "
    "they do"
)
NO_REASON = "slower than diffusers, and no reason is known for this size"
NO_DIFFUSERS = "no comparison: diffusers is not installed (pip install diffusers)"


class Models:
    """Base, motion module and diffusers' twin of both, on the same weights."""

    def __init__(self, family: Family, dtype: str, meter: Meter, budget: Budget) -> None:
        self.family, self.meter, self.dtype = family, meter, DTYPES[dtype]
        self.held = require_weights(family, self.dtype, meter, budget)
        self.base = base_model(family, self.dtype, meter.device)
        self.unet = self.base.diffusion_model
        self.motion = motion_model(self.unet, family, self.dtype, meter.device)
        try:
            self.twin = diffusers_twin(family, self.unet, self.motion)
        except ImportError:
            self.twin = None

    def calls(self, frames: int, pixels: int) -> dict[str, Callable[[], object]]:
        """The step without motion, with ours, with diffusers' model."""
        given = inputs(self.family, frames, pixels // 8, self.dtype, self.meter.device)
        theirs = diffusers_inputs(given, self.family.vector)

        def animated() -> torch.Tensor:
            with inserted(self.unet, [(self.motion, MotionCall(frames=frames))]):
                return self.unet(**given)

        calls = {"plain": lambda: self.unet(**given), "motion": animated}
        if self.twin is not None:
            calls["diffusers"] = lambda: self.twin(**theirs)
        return calls


def weights_size(family: Family, dtype: torch.dtype) -> int:
    """Bytes of the weights of a base and its motion module."""
    unet = base_model(family, dtype, torch.device("meta")).diffusion_model
    motion = motion_model(unet, family, dtype, torch.device("meta"))
    return sum(p.numel() * p.element_size() for model in (unet, motion) for p in model.parameters())


def require_weights(family: Family, dtype: torch.dtype, meter: Meter, budget: Budget, copies: int = 1) -> int:
    """Bytes of the weights. Raises TooLarge where there is no room for so many copies of them."""
    size, free = weights_size(family, dtype), min(budget.memory, meter.free())
    if copies * size > free:
        raise TooLarge(
            f"left out: {family.title} in {str(dtype).removeprefix('torch.')} needs "
            f"{copies * size / GIB:.1f} GiB for its weights, and {free / GIB:.1f} GiB are free"
        )
    return size


def rounds_on(device: torch.device) -> int:
    """How often a row is measured."""
    return ROUNDS_OF_A_CPU if device.type == "cpu" else ROUNDS_OF_A_GPU


def measure_step(row: Row, models: Models, frames: int, pixels: int, budget: Budget) -> None:
    """Fill a row of the part ``step``."""
    meter = models.meter

    def trial(size: int) -> dict[str, Measured]:
        return {name: meter.measure(call) for name, call in models.calls(frames, size).items()}

    taken = climb(pixels, trial, budget, meter, rounds_after(meter.device), models.held)
    found = measured_at(taken, models.calls(frames, taken.pixels), meter, budget, row)
    plain, motion = found["plain"], found["motion"]
    row.figures |= {
        "px": taken.pixels,
        **times("plain", plain, meter),
        **times("motion", motion, meter),
        "motion / plain": ratio(motion, plain),
        "plain peak GiB": gib(highest(plain)),
        "motion peak GiB": gib(highest(motion)),
    }
    if taken.note:
        row.notes.append(taken.note)
    _compare(row, motion, found.get("diffusers"), meter)
    row.notes.append(WHOLE_STEP)


def _compare(row: Row, ours: Sequence[Measured], theirs: Sequence[Measured] | None, meter: Meter) -> None:
    if theirs is None:
        row.notes.append(NO_DIFFUSERS)
        return
    row.figures |= {
        **times("diffusers", theirs, meter),
        "ours / diffusers": ratio(ours, theirs),
        "diffusers peak GiB": gib(highest(theirs)),
    }


# --- modules alone ---


def measure_modules(row: Row, models: Models, frames: int, pixels: int, budget: Budget) -> None:
    """Fill a row of the part ``modules``: all motion modules of a step, each on the feature it gets there."""
    meter = models.meter
    rounds = rounds_on(meter.device)
    spent, totals, clock = 0, {}, {}

    def trial(size: int) -> dict[str, Measured]:
        calls = _module_calls(models, frames, size)
        return {
            f"{number} {name}": meter.measure(call)
            for number, (kinds, _) in enumerate(calls)
            for name, call in kinds.items()
        }

    # Not the trial's figures: these calls are short, and each kind of module takes its turns by itself.
    taken = climb(pixels, trial, budget, meter, rounds, models.held)
    for kinds, count in _module_calls(models, frames, taken.pixels):
        found = pairs(kinds, meter, rounds)
        for name, measured in found.items():
            totals[name] = totals.get(name, 0.0) + count * best(measured)
            clock[name] = clock.get(name, 0.0) + count * min(one.wall for one in measured)
        spent += count
    kernels = _kernels(models, frames, taken.pixels)
    row.figures |= {
        "px": taken.pixels,
        "modules": spent,
        "ours s": totals["ours"],
        **({"ours wall s": clock["ours"]} if meter.device.type == "cpu" else {}),
        "products s": totals["products"],
        "ours / products": totals["ours"] / totals["products"],
        "kernels a module": kernels["ours"],
    }
    if "diffusers" in totals:
        row.figures |= {
            "diffusers s": totals["diffusers"],
            "ours / diffusers": totals["ours"] / totals["diffusers"],
            "diffusers' kernels": kernels["diffusers"],
        }
        if totals["ours"] > totals["diffusers"]:
            more = kernels["ours"] > kernels["diffusers"] and taken.pixels < pixels
            row.notes.append(
                MORE_KERNELS.format(kernels["ours"], kernels["diffusers"]) if more else NO_REASON
            )
    else:
        row.notes.append(NO_DIFFUSERS)
    if meter.device.type == "cpu":
        row.notes.append(
            "kernels on a CPU: torch's operators without views, for a single place of the feature"
        )
    if taken.note:
        row.notes.append(taken.note)


def _module_calls(models: Models, frames: int, pixels: int) -> list[tuple[dict[str, Any], int]]:
    """For each kind of motion module: what to measure, and how many of it a step has."""
    places: dict[tuple[int, ...], list[str]] = {}
    for name, shape in models.motion.config.modules:
        side = pixels // 8 // _downscale(name, len(models.family.unet["channel_mult"]))
        places.setdefault((shape.channels, max(1, side)), []).append(name)
    return [
        (_calls_of_one(models, names[0], frames, channels, side), len(names))
        for (channels, side), names in places.items()
    ]


def _calls_of_one(models: Models, name: str, frames: int, channels: int, side: int) -> dict[str, Any]:
    x = torch.randn(frames, channels, side, side, device=models.meter.device, dtype=models.dtype)
    module, call = models.motion.get_submodule(name), MotionCall(frames=frames)
    calls = {
        "ours": lambda: module(x, call),
        "products": bare_products(module.temporal_transformer, side * side, frames),
    }
    if models.twin is not None:
        twin = models.twin.get_submodule(name)
        calls["diffusers"] = lambda: twin(x, num_frames=frames)
    return calls


def _downscale(name: str, levels: int) -> int:
    """Factor between the latent and the feature at a module."""
    side, level = name.split(".")[:2]
    if side == "mid_block":
        return 2 ** (levels - 1)
    return 2 ** (int(level) if side == "down_blocks" else levels - 1 - int(level))


def bare_products(transformer: TemporalTransformer, pixels: int, frames: int) -> Callable[[], None]:
    """The matrix products of one module for ``pixels`` sequences of ``frames`` tokens, with its own weights:
    no norms, softmax, GELU, residuals, biases or transpositions."""
    shape, heads, like = transformer.shape, transformer.num_heads, transformer.proj_in.weight
    tokens, width = pixels * frames, shape.inner // heads

    def numbers(*size: int) -> torch.Tensor:
        return torch.randn(*size, dtype=like.dtype, device=like.device)

    x, hidden = numbers(tokens, shape.channels), numbers(tokens, shape.ff_inner)
    q, logits = numbers(pixels * heads, frames, width), numbers(pixels * heads, frames, frames)

    def run() -> None:
        t = F.linear(x, transformer.proj_in.weight)
        for block in transformer.transformer_blocks:
            for attention in block.attention_blocks:
                F.linear(t, attention.to_qkv.weight)
                torch.bmm(q, q.transpose(1, 2))
                torch.bmm(logits, q)
                F.linear(t, attention.to_out[0].weight)
            F.linear(t, block.ff.net[0].proj.weight)
            F.linear(hidden, block.ff.net[2].weight)
        F.linear(t, transformer.proj_out.weight)

    return run


def _kernels(models: Models, frames: int, pixels: int) -> dict[str, int]:
    """Kernels of one module at the first level; on a CPU for a feature that is not worked on in chunks."""
    on_gpu = models.meter.device.type == "cuda"
    calls = _module_calls(models, frames, pixels if on_gpu else 8)[0][0]
    counter = _profiled if on_gpu else _dispatched
    return {name: counter(call) for name, call in calls.items() if name != "products"}


def _profiled(call: Callable[[], object]) -> int:
    """Kernels that a call runs on the GPU, as the profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events())


class _Operators(TorchDispatchMode):
    """Counts operators that make or write a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.count += not (func.is_view or "empty" in func.name())
        return func(*args, **(kwargs or {}))


def _dispatched(call: Callable[[], object]) -> int:
    with _Operators() as seen:
        call()
    return seen.count


@contextmanager
def compiled(*models: nn.Module | None):
    """torch.compile of each model that is there, for the length of a block; what it made is dropped then."""
    import torch._dynamo

    torch._dynamo.reset()
    try:
        yield tuple(None if model is None else torch.compile(model) for model in models)
    finally:
        torch._dynamo.reset()


def measure_compiled(row: Row, models: Models, frames: int, pixels: int, budget: Budget) -> None:
    """Fill a row of the part ``compile``: the whole step on a GPU; one motion module on a CPU, for which
    compiling the whole takes longer than all else here."""
    meter, rounds = models.meter, rounds_on(models.meter.device)
    if meter.device.type == "cpu":
        name = models.motion.config.modules[0][0]
        module, call = models.motion.get_submodule(name).temporal_transformer, MotionCall(frames=frames)
        side = max(1, pixels // 8)
        x = torch.randn(frames, module.shape.channels, side, side, dtype=models.dtype)
        row.notes.append(ONE_MODULE.format(name))
        with compiled(module) as (fast,):
            _eager_and_compiled(row, meter, rounds, lambda: module(x, call), lambda: fast(x, call))
        return
    calls = models.calls(frames, pixels)
    given = inputs(models.family, frames, pixels // 8, models.dtype, meter.device)
    theirs = diffusers_inputs(given, models.family.vector)
    with compiled(models.unet, models.twin) as (fast, fast_twin):

        def animated() -> torch.Tensor:
            with inserted(fast, [(models.motion, MotionCall(frames=frames))]):
                return fast(**given)

        twin = None if fast_twin is None else lambda: fast_twin(**theirs)
        _eager_and_compiled(row, meter, rounds, calls["motion"], animated, twin)


def _eager_and_compiled(
    row: Row,
    meter: Meter,
    rounds: int,
    eager: Callable[[], object],
    fast: Callable[[], object],
    diffusers: Callable[[], object] | None = None,
) -> None:
    """``diffusers`` is its compiled model, which takes its turns among the others."""
    import torch._dynamo.utils

    def graphs() -> int:
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    before = graphs()
    first = meter.measure(fast)
    made = graphs() - before
    meter.measure(eager)
    calls = {"eager": eager, "compiled": fast}
    if diffusers is not None:
        meter.measure(diffusers)
        calls["diffusers"] = diffusers
    elif meter.device.type != "cpu":
        row.notes.append(NO_DIFFUSERS)
    settled = graphs()
    found = pairs(calls, meter, rounds)
    row.figures |= {
        "eager s": best(found["eager"]),
        "compiled s": best(found["compiled"]),
        "compiled / eager": ratio(found["compiled"], found["eager"]),
        "first call s": first.wall,
        "graphs": made,
        "graphs later": graphs() - settled,
    }
    if diffusers is not None:
        row.figures |= {
            "diffusers s": best(found["diffusers"]),
            "ours / diffusers": ratio(found["compiled"], found["diffusers"]),
        }
        row.notes.append(WHOLE_STEP)
