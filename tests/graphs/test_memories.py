"""What newer frontends remember about a node beside its values: it must not survive the conversion."""

from animatediff_flipbook.graphs.convert import convert
from support_graphs import Builder, faults, node, nodes_of, widgets

OLD = {
    "Node name for S&R": "ADE_AnimateDiffLoaderGen1",
    "cnr_id": "comfyui-animatediff-evolved",
    "ver": "1.5",
}
NAMES = ("seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise")


def graph():
    build = Builder()
    build.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL",))
    cfg = build.add("ADE_CustomCFGSimple", [2.0], (), ("CUSTOM_CFG:CUSTOM_CFG",))
    settings = build.add(
        "ADE_AnimateDiffSamplingSettings",
        [0, "default", "comfy", 0, 0, False],
        (),
        ("settings:SAMPLE_SETTINGS",),
        custom_cfg=(cfg, 0),
    )
    loader = build.add(
        "ADE_AnimateDiffLoaderGen1",
        ["wrong.ckpt", "autoselect"],
        ("model:MODEL",),
        ("MODEL:MODEL",),
        model=(1, 0),
        sample_settings=(settings, 0),
    )
    build.nodes[loader - 1] |= {
        "properties": dict(OLD),
        "widgets_values_named": {"model_name": "mm.ckpt", "beta_schedule": "linear (AnimateDiff-SDXL)"},
    }
    values = [1, "fixed", 8, 7.0, "euler", "normal", 1.0]
    sampler = build.add("KSampler", values, ("model:MODEL",), ("LATENT:LATENT",), model=(loader, 0))
    build.nodes[sampler - 1]["widgets_values_named"] = dict(zip(NAMES, values, strict=True))
    return build.graph(), loader, sampler


def test_values_by_name_are_read_and_rewritten():
    old, loader, sampler = graph()
    new = convert(old).graph
    assert faults(new) == []
    (load,) = nodes_of(new, "FlipbookLoadMotionModule")
    assert widgets(new, load)["motion_module"] == "mm.ckpt"
    assert widgets(new, loader)["beta_schedule"] == "linear_sdxl"
    assert "widgets_values_named" not in node(new, loader)
    changed = node(new, sampler)
    assert changed["widgets_values"][3] == changed["widgets_values_named"]["cfg"] == 2.0


def test_nothing_of_the_old_pack_stays_in_the_properties():
    old, loader, _ = graph()
    new = node(convert(old).graph, loader)
    assert new["properties"] == {
        "Node name for S&R": "FlipbookApplyMotionModule",
        "cnr_id": "animatediff-flipbook",
    }


def test_values_of_another_name_are_dropped_rather_than_contradicting():
    old, _, sampler = graph()
    old["nodes"][sampler - 1]["widgets_values_named"].pop("cfg")
    new = node(convert(old).graph, sampler)
    assert new["widgets_values"][3] == 2.0 and "widgets_values_named" not in new


def test_values_of_widgets_that_a_subgraph_shows_stay_with_their_widgets():
    inner, loader, sampler = graph()
    ends = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    inner["links"] = [dict(zip(ends, one, strict=True)) for one in inner["links"]]
    inner |= {"id": "abc", "name": "Animate", "inputNode": {"id": -10}, "outputNode": {"id": -20}}
    outer = Builder()
    outer.add("abc", ["mm.ckpt", 9, 3.5])
    shown = [[str(loader), "model_name"], [str(sampler), "steps"], [str(sampler), "denoise"]]
    outer.nodes[0]["properties"] = {"proxyWidgets": shown}
    outer.nodes[0]["widgets_values_named"] = {"model_name": "mm.ckpt", "steps": 9, "denoise": 3.5}
    done = convert(outer.graph() | {"definitions": {"subgraphs": [inner]}})
    new = node(done.graph, 1)
    assert new["properties"]["proxyWidgets"] == shown[1:] and new["widgets_values"] == [9, 3.5]
    assert new["widgets_values_named"] == {"steps": 9, "denoise": 3.5}
