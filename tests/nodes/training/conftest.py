"""A graph's inputs that train in a second: the tiny family as ComfyUI loads it, six real clips, 64x64."""

from types import SimpleNamespace

import comfy.sd
import folder_paths
import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import open_motion_module, save_motion_module
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.nodes.motion.load import loaded_module
from animatediff_flipbook.nodes.paths import register_folders
from animatediff_flipbook.nodes.training import train as nodes
from animatediff_flipbook.tests.support_clips import fill


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """``checkpoint`` and ``motion``, paths of random models of the tiny family."""
    from animatediff_flipbook.demo.tiny_family import build

    folder = tmp_path_factory.mktemp("models")
    build.write_random_checkpoint(folder / "tiny.safetensors", seed=0)
    torch.manual_seed(1)
    motion = MotionModel(MotionModuleConfig.for_unet(build.build_networks().unet, "v3"))
    for weight in motion.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    save_motion_module(folder / "tiny_mm.safetensors", motion)
    return SimpleNamespace(checkpoint=folder / "tiny.safetensors", motion=folder / "tiny_mm.safetensors")


@pytest.fixture
def graph(files, tmp_path, monkeypatch):
    """A graph's loaded models, a folder ``squares`` in the input folder, and the folders of a ComfyUI."""
    import animatediff_flipbook.demo.tiny_family  # noqa: F401  makes the family known

    register_folders()
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path / "models" / name)])
    fill(tmp_path / "input" / "squares")
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(files.checkpoint))
        motion = loaded_module(open_motion_module(files.motion), "tiny_mm.safetensors")
    return SimpleNamespace(model=model, clip=clip, vae=vae, motion=motion, files=files, place=tmp_path)


@pytest.fixture
def run(graph):
    """``run(kind, name=value, ...)``: execute a training node as ComfyUI does, in inference mode."""

    def execute(kind=nodes.TrainMotionLora, **changes):
        inputs = {i.id: getattr(i, "default", None) for i in kind.GET_SCHEMA().inputs}
        inputs |= {"model": graph.model, "clip": graph.clip, "vae": graph.vae}
        inputs |= {"folder": "squares", "width": 64, "height": 64, "steps": 3, "learning_rate": 1e-2}
        inputs |= {"frames": 4} if "frames" in inputs else {}
        inputs |= {"rank": 4} if "rank" in inputs else {}
        inputs |= {"motion_module": graph.motion} if kind is nodes.TrainMotionLora else {}
        inputs |= {"settings": 'export.dtype = "float32"'} | changes
        lists = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
        with torch.inference_mode():
            return kind.execute(**lists)

    return execute
