"""Files: JSON, pictures, folders; hand-edited and very large ones."""

import copy
import json
import random
import time

import pytest
from animatediff_flipbook.graphs import GraphError
from animatediff_flipbook.graphs.__main__ import main
from animatediff_flipbook.graphs.convert import convert, foreign_types
from animatediff_flipbook.graphs.files import read_file
from PIL import Image, PngImagePlugin
from support_graphs import Builder, faults, nodes_of

LOADER = ("ADE_AnimateDiffLoaderGen1", ["mm_sd_v14.ckpt", "sqrt_linear (AnimateDiff)"])
KSAMPLER = [5, "fixed", 20, 7.5, "euler", "normal", 1.0]


def small():
    build = Builder()
    model = build.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL",))
    window = build.add("ADE_BatchedContextOptions", [16, 0, 1], (), ("CONTEXT_OPTS:CONTEXT_OPTIONS",))
    cfg = build.add("ADE_CustomCFGSimple", [2], (), ("CUSTOM_CFG:CUSTOM_CFG",))
    settings = build.add(
        "ADE_AnimateDiffSamplingSettings",
        [0, "FreeNoise", "comfy", 0, 0, False],
        (),
        ("settings:SAMPLE_SETTINGS",),
        custom_cfg=(cfg, 0),
    )
    loader = build.add(
        *LOADER,
        ("model:MODEL",),
        ("MODEL:MODEL",),
        model=(model, 0),
        context_options=(window, 0),
        sample_settings=(settings, 0),
    )
    way = build.add("Reroute", None, (":*",), (":*",), **{"": (loader, 0)})
    build.add("KSampler", KSAMPLER, ("model:MODEL",), ("LATENT:LATENT",), model=(way, 0))
    return build.graph()


def test_pictures_hold_the_same_graph(tmp_path):
    graph = small()
    text = json.dumps(graph)
    png, webp, plain = tmp_path / "a.png", tmp_path / "a.webp", tmp_path / "a.json"
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", text)
    Image.new("RGB", (8, 8)).save(png, pnginfo=info)
    exif = Image.Exif()
    exif[0x010F] = f"Workflow:{text}"
    Image.new("RGB", (8, 8)).save(webp, exif=exif)
    plain.write_text(text, encoding="utf-8")
    assert read_file(png) == read_file(webp) == read_file(plain) == graph
    Image.new("RGB", (8, 8)).save(tmp_path / "none.png")
    with pytest.raises(GraphError, match="no text named workflow"):
        read_file(tmp_path / "none.png")


def test_wrapped_prompts(tmp_path):
    graph = small()
    prompt = {"1": {"class_type": "ADE_AnimateDiffUnload", "inputs": {"model": ["2", 0]}}}
    prompt |= {"2": {"class_type": "X", "inputs": {}}, "3": {"class_type": "Y", "inputs": {"a": ["1", 0]}}}
    both = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": graph}}}
    new = convert(both).graph
    assert new["prompt"]["3"]["inputs"]["a"] == ["2", 0] and "1" not in new["prompt"]
    assert not foreign_types(new)


def test_command_line(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(small()), encoding="utf-8")
    before = old.read_bytes()
    assert main(["convert", str(old), "-o", str(new), "--report", "--note"]) == 0
    assert "Context Windows" in capsys.readouterr().out
    graph = json.loads(new.read_text(encoding="utf-8"))
    assert not foreign_types(graph) and len(nodes_of(graph, "Note")) == 1
    assert main(["convert", str(old), "-o", str(new)]) == 1
    assert main(["convert", str(old), "-o", str(old)]) == 1
    assert old.read_bytes() == before
    assert main(["convert", str(old), "-o", str(new), "--overwrite", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {item["kind"] for item in report["items"]} <= {"mapped", "changed", "lost", "left"}
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert main(["convert", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "no valid JSON" in capsys.readouterr().err
    assert (tmp_path / "out" / "old.json").is_file()
    assert not list(tmp_path.glob("**/*.part"))


def scrambled(graph, rng):
    """A hand-edited file: some thing in it is another thing now."""
    graph = copy.deepcopy(graph)
    strange = [None, -1, 10**9, "x", [], {}, True, float("nan"), [1, 2], "KSampler", "ADE_CustomCFGSimple"]
    for _ in range(rng.randint(1, 4)):
        place = graph
        for _ in range(rng.randint(1, 6)):
            if isinstance(place, dict) and place:
                key = rng.choice(list(place))
            elif isinstance(place, list) and place:
                key = rng.randrange(len(place))
            else:
                break
            if rng.random() < 0.3 or not isinstance(place[key], (dict, list)):
                if rng.random() < 0.2:
                    del place[key]
                else:
                    place[key] = copy.deepcopy(rng.choice(strange))
                break
            place = place[key]
    return graph


def as_api(graph):
    links = {entry[0]: entry for entry in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        inputs = {"cfg": 7.0, "seed": 1, "context_length": 16}
        for slot in node["inputs"]:
            inputs[slot["name"] or "model"] = [str(links[slot["link"]][1]), 0]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


@pytest.mark.parametrize("form", ["workflow", "prompt"])
def test_hand_edited_files_end_in_a_sentence_or_a_whole_graph(form):
    rng = random.Random(7)
    graph = small() if form == "workflow" else as_api(small())
    converted = 0
    for _ in range(600):
        edited = scrambled(graph, rng)
        try:
            done = convert(edited)
        except GraphError as error:
            assert " " in str(error)
            continue
        if foreign_types(edited):
            converted += 1
            if form == "workflow":
                assert faults(done.graph) == [] or _foreign_only(done), edited
    assert converted > 100


def test_links_without_an_id_and_those_named_twice_are_put_right():
    graph = small()
    outputs = [slot for node in graph["nodes"] for slot in node["outputs"] if slot.get("links")]
    for slot in outputs:
        slot["links"] = [*slot["links"], slot["links"][0]]
    graph["links"].append(["", *graph["links"][0][1:]])
    done = convert(graph).graph
    assert faults(done) == []
    assert all(isinstance(link[0], int) for link in done["links"])
    for node in done["nodes"]:
        for slot in node["outputs"]:
            assert len(set(slot["links"] or [])) == len(slot["links"] or [])


def _foreign_only(done):
    """Types without a rule may stay: they are told as left."""
    return all("is a ADE_" in fault or "last_" in fault for fault in faults(done.graph))


def test_circles():
    graph = small()
    graph["nodes"][4]["inputs"][0]["link"] = None
    graph["links"].append([50, 6, 0, 5, 0, "MODEL"])  # the loader gets what it gives
    graph["links"] = [link for link in graph["links"] if link[:1] + link[3:5] != [1, 5, 0]]
    graph["nodes"][4]["inputs"][0]["link"] = 50
    graph["nodes"][5]["outputs"][0]["links"].append(50)
    try:
        assert faults(convert(graph).graph) == []
    except GraphError as error:
        assert "circle" in str(error)


def test_five_thousand_nodes():
    build = Builder()
    model = build.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL",))
    for _ in range(100):
        last = build.add(*LOADER, ("model:MODEL",), ("MODEL:MODEL",), model=(model, 0))
        for _ in range(48):
            last = build.add("FreeU", [1, 1, 1, 1], ("model:MODEL",), ("MODEL:MODEL",), model=(last, 0))
        build.add("KSampler", list(KSAMPLER), ("model:MODEL",), ("LATENT:LATENT",), model=(last, 0))
    started = time.perf_counter()
    new = convert(build.graph()).graph
    assert len(nodes_of(new, "FlipbookApplyMotionModule")) == 100 and faults(new) == []
    assert time.perf_counter() - started < 20
