"""Eight published graphs become what their folder's README says."""

import json
from types import SimpleNamespace

import pytest
from animatediff_flipbook.graphs.convert import convert, foreign_types
from support_graphs import FOLDER, as_prompt, faults, feeder, node, nodes_of, published, widgets

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def converted(name):
    old = published(name)
    kept = json.dumps(old)
    done = convert(old)
    assert json.dumps(old) == kept, "the document itself was changed"
    assert faults(done.graph) == []
    return SimpleNamespace(old=old, new=done.graph, report=done.report)


def only(graph, kind):
    (number,) = nodes_of(graph, kind)
    return number


def lost(done):
    return [item.text for item in done.report.of_kind("lost")]


@pytest.mark.parametrize("name", NAMES)
def test_nodes_that_are_not_concerned_stay_as_they_are(name):
    done = converted(name)
    if "nodes" not in done.old:
        named = {"7", "41", "27", "44", "45"}
        assert all(done.new[key] == done.old[key] for key in done.old if key not in named)
        return
    said = {item.node_id for item in done.report.items}
    for old in done.old["nodes"]:
        if str(old["id"]) not in said and not foreign_types(old):
            new = node(done.new, old["id"])
            if name == "iclight-batched-no-motion":  # holds links that lead nowhere
                old, new = ({**one, "inputs": 0, "outputs": 0} for one in (old, new))
            assert new == old
    assert converted(name).new == done.new
    assert not foreign_types(done.new)
    assert convert(done.new).graph == done.new


def test_motion_lora():
    done = converted("motion-lora")
    new = done.new
    assert node(new, 1)["type"] == "CheckpointLoaderSimple"
    assert node(new, 1)["widgets_values"] == ["sd_15_analogMadness_v60.safetensors"]
    assert [slot["links"] for slot in node(new, 1)["outputs"]][1] == [1, 132]
    load, apply = only(new, "FlipbookLoadMotionModule"), only(new, "FlipbookApplyMotionModule")
    assert widgets(new, load) == {"motion_module": "mm_sd_v15_v2.ckpt", "groupnorm": "auto"}
    assert widgets(new, apply) == {
        "scale": 1.0,
        "effect": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "beta_schedule": "sqrt_linear",
    }
    assert feeder(new, apply, "motion_module") == (load, 0)
    assert feeder(new, apply, "model") == (1, 0)
    assert feeder(new, apply, "motion_lora") == (61, 0)
    assert widgets(new, 61) == {"motion_lora": "v2_lora_ZoomIn.ckpt", "strength": 0.9500000000000001}
    window = only(new, "FlipbookContextWindows")
    assert feeder(new, window, "model") == (apply, 0)
    assert feeder(new, 67, "model") == (window, 0)
    shown = widgets(new, window)
    assert [shown[k] for k in ("length", "overlap", "stride", "schedule", "fuse")] == [
        *(16, 4, 1),
        "looped_uniform",
        "flat",
    ]
    assert shown["closed_loop"] is False and shown["start_percent"] == 0.0
    assert node(new, 65)["type"] == "EmptyLatentImage"
    assert node(new, 65)["widgets_values"] == [512, 512, 16]
    assert node(new, 27)["type"] == "VHS_VideoCombine"
    assert widgets(new, 27) == {
        "frame_rate": 8,
        "loop_count": 0,
        "filename_prefix": "Enabled",
        "format": "video/h264-mp4",
        "pingpong": False,
        "save_output": True,
    }
    assert node(new, 7) == node(done.old, 7)
    assert not lost(done)


def test_prompt_travel():
    done = converted("prompt-travel")
    new = done.new
    apply = only(new, "FlipbookApplyMotionModule")
    assert widgets(new, apply)["beta_schedule"] == "sqrt_linear"
    assert feeder(new, apply, "motion_lora") == (46, 0)
    assert widgets(new, 46)["strength"] == 0.8250000000000001
    shown = widgets(new, only(new, "FlipbookContextWindows"))
    assert (shown["length"], shown["overlap"], shown["fuse"]) == (16, 4, "flat")
    for number in (38, 40, 7, 98, 100, 101, 37):
        assert node(new, number) == node(done.old, number)
    assert not lost(done)


def test_gen1_freenoise():
    done = converted("gen1-vid2vid-freenoise")
    new = done.new
    apply = only(new, "FlipbookApplyMotionModule")
    load = feeder(new, apply, "motion_module")[0]
    assert widgets(new, load)["motion_module"] == "animatediff_lightning_2step_comfyui.safetensors"
    assert widgets(new, apply)["beta_schedule"] == "sqrt_linear"
    window, noise = only(new, "FlipbookContextWindows"), only(new, "FlipbookFrameNoise")
    assert feeder(new, 23, "model_optional") == (window, 0)
    shown = widgets(new, noise)
    assert [shown[k] for k in ("kind", "seed", "length", "overlap")] == ["freenoise", 5614841600, 16, 4]
    assert node(new, 25)["type"] == "FlipbookContextSampler"
    shown = widgets(new, 25)
    assert shown["control_after_generate"] == "fixed"
    assert [shown[k] for k in ("steps", "cfg", "sampler_name", "scheduler", "denoise")] == [
        *(8, 0.99, "euler", "sgm_uniform", 0.99)
    ]
    own = {k: shown[k] for k in ("length", "overlap", "stride", "schedule", "fuse", "closed_loop")}
    assert own == {k: widgets(new, window)[k] for k in own}
    assert (own["schedule"], own["fuse"]) == ("standard_static", "pyramid")
    assert feeder(new, 25, "noise") == (noise, 0) and feeder(new, 25, "model") == (23, 2)
    assert feeder(new, 25, "negative") == feeder(done.old, 25, "negative")
    assert feeder(new, 33, "width") == (14, 0) and feeder(new, 33, "batch_size") == (10, 1)
    assert not lost(done)


def test_lcm():
    new = converted("lcm-gen1").new
    apply, lcm = only(new, "FlipbookApplyMotionModule"), only(new, "ModelSamplingDiscrete")
    assert widgets(new, lcm) == {"sampling": "lcm", "zsnr": False}
    assert feeder(new, lcm, "model") == (37, 0) and feeder(new, apply, "model") == (lcm, 0)
    assert widgets(new, apply)["beta_schedule"] == "keep"
    assert not nodes_of(new, "FlipbookContextWindows")


def test_iclight():
    new = converted("iclight-batched-no-motion").new
    window = only(new, "FlipbookContextWindows")
    assert feeder(new, window, "model") == (37, 0) and feeder(new, 93, "model") == (window, 0)
    shown = widgets(new, window)
    assert [shown[k] for k in ("length", "schedule", "stride", "start_percent")] == [16, "batched", 1, 0]
    for kind in ("FlipbookLoadMotionModule", "FlipbookApplyMotionModule", "ModelSamplingDiscrete"):
        assert not nodes_of(new, kind)


def test_prompt():
    done = converted("api-ipadapter-second-pass")
    new = done.new
    apply = only(new, "FlipbookApplyMotionModule")
    assert feeder(new, apply, "model") == ("39", 0)
    assert widgets(new, feeder(new, apply, "motion_module")[0])["motion_module"] == "mm_sd_v14.ckpt"
    assert new[apply]["inputs"]["beta_schedule"] == "sqrt_linear" and new[apply]["inputs"]["scale"] == 1
    assert feeder(new, "7", "model") == feeder(new, "41", "model") == (apply, 0)
    assert [new[key]["class_type"] for key in ("44", "45")] == ["SaveAnimatedWEBP"] * 2
    assert [new[key]["inputs"]["filename_prefix"] for key in ("44", "45")] == ["AnimateDiff", "Upscale"]
    assert not nodes_of(new, "FlipbookContextWindows") and not lost(done)


def test_artventurex():
    new = converted("avx-lora").new
    apply = only(new, "FlipbookApplyMotionModule")
    assert feeder(new, apply, "model") == (4, 0) and feeder(new, apply, "motion_module") == (16, 0)
    assert feeder(new, apply, "motion_lora") == (21, 0)
    assert widgets(new, 21) == {"motion_lora": "v2_lora_ZoomIn.ckpt", "strength": 1}
    assert node(new, 15)["type"] == "KSampler" and feeder(new, 15, "model") == (apply, 0)
    assert node(new, 15)["widgets_values"] == [45987230, "fixed", 25, 7.5, "ddim", "ddim_uniform", 1]
    assert node(new, 20)["widgets_values"] == [512, 512, 14]
    assert not nodes_of(new, "FlipbookContextWindows")
    assert node(new, 12)["type"] == "SaveAnimatedWEBP"


def test_audio_visual():
    done = converted("audio-visual-settings")
    new = done.new
    apply = only(new, "FlipbookApplyMotionModule")
    shown = widgets(new, apply)
    assert shown["scale"] == pytest.approx(1.14) and shown["effect"] == 1.1
    assert shown["beta_schedule"] == "keep"
    assert widgets(new, feeder(new, apply, "motion_lora")[0])["strength"] == 0.8
    noise = only(new, "FlipbookFrameNoise")
    assert widgets(new, noise)["seed"] == 156680208700286
    for number, steps, denoise in ((158, 6, 0.43), (213, 8, 0.19)):
        assert node(new, number)["type"] == "FlipbookContextSampler"
        assert feeder(new, number, "model") == (263, 0) and feeder(new, number, "noise") == (noise, 0)
        shown = widgets(new, number)
        assert (shown["steps"], shown["denoise"], shown["cfg"]) == (steps, denoise, 2)
    text = done.report.as_text()
    assert "sampling node behind it" in text
    assert not any(word in text for word in ("PESweetspot", "AdjustWeight"))
    assert not lost(done)


WIDGETS = {
    "ADE_AnimateDiffLoaderWithContext": ["model_name", "beta_schedule"],
    "ADE_AnimateDiffLoaderGen1": ["model_name", "beta_schedule"],
    "ADE_AnimateDiffLoRALoader": ["name", "strength"],
    "ADE_StandardStaticContextOptions": ["context_length", "context_overlap", "fuse_method"],
    "ADE_AnimateDiffUniformContextOptions": [
        *("context_length", "context_stride", "context_overlap", "context_schedule", "closed_loop"),
        "fuse_method",
    ],
    "ADE_BatchedContextOptions": ["context_length"],
    "ADE_UseEvolvedSampling": ["beta_schedule"],
    "ADE_AnimateDiffSamplingSettings": ["batch_offset", "noise_type", "seed_gen", "seed_offset"],
    "ADE_MultivalDynamic": ["float_val"],
    "ADE_CustomCFGSimple": ["cfg"],
    "ADE_EmptyLatentImageLarge": ["width", "height", "batch_size"],
    "CheckpointLoaderSimpleWithNoiseSelect": ["ckpt_name", "beta_schedule"],
    "ADE_AnimateDiffCombine": [
        *("frame_rate", "loop_count", "filename_prefix", "format", "pingpong", "save_image")
    ],
    "AnimateDiffCombine": [
        *("frame_rate", "loop_count", "save_image", "filename_prefix", "format", "pingpong")
    ],
    "AnimateDiffModuleLoader": ["model_name"],
    "AnimateDiffLoraLoader": ["lora_name", "strength"],
    "AnimateDiffSampler": [
        *("inject_method", "frame_number", "seed", "-", "steps", "cfg", "sampler_name", "scheduler"),
        "denoise",
    ],
    "KSampler": ["seed", "-", "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "EmptyLatentImage": ["width", "height", "batch_size"],
    "ModelSamplingDiscrete": ["sampling", "zsnr"],
}


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("api-")])
def test_a_prompt_of_the_same_graph_becomes_the_same(name):
    """Workflow converted then exported, and exported then converted: our nodes hold the same values."""
    from animatediff_flipbook.graphs.check import widget_names
    from animatediff_flipbook.graphs.targets import TARGETS

    old = published(name)
    names = {kind: widget_names(kind) for kind in TARGETS if kind != "VHS_VideoCombine"} | WIDGETS
    first = as_prompt(convert(old).graph, names)
    second = convert(as_prompt(old, names)).graph
    assert faults(second) == []

    def plain(value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return str(float(value)) if number else "link" if isinstance(value, list) else str(value)

    def gist(prompt, key, depth=0):
        """A node with all that feeds it, by types and values: ids may differ."""
        one = prompt[key]
        values = {}
        for name, value in one["inputs"].items():
            if name == "control_after_generate":
                continue
            link = isinstance(value, list) and len(value) == 2 and value[0] in prompt
            values[name] = (
                (gist(prompt, value[0], depth + 1), value[1]) if link and depth < 6 else plain(value)
            )
        return one["class_type"], tuple(sorted(values.items(), key=lambda pair: pair[0]))

    def ours(prompt):
        kinds = ("Flipbook", "KSampler", "SaveAnimatedWEBP", "EmptyLatent")
        return sorted(
            repr(gist(prompt, key)) for key in prompt if prompt[key]["class_type"].startswith(kinds)
        )

    known = {*WIDGETS, *TARGETS}
    for prompt in (first, second):
        for one in prompt.values():
            if one["class_type"] not in known:
                one["inputs"] = {k: v for k, v in one["inputs"].items() if isinstance(v, list)}
    assert ours(first) == ours(second)
