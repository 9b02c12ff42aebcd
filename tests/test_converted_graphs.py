"""Published graphs of the incumbents, converted: ComfyUI's page opens them, its server takes and runs them.

    FLIPBOOK_GRAPHS=FOLDER python run.py test -m slow tests/test_converted_graphs.py [--comfyui DIR]

The graphs are in ``shared/graphs`` beside the repository or where FLIPBOOK_GRAPHS says; skipped without them.
Nodes of packs that are not here are stood in for: they have the sockets that the graph gives them and pass on
what they get. All models are tiny, or empty files where only their names are asked for.
"""

import json
import os
import re
from pathlib import Path

import folder_paths
import pytest
import torch
from animatediff_flipbook.demo.base_directory import link_file, prepare_base
from animatediff_flipbook.demo.renders import changed
from animatediff_flipbook.demo.server import ComfyServer
from animatediff_flipbook.graphs.convert import convert, foreign_types
from animatediff_flipbook.nodes.paths import register_folders
from animatediff_flipbook.tests.browser.frontend import Frontend, browser_path
from animatediff_flipbook.tests.test_workflows import PAGE_ONLY, ROOT, SMALL, write_models
from comfy.utils import load_torch_file
from PIL import Image
from safetensors.torch import save_file

GRAPHS = Path(os.environ.get("FLIPBOOK_GRAPHS") or ROOT.parent / "shared" / "graphs")
FILES = sorted(GRAPHS.glob("*.json"))
MODELS = r".+\.(safetensors|ckpt|pth|pt|bin)"
PICTURES = r".+\.(png|jpg)"
FOLDERS = ("checkpoints", "vae", "loras", "controlnet", "clip_vision", "upscale_models")
FOLDERS += ("animatediff_models", "animatediff_motion_lora")
RENDERED = {"avx-lora", "lcm-gen1", "motion-lora"}
"""Those that need ComfyUI, us, one motion module and nothing that is more than a passage or an output."""
STUBS = """
import json
from pathlib import Path
import nodes

class Anything(str):
    def __ne__(self, other):
        return False

def stub(inputs, outputs):
    free = lambda kind: Anything(kind) if kind == "*" else kind
    inputs, outputs = {name: free(kind) for name, kind in inputs.items()}, [free(kind) for kind in outputs]
    def passed(self, **values):
        of_type = {kind: values[name] for name, kind in inputs.items() if name in values}
        return tuple(of_type.get(kind) for kind in outputs)

    return type("Stub", (), {
        "INPUT_TYPES": classmethod(lambda cls: {
            "optional": {name: (kind, {"forceInput": True}) for name, kind in inputs.items()}
        }),
        "RETURN_TYPES": tuple(outputs), "FUNCTION": "passed", "passed": passed, "OUTPUT_NODE": True,
        "CATEGORY": "stubs",
    })

STUBS = json.loads((Path(__file__).parent / "stubs.json").read_text())
# Packs are loaded in the order of their names, after ComfyUI's own nodes.
NODE_CLASS_MAPPINGS = {
    name: stub(*sockets) for name, sockets in STUBS.items() if name not in nodes.NODE_CLASS_MAPPINGS
}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason="FLIPBOOK_GRAPHS names no folder of published graphs"),
    pytest.mark.skipif(browser_path() is None, reason="no Chromium or Chrome on this machine"),
]
each_graph = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def converted(path: Path) -> dict:
    return convert(json.loads(path.read_text(encoding="utf-8"))).graph


def is_workflow(graph: dict) -> bool:
    return "nodes" in graph


def words(part: object) -> set[str]:
    """Every string in a document."""
    if isinstance(part, str):
        return {part}
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return set().union(*map(words, parts))


def sockets(graphs: list[dict]) -> dict[str, tuple[dict[str, str], list[str]]]:
    """Node types -> (input -> type, types of outputs), as the graphs use them."""
    found: dict[str, tuple[dict[str, str], list[str]]] = {}
    for graph in graphs:
        if is_workflow(graph):
            for node in graph["nodes"]:
                inputs, outputs = found.setdefault(node["type"], ({}, []))
                inputs |= {i["name"]: i["type"] for i in node.get("inputs") or ()}
                outputs += [o["type"] for o in (node.get("outputs") or ())[len(outputs) :]]
            continue
        for node in graph.values():
            inputs, outputs = found.setdefault(node["class_type"], ({}, []))
            inputs |= dict.fromkeys(node["inputs"], "*")
            outputs += ["*"] * (8 - len(outputs))
    return found


@pytest.fixture(scope="module")
def graphs() -> dict[str, dict]:
    return {path.stem: converted(path) for path in FILES}


@pytest.fixture(scope="module")
def server(tmp_path_factory, graphs):
    register_folders()
    folder = tmp_path_factory.mktemp("converted")
    pack = folder / "stubs"
    pack.mkdir()
    (pack / "__init__.py").write_text(STUBS)
    used = sockets(list(graphs.values()))
    assert not any(foreign_types(graph) for graph in graphs.values()), "nothing of theirs needs a stand-in"
    others = {name: value for name, value in used.items() if name not in PAGE_ONLY | {"PrimitiveNode"}}
    (pack / "stubs.json").write_text(json.dumps(others))
    packs = {"animatediff-flipbook": ROOT, "tiny-family": ROOT / "demo" / "tiny_family", "stubs": pack}
    base = prepare_base(folder / "base", packs)
    write_files(base, folder, words(list(graphs.values())))
    with ComfyServer(
        Path(folder_paths.base_path),
        base,
        wait_for=tuple(others),
        environment={"OMP_NUM_THREADS": "1"},
    ) as running:
        yield running


def write_files(base: Path, folder: Path, names: set[str]) -> None:
    """Tiny models under every name of a graph, in every folder where a node could look for it."""
    models = write_models(folder)
    weights = {place: load_torch_file(str(files[-1])) for place, files in models.items()}
    prefix = "first_stage_model."
    parts = weights["checkpoints"].items()
    weights["vae"] = {k.removeprefix(prefix): value for k, value in parts if k.startswith(prefix)}
    for name in sorted(names):
        if re.fullmatch(MODELS, name):
            for place in FOLDERS:
                source = folder / f"{place}{Path(name).suffix}"
                if not source.exists():
                    save = save_file if source.suffix == ".safetensors" else torch.save
                    save(weights.get(place, {}), source)
                link_file(source, base / "models" / place / name)
        elif re.fullmatch(PICTURES, name):
            Image.new("RGB", (64, 64)).save(base / "input" / Path(name).name)


@pytest.fixture(scope="module")
def prompts(server, graphs) -> dict[str, dict]:
    """The graphs as the server takes them: as they are, or as the page exports them."""
    found = {name: graph for name, graph in graphs.items() if not is_workflow(graph)}
    # The page goes before the server's turn comes, because Playwright keeps an event loop of its own running.
    with Frontend(server.url) as page:
        for name in graphs.keys() - found.keys():
            page.open(graphs[name])
            assert page.missing_nodes() == [] and page.errors == [], name
            page.close_dialogs()
            found[name] = page.api_form()
    return found


@each_graph
def test_the_server_takes_it(server, prompts, path):
    answer = server.post("/prompt", {"prompt": prompts[path.stem]})
    assert answer["node_errors"] == {}
    server.post("/queue", {"clear": True})
    server.interrupt()


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_it_renders(server, prompts, name):
    kinds = {node["class_type"] for node in prompts[name].values()}
    small = {key: value for key, value in SMALL.items() if key.split(".")[0] in kinds}
    prompt = changed(prompts[name], small)
    history = server.run(prompt)
    assert history.status == "success"
    wanted = {key for key, node in prompt.items() if node["class_type"] in ("KSampler", "VAEDecode")}
    assert wanted and wanted <= set(history.executed())
