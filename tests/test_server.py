"""The whole way, as a browser goes it: a real ComfyUI server, this pack, a small checkpoint, an animation."""

import io
import json
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.server import ComfyServer, PromptError
from animatediff_flipbook.tests.browser.incumbent_graph import OLD_TYPES, old_graph
from animatediff_flipbook.tests.support_clips import fill
from comfy_api.latest import io as comfy_io
from PIL import Image
from safetensors.torch import save_file

COMFYUI = Path(next(p for p in sys.path if (Path(p) / "comfy" / "model_patcher.py").is_file()))
FRAMES = 16
NODES = ("FlipbookLoadMotionModule", "FlipbookLoadMotionLora")
NODES += ("FlipbookApplyMotionModule", "FlipbookApplyDomainAdapter")


@pytest.fixture(scope="module")
def server(tmp_path_factory, root):
    models, base = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("base")
    script = str(root / "demo" / "random_models.py")
    subprocess.run([sys.executable, script, "--comfyui", str(COMFYUI), "--output", str(models)], check=True)
    wrong = models / "wrong.safetensors"
    save_file({"first_stage_model.decoder.conv_in.weight": torch.zeros(2, 2)}, wrong)
    prepare_base(
        base,
        {"animatediff-flipbook": root, "tiny-family": root / "demo" / "tiny_family"},
        {
            "checkpoints": [models / "checkpoints" / "tiny_ad.safetensors"],
            "animatediff_models": [models / "animatediff_models" / "tiny_mm.safetensors", wrong],
            "animatediff_motion_lora": [],
            "loras": [],
        },
    )
    with ComfyServer(COMFYUI, base, wait_for=NODES, environment={"OMP_NUM_THREADS": "1"}) as running:
        yield running


def prompt(seed=1, steps=2, module="tiny_mm.safetensors", size=64, schedule="auto"):
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="tiny_ad.safetensors"),
        "2": node("FlipbookLoadMotionModule", motion_module=module),
        "3": node(
            "FlipbookApplyMotionModule",
            model=["1", 0],
            motion_module=["2", 0],
            scale=1.0,
            effect=1.0,
            start_percent=0.0,
            end_percent=1.0,
            beta_schedule=schedule,
        ),
        "4": node("CLIPTextEncode", text="a red circle moving left", clip=["1", 1]),
        "5": node("CLIPTextEncode", text="", clip=["1", 1]),
        "6": node("EmptyLatentImage", width=size, height=size, batch_size=FRAMES),
        "7": node(
            "KSampler",
            seed=seed,
            steps=steps,
            cfg=5.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            model=["3", 0],
            positive=["4", 0],
            negative=["5", 0],
            latent_image=["6", 0],
        ),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": node(
            "SaveAnimatedWEBP",
            images=["8", 0],
            filename_prefix="test",
            fps=8.0,
            lossless=True,
            quality=90,
            method="fastest",
        ),
    }


def frames_of(data):
    picture = Image.open(io.BytesIO(data))
    frames = []
    for number in range(getattr(picture, "n_frames", 1)):
        picture.seek(number)
        frames.append(picture.convert("RGB").tobytes())
    return frames


def test_an_animation_comes_out(server):
    history = server.run(prompt())
    assert history.status == "success"
    assert history.progress("7")[-1] == (2, 2)
    assert {"2", "3", "7", "9"} <= set(history.executed())
    (file,) = history.files
    frames = frames_of(server.view(file))
    assert len(frames) == FRAMES
    assert len(set(frames)) == FRAMES
    entry = server.get(f"/history/{history.prompt_id}")[history.prompt_id]
    assert entry["status"]["status_str"] == "success"


def test_the_chosen_schedule_is_shown_on_the_node(server):
    seen = []
    server.run(prompt(seed=2, schedule="linear_sdxl"), on_event=lambda kind, data: seen.append((kind, data)))
    assert "linear 0.00085..0.02" in server.log_text()


def test_interrupt_and_a_clean_second_run(server):
    """Stopped in the middle of sampling; then the same graph, twice, gives the same animation."""

    def stop(kind, data):
        if kind == "progress" and data.get("node") == "7":
            server.interrupt()

    wanted = server.view(server.run(prompt(seed=3)).files[0])
    with pytest.raises(PromptError) as error:
        server.run(prompt(seed=4, steps=200), on_event=stop)
    assert error.value.kind == "interrupted"
    server.run(prompt(seed=5))  # another seed, so that the cache is not asked
    again = server.run(prompt(seed=3))
    assert frames_of(server.view(again.files[0])) == frames_of(wanted)


def test_unloading_models_between_runs(server):
    wanted = frames_of(server.view(server.run(prompt(seed=6)).files[0]))
    server.free()
    server.run(prompt(seed=7))
    assert frames_of(server.view(server.run(prompt(seed=6)).files[0])) == wanted


def test_a_wrong_file_is_explained_where_the_user_sees_it(server):
    with pytest.raises(PromptError, match=r"wrong\.safetensors is not a motion module.*Load VAE") as error:
        server.run(prompt(module="wrong.safetensors"))
    assert error.value.details["node_type"] == "FlipbookLoadMotionModule"
    assert server.run(prompt(seed=8)).status == "success"


def test_a_file_that_is_not_there_is_named(server):
    with pytest.raises(PromptError, match=r"gone\.safetensors is in none of the folders") as error:
        server.run(prompt(module="gone.safetensors"))
    assert error.value.kind == "rejected", "before anything is loaded"


def test_object_info_has_our_nodes_with_tooltips(server):
    for name in NODES:
        info = server.get(f"/object_info/{name}")[name]
        assert info["description"]
        assert info["category"].startswith("AnimateDiff")
        assert all(info["output_tooltips"])
        for group in ("required", "optional"):
            for options in info["input"].get(group, {}).values():
                assert options[1]["tooltip"]


def test_node_help_is_served(server):
    for name in NODES:
        assert server.request(f"/extensions/animatediff-flipbook/docs/{name}.md").startswith(b"#")


def test_words_of_every_language_are_served(server, root):
    """As the page asks for them; another pack's go beside them."""
    served = server.get("/i18n")
    languages = {folder.name for folder in (root / "locales").iterdir()}
    assert {"en", "zh", "ja", "ko"} <= languages
    for language in languages:
        for file in (root / "locales" / language).iterdir():
            words, theirs = json.loads(file.read_text("utf-8")), served[language]
            theirs = theirs if file.stem == "main" else theirs[file.stem]
            assert {key: theirs.get(key) for key in words} == words, file


def test_the_log_has_no_complaints_about_us(server):
    failed = [line for line in server.log_text().splitlines() if "IMPORT FAILED" in line]
    assert all("nodes_audio" in line for line in failed), "only core's audio nodes want torchaudio"
    assert "clip missing" not in server.log_text()


def test_training_and_its_extras_are_not_loaded(server):
    """Unused at inference: a server must not pay for them, nor need them."""
    import psutil

    maps = {Path(m.path).name for m in psutil.Process(server.pid).memory_maps()}
    assert not [name for name in maps if "accelerate" in name or "tensorboard" in name]


def test_graphs_of_the_incumbent_are_converted(server):
    old = old_graph()
    answer = server.post("/api/animatediff_flipbook/convert", old)
    assert {item["node_type"] for item in answer["report"]["items"]} == OLD_TYPES
    known = server.get("/object_info")
    assert all(node["type"] in known for node in answer["graph"]["nodes"])


@pytest.mark.skipif(not hasattr(comfy_io, "NodeReplace"), reason="this ComfyUI replaces no missing nodes")
def test_missing_nodes_that_map_one_to_one_are_replaced_in_prompts(server):
    old = prompt(seed=9)
    old["2"] = {"class_type": "ADE_LoadAnimateDiffModel", "inputs": {"model_name": "tiny_mm.safetensors"}}
    old["6"]["class_type"] = "ADE_EmptyLatentImageLarge"
    for node in old.values():
        node["_meta"] = {"title": node["class_type"]}  # as the page exports it
    replaced = server.run(old)
    assert frames_of(server.view(replaced.files[0])) == frames_of(
        server.view(server.run(prompt(seed=9)).files[0])
    )


def test_what_does_not_map_one_to_one_stays_missing(server):
    """A rule that leaves something out would do so without a word."""
    old = prompt(seed=10)
    old["2"] = {"class_type": "ADE_AnimateDiffLoRALoader", "inputs": {"name": "a.ckpt", "strength": 1.0}}
    old["2"]["_meta"] = {"title": "LoRA"}
    with pytest.raises(PromptError) as error:
        server.run(old)
    assert error.value.kind == "rejected" and "ADE_AnimateDiffLoRALoader" in str(error.value.details)


# -- training in the graph; last, because it loads what a test above looks for --


def training(seed=1, steps=24, clips="squares", **changes):
    """The graph above with a MotionLoRA that is trained in it, at full strength."""
    graph = prompt(seed=seed)
    inputs = {"folder": clips, "width": 64, "height": 64, "frames": 4, "fps": 8.0, "camera": "zoom_in"}
    inputs |= {"camera_speed": 0.4, "name": "zoom", "steps": steps, "rank": 4, "learning_rate": 0.01}
    inputs |= {"batch_size": 1, "seed": 7, "save_every": 10, "sample_prompt": "a red circle"}
    inputs |= {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "motion_module": ["2", 0]}
    inputs |= {"settings": "samples.steps = 2", **changes}
    graph["10"] = {"class_type": "FlipbookTrainMotionLora", "inputs": inputs}
    graph["3"]["inputs"]["motion_lora"] = ["10", 0]
    return graph


@contextmanager
def asked_all_the_time(server):
    """Asks for /queue from a thread of its own. For each answer: the seconds it took, and those that the
    server has computed meanwhile. On a machine with other work the first is longer by the others' turns; no
    answer takes longer than the smaller of the two where the server has the machine for itself."""
    import psutil

    answers, stop = [], threading.Event()
    process = psutil.Process(server.pid)

    def now():
        spent = process.cpu_times()
        return time.monotonic(), spent.user + spent.system

    def ask():
        while not stop.is_set():
            began = now()
            server.get("/queue")
            answers.append(tuple(end - start for start, end in zip(began, now(), strict=True)))
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


def assert_answered(answers, within=0.5):
    """Every answer in time."""
    waited = [min(pair) for pair in answers]
    print(
        f"/queue answered {len(answers)} times in at most {max(answers)[0]:.3f} s, "
        f"{max(waited):.3f} s of which the server itself computed, median {statistics.median(waited):.3f} s"
    )
    assert max(waited) < within
    assert statistics.median(waited) < 0.1


def test_a_motion_lora_is_trained_in_the_graph_cancelled_resumed_and_used(server):
    fill(server.base_directory / "input" / "squares")
    plain = frames_of(server.view(server.run(prompt(seed=30)).files[0]))

    def stop(kind, data):
        if kind == "progress" and data.get("node") == "10" and data["max"] == 24 and data["value"] >= 5:
            server.interrupt()

    with asked_all_the_time(server) as answers:
        with pytest.raises(PromptError) as error:
            server.run(training(seed=30), on_event=stop)
        assert error.value.kind == "interrupted"
        (run,) = (server.base_directory / "output" / "flipbook_training").glob("zoom-*")
        (state,) = (run / "checkpoints").iterdir()
        reached = json.loads((state / "state.json").read_text())["step"]
        assert 5 <= reached <= 12, "saved within a step of the word, which takes its way here and back"
        history = server.run(training(seed=30))
    assert history.status == "success"
    steps = [value for value, most in history.progress("10") if most == 24]
    assert min(steps) == reached + 1 and max(steps) == 24, "goes on, and does not begin again"
    assert_answered(answers)
    assert (server.base_directory / "models" / "animatediff_motion_lora" / "zoom.safetensors").is_file()
    (picture, clip) = history.outputs["10"]["images"]
    assert picture["filename"].endswith("-loss.png")
    assert clip["filename"].endswith("-step-00000024-00.webp")
    animation = next(file for file in history.files if file.node_id == "9")
    assert frames_of(server.view(animation)) != plain, "it moves otherwise with the LoRA"
    again = server.run(training(seed=31))
    assert "10" not in again.executed(), "the same inputs are answered from the cache"
    server.free()
    assert frames_of(server.view(server.run(prompt(seed=30)).files[0])) == plain


@pytest.mark.slow
def test_training_gives_its_memory_back(server):
    """Of the third run on: the first ones bring the trainer's packages in, and fill the allocator's pools."""
    import psutil

    process = psutil.Process(server.pid)
    for name in ("warm", "warmer"):
        server.run(training(seed=30, steps=6, name=name, learning_rate=0.01 + 0.001 * len(name)))
    before = process.memory_info().rss
    server.run(training(seed=30, steps=6, name="other", learning_rate=0.02))
    after = process.memory_info().rss
    print(f"resident memory {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after")
    assert after < 1.02 * before
