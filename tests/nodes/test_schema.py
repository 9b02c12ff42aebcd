"""Node ids, inputs and outputs are frozen: published workflows name them. Every one explains itself.

After a wanted addition: FLIPBOOK_UPDATE_SCHEMAS=1 with this test writes the snapshot anew; read its diff.
"""

import asyncio
import json
import os
from pathlib import Path

import pytest
from animatediff_flipbook.nodes import NODES, FlipbookExtension

SNAPSHOT = Path(__file__).parent.parent / "data" / "node_schemas.json"
FILES = ("motion_module", "motion_lora", "domain_adapter", "sparse_control", "camera_control")
"""Lists of files, which differ from machine to machine."""
FROZEN = ("default", "min", "max", "step", "multiline", "options")


def described(node):
    """What a workflow file depends on: names, order, types, defaults, bounds."""
    info = node.GET_NODE_INFO_V1()
    inputs = {}
    for group, required in (("required", True), ("optional", False)):
        for name, (kind, *options) in info["input"].get(group, {}).items():
            options = options[0] if options else {}
            kept = {key: options[key] for key in FROZEN if key in options}
            if kind == "COMBO" or isinstance(kind, list):
                files = name in FILES
                kept["options"] = "files" if files else list(options.get("options", kind))
                if name in ("sampler_name", "scheduler"):
                    kept["options"] = "ComfyUI's"  # of the version that runs
            inputs[name] = {"type": "COMBO" if isinstance(kind, list) else kind, "required": required, **kept}
    outputs = [list(pair) for pair in zip(info["output_name"], map(str, info["output"]), strict=True)]
    return {"inputs": inputs, "outputs": outputs, "output_node": info["output_node"]}


def test_snapshot(model_folders):
    now = {node.GET_SCHEMA().node_id: described(node) for node in NODES}
    if os.environ.get("FLIPBOOK_UPDATE_SCHEMAS"):
        SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n")
    assert now == json.loads(SNAPSHOT.read_text())


def test_first_four_nodes_are_those_promised(model_folders):
    """Independent of the snapshot file: ids and order of the nodes that everything stands on."""
    inputs = {node.GET_SCHEMA().node_id: [i.id for i in node.GET_SCHEMA().inputs] for node in NODES}
    assert inputs["FlipbookLoadMotionModule"][0] == "motion_module"
    assert inputs["FlipbookLoadMotionLora"][:3] == ["motion_lora", "strength", "previous"]
    assert inputs["FlipbookApplyMotionModule"][:8] == [
        *("model", "motion_module", "motion_lora", "scale", "effect"),
        *("start_percent", "end_percent", "beta_schedule"),
    ]
    assert inputs["FlipbookApplyDomainAdapter"] == ["model", "domain_adapter", "alpha"]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_input_and_output_explains_itself(node, model_folders):
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("Flipbook")
    assert len(schema.description) > 30
    assert schema.category.startswith("AnimateDiff")
    assert schema.display_name
    for part in [*schema.inputs, *schema.outputs]:
        assert part.tooltip, f"{schema.node_id}.{part.id or part.display_name} has no tooltip"
        assert len(part.tooltip) > 10
    names = [part.id for part in schema.inputs]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_execute_takes_every_declared_input_as_a_keyword(node, model_folders):
    """A node whose parameters do not match its schema fails for every user."""
    import inspect

    parameters = inspect.signature(node.execute).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return  # takes them all
    for part in node.GET_SCHEMA().inputs:
        assert part.id in parameters
        if part.optional:
            assert parameters[part.id].default is not inspect.Parameter.empty
        if hasattr(part, "default") and part.default is not None:
            declared = parameters[part.id].default
            assert declared in (inspect.Parameter.empty, part.default)
    if "fingerprint_inputs" in vars(node):
        fingerprint = inspect.signature(node.fingerprint_inputs).parameters
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in fingerprint.values())
        assert takes_all or {part.id for part in node.GET_SCHEMA().inputs} <= set(fingerprint)


def test_the_extension_hands_over_all_nodes():
    assert asyncio.run(FlipbookExtension().get_node_list()) == NODES


def test_node_help_exists_for_every_node(root, model_folders):
    """web/docs/<NodeId>.md is what the help panel shows."""
    missing = [
        node.GET_SCHEMA().node_id
        for node in NODES
        if not (root / "web" / "docs" / f"{node.GET_SCHEMA().node_id}.md").is_file()
    ]
    assert not missing
