"""Who looks for a node by its name in another AnimateDiff pack finds ours in the page's search."""

from types import SimpleNamespace

import pytest
from animatediff_flipbook.nodes import NODES, compat
from comfy_api.latest import io

SOUGHT = {
    "FlipbookLoadMotionModule": [
        *("animatediff", "AnimateDiff Loader", "Load AnimateDiff Model", "motion model", "ADE", "mm_sd_v15"),
        *("Load AnimateLCM-I2V Model", "motion module", "animate"),
    ],
    "FlipbookApplyMotionModule": [
        *(
            "animate",
            "AnimateDiff",
            "Apply AnimateDiff Model",
            "Use Evolved Sampling",
            "Sigma Schedule",
            "ADE",
        ),
    ],
    "FlipbookLoadMotionLora": ["Load AnimateDiff LoRA", "AnimateDiff Lora Loader", "ADE", "motion lora"],
    "FlipbookApplyDomainAdapter": ["v3_sd15_adapter", "AnimateDiff adapter"],
    "FlipbookMotionValue": ["Multival", "Multival Floats", "Multival Scaled Mask"],
    "FlipbookMotionSettings": [
        *("AnimateDiff Settings", "Motion Model Settings", "Adjust PE Sweetspot", "Adjust PE Full Stretch"),
        *("Adjust PE Manual", "Adjust Weight"),
    ],
    "FlipbookMotionKeyframe": ["AnimateDiff Keyframe"],
    "FlipbookContextWindows": [
        *("Context Options Looped Uniform", "Context Options Standard Static", "Context Options Batched"),
        *("View Options", "Views Only", "sliding window", "AnimateDiff Sliding Window Options", "long video"),
    ],
    "FlipbookContextSampler": ["AnimateDiff Sampler", "sliding window"],
    "FlipbookContextPreview": ["Visualize Context Options"],
    "FlipbookPromptSchedule": ["Batch Prompt Schedule", "prompt travel"],
    "FlipbookFloatSchedule": ["Batch Value Schedule"],
    "FlipbookFrameNoise": ["FreeNoise"],
    "FlipbookModelNoise": ["FreeNoise", "Sample Settings"],
    "FlipbookModelFreeInit": ["FreeInit Iteration Options"],
    "FlipbookFreeInitSampler": ["FreeInit", "AnimateDiff Sampler"],
    "FlipbookLoadSparseControl": ["Load SparseCtrl Model"],
    "FlipbookSparseControlFrames": ["SparseCtrl Index Method", "SparseCtrl Spread Method"],
    "FlipbookPiaReference": ["PIA Input Paper Presets", "Apply AnimateDiff-PIA Model"],
    "FlipbookImageReference": ["Apply AnimateLCM-I2V Model", "image to video"],
    "FlipbookLoadCameraControl": ["Load AnimateDiff+CameraCtrl Model"],
    "FlipbookCameraControl": ["Apply AnimateDiff+CameraCtrl Model"],
    "FlipbookCameraPoses": ["Create CameraCtrl Poses"],
    "FlipbookCameraPosesFromText": ["Load CameraCtrl Poses"],
}


@pytest.fixture
def schemas(monkeypatch, model_folders):
    """The fields of every node's schema, also those that this ComfyUI does not know."""

    class Schema(SimpleNamespace):
        __dataclass_fields__ = {**io.Schema.__dataclass_fields__, "search_aliases": None}

    monkeypatch.setattr(compat, "io", SimpleNamespace(Schema=Schema))
    fields = [node.define_schema() for node in NODES]
    return {one.node_id: one for one in fields}


def test_every_node_has_words_to_be_found_by(schemas):
    for schema in schemas.values():
        assert len(set(map(str.lower, schema.search_aliases))) == len(schema.search_aliases) >= 2


def test_names_in_other_packs_find_ours(schemas):
    """The page looks for all words of a query in one name or alias."""
    for node_id, queries in SOUGHT.items():
        schema = schemas[node_id]
        texts = [text.lower() for text in (schema.node_id, schema.display_name, *schema.search_aliases)]
        for query in queries:
            words = query.lower().split()
            assert any(all(word in text for word in words) for text in texts), (node_id, query)


def test_aliases_reach_the_page_where_it_knows_them(model_folders):
    told = "search_aliases" in io.Schema.__dataclass_fields__
    for node in NODES:
        assert bool(node.GET_NODE_INFO_V1().get("search_aliases")) == told
