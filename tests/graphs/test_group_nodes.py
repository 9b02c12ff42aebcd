"""Group nodes: taken apart, with their links, values and places, and then converted."""

import pytest
from animatediff_flipbook.graphs import GraphError
from animatediff_flipbook.graphs.convert import convert, foreign_types
from support_graphs import Builder, faults, feeder, node, nodes_of, widgets

KSAMPLER = [7, "fixed", 12, 6.5, "euler", "normal", 1.0]


def slots(*entries):
    return [dict(zip(("name", "type"), one.split(":"), strict=True), link=None) for one in entries]


def inner(index, kind, values, inputs=(), outputs=(), pos=(0, 0)):
    return {
        "index": index,
        "type": kind,
        "pos": list(pos),
        "widgets_values": values,
        "inputs": slots(*inputs),
        "outputs": [{**one, "links": None} for one in slots(*outputs)],
    }


def motion_group():
    """Windows, loader, sampler and a decoder, as a group node of 2024 holds them."""
    loader_in = ("model:MODEL", "context_options:CONTEXT_OPTIONS", "motion_lora:MOTION_LORA")
    sampler_in = ("model:MODEL", "positive:CONDITIONING", "negative:CONDITIONING", "latent_image:LATENT")
    windows = inner(
        0,
        "ADE_StandardStaticContextOptions",
        [16, 4, "pyramid", False, 0, 1],
        (),
        ("CONTEXT_OPTS:CONTEXT_OPTIONS",),
        (500, 900),
    )
    loader = inner(
        1,
        "ADE_AnimateDiffLoaderGen1",
        ["mm.ckpt", "autoselect", ""],
        loader_in,
        ("MODEL:MODEL",),
        (900, 900),
    )
    sampler = inner(2, "KSampler", list(KSAMPLER), sampler_in, ("LATENT:LATENT",), (1300, 900))
    decoder = inner(3, "VAEDecode", [], ("samples:LATENT", "vae:VAE"), ("IMAGE:IMAGE",), (1700, 900))
    return {
        "nodes": [windows, loader, sampler, decoder],
        "links": [
            [0, 0, 1, 1, 5, "CONTEXT_OPTIONS"],
            [1, 0, 2, 0, 6, "MODEL"],
            [2, 0, 3, 0, 7, "LATENT"],
            [None, 0, 1, 0, 8, "MODEL"],
        ],
        "external": [[1, 0, "MODEL"]],
    }


def grouped(mark=">", values=None, mode=0):
    build = Builder()
    build.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL", "CLIP:CLIP", "VAE:VAE"))
    build.add("EmptyLatentImage", [512, 512, 32], (), ("LATENT:LATENT",))
    build.add("CLIPTextEncode", ["a cat"], (), ("CONDITIONING:CONDITIONING",), clip=(1, 1))
    build.add("SeedSource", [3], (), ("INT:INT",))
    build.add(
        f"workflow{mark}motion",
        values or [24, 6, "flat", False, 0, 1, "v3.ckpt", "sqrt_linear (AnimateDiff)", *KSAMPLER],
        (
            "model:MODEL",
            "motion_lora:MOTION_LORA",
            "KSampler model:MODEL",
            "positive:CONDITIONING",
            "negative:CONDITIONING",
            "latent_image:LATENT",
            "vae:VAE",
        ),
        ("MODEL:MODEL", "IMAGE:IMAGE"),
        mode,
        model=(1, 0),
        positive=(3, 0),
        negative=(3, 0),
        latent_image=(2, 0),
        vae=(1, 2),
        seed=(4, 0),
    )
    build.add("SaveImage", ["out"], ("images:IMAGE",), images=(5, 1))
    build.add("KSampler", list(KSAMPLER), ("model:MODEL",), ("LATENT:LATENT",), model=(5, 0))
    graph = build.graph()
    graph["nodes"][4]["inputs"].pop(2)  # the sampler's model is fed inside, so the group does not show it
    for link in graph["links"]:
        if link[3] == 5 and link[4] > 2:
            link[4] -= 1
    graph["extra"] = {"groupNodes": {"motion": motion_group(), "other": {"nodes": [], "links": []}}}
    return graph


@pytest.mark.parametrize("mark", [">", "/"])
def test_a_group_node_is_unfolded_and_converted(mark):
    done = convert(grouped(mark))
    new = done.graph
    assert faults(new) == [] and not foreign_types(new) and not done.report.of_kind("lost")
    assert not nodes_of(new, f"workflow{mark}motion")
    assert list(new["extra"]["groupNodes"]) == ["other"]
    (apply,) = nodes_of(new, "FlipbookApplyMotionModule")
    (windows,) = nodes_of(new, "FlipbookContextWindows")
    (load,) = nodes_of(new, "FlipbookLoadMotionModule")
    assert feeder(new, apply, "model") == (1, 0) and feeder(new, windows, "model") == (apply, 0)
    assert widgets(new, load)["motion_module"] == "v3.ckpt"
    assert widgets(new, apply)["beta_schedule"] == "sqrt_linear"
    shown = widgets(new, windows)
    assert (shown["length"], shown["overlap"], shown["fuse"]) == (24, 6, "flat")
    one, other = nodes_of(new, "KSampler")
    inside = other if one == 7 else one
    for sampler in (one, other):
        assert feeder(new, sampler, "model") == (windows, 0)
    assert feeder(new, inside, "latent_image") == (2, 0) and feeder(new, inside, "positive") == (3, 0)
    assert feeder(new, inside, "seed") == (4, 0)
    assert node(new, inside)["widgets_values"] == KSAMPLER
    (decoder,) = nodes_of(new, "VAEDecode")
    assert feeder(new, decoder, "vae") == (1, 2) and feeder(new, 6, "images") == (decoder, 0)
    assert node(new, decoder)["pos"] == [1000 + 1200, 100]
    assert "index" not in node(new, decoder)
    assert any("Taken apart" in item.text for item in done.report.of_kind("changed"))


def test_the_mode_of_a_group_node_is_that_of_its_nodes():
    done = convert(grouped(mode=2))
    assert faults(done.graph) == []
    (decoder,) = nodes_of(done.graph, "VAEDecode")
    assert node(done.graph, decoder)["mode"] == 2


def test_values_that_cannot_be_told_apart_are_told():
    done = convert(grouped(values=[24, 6]))
    assert faults(done.graph) == [] and not foreign_types(done.graph)
    (windows,) = nodes_of(done.graph, "FlipbookContextWindows")
    assert widgets(done.graph, windows)["length"] == 16
    assert any("could not be told apart" in item.text for item in done.report.of_kind("lost"))


def test_group_nodes_in_group_nodes():
    graph = grouped()
    groups = graph["extra"]["groupNodes"]
    shell = {key: graph["nodes"][4][key] for key in ("type", "widgets_values", "inputs", "outputs")}
    groups["shell"] = {"nodes": [{**shell, "pos": [0, 0], "index": 0}], "links": [], "external": []}
    graph["nodes"][4]["type"] = "workflow>shell"
    done = convert(graph)
    assert faults(done.graph) == [] and not foreign_types(done.graph)
    assert len(nodes_of(done.graph, "FlipbookContextWindows")) == 1


def test_a_group_node_that_holds_itself():
    graph = grouped()
    group = graph["extra"]["groupNodes"]["motion"]
    group["nodes"].append(inner(4, "workflow>motion", []))
    with pytest.raises(GraphError, match="holds itself"):
        convert(graph)


def test_groups_that_grow_without_measure_end_in_a_sentence():
    graph = grouped()
    groups = graph["extra"]["groupNodes"]
    for depth in range(40):
        below = "motion" if not depth else f"bomb{depth - 1}"
        groups[f"bomb{depth}"] = {"nodes": [inner(n, f"workflow>{below}", None) for n in (0, 1)]}
    graph["nodes"].append({"id": 99, "type": "workflow>bomb39", "inputs": [], "outputs": []})
    with pytest.raises(GraphError, match="nodes"):
        convert(graph)


def test_a_socket_that_nothing_inside_has_leaves_the_group_node_as_it_is():
    graph = grouped()
    graph["nodes"][4]["inputs"][0]["name"] = "mystery"
    done = convert(graph)
    assert nodes_of(done.graph, "workflow>motion") == [5]
    assert "Convert to nodes" in done.report.of_kind("left")[0].text


def test_sockets_that_were_hidden_or_renamed_in_the_group():
    graph = grouped()
    shown = {"positive": {"visible": False}, "negative": {"name": "positive"}}
    graph["extra"]["groupNodes"]["motion"]["config"] = {"2": {"input": shown}}
    slots = graph["nodes"][4]["inputs"]
    gone = next(place for place, slot in enumerate(slots) if slot["name"] == "negative")
    link = slots.pop(gone)["link"]
    graph["links"] = [one for one in graph["links"] if one[0] != link]
    graph["nodes"][2]["outputs"][0]["links"].remove(link)
    for one in graph["links"]:
        if one[3] == 5 and one[4] > gone:
            one[4] -= 1
    new = convert(graph).graph
    inside = max(nodes_of(new, "KSampler"))
    assert feeder(new, inside, "negative") == (3, 0) and feeder(new, inside, "positive") is None
