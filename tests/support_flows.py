"""What the published workflows ask for besides modules: ControlNets, a model for enlarging, films, pictures.

All small, the weights random; the files have the forms in which the published ones come.
"""

from pathlib import Path

import av
import comfy.cldm.cldm
import comfy.ops
import torch
from animatediff_flipbook.demo.tiny_family.build import UNET_SHAPE
from animatediff_flipbook.tests.support import initialise
from animatediff_flipbook.tests.support_clips import moving_square, write_mp4
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN

FILM_FRAMES = 20
"""Of every film: more than one context window of 16."""


def write_controlnet(path: Path, seed: int) -> Path:
    """A stock ControlNet for the tiny family's UNet, by the names that files of SD1.5 have."""
    shape = {key: value for key, value in UNET_SHAPE.items() if "out" not in key}
    network = comfy.cldm.cldm.ControlNet(
        **shape, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    initialise(network, seed)
    save_file({key: value.half().contiguous() for key, value in network.state_dict().items()}, path)
    return path


def write_upscaler(path: Path) -> Path:
    """A small ESRGAN that enlarges four times, in its original layout."""
    network = ESRGAN(in_nc=3, out_nc=3, num_filters=4, num_blocks=1, scale=4)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


def fill_input(folder: Path) -> None:
    """The films and pictures that the workflows name, as a user puts them into ComfyUI's input folder."""
    folder.mkdir(parents=True, exist_ok=True)
    film = moving_square(0, FILM_FRAMES)
    white = (film != film[:, :1, :1]).any(axis=-1, keepdims=True).repeat(3, axis=-1)
    for name, frames in (("film", film), ("poses", film), ("mask", white.astype("uint8") * 255)):
        write_mp4(folder / f"{name}.mp4", frames, fps=12, codec="libx264")
    Image.fromarray(film[0]).save(folder / "example.png")


def count_frames(path: Path) -> int:
    """Of an animated picture or a video."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))
    with Image.open(path) as image:
        return image.n_frames
