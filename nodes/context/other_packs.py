"""What other packs read of a model call, and which of their parts must see the windows one by one.

Packs that keep something per frame (Advanced-ControlNet, IPAdapter and others) look for the entry
``ad_params`` in the options of a call, as AnimateDiff-Evolved publishes it:

``sub_idxs``        frames of the clip that the batch holds, in its order; None for the whole clip
``full_length``     frames of the clip
``context_length``  frames that see each other
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from comfy.patcher_extension import WrappersMP, get_all_wrappers

from .frame_window import FrameWindow

ENTRY = "ad_params"
_OURS = __name__.rsplit(".nodes.", 1)[0]
# ComfyUI loads its own extra nodes by path, which then is the name of their modules.
_KNOWN = re.compile(
    rf"(comfy|comfy_api|comfy_extras|torch|{re.escape(_OURS)}\.(nodes|motion_core))(\.|$)"
    r"|.*[/\\]comfy_extras[/\\]"
)


def window_entry(window: FrameWindow) -> dict[str, Any]:
    """``ad_params`` of a call with one or several windows."""
    return {
        "sub_idxs": list(window.index_list),
        "full_length": window.num_frames,
        "context_length": window.context_length,
    }


def clip_entry(num_frames: int) -> dict[str, Any]:
    """``ad_params`` of a call with the whole clip."""
    return {"sub_idxs": None, "full_length": num_frames, "context_length": num_frames}


def cuts_by_itself(control: Any) -> bool:
    """Whether a ControlNet is one of Advanced-ControlNet's, which cuts hints, masks and strengths itself."""
    return hasattr(control, "sub_idxs")


def places_by_itself(control: Any) -> bool:
    """Whether a ControlNet's hint is no batch of frames, and it asks the call which frames it holds
    (SparseCtrl)."""
    return getattr(control, "places_by_itself", False)


def sees_single_windows(model: Any, conds: Sequence[list[dict] | None], model_options: dict) -> str | None:
    """What of another pack takes part in the model's work, and may look a frame up or mix the frames that it
    sees: with several windows in a call, frames stand there twice and windows stand side by side.

    Returns:
        Words for it, or None if there is nothing but ComfyUI's and our own.
    """
    entries = [entry for entries in conds if entries is not None for entry in entries]
    for entry in entries:
        for control in _chain(entry.get("control")):
            if cuts_by_itself(control):
                return "A ControlNet of Advanced-ControlNet"
            if not _is_known(control):
                return f"A ControlNet of another pack ({type(control).__name__})"
    options = model_options.get("transformer_options", {})
    hooks = [hook for entry in entries for hook in getattr(entry.get("hooks"), "hooks", ())]
    for source in [options, *(getattr(hook, "transformers_dict", None) or {} for hook in hooks)]:
        parts = [
            *_leaves([source.get("patches", {}), source.get("patches_replace", {})]),
            *get_all_wrappers(WrappersMP.DIFFUSION_MODEL, source),
        ]
        if not all(map(_is_known, parts)):
            return "A patch of another pack"
    parts = [model_options.get("model_function_wrapper"), options.get("optimized_attention_override")]
    patches = getattr(getattr(model, "current_patcher", None), "object_patches", {})
    parts += [patch for key, patch in patches.items() if key.startswith("diffusion_model")]
    if not all(_is_known(part) for part in parts if part is not None):
        return "A patch of another pack"
    return None


def _chain(control: Any) -> Iterator[Any]:
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def _leaves(value: Any) -> Iterator[Any]:
    """Functions within dictionaries and lists."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        yield value
        return
    for part in value:
        yield from _leaves(part)


def _is_known(part: Any) -> bool:
    """Whether a function or an object is ComfyUI's, torch's or ours."""
    while isinstance(part, partial):
        part = part.func
    module = getattr(part, "__module__", None) or type(part).__module__
    return _KNOWN.match(module) is not None
