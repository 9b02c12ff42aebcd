"""What the nodes do: read files, put a MotionLoRA on, sample a long clip in windows."""

from __future__ import annotations

from pathlib import Path

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher

from ..motion_core.clips.context import ContextOptions, context_windows
from ..motion_core.files.checkpoint import save_motion_module
from ..motion_core.files.lora import lora_targets, save_motion_lora
from ..motion_core.module.model import MotionModel
from ..nodes.context.context import ContextWindows
from ..nodes.motion.apply import ApplyMotionModule
from ..nodes.motion.load import LoadMotionLora, LoadMotionModule
from ..nodes.motion.motion_lora import patch_motion_lora
from ..nodes.paths import MOTION_LORAS, MOTION_MODULES, register_folders
from ..nodes.types import LoadedMotionModule
from .machine import Measured, Meter, gib
from .models import DTYPES, Family, base_model, motion_for_diffusers, motion_model, patcher_of
from .rows import Row
from .sizes import Budget, best, climb, highest, measured_at, pairs, ratio, rounds_after, times
from .steps import NO_DIFFUSERS, require_weights, rounds_on

RANK = 64
LENGTH, OVERLAP = 16, 4
COPIED = (
    "the ratio is against diffusers with its weights read, into memory of their own as ours are; by itself "
    'it only maps the file ("diffusers maps s"), which then must not change and is read in the first step'
)
LOOKED_AT = "slower than diffusers: ours looks at every value for damage, diffusers at none"
MODULE, LORA, FOR_DIFFUSERS = "bench_module.safetensors", "bench_lora.safetensors", "bench_diffusers"


class Graph:
    """A MODEL of a family in memory, and the files that go with it in a folder."""

    def __init__(self, family: Family, dtype: str, meter: Meter, budget: Budget, folder: Path) -> None:
        import folder_paths

        size = require_weights(family, DTYPES[dtype], meter, budget)
        self.family, self.dtype, self.meter, self.folder, self.held = family, dtype, meter, folder, size
        base = base_model(family, DTYPES[dtype], meter.device)
        # Files are written and read where a user's are: in memory, whatever the device.
        motion = motion_model(base.diffusion_model, family, DTYPES[dtype], torch.device("cpu"))
        self.write(motion)
        self.patcher: ModelPatcher = patcher_of(base, meter.device)
        self.module: LoadedMotionModule | None = None
        register_folders()
        for name in (MOTION_MODULES, MOTION_LORAS):
            folder_paths.folder_names_and_paths[name][0].insert(0, str(folder))

    def ensure_module(self) -> None:
        """Read the motion module, once."""
        if self.module is None:
            self.module = LoadMotionModule.execute(motion_module=MODULE).result[0]

    def write(self, motion: MotionModel) -> None:
        """A motion module and a MotionLoRA in the layout of the releases, and the module for diffusers."""
        save_motion_module(self.folder / MODULE, motion)
        layers = {
            name: (torch.randn(RANK, target.shape[1]) * 0.01, torch.randn(target.shape[0], RANK) * 0.01)
            for name, target in lora_targets(motion).items()
            if ".attention_blocks." in name
        }
        save_motion_lora(self.folder / LORA, layers)


def measure_module_file(row: Row, graph: Graph, budget: Budget) -> None:
    """Read a motion module into memory; fills a row of the part ``files``."""
    cpu, rounds = Meter(torch.device("cpu")), rounds_on(torch.device("cpu"))
    size = (graph.folder / MODULE).stat().st_size
    calls = {"ours": lambda: LoadMotionModule.execute(motion_module=MODULE)}
    try:
        maps = _diffusers_reader(graph)
        calls["diffusers maps"] = maps
        calls["diffusers"] = lambda: [weight.clone() for weight in maps().parameters()]
    except ImportError:
        row.notes.append(NO_DIFFUSERS)
    for call in calls.values():
        cpu.measure(call)
    found = pairs(calls, cpu, rounds)
    row.figures |= {
        "file MB": size / 1e6,
        **times("ours", found["ours"], cpu),
        "peak / file": (highest(found["ours"]) or 0) / size,
    }
    if "diffusers" in found:
        row.figures |= {
            "diffusers maps s": best(found["diffusers maps"]),
            **times("diffusers", found["diffusers"], cpu),
            "ours / diffusers": ratio(found["ours"], found["diffusers"]),
            "diffusers' peak / file": (highest(found["diffusers"]) or 0) / size,
        }
        row.notes.append(COPIED)
        if row.figures["ours / diffusers"] > 1:
            row.notes.append(LOOKED_AT)


def _diffusers_reader(graph: Graph):
    """diffusers' own reading of the same weights in its own layout."""
    from diffusers import MotionAdapter

    dtype, unet = DTYPES[graph.dtype], graph.patcher.model.diffusion_model
    motion = motion_model(unet, graph.family, dtype, torch.device("cpu"))
    widths = graph.family.diffusers["block_out_channels"]
    with torch.device("meta"):
        adapter = MotionAdapter(
            block_out_channels=widths,
            use_motion_mid_block=motion.config.mid_block,
            motion_max_seq_length=motion.config.pe_length,
        )
    adapter.load_state_dict(dict(motion_for_diffusers(motion)), assign=True)
    folder = graph.folder / FOR_DIFFUSERS
    adapter.save_pretrained(folder)
    return lambda: MotionAdapter.from_pretrained(folder, torch_dtype=dtype)


def measure_lora(row: Row, graph: Graph, budget: Budget) -> None:
    """Read a MotionLoRA and put it on the module; fills a row of the part ``files``."""
    size = (graph.folder / LORA).stat().st_size
    cpu = Meter(torch.device("cpu"))

    def apply() -> object:
        (chosen,) = LoadMotionLora.execute(motion_lora=LORA).result[0]
        patcher = graph.module.patcher.clone()
        patch_motion_lora(patcher, chosen, graph.module)
        return patcher

    cpu.measure(apply)
    found = pairs({"ours": apply}, cpu, 2 * rounds_on(cpu.device))["ours"]
    row.figures |= {"file MB": size / 1e6, **times("ours", found, cpu)}
    row.figures["peak / file"] = (highest(found) or 0) / size
    row.notes.append(
        "no comparison: diffusers makes layers of peft's for a MotionLoRA, which then cost in every step; "
        "here it becomes part of the weights when the model is loaded"
    )


def measure_windows(row: Row, graph: Graph, frames: int, pixels: int, budget: Budget) -> None:
    """A step of a long clip, its windows one by one and together; fills a row of the part ``windows``."""
    meter = graph.meter
    animated = ApplyMotionModule.execute(model=graph.patcher, motion_module=graph.module).result[0]
    count = len(context_windows(ContextOptions(length=LENGTH, overlap=OVERLAP), frames, 0))
    models = {
        name: ContextWindows.execute(
            model=animated, length=LENGTH, overlap=OVERLAP, windows_per_batch=together
        ).result[0]
        for name, together in (("one by one", 1), ("together", count))
    }

    def calls(size: int) -> dict:
        return {
            name: lambda model=model: _sample(graph, model, frames, size) for name, model in models.items()
        }

    def trial(size: int) -> dict[str, Measured]:
        return {name: meter.measure(call) for name, call in calls(size).items()}

    taken = climb(pixels, trial, budget, meter, rounds_after(meter.device), graph.held)
    found = measured_at(taken, calls(taken.pixels), meter, budget, row)
    single, together = found["one by one"], found["together"]
    row.figures |= {
        "px": taken.pixels,
        "windows": count,
        **times("one by one", single, meter),
        **times("together", together, meter),
        "together / one by one": ratio(together, single),
        "one by one peak GiB": gib(highest(single)),
        "together peak GiB": gib(highest(together)),
    }
    row.notes.append(
        "no comparison: diffusers has no context windows around the model, only inside its attention"
    )
    if taken.note:
        row.notes.append(taken.note)


def _sample(graph: Graph, model: ModelPatcher, frames: int, pixels: int) -> torch.Tensor:
    """One step of ComfyUI's sampler without a second prompt."""
    latent = torch.zeros(frames, 4, pixels // 8, pixels // 8)
    extra = {"pooled_output": torch.zeros(1, 1280)} if graph.family.vector else {}
    cond = [[torch.zeros(1, 77, graph.family.width), extra]]
    noise = comfy.sample.prepare_noise(latent, 1)
    return comfy.sample.sample(
        *(model, noise, 1, 1.0, "euler", "normal", cond, cond, latent), seed=1, disable_pbar=True
    )
