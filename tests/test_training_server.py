"""Training on the canvas, all of it on one real server: on films, cancelled, resumed, used; and what it
must not cost: the base, the memory, the server's answers."""

import subprocess
import sys

import numpy as np
import pytest
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.server import ComfyServer, PromptError
from animatediff_flipbook.tests.support_clips import moving_square, write_mp4
from animatediff_flipbook.tests.test_server import (
    COMFYUI,
    asked_all_the_time,
    assert_answered,
    frames_of,
    prompt,
    training,
)

pytestmark = pytest.mark.slow
STEPS = 60
HASHES = '''
import hashlib

class WeightsAsTheyAre:
    """Shows a digest of every weight that a graph has loaded."""
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "run", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        kinds = {"model": "MODEL", "clip": "CLIP", "vae": "VAE", "module": "MOTION_MODULE"}
        return {"required": {name: (kind,) for name, kind in kinds.items()}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")

    def run(self, model, clip, vae, module):
        parts = model.model, clip.cond_stage_model, vae.first_stage_model, module.patcher.model
        shown = []
        for part in parts:
            digest = hashlib.sha256()
            for name, weight in part.state_dict().items():
                digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
            shown.append(digest.hexdigest())
        return {"ui": {"text": shown}}

NODE_CLASS_MAPPINGS = {"WeightsAsTheyAre": WeightsAsTheyAre}
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory, root):
    models, base = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("base")
    script = str(root / "demo" / "random_models.py")
    subprocess.run([sys.executable, script, "--comfyui", str(COMFYUI), "--output", str(models)], check=True)
    pack = tmp_path_factory.mktemp("pack")
    (pack / "__init__.py").write_text(HASHES)
    prepare_base(
        base,
        {
            "animatediff-flipbook": root,
            "tiny-family": root / "demo" / "tiny_family",
            "weights-as-they-are": pack,
        },
        {
            "checkpoints": [models / "checkpoints" / "tiny_ad.safetensors"],
            "animatediff_models": [models / "animatediff_models" / "tiny_mm.safetensors"],
            "animatediff_motion_lora": [],
        },
    )
    films(base / "input" / "films")
    wait_for = ("FlipbookTrainMotionLora", "WeightsAsTheyAre")
    with ComfyServer(COMFYUI, base, wait_for=wait_for, environment={"OMP_NUM_THREADS": "1"}) as running:
        yield running


def films(folder):
    """MP4 files as cameras and programs make them: sizes, shapes, rates and lengths that differ."""
    folder.mkdir(parents=True)
    for number, (fps, count, size, wider) in enumerate(
        [(8, 8, 64, 0), (24, 60, 128, 64), (30, 90, 240, 186), (25, 25, 96, 0), (12, 40, 160, 32)]
    ):
        frames = moving_square(number, count, size)
        write_mp4(folder / f"film{number}.mp4", np.pad(frames, ((0, 0), (0, 0), (0, wider), (0, 0))), fps)
        (folder / f"film{number}.txt").write_text(f"a square {number}")


def weights(server):
    """Digests of base, text encoder, VAE and module, in memory; they are not loaded anew for it."""
    server.free(unload_models=True, free_memory=False)
    graph = {key: node for key, node in prompt().items() if key in "12"}
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "module": ["2", 0]}
    graph["11"] = {"class_type": "WeightsAsTheyAre", "inputs": links}
    history = server.run(graph)
    assert not {"1", "2"} & set(history.executed())
    return history.outputs["11"]["text"]


def resident(server):
    """Bytes of memory that the server holds."""
    import psutil

    return psutil.Process(server.pid).memory_info().rss


def test_trained_on_films_cancelled_resumed_and_used_in_one_graph(server):
    """The first runs bring the trainer's packages in, and fill the allocator's pools."""
    settings = {"clips": "films", "frames": 8, "width": 64, "height": 64, "rank": 8}
    for name in ("warm", "warmer"):
        server.run(training(seed=40, steps=12, name=name, **settings))
    plain = frames_of(server.view(server.run(prompt(seed=40)).files[0]))
    before, held = weights(server), resident(server)

    def stop(kind, data):
        if kind == "progress" and data.get("node") == "10" and data["max"] == STEPS and data["value"] >= 20:
            server.interrupt()

    whole = training(seed=40, steps=STEPS, name="film", **settings)
    with asked_all_the_time(server) as answers:
        with pytest.raises(PromptError) as error:
            server.run(whole, on_event=stop)
        assert error.value.kind == "interrupted"
        assert weights(server) == before, "after the cancel"
        history = server.run(whole)
    done = [value for value, most in history.progress("10") if most == STEPS]
    assert 20 < min(done) <= 30 and max(done) == STEPS, "it went on"
    animation = next(file for file in history.files if file.node_id == "9")
    assert frames_of(server.view(animation)) != plain, "the clip of the same graph has the LoRA"
    assert weights(server) == before, "after the training"
    assert frames_of(server.view(server.run(prompt(seed=40)).files[0])) == plain
    weights(server)
    kept = resident(server)
    print(f"resident memory {held / 2**20:.0f} MiB before, {kept / 2**20:.0f} MiB after")
    assert kept < 1.02 * held
    assert_answered(answers)
