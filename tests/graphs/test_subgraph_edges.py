"""What AnimateDiff nodes hand each other across the edges of subgraphs still arrives."""

import pytest
from animatediff_flipbook.graphs.convert import convert, foreign_types
from support_graphs import Builder, faults, feeder, nodes_of, widgets

KIN = ("model:MODEL", "latent_image:LATENT")
NAMES = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def subgraph(build, inputs=(), outputs=()):
    """``inputs``: (name, type, node, input name); ``outputs``: (name, type, node, slot)."""
    level = build.graph()
    level["links"] = [dict(zip(NAMES, one, strict=True)) for one in level["links"]]
    level |= {"id": "sub", "name": "Motion", "inputNode": {"id": -10}, "outputNode": {"id": -20}}
    level["inputs"], level["outputs"] = [], []
    for place, (name, kind, target, slot) in enumerate(inputs):
        into = next(n for n, one in enumerate(build.nodes[target - 1]["inputs"]) if one["name"] == slot)
        number = 900 + place
        build.nodes[target - 1]["inputs"][into]["link"] = number
        level["links"].append(dict(zip(NAMES, (number, -10, place, target, into, kind), strict=True)))
        level["inputs"].append({"id": f"i{place}", "name": name, "type": kind, "linkIds": [number]})
    for place, (name, kind, origin, slot) in enumerate(outputs):
        number = 950 + place
        build.nodes[origin - 1]["outputs"][slot]["links"].append(number)
        level["links"].append(dict(zip(NAMES, (number, origin, slot, -20, place, kind), strict=True)))
        level["outputs"].append({"id": f"o{place}", "name": name, "type": kind, "linkIds": [number]})
    return level


def lora(build):
    return build.add("ADE_AnimateDiffLoRALoader", ["zoom.ckpt", 0.7], (), ("MOTION_LORA:MOTION_LORA",))


def apply(build, **links):
    load = build.add("ADE_LoadAnimateDiffModel", ["mm.ckpt"], (), ("MOTION_MODEL:MOTION_MODEL_ADE",), **links)
    return build.add(
        "ADE_ApplyAnimateDiffModelSimple",
        [],
        ("motion_model:MOTION_MODEL_ADE", "motion_lora:MOTION_LORA", "scale_multival:MULTIVAL"),
        ("M_MODELS:M_MODELS",),
        motion_model=(load, 0),
    )


def link_in(build, source, target, name):
    """A further link between nodes."""
    slots = build.nodes[target - 1]["inputs"]
    place = next(n for n, one in enumerate(slots) if one["name"] == name)
    number = len(build.links) + 1
    start = build.nodes[source - 1]["outputs"][0]
    build.links.append([number, source, 0, target, place, start["type"]])
    start["links"].append(number)
    slots[place]["link"] = number


def outside(build, instances=1):
    """Checkpoint, the subgraph, Evolved Sampling and a sampler."""
    build.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL",))
    subs = [build.add("sub", None, (), ("M_MODELS:M_MODELS",)) for _ in range(instances)]
    evolved = build.add(
        "ADE_UseEvolvedSampling",
        ["autoselect"],
        ("model:MODEL", "m_models:M_MODELS"),
        ("MODEL:MODEL",),
        model=(1, 0),
        m_models=(subs[0], 0),
    )
    build.add("KSampler", [1, "fixed", 8, 7.0, "euler", "normal", 1.0], KIN, ("LATENT:LATENT",))
    link_in(build, evolved, len(build.nodes), "model")


def inside_out():
    """Module, LoRA, a masked scale and settings in the subgraph; Evolved Sampling outside."""
    inner = Builder()
    value = inner.add("MaskSource", [1], (), ("MASK:MASK",))
    scale = inner.add(
        "ADE_MultivalScaledMask", [0.5, 1.5, "absolute"], ("mask:MASK",), ("MULTIVAL:MULTIVAL",), mask=(1, 0)
    )
    pe = inner.add("ADE_AdjustPESweetspotStretch", [16, 18, False], (), ("PE_ADJUST:PE_ADJUST",))
    settings = inner.add(
        "ADE_AnimateDiffSettings", [], ("pe_adjust:PE_ADJUST",), ("S:AD_SETTINGS",), pe_adjust=(pe, 0)
    )
    motion = apply(inner, ad_settings=(settings, 0))
    link_in(inner, lora(inner), motion, "motion_lora")
    link_in(inner, scale, motion, "scale_multival")
    assert value == 1
    return subgraph(inner, outputs=[("M_MODELS", "M_MODELS", motion, 0)])


def test_what_stands_in_a_subgraph_comes_out_of_it():
    outer = Builder()
    outside(outer)
    done = convert(outer.graph() | {"definitions": {"subgraphs": [inside_out()]}})
    new, inner = done.graph, done.graph["definitions"]["subgraphs"][0]
    assert faults(new) == [] and not foreign_types(new) and not done.report.of_kind("lost")
    (made,) = nodes_of(new, "FlipbookApplyMotionModule")
    for name, kind in (
        ("motion_module", "FlipbookLoadMotionModule"),
        ("motion_lora", "FlipbookLoadMotionLora"),
        ("scale_values", "FlipbookMotionValue"),
        ("motion_settings", "FlipbookMotionSettings"),
    ):
        node, slot = feeder(new, made, name)
        assert node == 2
        (number,) = inner["outputs"][slot]["linkIds"]
        link = next(one for one in inner["links"] if one["id"] == number)
        assert [link["origin_id"]] == nodes_of(inner, kind)
        assert inner["outputs"][slot]["type"] == new["nodes"][1]["outputs"][slot]["type"] == link["type"]
    assert len({slot["name"] for slot in inner["outputs"]}) == len(inner["outputs"])


def test_a_subgraph_that_is_used_twice_says_what_cannot_follow():
    outer = Builder()
    outside(outer, instances=2)
    done = convert(outer.graph() | {"definitions": {"subgraphs": [inside_out()]}})
    assert faults(done.graph) == [] and not foreign_types(done.graph)
    assert any("motion_lora" in item.text for item in done.report.of_kind("lost"))


@pytest.mark.parametrize("linked", [False, True])
def test_what_stands_outside_goes_into_it(linked):
    inner = Builder()
    evolved = inner.add(
        "ADE_UseEvolvedSampling",
        ["autoselect"],
        ("model:MODEL", "m_models:M_MODELS", "context_options:CONTEXT_OPTIONS"),
        ("MODEL:MODEL",),
    )
    level = subgraph(
        inner,
        [
            ("model", "MODEL", evolved, "model"),
            ("m_models", "M_MODELS", evolved, "m_models"),
            ("context_options", "CONTEXT_OPTIONS", evolved, "context_options"),
        ],
        [("MODEL", "MODEL", evolved, 0)],
    )
    outer = Builder()
    outer.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL",))
    motion = apply(outer)
    link_in(outer, lora(outer), motion, "motion_lora")
    length = {"context_length": (outer.add("Length", [1], (), ("INT:INT",)), 0)} if linked else {}
    windows = outer.add(
        "ADE_StandardStaticContextOptions",
        [16, 4, "flat", False, 0, 1],
        (),
        ("C:CONTEXT_OPTIONS",),
        **length,
    )
    outer.add(
        "sub",
        None,
        ("model:MODEL", "m_models:M_MODELS", "context_options:CONTEXT_OPTIONS"),
        ("MODEL:MODEL",),
        model=(1, 0),
        m_models=(motion, 0),
        context_options=(windows, 0),
    )
    done = convert(outer.graph() | {"definitions": {"subgraphs": [level]}})
    new, inner = done.graph, done.graph["definitions"]["subgraphs"][0]
    assert faults(new) == [] and not foreign_types(new) and not done.report.of_kind("lost")
    (made,) = nodes_of(inner, "FlipbookApplyMotionModule")
    one = next(node for node in inner["nodes"] if node["id"] == made)
    for name, kind in (("motion_module", "LoadMotionModule"), ("motion_lora", "LoadMotionLora")):
        number = next(slot["link"] for slot in one["inputs"] if slot["name"] == name)
        link = next(link for link in inner["links"] if link["id"] == number)
        assert link["origin_id"] == -10
        outer_name = inner["inputs"][link["origin_slot"]]["name"]
        (sub,) = nodes_of(new, "sub")
        assert [feeder(new, sub, outer_name)[0]] == nodes_of(new, f"Flipbook{kind}")
    (made,) = nodes_of(inner, "FlipbookContextWindows")
    assert widgets(inner, made)["fuse"] == "flat"
    slots = next(node for node in inner["nodes"] if node["id"] == made)["inputs"]
    assert any(slot["name"] == "length" and slot["link"] for slot in slots) == linked
