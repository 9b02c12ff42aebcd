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
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.renders import changed
from animatediff_flipbook.demo.server import ComfyServer, History
from animatediff_flipbook.graphs.convert import convert, foreign_types
from animatediff_flipbook.nodes.paths import register_folders
from animatediff_flipbook.tests import test_workflows
from animatediff_flipbook.tests.test_workflows import PAGE_ONLY, ROOT, SMALL, write_models
from PIL import Image
from safetensors.torch import load_file, save_file

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
    outputs = [Anything(kind) if kind == "*" else kind for kind in outputs]
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
]
page = test_workflows.page
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
    (checkpoint,), (_, module), (motion_lora,), (lora,) = models.values()
    vae = folder / "vae.safetensors"
    prefix = "first_stage_model."
    weights = load_file(checkpoint)
    save_file({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, vae)
    source = {"checkpoints": checkpoint, "vae": vae, "loras": lora}
    source |= {"animatediff_models": module, "animatediff_motion_lora": motion_lora}
    for name in sorted(names):
        if re.fullmatch(MODELS, name):
            for place in FOLDERS:
                file = base / "models" / place / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.symlink_to(source[place]) if place in source else file.touch()
        elif re.fullmatch(PICTURES, name):
            Image.new("RGB", (64, 64)).save(base / "input" / Path(name).name)


def prompt_of(graph: dict, page) -> dict:
    """A graph as the server takes it: as it is, or as the page exports it."""
    if not is_workflow(graph):
        return graph
    page.open(graph)
    assert page.missing_nodes() == []
    assert page.errors == []
    page.close_dialogs()
    return page.api_form()


@each_graph
def test_the_server_takes_it(server, page, graphs, path):
    prompt = prompt_of(graphs[path.stem], page)
    answer = server.post("/prompt", {"prompt": prompt})
    assert answer["node_errors"] == {}
    server.post("/queue", {"clear": True})
    server.interrupt()


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_it_renders(server, page, graphs, name):
    if name not in graphs:
        pytest.skip("not among the graphs here")
    prompt = prompt_of(graphs[name], page)
    kinds = {node["class_type"] for node in prompt.values()}
    prompt = changed(prompt, {key: value for key, value in SMALL.items() if key.split(".")[0] in kinds})
    history: History = server.run(prompt)
    assert history.status == "success"
    wanted = {key for key, node in prompt.items() if node["class_type"] in ("KSampler", "VAEDecode")}
    assert wanted and wanted <= set(history.executed())
