"""Hand-made graphs for the rules and notes: what a graph computed there, it computes here."""

import json
import math

import pytest
from animatediff_flipbook.graphs import GraphError
from animatediff_flipbook.graphs.convert import convert, foreign_types
from animatediff_flipbook.graphs.rules import OLD_NODES
from animatediff_flipbook.graphs.rules.becomes import BECOMES
from animatediff_flipbook.graphs.rules.evolved import BETA_SCHEDULES
from animatediff_flipbook.graphs.targets import TARGETS
from support_graphs import Builder, faults, feeder, node, nodes_of, widgets

V2 = "mm_sd_v15_v2.ckpt"
KSAMPLER = [5, "fixed", 20, 7.5, "euler", "normal", 1.0]
KIN = ("model:MODEL", "positive:CONDITIONING", "negative:CONDITIONING", "latent_image:LATENT")


class Animated(Builder):
    """A checkpoint, an empty latent, whatever the test adds, and samplers."""

    def __init__(self, frames=16):
        super().__init__()
        self.model = self.add(
            "CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL", "CLIP:CLIP", "VAE:VAE")
        )
        self.latent = self.add("EmptyLatentImage", [512, 512, frames], (), ("LATENT:LATENT",))

    def loader(self, name=V2, beta="sqrt_linear (AnimateDiff)", model=None, mode=0, **links):
        return self.add(
            "ADE_AnimateDiffLoaderGen1",
            [name, beta],
            ("model:MODEL",),
            ("MODEL:MODEL",),
            mode,
            model=(model or self.model, 0),
            **links,
        )

    def sampler(self, model, kind="KSampler", values=None, **links):
        links = {"model": (model, 0), "latent_image": (self.latent, 0), **links}
        return self.add(kind, list(values or KSAMPLER), KIN, ("LATENT:LATENT",), **links)

    def windows(self, *values, kind="ADE_AnimateDiffUniformContextOptions", mode=0, **links):
        return self.add(kind, list(values), (), ("CONTEXT_OPTS:CONTEXT_OPTIONS",), mode, **links)

    def settings(self, values, **links):
        return self.add("ADE_AnimateDiffSamplingSettings", values, (), ("settings:SAMPLE_SETTINGS",), **links)

    def convert(self):
        done = convert(self.graph())
        assert faults(done.graph) == []
        json.dumps(done.graph, allow_nan=False)
        return done


def only(graph, kind):
    (number,) = nodes_of(graph, kind)
    return number


def lost(done):
    return [item.text for item in done.report.of_kind("lost")]


@pytest.mark.parametrize("name", list(BETA_SCHEDULES))
def test_noise_schedules(name):
    build = Animated()
    build.sampler(build.loader(beta=name))
    new = build.convert().graph
    schedule = BETA_SCHEDULES[name]
    apply = only(new, "FlipbookApplyMotionModule")
    assert widgets(new, apply)["beta_schedule"] == schedule.choice
    assert len(nodes_of(new, "ModelSamplingDiscrete")) == schedule.lcm


@pytest.mark.parametrize("module", ["AnimateLCM_sd15_t2v.ckpt", "sd15_t2v_beta.ckpt", "ALCM.ckpt"])
def test_autoselect_on_animatelcm_is_lcm(module):
    build = Animated()
    build.sampler(build.loader(module, "autoselect"))
    new = build.convert().graph
    apply, lcm = only(new, "FlipbookApplyMotionModule"), only(new, "ModelSamplingDiscrete")
    assert feeder(new, apply, "model") == (lcm, 0)
    assert widgets(new, apply)["beta_schedule"] == "keep" and widgets(new, lcm)["sampling"] == "lcm"


def test_a_sampling_node_in_front_is_taken_off_and_one_behind_stays():
    build = Animated()
    front = build.add(
        "ModelSamplingDiscrete", ["lcm", False], ("model:MODEL",), ("MODEL:MODEL",), model=(build.model, 0)
    )
    build.sampler(build.loader(model=front))
    new = build.convert().graph
    assert not nodes_of(new, "ModelSamplingDiscrete")
    build = Animated()
    behind = build.add(
        "ModelSamplingDiscrete", ["lcm", False], ("model:MODEL",), ("MODEL:MODEL",), model=(build.loader(), 0)
    )
    build.sampler(behind)
    new = build.convert().graph
    assert nodes_of(new, "ModelSamplingDiscrete") == [behind]
    assert widgets(new, only(new, "FlipbookApplyMotionModule"))["beta_schedule"] == "keep"


def test_a_sampling_node_in_front_that_serves_others_stays():
    build = Animated()
    front = build.add(
        "ModelSamplingDiscrete", ["lcm", False], ("model:MODEL",), ("MODEL:MODEL",), model=(build.model, 0)
    )
    build.sampler(front)
    build.sampler(build.loader(model=front))
    new = build.convert().graph
    made = [n for n in nodes_of(new, "ModelSamplingDiscrete") if n != front]
    assert feeder(new, only(new, "FlipbookApplyMotionModule"), "model") == (made[0], 0)
    assert widgets(new, made[0])["sampling"] == "eps"


@pytest.mark.parametrize(
    "module, values, groupnorm",
    [
        (V2, [1.0, False], "joint"),
        (V2, [1.0, True], "auto"),
        (V2, [1.0], "auto"),
        (V2, [], "auto"),
        (V2, [True], "auto"),
        ("mm_sd_v14.ckpt", [1.0, False], "auto"),
        ("v3_sd15_mm.ckpt", [1.0, False], "auto"),
        ("AnimateLCM_sd15_t2v.ckpt", [1.0, False], "joint"),
    ],
)
def test_v2_that_was_not_applied_properly(module, values, groupnorm):
    build = Animated()
    loader = build.add(
        "ADE_AnimateDiffLoaderWithContext",
        [module, "sqrt_linear (AnimateDiff)", *values, ""],
        ("model:MODEL",),
        ("MODEL:MODEL",),
        model=(build.model, 0),
    )
    build.sampler(loader)
    new = build.convert().graph
    assert widgets(new, only(new, "FlipbookLoadMotionModule"))["groupnorm"] == groupnorm
    assert widgets(new, only(new, "FlipbookApplyMotionModule"))["scale"] == 1.0


@pytest.mark.parametrize(
    "frames, equal, loop",
    [(8, False, False), (16, False, False), (16, True, True), (17, False, True), (8, True, False)],
)
def test_loops_shorter_than_a_window(frames, equal, loop):
    build = Animated(frames)
    window = build.windows(16, 1, 4, "uniform", True, "flat", equal, 0, 1, "")
    build.sampler(build.loader(context_options=(window, 0)))
    new = build.convert().graph
    assert widgets(new, only(new, "FlipbookContextWindows"))["closed_loop"] is loop


@pytest.mark.parametrize("values, fuse", [([16, 1, 4, "uniform", False], "flat"), ([16, 4], "pyramid")])
def test_absent_fuse_is_what_the_node_fills_in(values, fuse):
    build = Animated()
    kind = "ADE_AnimateDiffUniformContextOptions" if len(values) > 2 else "ADE_StandardStaticContextOptions"
    build.sampler(build.loader(context_options=(build.windows(*values, kind=kind), 0)))
    new = build.convert().graph
    assert widgets(new, only(new, "FlipbookContextWindows"))["fuse"] == fuse


def test_fuse_names_lose_their_microscope():
    build = Animated()
    window = build.windows(
        16, 4, "\N{MICROSCOPE}gauss-sigma inverse", kind="ADE_StandardStaticContextOptions"
    )
    build.sampler(build.loader(context_options=(window, 0)))
    done = build.convert()
    assert widgets(done.graph, only(done.graph, "FlipbookContextWindows"))["fuse"] == "gauss-sigma inverse"
    assert not lost(done)


def test_chained_and_shared_context_options():
    build = Animated()
    first = build.windows(16, 4, "flat", False, 0, 1, kind="ADE_StandardStaticContextOptions")
    second = build.windows(
        12, 2, "flat", False, 0.5, 1, kind="ADE_StandardStaticContextOptions", prev_context=(first, 0)
    )
    for _ in range(2):
        build.sampler(build.loader(context_options=(second, 0)))
    new = build.convert().graph
    for apply in nodes_of(new, "FlipbookApplyMotionModule"):
        chain = [n for n in nodes_of(new, "FlipbookContextWindows") if feeder(new, n, "model") == (apply, 0)]
        assert [widgets(new, n)["start_percent"] for n in chain] == [0.0]
    assert len(nodes_of(new, "FlipbookContextWindows")) == 4


@pytest.mark.parametrize(
    "values",
    [
        [0, "FreeNoise", "comfy", 0, 0, False, ""],
        [0, "FreeNoise", "comfy", 0, False],
        [0, "FreeNoise", "comfy", 0, 0],
        [0, "FreeNoise", "comfy", 0],
        [0, "FreeNoise", "comfy"],
    ],
)
def test_freenoise_at_every_ksampler_in_files_of_every_age(values):
    build = Animated(32)
    window = build.windows(16, 1, 4, "uniform", False, "flat")
    settings = build.settings(values)
    loader = build.loader(context_options=(window, 0), sample_settings=(settings, 0))
    free = build.add("FreeU", [1, 1, 1, 1], ("model:MODEL",), ("MODEL:MODEL",), model=(loader, 0))
    samplers = [build.sampler(loader), build.sampler(free, values=[9, *KSAMPLER[1:]])]
    new = build.convert().graph
    for sampler, seed in zip(samplers, (5, 9), strict=True):
        assert node(new, sampler)["type"] == "FlipbookContextSampler"
        noise = feeder(new, sampler, "noise")[0]
        assert widgets(new, noise)["seed"] == seed and widgets(new, noise)["kind"] == "freenoise"


@pytest.mark.parametrize("kind", ["KSamplerAdvanced", "KSampler (Efficient)", "UltimateSDUpscale"])
def test_freenoise_for_other_samplers_rides_on_the_model(kind):
    build = Animated(32)
    window = build.windows(16, 1, 4, "uniform", False, "flat")
    settings = build.settings([0, "FreeNoise", "comfy", 3, 0, False])
    loader = build.loader(context_options=(window, 0), sample_settings=(settings, 0))
    sampler = build.sampler(loader, kind)
    new = build.convert().graph
    noise = only(new, "FlipbookModelNoise")
    assert feeder(new, sampler, "model") == (noise, 0)
    assert widgets(new, noise)["seed_offset"] == 3
    assert node(new, sampler)["type"] == kind


def test_seeds_per_frame_and_offset_of_the_batch():
    build = Animated()
    settings = build.settings([7, "default", "auto1111", 0, 0, False])
    build.sampler(build.loader(sample_settings=(settings, 0)))
    new = build.convert().graph
    shown = widgets(new, only(new, "FlipbookModelNoise"))
    assert (shown["kind"], shown["seeding"], shown["frame_offset"]) == ("independent", "frame", 7)


def test_empty_noise():
    build = Animated()
    settings = build.settings([0, "empty", "comfy", 0, 0, False])
    loader = build.loader(sample_settings=(settings, 0))
    sampler = build.sampler(loader, values=[5, "fixed", 20, 7.5, "euler", "normal", 0.5])
    new = build.convert().graph
    shown = widgets(new, sampler)
    assert node(new, sampler)["type"] == "KSamplerAdvanced"
    assert (shown["add_noise"], shown["steps"], shown["start_at_step"]) == ("disable", 40, 20)


def test_custom_cfg_and_free_init_reach_every_sampler():
    build = Animated()
    cfg = build.add("ADE_CustomCFGSimple", [2.5, ""], (), ("CUSTOM_CFG:CUSTOM_CFG",))
    again = build.add(
        "ADE_IterationOptsFreeInit",
        [3, "butterworth", 0.2, 0.3, 5, 999, True, "FreeInit [sampler sigma]", 0, 1],
        (),
        ("ITERATION_OPTS:ITERATION_OPTS",),
    )
    settings = build.settings(
        [0, "default", "comfy", 0, 0, False], custom_cfg=(cfg, 0), iteration_opts=(again, 0)
    )
    loader = build.loader(sample_settings=(settings, 0))
    one, two = build.sampler(loader), build.sampler(loader)
    efficient = build.sampler(loader, "KSampler (Efficient)", [*KSAMPLER, "auto", "true"])
    done = build.convert()
    new = done.graph
    assert node(new, one)["widgets_values"][3] == node(new, two)["widgets_values"][3] == 2.5
    assert node(new, efficient)["widgets_values"][3] == 2.5
    shown = widgets(new, only(new, "FlipbookModelFreeInit"))
    assert [shown[k] for k in ("iterations", "filter", "order", "from_pictures")] == [
        *(3, "butterworth", 5, True)
    ]
    assert not lost(done)


def test_two_modules_work_in_the_order_that_they_had():
    build = Animated()
    loads = [
        build.add("ADE_LoadAnimateDiffModel", [name], (), ("MOTION_MODEL:MOTION_MODEL_ADE",))
        for name in ("mm_sd_v14.ckpt", V2)
    ]
    applies = []
    for load, span in zip(loads, ((0.0, 0.2), (0.2, 1.0)), strict=True):
        links = {"prev_m_models": (applies[-1], 0)} if applies else {}
        applies.append(
            build.add(
                "ADE_ApplyAnimateDiffModel",
                [*span, ""],
                (),
                ("M_MODELS:M_MODELS",),
                motion_model=(load, 0),
                **links,
            )
        )
    evolved = build.add(
        "ADE_UseEvolvedSampling",
        ["sqrt_linear (AnimateDiff)"],
        ("model:MODEL",),
        ("MODEL:MODEL",),
        model=(build.model, 0),
        m_models=(applies[-1], 0),
    )
    sampler = build.sampler(evolved)
    new = build.convert().graph
    assert feeder(new, sampler, "model") == (applies[0], 0)
    assert feeder(new, applies[0], "model") == (applies[1], 0)
    assert feeder(new, applies[1], "model") == (build.model, 0)
    assert widgets(new, applies[1])["beta_schedule"] == "sqrt_linear"
    assert widgets(new, applies[0])["beta_schedule"] == "keep"
    assert (widgets(new, applies[0])["end_percent"], feeder(new, applies[0], "motion_module")) == (
        0.2,
        (loads[0], 0),
    )


def test_settings_of_the_module():
    build = Animated()
    pe = build.add("ADE_AdjustPESweetspotStretch", [16, 18, False, ""], (), ("PE_ADJUST:PE_ADJUST",))
    weight = build.add("ADE_AdjustWeightAllMult", [1.01, False, ""], (), ("WEIGHT_ADJUST:WEIGHT_ADJUST",))
    settings = build.add(
        "ADE_AnimateDiffSettings",
        [""],
        (),
        ("AD_SETTINGS:AD_SETTINGS",),
        pe_adjust=(pe, 0),
        weight_adjust=(weight, 0),
    )
    build.sampler(build.loader(ad_settings=(settings, 0)))
    done = build.convert()
    shown = widgets(done.graph, only(done.graph, "FlipbookMotionSettings"))
    assert (shown["stretch_rows"], shown["stretch_to"], shown["all_weights"]) == (16, 18, 1.01)
    assert feeder(done.graph, only(done.graph, "FlipbookApplyMotionModule"), "motion_settings") == (
        settings,
        0,
    )
    assert not lost(done)


def test_neutral_settings_leave_nothing():
    build = Animated()
    values = [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, ""]
    settings = build.add("ADE_AnimateDiffModelSettings", values, (), ("AD_SETTINGS:AD_SETTINGS",))
    build.sampler(build.loader(ad_settings=(settings, 0)))
    done = build.convert()
    assert not nodes_of(done.graph, "FlipbookMotionSettings") and not lost(done)


def test_keyframes_and_masked_scale():
    build = Animated()
    mask = build.add("SolidMask", [1, 64, 64], (), ("MASK:MASK",))
    scaled = build.add(
        "ADE_MultivalScaledMask", [0.8, 1.1, "absolute", ""], (), ("MULTIVAL:MULTIVAL",), mask=(mask, 0)
    )
    key = build.add(
        "ADE_AnimateDiffKeyframe",
        [0.25, True, 2, ""],
        (),
        ("AD_KEYFRAMES:AD_KEYFRAMES",),
        scale_multival=(scaled, 0),
    )
    build.sampler(build.loader(ad_keyframes=(key, 0), scale_multival=(scaled, 0)))
    done = build.convert()
    new = done.graph
    assert node(new, scaled)["type"] == "FlipbookMotionValue"
    assert (widgets(new, scaled)["value"], widgets(new, scaled)["lowest"]) == (1.1, 0.8)
    assert feeder(new, key, "scale") == (scaled, 0) and widgets(new, key)["guarantee_steps"] == 2
    apply = only(new, "FlipbookApplyMotionModule")
    assert feeder(new, apply, "scale") == (scaled, 0)
    assert feeder(new, apply, "motion_keyframes") == (key, 0)
    assert not lost(done)


def test_a_linked_multival_goes_straight_on():
    build = Animated()
    floats = build.add("SomeSchedule", [], (), ("FLOAT:FLOAT",))
    multival = build.add(
        "ADE_MultivalDynamicFloatInput", [""], (), ("MULTIVAL:MULTIVAL",), float_val=(floats, 0)
    )
    build.sampler(build.loader(effect_multival=(multival, 0)))
    new = build.convert().graph
    assert feeder(new, only(new, "FlipbookApplyMotionModule"), "effect") == (floats, 0)


def test_modes_stay():
    build = Animated()
    window = build.windows(16, 1, 4, "uniform", False, mode=2)
    loader = build.loader(mode=4, context_options=(window, 0))
    build.sampler(loader)
    new = build.convert().graph
    assert node(new, loader)["mode"] == 4 and node(new, window)["mode"] == 4


def test_reach_through_reroute_set_get_and_everywhere():
    build = Animated(32)
    window = build.windows(16, 1, 4, "uniform", False, "flat")
    settings = build.settings([0, "FreeNoise", "comfy", 0, 0, False])
    loader = build.loader(context_options=(window, 0), sample_settings=(settings, 0))
    way = build.add("Reroute", None, (":*",), (":*",), **{"": (loader, 0)})
    build.add("SetNode", ["m"], ("MODEL:MODEL",), ("*:*",), MODEL=(way, 0))
    got = build.add("GetNode", ["m"], (), ("MODEL:MODEL",))
    build.add("Anything Everywhere", None, ("anything:*",), (), anything=(way, 0))
    through, spread = build.sampler(got), build.add("KSampler", list(KSAMPLER), KIN, ("LATENT:LATENT",))
    new = build.convert().graph
    for sampler in (through, spread):
        assert node(new, sampler)["type"] == "FlipbookContextSampler"


def test_subgraphs():
    inner = Animated(32)
    window = inner.windows(16, 1, 4, "uniform", False, "flat")
    loader = inner.loader(context_options=(window, 0))
    inner.sampler(loader)
    level = inner.graph()
    level["links"] = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), one, strict=True))
        for one in level["links"]
    ]
    level |= {"id": "abc", "name": "Animate", "inputNode": {"id": -10}, "outputNode": {"id": -20}}
    level |= {"inputs": [], "outputs": [{"name": "MODEL", "type": "MODEL", "linkIds": [99]}]}
    level["links"].append(
        {"id": 99, "origin_id": loader, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "MODEL"}
    )
    level["nodes"][loader - 1]["outputs"][0]["links"].append(99)
    outer = Builder()
    outer.add("abc", None, (), ("MODEL:MODEL",))
    graph = outer.graph() | {"definitions": {"subgraphs": [level]}}
    done = convert(graph)
    assert faults(done.graph) == [] and not foreign_types(done.graph)
    new = done.graph["definitions"]["subgraphs"][0]
    link = next(one for one in new["links"] if one["id"] == 99)
    assert link["origin_id"] == only(new, "FlipbookContextWindows")


def test_checkpoint_with_a_schedule_where_the_loader_uses_the_existing_one():
    build = Animated()
    build.nodes[0] |= {
        "type": "CheckpointLoaderSimpleWithNoiseSelect",
        "widgets_values": ["sd.ckpt", "linear (AnimateDiff-SDXL)"],
    }
    build.sampler(build.loader(beta="use existing"))
    done = build.convert()
    apply = only(done.graph, "FlipbookApplyMotionModule")
    assert widgets(done.graph, apply)["beta_schedule"] == "linear_sdxl" and not lost(done)


@pytest.mark.parametrize("value", ["many", math.nan, math.inf, -7, 10**30, None, [3], {"a": 1}, True])
def test_strange_values_are_cut_and_told(value):
    build = Animated()
    window = build.windows(value, 1, 4, "uniform", False)
    build.sampler(build.loader(context_options=(window, 0)))
    done = build.convert()
    shown = widgets(done.graph, only(done.graph, "FlipbookContextWindows"))
    assert 2 <= shown["length"] <= 128
    assert value is None or lost(done)


def test_nothing_to_convert_stays_byte_for_byte():
    build = Animated()
    build.sampler(build.model)
    graph = build.graph()
    done = convert(graph)
    assert done.graph == graph and not done.report.needs_conversion


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "text",
        {},
        {"a": 1},
        {"nodes": 5, "x": {"type": "ADE_X"}},
        {"nodes": [1, {"type": "ADE_AnimateDiffUnload"}]},
        {"nodes": [{"id": 1, "type": "ADE_AnimateDiffUnload"}] * 2, "links": []},
        {"nodes": [{"id": 1, "type": "ADE_AnimateDiffUnload", "inputs": 5}], "links": []},
        {"nodes": [{"id": 1, "type": "ADE_AnimateDiffUnload"}], "links": 3},
        {"1": {"class_type": 3}, "2": {"class_type": "ADE_AnimateDiffUnload"}},
    ],
)
def test_what_is_no_graph_ends_in_a_sentence(document):
    with pytest.raises(GraphError, match=r"\w+ \w+"):
        convert(document)


def test_the_table_names_every_old_node():
    assert set(BECOMES) == set(OLD_NODES)
    assert all(
        schedule.choice in TARGETS["FlipbookApplyMotionModule"].input("beta_schedule").options
        for schedule in BETA_SCHEDULES.values()
    )


def test_targets_are_our_nodes(root):
    """Order, kinds and bounds as in the snapshot of our schemas, as far as it has the node and the input."""
    schemas = json.loads((root / "tests" / "data" / "node_schemas.json").read_text())
    for kind, target in TARGETS.items():
        if kind not in schemas:
            continue
        theirs = schemas[kind]["inputs"]
        ours = [one.name for one in target.inputs]
        assert set(theirs) <= set(ours), kind
        shown = [one.name for one in target.inputs if one.widget and one.name in theirs]
        assert shown == [name for name in theirs if name in shown], kind
        for one in target.inputs:
            given = theirs.get(one.name)
            if given is None or not one.widget:
                continue
            if one.options and isinstance(given.get("options"), list):
                assert list(one.options) == given["options"], (kind, one.name)
            if "max" in given and (kind, one.name) != ("FlipbookApplyMotionModule", "effect"):
                assert (one.low, one.high) == (given["min"], given["max"]), (kind, one.name)
            if "default" in given and one.name not in ("prompts",):
                assert one.default == given["default"], (kind, one.name)
        outputs = [name for name, _ in target.outputs]
        assert outputs == [name for name, _ in schemas[kind]["outputs"]], kind


def test_the_documentation_has_the_table_of_the_rules(root):
    from animatediff_flipbook.graphs.table import as_markdown

    assert (root / "docs" / "from-the-incumbent.md").read_text(encoding="utf-8").endswith(as_markdown())


def test_group_nodes_are_told():
    build = Animated()
    build.add("workflow>motion", None, (), ("MODEL:MODEL",))
    graph = build.graph()
    graph["extra"]["groupNodes"] = {"motion": {"nodes": [{"type": "ADE_AnimateDiffLoaderGen1"}]}}
    (item,) = convert(graph).report.of_kind("left")
    assert "Convert to nodes" in item.text
