"""Every question about the host: what this ComfyUI has, and which other packs sit on a model."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy_api.latest
import torch
from comfy.context_windows import IndexListContextWindow
from comfy.ldm.modules import attention as comfy_attention
from comfy.patcher_extension import CallbacksMP, WrappersMP, get_all_wrappers
from comfy.samplers import CFGGuider
from comfy_api.latest import io

from ..motion_core.module.call import Attention
from ..motion_core.module.layers import torch_attention

logger = logging.getLogger("animatediff_flipbook")


def make_schema(**fields: Any) -> io.Schema:
    """A node schema without the fields that this ComfyUI does not know yet (search_aliases and others)."""
    known = io.Schema.__dataclass_fields__
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def clip_length(num_frames: int) -> dict[str, int]:
    """Further arguments of ComfyUI's window: newer versions want to know the clip's length."""
    known = inspect.signature(IndexListContextWindow).parameters
    return {"total_frames": num_frames} if "total_frames" in known else {}


def causal_frame_is_added(transformer_options: dict) -> bool:
    """Whether ComfyUI's own context windows have put a frame of their choice before this window's."""
    anchor = getattr(transformer_options.get("context_window"), "causal_anchor_index", None)
    return anchor is not None and anchor >= 0


def frames_of_window(transformer_options: dict) -> list[int] | None:
    """Frames of the clip that the context window of a call holds, in its order; None without a window."""
    window = transformer_options.get("context_window")
    if window is None:
        return None
    anchor = [window.causal_anchor_index] if causal_frame_is_added(transformer_options) else []
    return [*anchor, *window.index_list]


def compute_dtype(base: Any) -> torch.dtype:
    """The type in which a model's UNet computes, whatever type its weights have."""
    return getattr(base, "manual_cast_dtype", None) or base.get_dtype()


LATENT_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")
"""What newer empty latents say of themselves, until a sampler has filled them."""


def fitting_latent(model: comfy.model_patcher.ModelPatcher, latent: dict) -> torch.Tensor:
    """The frames of a latent; an empty one in the model's channels and, where ComfyUI does so, its size."""
    known = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    ratios = {name: latent.get(name) for name in LATENT_RATIOS if name in known}
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)


def filled_latent(latent: dict, samples: torch.Tensor) -> dict:
    """A sampler's output for the latent that it was given."""
    kept = {name: value for name, value in latent.items() if name not in LATENT_RATIOS}
    return {**kept, "samples": samples}


def new_patcher(
    model: torch.nn.Module, loader: Callable, *args: Any, plain: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """Give a model to ComfyUI's memory management.

    ``loader(*args)`` makes the same patcher with weights of its own, ``loader(*args, disable_dynamic=True)``
    a ``plain`` one: of the class that moves whole layers, where newer versions also have one that reads
    weights on demand.
    """
    # Newer versions choose the class themselves and export it under this name.
    chosen = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher = (comfy.model_patcher.ModelPatcher if plain else chosen)(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    # Newer versions copy models to further GPUs by loading them again.
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (loader, args)
    return patcher


def follow_device(patcher: comfy.model_patcher.ModelPatcher, model: comfy.model_patcher.ModelPatcher) -> None:
    """Let a patcher with weights of its own load where the base does; a node may have sent that elsewhere."""
    patcher.load_device, patcher.offload_device = model.load_device, model.offload_device
    if hasattr(patcher, "register_load_device"):  # tables by device, of weights that are read on demand
        patcher.register_load_device(patcher.load_device)


def keep_copies_alike(model: comfy.model_patcher.ModelPatcher, key: str) -> None:
    """Where ComfyUI splits the work among several GPUs, each has a copy of the model. It makes a copy's
    additional models once and finds them again by their origin: patches that came later and the order stay
    behind. Before every run, let those of ``key`` be as the model's."""
    event = getattr(CallbacksMP, "ON_MATCH_MULTIGPU_CLONES", None)
    if event is None:
        return
    model.remove_callbacks_with_key(event, key)
    model.add_callback_with_key(event, key, partial(_match_copy, key))


def _match_copy(
    key: str, model: comfy.model_patcher.ModelPatcher, other: comfy.model_patcher.ModelPatcher
) -> None:
    copies = {one.clone_base_uuid: one for one in other.get_additional_models_with_key(key)}
    alike = []
    for own in model.get_additional_models_with_key(key):
        one = copies[own.clone_base_uuid].clone()
        one.patches = {name: list(patches) for name, patches in own.patches.items()}
        one.patches_uuid = own.patches_uuid
        alike.append(one)
    other.set_additional_models(key, alike)


def free_memory(model: Any, device: torch.device) -> float:
    """Bytes that a call may take. Newer patchers count what they could give back."""
    patcher = getattr(model, "current_patcher", None)
    ask = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return ask(device)


def picture_device() -> torch.device:
    """ComfyUI's device, or the CPU where that one cannot draw pictures from between their pixels: Apple's has
    no bicubic sampling in most versions of torch."""
    device = comfy.model_management.get_torch_device()
    try:
        picture, place = torch.zeros(1, 1, 2, 2, device=device), torch.zeros(1, 1, 1, 2, device=device)
        torch.nn.functional.grid_sample(picture, place, "bicubic", "border", align_corners=True)
    except RuntimeError:
        return torch.device("cpu")
    return device


def models_in_use() -> list[comfy.model_patcher.ModelPatcher]:
    """The patchers of the run that is on, to be put back after another model came in between.

    ComfyUI keeps them by weak references and hands out None where nobody holds a patcher any more.
    """
    loaded = comfy.model_management.loaded_models(only_currently_used=True)
    return [patcher for patcher in loaded if patcher is not None]


def show_on_node(node: type[io.ComfyNode], text: str) -> None:
    """Show lines of text on the running node in the browser. Outside a server there is nobody to show them
    to."""
    show_on(node_id(node), text)


def node_id(node: type[io.ComfyNode]) -> str | None:
    """The running node's id in its graph. Outside a server it has none."""
    return getattr(node.hidden, "unique_id", None)


def show_on(node_id: str | None, text: str) -> None:
    """Show lines of text on the node of an id, also when it has run long ago."""
    server = running_server()
    if node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(as_plain_text(text), node_id)


def as_plain_text(text: str) -> str:
    """Text that a page shows as it is: nodes on its canvas take it for HTML, nodes as elements for Markdown.

    Words out of files must become neither scripts nor pictures from elsewhere; code is unreadable on our
    nodes; lines stay lines.
    """
    for mark, harmless in {
        "<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
        ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
        "`": "",
        "](": "] (",
        "\n": "  \n",
    }.items():
        text = text.replace(mark, harmless)
    return text


def running_server() -> Any:
    """ComfyUI's server in this process; None where nodes are used without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


MOST_OUTPUTS = 3
"""Of a node that another takes the place of."""


async def register_replacement(
    old_id: str, new_id: str, old_widgets: list[str], inputs: list[dict[str, Any]]
) -> None:
    """Tell a ComfyUI that replaces missing nodes what stands in for one; older ones are told nothing.

    ``old_widgets``: the old node's widgets in their order in a workflow. ``inputs``: per input of the new
    node ``{"new_id", "old_id"}`` or ``{"new_id", "set_value"}``; its prompt route fails where an ``old_id``
    is absent. Outputs keep their places.
    """
    replacement = getattr(comfy_api.latest.ComfyAPI(), "node_replacement", None)
    if replacement is None or not hasattr(io, "NodeReplace") or running_server() is None:
        return
    await replacement.register(
        io.NodeReplace(
            new_node_id=new_id,
            old_node_id=old_id,
            old_widget_ids=old_widgets,
            input_mapping=inputs,
            # Places that a node does not have are passed over.
            output_mapping=[{"new_idx": place, "old_idx": place} for place in range(MOST_OUTPUTS)],
        )
    )


HARMLESS_OBJECTS = {"manual_cast_dtype"}
"""Object patches that change nothing but the type of computation."""


def ways_beside_weights(model: comfy.model_patcher.ModelPatcher) -> list[str]:
    """What changes a model's predictions and is not in its weights or patches of weights, a word for each.
    Functions around guidance are not counted: they see a prediction, they do not make it."""
    options = model.model_options.get("transformer_options", {})
    tables = {
        "injections": model.injections,
        "additional models": model.additional_models,
        "hooks": model.hook_patches,
        "weight functions": model.weight_wrapper_patches,
        "wrappers": {**_filled(model.wrappers), **_filled(options.get("wrappers", {}))},
        "attention patches": _filled(options.get("patches", {})),
        "attention replacements": _filled(options.get("patches_replace", {})),
        "a model function wrapper": model.model_options.get("model_function_wrapper"),
    }
    objects = sorted(set(model.object_patches) - HARMLESS_OBJECTS)
    return [*objects, *(word for word, table in tables.items() if table)]


def _filled(table: dict) -> dict:
    """Entries that hold something."""
    return {
        key: value
        for key, value in table.items()
        if value and any(value.values() if isinstance(value, dict) else value)
    }


def incumbent_is_on(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether AnimateDiff-Evolved has put itself on this model."""
    tables = [patcher.additional_models, patcher.attachments, patcher.injections, *patcher.wrappers.values()]
    return any(str(key) == "ADE" or str(key).startswith("ADE_") for table in tables for key in table)


def self_attention_guidance_is_on(model_options: dict) -> bool:
    """Whether ComfyUI's Self-Attention Guidance is among the functions after CFG. It has no mark but its
    name."""
    after_cfg = model_options.get("sampler_post_cfg_function", [])
    return any(
        getattr(function, "__qualname__", "").startswith("SelfAttentionGuidance.") for function in after_cfg
    )


def easy_cache_is_on(model_options: dict) -> bool:
    """Whether ComfyUI's EasyCache is on the model, which compares a call with the one before. LazyCache has
    its holder in the same place, but looks at whole steps."""
    return getattr(model_options.get("transformer_options", {}).get("easycache"), "name", "") == "EasyCache"


def guidance_is_plain(model_options: dict) -> bool:
    """Whether all that becomes of the two predictions is ComfyUI's own classifier-free guidance, at the scale
    that the guider has when it is called: nothing on the model takes part, and no other pack has put its own
    functions into ComfyUI."""
    functions = (
        *("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function"),
        "sampler_calc_cond_batch_function",
    )
    core = (comfy.samplers.sampling_function, comfy.samplers.cfg_function, CFGGuider.predict_noise)
    return (
        not any(model_options.get(name) for name in functions)
        and not get_all_wrappers(WrappersMP.PREDICT_NOISE, model_options, is_model_options=True)
        and all(function.__module__ == "comfy.samplers" for function in core)
    )


INCUMBENT = (
    "AnimateDiff-Evolved is already on this MODEL, and two packs cannot animate one model. Connect the "
    "model to AnimateDiff Flipbook's nodes only, or to AnimateDiff-Evolved's only."
)


def chosen_attention(transformer_options: dict) -> Attention:
    """The attention for temporal layers: the one the user chose for ComfyUI, where it can serve.

    Split and sub-quadratic attention save memory on long sequences; sequences of 16 or 32 frames need no
    saving, so torch's own attention stands in for them.
    """
    chosen = (
        "optimized_attention_override" in transformer_options
        or comfy.model_management.xformers_enabled()
        or comfy.model_management.sage_attention_enabled()
        or comfy.model_management.flash_attention_enabled()
    )
    if not chosen:
        return torch_attention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        # ComfyUI's functions take 1 / sqrt(D) for granted.
        factor = scale * q.shape[-1] ** 0.5
        if factor != 1.0:
            q = q * factor
        return comfy_attention.optimized_attention(
            q,
            k,
            v,
            q.shape[1],
            skip_reshape=True,
            skip_output_reshape=True,
            transformer_options=transformer_options,
        )

    return attend
