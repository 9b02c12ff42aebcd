"""Advanced-ControlNet's plain nodes become ComfyUI's where that is asked for."""

import pytest
from animatediff_flipbook.graphs.convert import convert
from animatediff_flipbook.graphs.core_targets import CORE
from support_graphs import Builder, as_prompt, faults, feeder, node, nodes_of, widgets

import nodes

ALSO = ["advanced-controlnet"]
APPLY = "ACN_AdvancedControlNetApply"
BOTH = ("positive:CONDITIONING", "negative:CONDITIONING")


def graph(
    kind=APPLY, loader="ControlNetLoaderAdvanced", name="openpose.pth", values=(0.5, 0.1, 0.7), **links
):
    """Checkpoint 1, pictures 2, prompts 3, loader 4, apply 5, sampler 6 (one more with `extra`)."""
    build = Builder()
    build.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL", "CLIP:CLIP", "VAE:VAE"))
    build.add("LoadImage", ["a.png", "image"], (), ("IMAGE:IMAGE", "MASK:MASK"))
    build.add("CLIPTextEncode", ["a cat"], (), ("CONDITIONING:CONDITIONING",), clip=(1, 1))
    on_loader = {key: links.pop(key) for key in ("timestep_keyframe", "model") if key in links}
    extra = links.pop("extra", None)
    if extra:
        build.add(extra, [], (), ("CN_WEIGHTS:CONTROL_NET_WEIGHTS", "TK_SHORTCUT:TIMESTEP_KEYFRAME"))
    number = build.add(loader, [name], (), ("CONTROL_NET:CONTROL_NET",), **on_loader)
    single = "Single" in kind
    outputs = ("CONDITIONING:CONDITIONING",) if single else BOTH
    outputs += ("model_opt:MODEL",) if "_v2" not in kind else ()
    prompts = {"conditioning": (3, 0)} if single else {"positive": (3, 0), "negative": (3, 0)}
    prompts |= {"control_net": (number, 0), "image": (2, 0)}
    build.add(kind, list(values), (), outputs, **prompts, **links)
    model = (number + 1, len(outputs) - 1) if "model_optional" in links else (1, 0)
    sampler = {"model": model, "positive": (number + 1, 0), "negative": (number + 1, 0 if single else 1)}
    build.add("KSampler", [1, "fixed", 8, 7.0, "euler", "normal", 1.0], (), (), **sampler)
    return build.graph()


@pytest.mark.parametrize("kind", [APPLY, f"{APPLY}_v2"])
@pytest.mark.parametrize("loader", ["ControlNetLoaderAdvanced", "ACN_ControlNetLoaderAdvanced"])
def test_plain_ones_become_comfyui_s(kind, loader):
    old = graph(kind, loader)
    assert convert(old).graph == old, "not without being asked"
    done = convert(old, also=ALSO)
    new = done.graph
    assert faults(new) == [] and done.report.count == 2 and not done.report.of_kind("lost")
    assert (node(new, 4)["type"], node(new, 5)["type"]) == ("ControlNetLoader", "ControlNetApplyAdvanced")
    assert widgets(new, 4) == {"control_net_name": "openpose.pth"}
    assert widgets(new, 5) == {"strength": 0.5, "start_percent": 0.1, "end_percent": 0.7}
    fed = {"positive": (3, 0), "negative": (3, 0), "control_net": (4, 0), "image": (2, 0), "vae": None}
    assert {name: feeder(new, 5, name) for name in fed} == fed
    assert (feeder(new, 6, "positive"), feeder(new, 6, "negative")) == ((5, 0), (5, 1))


def test_what_only_passed_through_goes_straight_on():
    new = convert(graph(model_optional=(1, 0), vae_optional=(1, 2)), also=ALSO).graph
    assert faults(new) == [] and feeder(new, 6, "model") == (1, 0) and feeder(new, 5, "vae") == (1, 2)


def test_a_difference_loader_keeps_its_model():
    new = convert(graph(loader="DiffControlNetLoaderAdvanced", model=(1, 0)), also=ALSO).graph
    assert node(new, 4)["type"] == "DiffControlNetLoader" and feeder(new, 4, "model") == (1, 0)


@pytest.mark.parametrize("switched_off", [2, 4])
def test_nodes_that_are_switched_off_stay_so(switched_off):
    old = graph()
    for number in (4, 5):
        node(old, number)["mode"] = switched_off
    new = convert(old, also=ALSO).graph
    assert nodes_of(new, "ControlNetApplyAdvanced") == [5] and node(new, 5)["mode"] == switched_off
    assert nodes_of(new, "ControlNetLoader") == [4] and node(new, 4)["mode"] == switched_off


def test_in_a_prompt_too():
    names = {
        "ControlNetLoaderAdvanced": ["control_net_name"],
        APPLY: ["strength", "start_percent", "end_percent"],
        "CheckpointLoaderSimple": ["ckpt_name"],
        "CLIPTextEncode": ["text"],
        "LoadImage": ["image", "upload"],
        "KSampler": ["seed", "control", "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    }
    new = convert(as_prompt(graph(), names), also=ALSO).graph
    assert faults(new) == [] and new["5"]["class_type"] == "ControlNetApplyAdvanced"
    assert new["5"]["inputs"] == {
        "positive": ["3", 0], "negative": ["3", 0], "control_net": ["4", 0], "image": ["2", 0],
        "strength": 0.5, "start_percent": 0.1, "end_percent": 0.7,
    }  # fmt: skip


@pytest.mark.parametrize(("values", "becomes"), [((0.5, 0, 1), True), ((0.5, 0.1, 1), False)])
def test_for_one_prompt_only_where_it_works_all_the_time(values, becomes):
    done = convert(graph(f"{APPLY}Single", values=values), also=ALSO)
    assert faults(done.graph) == [] and bool(nodes_of(done.graph, "ControlNetApply")) == becomes
    assert bool(done.report.of_kind("left")) != becomes


def test_default_weights_change_nothing_and_go():
    old = graph(extra="ACN_DefaultUniversalWeights", weights_override=(4, 0), timestep_kf=(4, 1))
    new = convert(old, also=ALSO).graph
    assert faults(new) == [] and nodes_of(new, "ControlNetApplyAdvanced") == [6]
    assert nodes_of(new, "ACN_DefaultUniversalWeights") == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mask_optional": (2, 1)}, "mask_optional"),
        ({"extra": "ScaledSoftControlNetWeights", "weights_override": (4, 0)}, "weights_override"),
        ({"extra": "ScaledSoftControlNetWeights", "timestep_keyframe": (4, 1)}, "tk_optional"),
        ({"name": "kohya_LLLite_depth.safetensors"}, "lllite"),
        ({"loader": "ACN_SparseCtrlLoaderAdvanced"}, "ACN_SparseCtrlLoaderAdvanced"),
    ],
)
def test_what_is_more_than_comfyui_has_stays_and_is_told(options, word):
    old = graph(**options)
    done = convert(old, also=ALSO)
    told = " ".join(item.text for item in done.report.of_kind("left"))
    assert faults(done.graph) == [] and word in told
    kinds = {one["type"] for one in old["nodes"]} - {one["type"] for one in done.graph["nodes"]}
    assert len(kinds) <= 1, "what holds them back stays with them"


def test_the_table_of_comfyui_s_nodes_is_comfyui_s():
    for kind, target in CORE.items():
        known = nodes.NODE_CLASS_MAPPINGS.get(kind)
        if known is None or not hasattr(known, "RETURN_TYPES"):
            continue
        groups = known.INPUT_TYPES()
        theirs = {**groups["required"], **groups.get("optional", {})}
        assert [one.name for one in target.inputs] == list(theirs), kind
        assert [kind for _, kind in target.outputs] == list(known.RETURN_TYPES)
        for one in target.inputs:
            bounds = theirs[one.name][1] if len(theirs[one.name]) > 1 else {}
            if one.kind in ("INT", "FLOAT"):
                assert (one.low, one.high, one.default) == tuple(
                    bounds[k] for k in ("min", "max", "default")
                ), (
                    kind,
                    one.name,
                )
