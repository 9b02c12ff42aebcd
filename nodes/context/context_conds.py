"""Everything that belongs to single frames, cut to a context window: conds, masks, ControlNet hints.

ComfyUI's own windows leave the frame axis of conds and hints alone when frames lie in the batch, so each
window would be given the first frames' prompts and poses. Here a window gets its own.
"""

from __future__ import annotations

import copy
from typing import Any

import comfy.conds
import torch

from .frame_window import FrameWindow
from .other_packs import cuts_by_itself, places_by_itself

_ABSENT = object()


class HintStore:
    """Prepared hints of one run: resized, preprocessed and, for some ControlNets, encoded by a VAE.

    ComfyUI prepares a hint when a ControlNet first runs. Each window runs on a copy of the ControlNet; what a
    copy prepared is taken from it here, frame by frame, and given to later windows. It is kept where the
    original hints lie (as a rule in RAM), so that the GPU holds one window's hints however long the clip is.

    ``area``: latent size of the part of the picture that a ControlNet serves, None for all of it. Each size
    has hints of its own.
    """

    def __init__(self) -> None:
        self._stores: dict[tuple, _PreparedHint] = {}
        self._features: dict[int, _FeatureStore] = {}

    def fetch(
        self, control: Any, area: tuple[int, ...] | None, window: FrameWindow, device: torch.device
    ) -> torch.Tensor | None:
        """The window's prepared hint, if all its frames are known."""
        store = self._stores.get((id(control), area))
        if store is None or not store.known[window.index_list].all():
            return None
        return store.frames[window.index_list if store.per_frame else slice(None)].to(
            device, non_blocking=True
        )

    def adapter_network(self, control: Any, window: FrameWindow) -> WindowFeatures:
        """What a window's copy of a T2I-Adapter has for a network."""
        entries = window.num_frames if control.cond_hint_original.shape[0] > 1 else 1
        store = self._features.setdefault(id(control), _FeatureStore(control, entries))
        return WindowFeatures(store, window)

    def collect(self, control: Any, area: tuple[int, ...] | None, used: Any, window: FrameWindow) -> None:
        """Keep what the copy ``used`` of ``control`` prepared for the window, if it prepared anything."""
        hint = getattr(used, "cond_hint", None)
        original = getattr(control, "cond_hint_original", None)
        if not isinstance(hint, torch.Tensor) or not isinstance(original, torch.Tensor):
            return
        per_frame = original.shape[0] > 1
        store = self._stores.get((id(control), area))
        if store is None or store.frames.shape[1:] != hint.shape[1:]:
            entries = window.num_frames if per_frame else 1
            frames = torch.empty((entries, *hint.shape[1:]), dtype=hint.dtype, device=original.device)
            # The control is kept alive: its id is the key.
            store = _PreparedHint(
                control, frames, torch.zeros(window.num_frames, dtype=torch.bool), per_frame
            )
            self._stores[id(control), area] = store
        if store.known[window.index_list].all():
            return
        if per_frame:
            # A call with several conds repeats the frames; the first ones are the window's.
            store.frames[window.index_list] = hint[: len(window.index_list)].to(store.frames.device)
            store.known[window.index_list] = True
        else:
            store.frames.copy_(hint[:1])
            store.known[:] = True


class _PreparedHint:
    def __init__(self, control: Any, frames: torch.Tensor, known: torch.Tensor, per_frame: bool) -> None:
        self.control = control
        self.frames = frames
        self.known = known
        self.per_frame = per_frame


class WindowFeatures:
    """Stands in for a T2I-Adapter's network in one window's copy: computes a frame's features once per run.

    They depend on the hint alone, but ComfyUI would move the network to the GPU, run it and move it back for
    every window of every step.
    """

    def __init__(self, store: _FeatureStore, window: FrameWindow) -> None:
        self._store = store
        self._window = window
        self.unshuffle_amount = store.network.unshuffle_amount

    def to(self, *_: Any) -> WindowFeatures:
        """The network moves when it has something to do."""
        return self

    def cpu(self) -> WindowFeatures:
        """Likewise."""
        return self

    def __call__(self, hint: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
        """Features of the window's frames, as often as ``hint`` ((B*F, C, H, W), or one for all) holds
        them."""
        frames = self._window.index_list if hint.shape[0] > 1 else [0]
        return self._store.features(frames, hint)


class _FeatureStore:
    """A T2I-Adapter's features of all frames (or of the one hint for all), where its original hints lie.

    Each size of hint has features of its own. What counts is the hint itself and not the area it is made for:
    ComfyUI cuts off what of an area lies outside of the picture.
    """

    def __init__(self, control: Any, entries: int) -> None:
        self.control = control  # kept alive: its id is the key
        self.network = control.t2i_model
        self._entries = entries
        self._known: dict[torch.Size, set[int]] = {}
        self._kept: dict[torch.Size, dict[str, list[torch.Tensor | None]]] = {}

    def features(self, frames: list[int], hint: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
        size = hint.shape[1:]
        known = self._known.setdefault(size, set())
        missing = {frame: place for place, frame in enumerate(frames) if frame not in known}
        if missing:
            self.network.to(hint.device, hint.dtype)
            self._keep(size, list(missing), self.network(hint[list(missing.values())]))
            self.network.cpu()
            known.update(missing)
        videos = hint.shape[0] // len(frames)
        return {
            key: [
                None if one is None else one[frames].to(hint.device).repeat(videos, 1, 1, 1) for one in kept
            ]
            for key, kept in self._kept[size].items()
        }

    def _keep(
        self, size: torch.Size, frames: list[int], features: dict[str, list[torch.Tensor | None]]
    ) -> None:
        device = self.control.cond_hint_original.device
        if size not in self._kept:
            self._kept[size] = {
                key: [
                    None if one is None else one.new_empty((self._entries, *one.shape[1:]), device=device)
                    for one in made
                ]
                for key, made in features.items()
            }
        for key, made in features.items():
            for kept, one in zip(self._kept[size][key], made, strict=True):
                if one is not None:
                    kept[frames] = one.to(device)


class WindowControls:
    """The ControlNets of one window: one copy per size of its conds' areas, shared by all conds of that size.

    ComfyUI runs conds of one size together only if they hold the same ControlNet object, so two copies would
    double the model calls.
    """

    def __init__(self, window: FrameWindow, hints: HintStore, device: torch.device) -> None:
        self._window = window
        self._hints = hints
        self._device = device
        self._copies: dict[tuple, tuple[Any, Any]] = {}
        self._told: list[tuple[Any, dict[str, Any]]] = []

    def copy_of(self, control: Any, area: tuple[int, ...] | None = None) -> Any:
        """The copy of a ControlNet, and of those chained before it, that sees this window's frames only."""
        return self._copy(control, area, self._device)

    def _copy(self, control: Any, area: tuple[int, ...] | None, device: torch.device) -> Any:
        if control is None:
            return None
        if (id(control), area) in self._copies:
            return self._copies[id(control), area][1]
        window = self._window
        if cuts_by_itself(control):
            # No copy: its methods are bound to the object itself, which also counts its steps.
            self._tell(
                control,
                sub_idxs=list(window.index_list),
                full_latent_length=window.num_frames,
                context_length=window.context_length,
                previous_controlnet=self._copy(getattr(control, "previous_controlnet", None), None, device),
            )
            self._copies[id(control), area] = self._copies[id(control), None] = (control, control)
            self._copies_elsewhere(control, None)
            return control
        # copy.copy and not control.copy(): the latter drops what the start of the run has set.
        used = copy.copy(control)
        used.previous_controlnet = self._copy(getattr(control, "previous_controlnet", None), area, device)
        if not places_by_itself(control):
            self._cut_hint(control, used, area, device)
        self._copies[id(control), area] = (control, used)
        if elsewhere := self._copies_elsewhere(control, area):
            used.multigpu_clones = elsewhere
        return used

    def _cut_hint(self, control: Any, used: Any, area: tuple[int, ...] | None, device: torch.device) -> None:
        """Leave a copy the hint of the window's frames."""
        window = self._window
        used.cond_hint = self._hints.fetch(control, area, window, device)
        original = getattr(control, "cond_hint_original", None)
        if isinstance(original, torch.Tensor):
            used.cond_hint_original = window.get_tensor(original)
        extra = getattr(control, "extra_concat_orig", None)
        if extra:
            used.extra_concat_orig = [window.get_tensor(tensor) for tensor in extra]
        if hasattr(control, "control_input"):  # T2I-Adapter: its features of the last window
            used.control_input = None
            used.t2i_model = self._hints.adapter_network(control, window)

    def _copies_elsewhere(self, control: Any, area: tuple[int, ...] | None) -> dict[torch.device, Any]:
        """Of a ControlNet's own copies for further GPUs, which hold the hints of the whole clip too."""
        clones = getattr(control, "multigpu_clones", None) or {}
        return {device: self._copy(clone, area, device) for device, clone in clones.items()}

    def collect_hints(self) -> None:
        """After the model call: keep the hints that the copies have prepared."""
        for (_, area), (control, used) in self._copies.items():
            if used is not control:
                self._hints.collect(control, area, used, self._window)

    def _tell(self, control: Any, **attributes: Any) -> None:
        """Set attributes of a user's own ControlNet until :meth:`release`."""
        self._told.append((control, {name: vars(control).get(name, _ABSENT) for name in attributes}))
        vars(control).update(attributes)

    def release(self) -> None:
        """When the call is over, however it ended: the user's ControlNets are as they were."""
        while self._told:
            control, before = self._told.pop()
            for name, value in before.items():
                if value is _ABSENT:
                    vars(control).pop(name, None)
                else:
                    vars(control)[name] = value


def entries_of(entries: list[dict] | None, window: FrameWindow) -> list[dict] | None:
    """Of a combined prompt the part that is the window's, by where its middle lies in the clip."""
    if entries is None or len(entries) < 2:
        return entries
    middle = (min(window.index_list) + max(window.index_list)) / (2 * window.num_frames)
    return [entries[min(int(middle * len(entries)), len(entries) - 1)]]


def cut_conds(entries: list[dict] | None, window: FrameWindow, controls: WindowControls) -> list[dict] | None:
    """The conds of one window.

    Args:
        entries: what ComfyUI's samplers hold per prompt: dictionaries with tensors, ``model_conds`` and a
            ``control``; None where a prompt is left out (CFG 1).
    """
    if entries is None:
        return None
    return [{key: _cut_entry(key, entry, window, controls) for key in entry} for entry in entries]


def _cut_entry(key: str, entry: dict, window: FrameWindow, controls: WindowControls) -> Any:
    value = entry[key]
    if key == "control":
        area = entry.get("area")  # sizes, then places
        return controls.copy_of(value, None if area is None else tuple(area[: len(area) // 2]))
    if isinstance(value, torch.Tensor):
        # Besides masks, a first axis that is not the clip's may mean anything: such a tensor stays whole.
        per_frame = value.ndim > 0 and (key == "mask" or value.shape[0] == window.num_frames)
        return window.get_tensor(value) if per_frame else value
    if isinstance(value, dict):
        return {name: _cut_cond(name, cond, window) for name, cond in value.items()}
    return value


def _cut_cond(name: str, cond: Any, window: FrameWindow) -> Any:
    # Lists and constants first: in ComfyUI they are CONDRegular too.
    if isinstance(cond, comfy.conds.CONDConstant):
        return cond._copy_with(window.context_length) if name == "num_video_frames" else cond
    if isinstance(cond, comfy.conds.CONDList):
        return cond._copy_with([window.get_tensor(tensor) for tensor in cond.cond])
    if isinstance(cond, comfy.conds.CONDRegular):
        return cond._copy_with(window.get_tensor(cond.cond))
    if isinstance(cond, torch.Tensor) and cond.ndim > 0 and cond.shape[0] == window.num_frames:
        return window.get_tensor(cond)
    return cond
