"""Latents before and after conversion: a graph runs with AnimateDiff-Evolved's nodes, then with ours.

    FLIPBOOK_INCUMBENT=FOLDER python run.py test -m slow tests/compatibility/test_incumbent_graphs.py

FOLDER is a checkout of that pack. Full-size models with random weights: 10 GB of memory and ten minutes.
"""

import re

import pytest
import torch
from animatediff_flipbook.graphs.convert import convert, foreign_types
from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_motion_lora
from animatediff_flipbook.nodes import NODES
from animatediff_flipbook.tests.compatibility import test_incumbent
from animatediff_flipbook.tests.support import relative_error
from animatediff_flipbook.tests.support_full_size import motion_model
from comfy_extras.nodes_model_advanced import NODE_CLASS_MAPPINGS as MODEL_NODES

import nodes as comfy_nodes

pytestmark = test_incumbent.pytestmark
incumbent, base = test_incumbent.incumbent, test_incumbent.base

FRAMES, STEPS, SEED = 8, 2, 5
MODULE, LORA = "mm_sd_v15_v2.ckpt", "v2_lora_ZoomIn.ckpt"
SQRT_LINEAR = "sqrt_linear (AnimateDiff)"
WINDOW = {"context_length": 4, "context_overlap": 1, "fuse_method": "pyramid"}
WINDOW |= {"use_on_equal_length": False, "start_percent": 0.0, "guarantee_steps": 1}


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def graph(schedule: str = SQRT_LINEAR, sampler: str = "euler", *others: dict, **links: list) -> dict:
    """Text to animation by the Gen1 loader, as a prompt; ``others`` get the ids "11" and up."""
    loader = {"model": ["1", 0], "model_name": MODULE, "beta_schedule": schedule, **links}
    sampling = {"seed": SEED, "steps": STEPS, "cfg": 1.0, "sampler_name": sampler, "scheduler": "normal"}
    sockets = {"model": ["5", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="model.safetensors"),
        "2": node("CLIPTextEncode", text="", clip=["1", 1]),
        "3": node("CLIPTextEncode", text="", clip=["1", 1]),
        "4": node("EmptyLatentImage", width=64, height=64, batch_size=FRAMES),
        "5": node("ADE_AnimateDiffLoaderGen1", **loader),
        "6": node("KSampler", denoise=1.0, **sampling, **sockets),
        "7": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        **{str(number): one for number, one in enumerate(others, 11)},
    }


def gen2(scale: float, effect: float) -> dict:
    """The same by the nodes of Gen2."""
    prompt = graph()
    prompt["5"] = node(
        "ADE_UseEvolvedSampling", model=["1", 0], beta_schedule=SQRT_LINEAR, m_models=["12", 0]
    )
    prompt["11"] = node("ADE_LoadAnimateDiffModel", model_name=MODULE)
    multivals = {"scale_multival": ["13", 0], "effect_multival": ["14", 0]}
    prompt["12"] = node("ADE_ApplyAnimateDiffModelSimple", motion_model=["11", 0], **multivals)
    prompt["13"] = node("ADE_MultivalDynamic", float_val=scale)
    prompt["14"] = node("ADE_MultivalDynamic", float_val=effect)
    return prompt


STATIC = node("ADE_StandardStaticContextOptions", **WINDOW)
UNIFORM = node("ADE_StandardUniformContextOptions", context_stride=1, **WINDOW)
LOOPED = node("ADE_LoopedUniformContextOptions", context_stride=1, closed_loop=True, **WINDOW)
FREE_NOISE = node(
    "ADE_AnimateDiffSamplingSettings",
    batch_offset=0,
    noise_type="FreeNoise",
    seed_gen="comfy",
    seed_offset=0,
    adapt_denoise_steps=False,
)
GRAPHS = {
    "plain": graph(),
    "static windows": graph(SQRT_LINEAR, "euler", STATIC, context_options=["11", 0]),
    "uniform windows": graph(SQRT_LINEAR, "euler", UNIFORM, context_options=["11", 0]),
    "looped windows": graph(SQRT_LINEAR, "euler", LOOPED, context_options=["11", 0]),
    "linear": graph("linear (HotshotXL/default)"),
    "lcm": graph("lcm", "lcm"),
    "lcm >> sqrt_linear": graph("lcm >> sqrt_linear", "lcm"),
    "lcm avg": graph("lcm avg(sqrt_linear,linear)", "lcm"),
    "scale 1.1": graph(
        SQRT_LINEAR, "euler", node("ADE_MultivalDynamic", float_val=1.1), scale_multival=["11", 0]
    ),
    "MotionLoRA 0.7": graph(
        SQRT_LINEAR,
        "euler",
        node("ADE_AnimateDiffLoRALoader", name=LORA, strength=0.7),
        motion_lora=["11", 0],
    ),
    "FreeNoise": graph(
        SQRT_LINEAR, "euler", STATIC, FREE_NOISE, context_options=["11", 0], sample_settings=["12", 0]
    ),
    "Gen2, scale and effect": gen2(1.2, 0.8),
}


@pytest.fixture
def files(base, model_folders):
    """A v2 module and a MotionLoRA for it. ComfyUI's own names the folders."""
    motion = motion_model(base.model.diffusion_model, generation="v2")
    save_motion_module(model_folders["animatediff_models"] / MODULE, motion)
    generator = torch.Generator().manual_seed(3)

    def factors(target) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = target.shape
        down, up = torch.randn(4, columns, generator=generator), torch.randn(rows, 4, generator=generator)
        return down * columns**-0.5, up * 0.3

    attentions = {n: t for n, t in lora_targets(motion).items() if re.search(r"attention_blocks\.\d\.to_", n)}
    save_motion_lora(
        model_folders["animatediff_motion_lora"] / LORA, {name: factors(t) for name, t in attentions.items()}
    )


@pytest.fixture
def given(base) -> dict[str, tuple]:
    """What the nodes give that no conversion touches."""
    generator = torch.Generator().manual_seed(1)
    positive, negative = ([[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2))
    latent = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    return {"1": (base, None, None), "2": (positive,), "3": (negative,), "4": (latent,)}


def latents(prompt: dict, given: dict[str, tuple]) -> torch.Tensor:
    """Run a prompt's nodes as ComfyUI does, up to the sampler whose latent is decoded."""
    classes = {**comfy_nodes.NODE_CLASS_MAPPINGS, **MODEL_NODES}
    classes |= {one.GET_SCHEMA().node_id: one for one in NODES}
    results = dict(given)

    def result(key: str) -> tuple:
        if key not in results:
            kind, inputs = classes[prompt[key]["class_type"]], prompt[key]["inputs"]
            known = {name for group in kind.INPUT_TYPES().values() for name in group}
            values = {
                k: result(v[0])[v[1]] if isinstance(v, list) else v for k, v in inputs.items() if k in known
            }
            if hasattr(kind, "GET_SCHEMA"):
                results[key] = tuple(kind.execute(**values).args)
            else:
                results[key] = getattr(kind(), kind.FUNCTION)(**values)
        return results[key]

    source, place = prompt["7"]["inputs"]["samples"]
    with torch.inference_mode():
        return result(source)[place]["samples"]


@pytest.mark.parametrize("name", GRAPHS)
def test_same_latents(incumbent, files, given, name):
    conversion = convert(GRAPHS[name])
    assert not foreign_types(conversion.graph)
    assert not conversion.report.of_kind("lost")
    theirs = latents(GRAPHS[name], given)
    ours = latents(conversion.graph, given)
    error = relative_error(ours, theirs)
    print(f"{name}: relative error {error:.1e}")
    assert error < 1e-4
    if name != "plain":  # and the setting is one that shows
        assert relative_error(latents(GRAPHS["plain"], given), theirs) > 1e-3
