"""The published workflows: what the files say, whether a real ComfyUI runs them, whether its page opens them.

The server gets models of the tiny family under the published file names, so the graphs run as users have
them; only size and number of steps are made small. Tests of the page need Playwright and a Chromium and are
skipped without.
"""

import json
import os
import re
import time
import uuid
from pathlib import Path

import folder_paths
import pytest
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.renders import changed
from animatediff_flipbook.demo.server import ComfyServer
from animatediff_flipbook.nodes import NODES
from animatediff_flipbook.nodes.paths import register_folders
from animatediff_flipbook.tests.browser.frontend import Frontend, browser_path
from animatediff_flipbook.tests.browser.incumbent_graph import OLD_TYPES, old_graph
from animatediff_flipbook.tests.support_clips import fill
from animatediff_flipbook.tests.support_flows import (
    FILM_FRAMES,
    count_frames,
    fill_input,
    write_controlnet,
    write_upscaler,
)

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
API_FORMS = ROOT / "tests" / "data" / "api"
DOCS = ROOT / "web" / "docs"
PAGE_ONLY = {"MarkdownNote", "Note", "Reroute"}
"""Node types that live in the page alone; the server never hears of them."""
SMALL = {
    "EmptyLatentImage.width": 64,
    "EmptyLatentImage.height": 64,
    "ImageScale.width": 64,
    "ImageScale.height": 64,
    "KSampler.steps": 2,
    "BasicScheduler.steps": 2,
    "FlipbookContextSampler.steps": 2,
    "FlipbookFreeInitSampler.steps": 2,
    "FlipbookPreviewTrainingClips.width": 64,
    "FlipbookPreviewTrainingClips.height": 64,
    "FlipbookPreviewTrainingClips.frames": 4,
    **{
        f"FlipbookTrain{kind}.{name}": value
        for kind in ("MotionLora", "DomainAdapter", "MotionModule")
        for name, value in {"width": 64, "height": 64, "steps": 2, "sample_prompt": ""}.items()
    },
    "FlipbookTrainMotionLora.frames": 4,
    "FlipbookTrainMotionModule.frames": 4,
}
FILE_WIDGETS = (
    *("ckpt_name", "lora_name", "motion_module", "motion_lora", "domain_adapter"),
    *("sparse_control", "control_net_name", "model_name"),
)
WIDGETS = ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN", "COMFY_DYNAMICCOMBO_V3")
"""Types of inputs that are shown as a widget."""
FILE_NAMES = r"[^/\\:]+\.(safetensors|ckpt)"

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


@pytest.fixture(params=NODES, ids=lambda node: node.__name__)
def schema(request):
    """Of every node in turn."""
    register_folders()  # ComfyUI's loader does so; a schema lists the files of these folders
    return request.param.GET_SCHEMA()


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# -- the files alone --


def test_every_workflow_has_its_api_form_and_the_reverse():
    assert WORKFLOWS
    assert {path.stem for path in WORKFLOWS} == {path.stem for path in API_FORMS.glob("*.json")}


@each_workflow
def test_id_is_a_uuid(path):
    # With anything else the page shows an alert about the schema, although it loads the graph.
    assert str(uuid.UUID(read(path)["id"])) == read(path)["id"]


def test_ids_differ():
    assert len({read(path)["id"] for path in WORKFLOWS}) == len(WORKFLOWS)


@each_workflow
def test_opens_with_its_note_in_view_and_readable(path):
    """Without this the page moves the view by itself; early Nodes 2.0 measure while it moves, and pull the
    nodes apart."""
    workflow = read(path)
    view = workflow["extra"]["ds"]
    (note, *_) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    left, top = [(at + move) * view["scale"] for at, move in zip(note["pos"], view["offset"], strict=True)]
    width, height = [size * view["scale"] for size in note["size"]]
    assert left >= 70 and top >= 100, "below the page's own bars"
    assert left + width <= 1366 and top + height <= 768, "in a small window"
    assert view["scale"] >= 0.58, "the canvas draws smaller texts as bars"


@each_workflow
def test_links_and_sockets_agree(path):
    workflow = read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, socket, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][socket]["link"] == link
        assert nodes[target]["inputs"][socket]["type"] == kind


@each_workflow
def test_nodes_do_not_overlap(path):
    title, space = 30, 8
    boxes = [
        (n["id"], n["pos"][0], n["pos"][1] - title, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1])
        for n in read(path)["nodes"]
    ]
    for number, (one, left, top, right, bottom) in enumerate(boxes):
        for other, left2, top2, right2, bottom2 in boxes[number + 1 :]:
            apart = left2 >= right + space or left >= right2 + space or top2 >= bottom or top >= bottom2
            assert apart, f"nodes {one} and {other} overlap"


@each_workflow
def test_samplers_have_room_for_their_preview(path):
    """A node grows by the picture in it, over what stands below."""
    title, room = 30, 220
    nodes = read(path)["nodes"]
    for sampler in (n for n in nodes if "Sampler" in n["type"] and n["type"] != "KSamplerSelect"):
        left, bottom = sampler["pos"][0], sampler["pos"][1] + sampler["size"][1]
        right = left + sampler["size"][0]
        for node in nodes:
            below = node["pos"][0] < right and left < node["pos"][0] + node["size"][0]
            if below and node["pos"][1] >= bottom:
                assert node["pos"][1] - title >= bottom + room, f"{node['type']} {node['id']}"


@each_workflow
def test_names_of_files_are_plain(path):
    """No folders of the author's machine, no other machine's separators."""
    text = path.read_text(encoding="utf-8")
    for found in re.findall(r"(?:[A-Za-z]:\\|/home/|/root/|/Users/|/tmp/|/mnt/|\\\\)[^\"]*", text):
        pytest.fail(f"{path.name} holds the path {found}")
    for node in read(API_FORMS / path.name).values():
        for name, value in node["inputs"].items():
            if name in FILE_WIDGETS:
                assert isinstance(value, list) or re.fullmatch(FILE_NAMES, value), f"{name}: {value}"


@each_workflow
def test_has_a_note_that_names_every_file(path):
    """A stranger who opens the workflow reads there what to download and where to put it."""
    notes = " ".join(n["widgets_values"][0] for n in read(path)["nodes"] if n["type"] == "MarkdownNote")
    for node in read(API_FORMS / path.name).values():
        for value in node["inputs"].values():
            if isinstance(value, str) and re.fullmatch(FILE_NAMES, value):
                assert value in notes, f"no note says where {value} comes from"


@each_workflow
def test_loaders_tell_the_page_where_their_files_are_from(path):
    """What the page's list of missing models reads; the note says the same to people."""
    workflow = read(path)
    notes = " ".join(n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "MarkdownNote")
    folders = {
        "CheckpointLoaderSimple": "checkpoints",
        "FlipbookLoadMotionModule": "animatediff_models",
        "FlipbookLoadMotionLora": "animatediff_motion_lora",
        "FlipbookApplyDomainAdapter": "loras",
        "LoraLoaderModelOnly": "loras",
        "FlipbookLoadSparseControl": "controlnet",
        "ControlNetLoader": "controlnet",
        "UpscaleModelLoader": "upscale_models",
        "FlipbookLoadCameraControl": "animatediff_models",
    }
    loaders = [node for node in workflow["nodes"] if node["type"] in folders]
    assert loaders
    for node in loaders:
        (model,) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0]
        assert model["directory"] == folders[node["type"]]
        assert f"[{model['name']}]({model['url']}" in notes


@each_workflow
def test_notes_hold_no_inline_code(path):
    """Nodes 2.0 shows it as dark on dark."""
    assert not any("`" in n["widgets_values"][0] for n in read(path)["nodes"] if n["type"] == "MarkdownNote")


def test_every_node_of_ours_is_shown_by_a_workflow(schema):
    assert any(schema.node_id in {node["type"] for node in read(path)["nodes"]} for path in WORKFLOWS)


# -- help pages --


def test_every_node_has_a_help_page_that_names_its_sockets(schema):
    page = (DOCS / f"{schema.node_id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    sockets = {i.id for i in schema.inputs} | {o.display_name for o in schema.outputs}
    assert rows == sockets, "a table row for every input and output, and for nothing else"


def test_help_pages_belong_to_nodes():
    register_folders()
    assert {page.stem for page in DOCS.glob("*.md")} <= {node.GET_SCHEMA().node_id for node in NODES}


# -- a real server --


def write_models(folder: Path) -> dict[str, list[Path]]:
    """Tiny models with random weights, under the names and in the formats of the published files."""
    import comfy.ops
    import torch
    from animatediff_flipbook.demo.tiny_family import build
    from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module
    from animatediff_flipbook.motion_core.files.lora import (
        lora_targets,
        save_domain_adapter,
        save_motion_lora,
    )
    from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
    from animatediff_flipbook.motion_core.module.model import MotionModel
    from animatediff_flipbook.motion_core.module.unet import unet_slots
    from animatediff_flipbook.tests.support_controls import write_camera, write_image_module, write_pia
    from animatediff_flipbook.tests.support_sparse import write_encoder
    from animatediff_flipbook.tests.support_xl import (
        write_hotshot_module,
        write_xl_checkpoint,
        write_xl_module,
    )
    from safetensors.torch import save_file

    torch.manual_seed(0)
    networks = build.build_networks()
    checkpoint = folder / "v1-5-pruned-emaonly-fp16.safetensors"
    build.write_checkpoint(checkpoint, networks)

    modules = []
    for name, generation in (
        ("v3_sd15_mm.ckpt", "v3"),
        ("AnimateLCM_sd15_t2v.ckpt", "animatelcm"),
        ("animatediff_lightning_4step_comfyui.safetensors", "v2"),
        ("mm_sd_v15_v2.ckpt", "v2"),
    ):
        motion = MotionModel(
            MotionModuleConfig.for_unet(networks.unet, generation), operations=comfy.ops.manual_cast
        )
        for weight in motion.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        modules.append(folder / name)
        save_motion_module(modules[-1], motion)

    def factors(width: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(4, width) * 0.1, torch.randn(width, 4) * 0.1

    motion_lora = folder / "v2_lora_ZoomIn.ckpt"
    attentions = {n: t for n, t in lora_targets(motion).items() if re.search(r"attention_blocks\.\d\.to_", n)}
    save_motion_lora(motion_lora, {name: factors(target.shape[0]) for name, target in attentions.items()})
    adapter = folder / "v3_sd15_adapter.ckpt"
    places = [slot for slot in unet_slots(networks.unet) if slot.attention]
    save_domain_adapter(
        adapter,
        {f"{p.attention}.transformer_blocks.0.attn1.to_q": factors(p.channels) for p in places},
    )
    lcm_lora = folder / "AnimateLCM_sd15_t2v_lora.safetensors"
    attention = "lora_unet_" + places[0].attention.replace(".", "_")
    down, up = factors(places[0].channels)
    key = f"{attention}_transformer_blocks_0_attn1_to_q"
    image_lora = folder / "AnimateLCM_sd15_i2v_lora.safetensors"
    for file in (lcm_lora, image_lora):
        save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, file)
    modules = [
        write_pia(folder / "pia.ckpt", networks.unet),
        write_image_module(folder / "AnimateLCM_sd15_i2v.ckpt", networks.unet),
        write_camera(folder / "CameraCtrl_pruned.safetensors", networks.unet),
        write_xl_module(folder / "mm_sdxl_v10_beta.ckpt"),
        write_hotshot_module(folder / "hsxl_temporal_layers.f16.safetensors"),
        *modules,
    ]
    controls = [
        write_encoder(folder / "v3_sd15_sparsectrl_rgb.ckpt", networks.unet, "rgb"),
        write_controlnet(folder / "control_v11p_sd15_canny_fp16.safetensors", seed=1),
        write_controlnet(folder / "control_v11p_sd15_openpose_fp16.safetensors", seed=2),
    ]
    xl = [
        write_xl_checkpoint(folder / name)
        for name in ("sd_xl_base_1.0.safetensors", "hsxl_base_1.0.f16.safetensors")
    ]
    return {
        "checkpoints": [checkpoint, *xl],
        "controlnet": controls,
        "upscale_models": [write_upscaler(folder / "RealESRGAN_x4plus.safetensors")],
        "animatediff_models": modules,
        "animatediff_motion_lora": [motion_lora],
        "loras": [adapter, lcm_lora, image_lora],
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real ComfyUI with this pack, the tiny family, and every published model file."""
    register_folders()
    folder = tmp_path_factory.mktemp("server")
    models = write_models(folder)
    packs = {"animatediff-flipbook": ROOT, "tiny-family": ROOT / "demo" / "tiny_family"}
    base = prepare_base(folder / "base", packs, models)
    fill(base / "input" / "clips")
    fill_input(base / "input")
    wait_for = tuple(node.GET_SCHEMA().node_id for node in NODES)
    with ComfyServer(
        Path(folder_paths.base_path),
        base,
        wait_for=wait_for,
        environment={"OMP_NUM_THREADS": "1"},
        start_timeout=400,
    ) as running:
        yield running


def small(prompt: dict) -> dict:
    """A copy that renders in seconds."""
    kinds = {node["class_type"] for node in prompt.values()}
    return changed(prompt, {key: value for key, value in SMALL.items() if key.split(".")[0] in kinds})


@each_workflow
def test_server_knows_every_node_and_its_values(server, path):
    known = server.get("/object_info")
    for node in read(path)["nodes"]:
        if node["type"] in PAGE_ONLY:
            continue
        assert node["type"] in known, f"{node['type']} is in no node pack that this workflow may use"
    for node in read(API_FORMS / path.name).values():
        inputs = known[node["class_type"]]["input"]
        allowed = {**inputs.get("required", {}), **inputs.get("optional", {})}
        assert set(node["inputs"]) <= set(allowed)
        assert set(inputs.get("required", {})) <= set(node["inputs"])


@each_workflow
def test_file_holds_a_value_for_every_widget(server, path):
    """Positional values: one missing or one too many would shift all that follow."""
    known, api = server.get("/object_info"), read(API_FORMS / path.name)
    for node in read(path)["nodes"]:
        if node["type"] in PAGE_ONLY:
            continue
        options = {**known[node["type"]]["input"].get("required", {})}
        options |= known[node["type"]]["input"].get("optional", {})
        widgets = []
        for name in api[str(node["id"])]["inputs"]:
            kind, settings = options[name][0], (options[name][1:] or [{}])[0]
            if isinstance(kind, list) or kind in WIDGETS:
                widgets += [name]
                widgets += ["control"] if settings.get("control_after_generate") else []
                widgets += ["button"] if settings.get("image_upload") or settings.get("video_upload") else []
        assert len(node["widgets_values"]) == len(widgets), f"{node['type']} {node['id']}"


def test_templates_and_help_pages_are_served(server):
    assert set(server.get("/workflow_templates")["animatediff-flipbook"]) == {p.stem for p in WORKFLOWS}
    for path in WORKFLOWS:
        served = server.request(f"/api/workflow_templates/animatediff-flipbook/{path.name}")
        assert json.loads(served) == read(path)
    for node in NODES:
        name = f"{node.GET_SCHEMA().node_id}.md"
        assert server.request(f"/extensions/animatediff-flipbook/docs/{name}") == (DOCS / name).read_bytes()


def frames_wanted(path: Path) -> int:
    """Of a workflow's clip; a graph may paint a single picture first, or be as long as a film."""
    nodes = read(API_FORMS / path.name).values()
    sizes = [n["inputs"]["batch_size"] for n in nodes if n["class_type"] == "EmptyLatentImage"]
    return max((size for size in sizes if isinstance(size, int)), default=FILM_FRAMES)


@each_workflow
def test_server_renders_it(server, path):
    history = server.run(small(read(API_FORMS / path.name)))
    assert history.status == "success"
    (saved,) = [file for file in history.files if file.type == "output"]  # others are previews
    assert count_frames(saved.path) == frames_wanted(path)


# -- the page; after the server's tests, because Playwright keeps an event loop of its own running --


@pytest.fixture(scope="module")
def page(server):
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    if browser_path() is None:
        pytest.skip("no Chromium or Chrome on this machine (FLIPBOOK_BROWSER may name one)")
    with Frontend(server.url) as frontend:
        yield frontend


def as_committed(prompt: dict, path: Path) -> tuple[dict, dict]:
    """What the page exports and the committed form of a workflow, without what is of ComfyUI's version alone:
    titles, and values that newer versions or previews add to its own nodes."""
    committed = read(API_FORMS / path.name)
    forms = []
    for form in (prompt, committed):
        kept = {}
        for key, node in form.items():
            known = committed.get(key, node)["inputs"]
            ours = node["class_type"].startswith("Flipbook")
            inputs = {
                name: value
                for name, value in node["inputs"].items()
                if ours or name in known or isinstance(value, list)
            }
            kept[key] = {"class_type": node["class_type"], "inputs": inputs}
        forms.append(kept)
    return forms[0], forms[1]


@each_workflow
def test_page_opens_it_and_exports_the_committed_api_form(page, path):
    page.open(read(path))
    assert page.missing_nodes() == []
    assert page.alerts() == []
    assert page.errors == []
    exported, committed = as_committed(page.api_form(), path)
    assert exported == committed, "run tests/browser/export_api.py"


def inside_groups(workflow: dict) -> set[tuple[int, int]]:
    """Ids of every group and node that lies inside it."""
    inside = set()
    for group in workflow["groups"]:
        left, top, width, height = group["bounding"]
        inside |= {
            (group["id"], node["id"])
            for node in workflow["nodes"]
            if left <= node["pos"][0] <= left + width - node["size"][0]
            and top <= node["pos"][1] <= top + height - node["size"][1]
        }
    return inside


@pytest.mark.slow  # a minute; each of them is also queued there by runs_every
def test_page_draws_them_as_elements_too(page):
    """The other node renderer, where the page has one: all nodes are there, and nothing is complained of."""
    page.draw_nodes_as_elements(True)
    try:
        for path in WORKFLOWS:
            workflow = read(path)
            page.open(workflow)
            assert page.missing_nodes() == [] and page.alerts() == [] and page.errors == [], path.stem
            drawn = page.drawn_nodes()
            if not drawn:
                pytest.skip("this page draws nodes on a canvas only")
            assert drawn >= {node["id"] for node in workflow["nodes"]}, path.stem
            assert inside_groups(page.ui_form()) == inside_groups(workflow)
            exported, committed = as_committed(page.api_form(), path)
            assert exported == committed, path.stem
    finally:
        page.draw_nodes_as_elements(False)


@pytest.mark.slow
def test_template_browser_shows_every_workflow_with_its_picture(page):
    assert page.templates() == {path.stem: True for path in WORKFLOWS}


def test_page_tells_of_missing_nodes_and_models(page):
    """The checks above can fail."""
    workflow = read(ROOT / "workflows" / "text-to-animation.json")
    for node in workflow["nodes"]:
        if node["type"] == "FlipbookApplyMotionModule":
            node["type"] = "NobodyKnowsThisNode"
    page.open(workflow)
    assert page.missing_nodes() == ["NobodyKnowsThisNode"]
    words = ("NobodyKnowsThisNode", "error found", "errors found")  # newer pages only count them at first
    assert any(word in alert for alert in page.alerts() for word in words)
    page.close_dialogs()


def test_page_tells_of_red_nodes(page):
    workflow = read(ROOT / "workflows" / "text-to-animation.json")
    page.open(workflow)
    assert page.faults() == []
    page.set_widget("CheckpointLoaderSimple", "ckpt_name", "gone.safetensors")
    page.queue()
    page.page.wait_for_timeout(500)
    assert any("gone.safetensors" in fault for fault in page.faults())
    page.close_dialogs()


def run_small(page, server, workflow: dict, sizes: dict[str, int]) -> dict:
    """Queue what is open, made small, from the page as a user does; returns what /history has of it."""
    kinds = {node["type"] for node in workflow["nodes"]}
    for key, value in sizes.items():
        if key.split(".")[0] in kinds:
            page.set_widget(*key.split("."), value)
    before = set(server.get("/history"))
    page.queue()
    end = time.monotonic() + 120
    while not (new := {k: v for k, v in server.get("/history").items() if k not in before}):
        assert time.monotonic() < end, server.log_tail()
        assert page.faults() == []
        page.page.wait_for_timeout(200)
    (run,) = new.values()
    assert run["status"]["status_str"] == "success"
    return run


def frames_saved(server, run: dict) -> list[int]:
    images = [image for output in run["outputs"].values() for image in output.get("images", ())]
    saved = [image for image in images if image["type"] == "output"]  # others are previews
    folder = server.base_directory / "output"
    return [count_frames(folder / one["subfolder"] / one["filename"]) for one in saved]


def test_page_runs_text_to_animation_and_shows_what_was_chosen(page, server):
    """The nodes say which module and noise schedule are at work."""
    workflow = read(ROOT / "workflows" / "text-to-animation.json")
    page.open(workflow)
    # What auto would choose; but a value that no test has used, so that nothing comes from the cache.
    page.set_widget("FlipbookLoadMotionModule", "groupnorm", "per_frame")
    run = run_small(page, server, workflow, SMALL)
    assert frames_saved(server, run) == [16]
    shown = page.node_texts("FlipbookApplyMotionModule")
    assert "sqrt_linear" in shown["FlipbookApplyMotionModule"]
    assert "AnimateDiff v3" in shown["FlipbookLoadMotionModule"]
    assert page.alerts() == [] and page.errors == []


@pytest.fixture(scope="module", params=["canvas", "elements"])
def renderer(request, page):
    """The page with each of its two ways to draw nodes."""
    page.draw_nodes_as_elements(request.param == "elements")
    yield request.param
    page.draw_nodes_as_elements(False)


def overlapping(boxes: dict[int, tuple[float, float, float, float]]) -> list[tuple[int, int]]:
    """Pairs of nodes of which one lies on the other."""
    return [
        (one, other)
        for one, (left, top, width, height) in boxes.items()
        for other, (left2, top2, width2, height2) in boxes.items()
        if one < other
        and left < left2 + width2 - 2
        and left2 < left + width - 2
        and top < top2 + height2 - 2
        and top2 < top + height - 2
    ]


@pytest.mark.slow
@each_workflow
def test_page_runs_every_workflow(page, server, renderer, path):
    """In both renderers: no node is red, the run ends, its pictures are shown, nothing is complained of.

        FLIPBOOK_SCREENSHOTS=FOLDER python run.py test -m slow tests/test_workflows.py [--comfyui DIR]

    also keeps a picture of each graph after its run; three minutes.
    """
    workflow = read(path)
    page.open(workflow)
    assert page.missing_nodes() == [] and page.faults() == []
    # Steps that no other test has used: nothing comes from the cache.
    steps = 1 if renderer == "canvas" else 3
    sizes = {key: steps if key.endswith("steps") else value for key, value in SMALL.items()}
    run = run_small(page, server, workflow, sizes)
    (frames,) = frames_saved(server, run)
    assert frames == frames_wanted(path)
    shown = {int(node) for node, output in run["outputs"].items() if output.get("images")}
    end = time.monotonic() + 30  # a busy page hears of the run's end later than /history
    while not page.nodes_that_show_pictures() >= shown and time.monotonic() < end:
        page.page.wait_for_timeout(200)
    page.page.wait_for_timeout(500)
    assert page.nodes_that_show_pictures() >= shown
    assert page.faults() == [] and page.alerts() == [] and page.errors == []
    assert overlapping(page.boxes()) == [], "with what the run has written on the nodes"
    for kind in {node["type"] for node in workflow["nodes"] if "FlipbookTrain" in node["type"]}:
        assert page.pictures_drawn(kind) == (renderer == "elements"), "the curve, once"
    if folder := os.environ.get("FLIPBOOK_SCREENSHOTS"):
        page.screenshot(Path(folder) / f"{path.stem}-{renderer}.png")


@pytest.fixture
def without_models(server):
    """The server while no model file is there."""
    away = server.base_directory / "away"
    away.mkdir()
    moved = {}
    for file in (server.base_directory / "models").glob("*/*.*"):
        moved[file] = away / file.name
        file.rename(moved[file])
    yield
    for file, place in moved.items():
        place.rename(file)
    away.rmdir()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["domain-adapter", "motion-lora", "video-to-video", "upscale-frames"])
def test_page_says_where_to_get_missing_models(page, without_models, name):
    workflow = read(ROOT / "workflows" / f"{name}.json")
    wanted = {
        f"{model['directory']}/{model['name']}": model["url"]
        for node in workflow["nodes"]
        for model in node.get("properties", {}).get("models", ())
    }
    page.reload()
    page.open(workflow)
    found = page.missing_models(len(wanted))
    assert {key: url.replace("/blob/", "/resolve/") for key, url in found.items()} == wanted
    page.close_dialogs()


def test_page_offers_to_convert_an_old_graph(page):
    """Once through it; tests/browser/test_conversion_offer.py goes into every corner."""
    page.open(old_graph())
    assert set(page.missing_nodes()) == OLD_TYPES
    page.page.click(".flipbook-offer >> text=Convert")
    page.page.click(".flipbook-report >> text=Close")
    assert page.missing_nodes() == []
    page.close_dialogs()
    page.page.keyboard.press("Control+z")
    page.page.wait_for_timeout(500)
    assert set(page.missing_nodes()) == OLD_TYPES
    assert page.errors == []
