"""ComfyUI's memory modes: the same bytes as in the plain mode, and no memory lost from prompt to prompt.

    python run.py test -m slow tests/test_memory_modes.py [--comfyui DIR]        about five minutes

Modes that need a GPU skip where there is none.
"""

import copy
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.server import ComfyServer
from animatediff_flipbook.demo.tiny_family import build
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_motion_lora
from animatediff_flipbook.tests.support import motion_for
from animatediff_flipbook.tests.test_server import COMFYUI, NODES, prompt
from comfy.cli_args import parser
from PIL import Image

pytestmark = pytest.mark.slow
PROMPTS, WARM = 50, 15
"""Prompts per mode, and after how many memory is looked at for the first time."""
MODES = {
    "plain": (),
    "no cache": ("--cache-none",),
    "small cache": ("--cache-lru", "3"),
    "cache by memory": ("--cache-ram", "1"),
    "estimated memory": ("--disable-dynamic-vram",),
    "no smart memory": ("--disable-smart-memory",),
    "fast": ("--fast",),
    "fp8 unet": ("--fp8_e4m3fn-unet",),
    "deterministic": ("--deterministic",),
}
GPU_MODES = {
    "lowvram": ("--lowvram",),
    "novram": ("--novram",),
    "highvram": ("--highvram",),
    "async offload": ("--async-offload",),
    "weights on demand": ("--enable-dynamic-vram",),
    "estimated memory": ("--disable-dynamic-vram",),
}
FLAGS = {flag for action in parser._actions for flag in action.option_strings}
"""What this ComfyUI can be told."""
KEEPS_RESULTS = ("cache by memory",)
"""ComfyUI keeps what earlier prompts made for as long as there is memory; that is no leak."""
OTHER_ARITHMETIC = ("fp8 unet", "fast")


@pytest.fixture(scope="module")
def base(tmp_path_factory, root):
    models, base = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("base")
    script = str(root / "demo" / "random_models.py")
    subprocess.run([sys.executable, script, "--comfyui", str(COMFYUI), "--output", str(models)], check=True)
    packs = {"animatediff-flipbook": root, "tiny-family": root / "demo" / "tiny_family"}
    write_motion_lora(models / "animatediff_motion_lora" / "tiny_lora.safetensors")
    places = ("checkpoints", "animatediff_models", "animatediff_motion_lora")
    folders = {folder: list((models / folder).glob("*")) for folder in places}
    return prepare_base(base, packs, folders)


def write_motion_lora(path: Path) -> None:
    motion = motion_for(build.build_networks().unet)
    random = torch.Generator().manual_seed(3)

    def draw(*shape):
        return 0.3 * torch.randn(shape, generator=random)

    layers = {
        name: (draw(2, target.shape[1]), draw(target.shape[0], 2))
        for name, target in lora_targets(motion).items()
        if ".to_" in name
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_motion_lora(path, layers)


def small(number):
    """A clip of 4 frames; every other one goes through a second motion module, so that models come and go;
    two of four have a MotionLoRA of changing strength, so that patches do too."""
    graph = copy.deepcopy(prompt(seed=number, steps=1, size=32))
    graph["6"]["inputs"]["batch_size"] = 4
    if number % 4 > 1:
        graph["2b"] = {
            "class_type": "FlipbookLoadMotionLora",
            "inputs": {"motion_lora": "tiny_lora.safetensors", "strength": 1.0 + number / 100},
        }
        graph["3"]["inputs"]["motion_lora"] = ["2b", 0]
    if number % 2:
        graph["3b"] = copy.deepcopy(graph["3"])
        graph["3b"]["inputs"].update(model=["3", 0], scale=1.2)
        graph["3b"]["inputs"].pop("motion_lora", None)
        graph["7"]["inputs"]["model"] = ["3b", 0]
    return graph


def frames(path: Path) -> bytes:
    with Image.open(path) as image:
        pixels = []
        for index in range(image.n_frames):
            image.seek(index)
            pixels.append(image.convert("RGB").tobytes())
    return b"".join(pixels)


def run(base, arguments, prompts=PROMPTS, cpu=True):
    """``(pixels of the first prompts, resident bytes after WARM and after all)`` of one server."""
    with ComfyServer(
        COMFYUI, base, wait_for=NODES, environment={"OMP_NUM_THREADS": "1"}, extra_args=arguments, cpu=cpu
    ) as server:
        process = psutil.Process(server.pid)
        shown, resident = [], []
        for number in range(prompts):
            (file,) = server.run(small(number)).files
            if number < 4:
                shown.append(frames(file.path))
            if number in (WARM, prompts - 1):
                resident.append(process.memory_info().rss)
    return shown, resident


@pytest.fixture(scope="module")
def plain(base):
    return run(base, ())


def assert_flat(resident):
    before, after = resident
    assert after - before < 25 * 2**20, f"{(after - before) / 2**20:.0f} MiB more than {WARM} prompts before"


def needs(arguments):
    for flag in arguments:
        if flag.startswith("--") and flag not in FLAGS:
            pytest.skip(f"this ComfyUI has no {flag}")


@pytest.mark.parametrize("mode", MODES)
def test_same_bytes_and_no_leak(base, plain, mode):
    needs(MODES[mode])
    shown, resident = run(base, MODES[mode]) if mode != "plain" else plain
    assert len(set(shown)) == 4  # other seeds, other clips
    assert mode in OTHER_ARITHMETIC or shown == plain[0]
    if mode not in KEEPS_RESULTS:
        assert_flat(resident)


def test_a_cache_that_drops_everything_gives_the_same(base, plain):
    """Also what a prompt still needs: ComfyUI then runs those nodes again, which takes its time."""
    shown, _ = run(base, ("--cache-ram", "100000"), prompts=4)
    assert shown == plain[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", GPU_MODES)
def test_same_bytes_and_no_leak_on_a_gpu(base, mode):
    needs(GPU_MODES[mode])
    wanted, _ = run(base, (), prompts=WARM + 2, cpu=False)
    shown, resident = run(base, GPU_MODES[mode], cpu=False)
    assert shown == wanted
    assert_flat(resident)


def test_memory_stays_flat_over_150_prompts(base):
    _, resident = run(base, (), prompts=150)
    assert_flat(resident)
