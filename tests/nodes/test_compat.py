"""What ComfyUI is asked, where the answer is easily misread."""

import gc

import comfy.model_management
import comfy.model_patcher
import torch
from animatediff_flipbook.nodes.compat import models_in_use


def loaded(layer):
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(layer, load_device=cpu, offload_device=cpu)
    comfy.model_management.load_models_gpu([patcher])
    return patcher


def test_models_that_nobody_holds_are_not_put_back():
    """Without it, ComfyUI's load_models_gpu ends in an AttributeError on None."""
    kept, layer = loaded(torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2)
    loaded(layer)  # the model lives on, its patcher does not
    gc.collect()
    try:
        assert None in comfy.model_management.loaded_models(only_currently_used=True)
        found = models_in_use()
        assert None not in found
        assert kept in found
        comfy.model_management.load_models_gpu(found)
    finally:
        comfy.model_management.unload_all_models()
