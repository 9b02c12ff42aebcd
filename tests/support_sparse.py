"""A SparseCtrl encoder with random weights for a small UNet, as a file in the original's form."""

from pathlib import Path

import comfy.ops
import torch
from animatediff_flipbook.motion_core.control.sparse_control import SparseLayout
from animatediff_flipbook.motion_core.files.checkpoint import motion_state_dict
from animatediff_flipbook.motion_core.module.config import ModuleShape, MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.motion_core.module.unet import unet_slots
from animatediff_flipbook.nodes.control.sparse_network import SparseNetwork, _names
from animatediff_flipbook.tests.support import initialise
from safetensors.torch import save_file

PIXEL_EMBEDDING = ((4, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256))


def layout_for(unet, kind: str, context_dim: int) -> SparseLayout:
    """For a ComfyUI UNet with one ResBlock a level."""
    slots = [slot for slot in unet_slots(unet) if slot.name.startswith("down_blocks.")]
    widths = tuple(slot.channels for slot in slots)
    embedding = ((5, widths[0]),) if kind == "rgb" else (*PIXEL_EMBEDDING, (256, widths[0]))
    return SparseLayout(
        kind=kind,
        widths=widths,
        depths=tuple((int(slot.attention is not None),) for slot in slots),
        middle_depth=1,
        context_dim=context_dim,
        linear_projections=False,
        embedding=embedding,
    )


def random_encoder(unet, kind: str, seed: int = 0, context_dim: int = 64) -> dict[str, torch.Tensor]:
    """Tensors of an encoder file for a UNet, by the original's names, in fp16."""
    layout = layout_for(unet, kind, context_dim)
    motion = MotionModel(
        MotionModuleConfig(
            modules=tuple(
                (f"down_blocks.{level}.motion_modules.0", ModuleShape(width, width, 1, 1, 4 * width, 32))
                for level, width in enumerate(layout.widths)
            ),
            generation="v3",
        ),
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
        fused_qkv=False,
    )
    network = SparseNetwork(layout, motion, comfy.ops.disable_weight_init, dtype=torch.float32, device="cpu")
    initialise(network, seed)
    state = network.state_dict()
    named = {original: state[ours] for original, ours in _names(layout).items() if ours in state}
    return {
        key: value.detach().to(torch.float16).contiguous()
        for key, value in {**named, **motion_state_dict(motion)}.items()
    }


def write_encoder(path: Path, unet, kind: str, seed: int = 0, context_dim: int = 64) -> Path:
    """Write such a file: ``.safetensors``, or ``.ckpt`` in the published files' wrapping."""
    state = random_encoder(unet, kind, seed, context_dim)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"controlnet": {f"module.{key}": value for key, value in state.items()}}, path)
    return path
