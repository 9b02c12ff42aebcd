"""A server for the tests of the page: the tiny family with random weights, previews on."""

import subprocess
import sys

import pytest
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.server import ComfyServer
from animatediff_flipbook.tests.test_server import COMFYUI


@pytest.fixture(scope="package")
def flipbook_server(tmp_path_factory, root):
    models, base = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("base")
    script = str(root / "demo" / "random_models.py")
    subprocess.run([sys.executable, script, "--comfyui", str(COMFYUI), "--output", str(models)], check=True)
    prepare_base(
        base,
        {"animatediff-flipbook": root, "tiny-family": root / "demo" / "tiny_family"},
        {
            "checkpoints": [models / "checkpoints" / "tiny_ad.safetensors"],
            "animatediff_models": [models / "animatediff_models" / "tiny_mm.safetensors"],
        },
    )
    with ComfyServer(
        COMFYUI,
        base,
        wait_for=("FlipbookApplyMotionModule",),
        environment={"OMP_NUM_THREADS": "1"},
        extra_args=("--preview-method", "latent2rgb"),
    ) as running:
        yield running
