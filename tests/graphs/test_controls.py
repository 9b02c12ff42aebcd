"""PIA, AnimateLCM-I2V and CameraCtrl: what an Apply node of theirs was given reaches Apply Motion Module."""

import pytest
from animatediff_flipbook.graphs.convert import convert
from support_graphs import Builder, faults, feeder, nodes_of, widgets


class Controlled(Builder):
    """Checkpoint, picture, one Apply node with a control, Evolved Sampling, sampler."""

    def __init__(self):
        super().__init__()
        self.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL", "CLIP:CLIP", "VAE:VAE"))
        self.add("LoadImage", ["a.png", "image"], (), ("IMAGE:IMAGE", "MASK:MASK"))

    def finish(self, kind, values, load="ADE_LoadAnimateDiffModel", files=("mm.ckpt",), **links):
        loader = self.add(load, list(files), (), ("MOTION_MODEL:MOTION_MODEL_ADE",))
        apply = self.add(kind, values, (), ("M:M_MODELS",), motion_model=(loader, 0), **links)
        evolved = self.add(
            "ADE_UseEvolvedSampling",
            ["autoselect"],
            ("model:MODEL", "m_models:M_MODELS"),
            ("MODEL:MODEL",),
            model=(1, 0),
            m_models=(apply, 0),
        )
        values = [1, "fixed", 8, 7.0, "euler", "normal", 1.0]
        self.add("KSampler", values, (), ("LATENT:LATENT",), model=(evolved, 0))
        return convert(self.graph())


def control(done, kind):
    """The control node, which feeds Apply Motion Module."""
    assert faults(done.graph) == []
    (made,) = nodes_of(done.graph, kind)
    (apply,) = nodes_of(done.graph, "FlipbookApplyMotionModule")
    assert feeder(done.graph, apply, "motion_control") == (made, 0)
    return made


def test_pia_with_a_preset():
    build = Controlled()
    preset = build.add(
        "ADE_InputPIA_PaperPresets", ["Style Transfer (Large Motion)", -1, False], (), ("P:PIA_INPUT",)
    )
    done = build.finish(
        "ADE_ApplyAnimateDiffModelWithPIA", [0.1, 0.9], image=(2, 0), vae=(1, 2), pia_input=(preset, 0)
    )
    made = control(done, "FlipbookPiaReference")
    shown = widgets(done.graph, made)
    assert (shown["setting"], shown["reference_frame"]) == ("style large", -1)
    assert feeder(done.graph, made, "image") == (2, 0) and feeder(done.graph, made, "vae") == (1, 2)
    assert not nodes_of(done.graph, "ADE_InputPIA_PaperPresets") and not done.report.of_kind("lost")


@pytest.mark.parametrize("given", [None, 0.6])
def test_pia_with_one_value(given):
    build = Controlled()
    links = {}
    if given:
        value = build.add("ADE_MultivalDynamic", [given], (), ("MULTIVAL:MULTIVAL",))
        links["pia_input"] = (
            build.add("ADE_InputPIA_Multival", [], (), ("P:PIA_INPUT",), multival=(value, 0)),
            0,
        )
    done = build.finish("ADE_ApplyAnimateDiffModelWithPIA", [0, 1], image=(2, 0), vae=(1, 2), **links)
    made = control(done, "FlipbookPiaReference")
    number, _ = feeder(done.graph, made, "values")
    assert widgets(done.graph, number)["value"] == (given or 1.0) and not done.report.of_kind("lost")


@pytest.mark.parametrize("encoder", ["ADE_UpscaleAndVAEEncode", "VAEEncode"])
def test_animatelcm_i2v(encoder):
    build = Controlled()
    picture = {"pixels" if encoder == "VAEEncode" else "image": (2, 0)}
    latent = build.add(encoder, [], (), ("LATENT:LATENT",), vae=(1, 2), **picture)
    done = build.finish(
        "ADE_ApplyAnimateLCMI2VModel",
        [0.25, False, 0.0, 1.0],
        "ADE_LoadAnimateLCMI2VModel",
        ref_latent=(latent, 0),
    )
    made = control(done, "FlipbookImageReference")
    assert widgets(done.graph, made)["motion_scale"] == 0.25
    assert feeder(done.graph, made, "image") == (2, 0) and not nodes_of(done.graph, encoder)
    assert not done.report.of_kind("lost")


def test_a_reference_latent_that_is_no_picture_is_told():
    build = Controlled()
    latent = build.add("EmptyLatentImage", [512, 512, 1], (), ("LATENT:LATENT",))
    done = build.finish("ADE_ApplyAnimateLCMI2VModel", [0.2, False, 0, 1], ref_latent=(latent, 0))
    assert faults(done.graph) == [] and done.report.of_kind("lost")


def test_cameractrl():
    build = Controlled()
    first = build.add("ADE_CameraPoseBasic", ["Zoom In", 2.0, 8], (), ("P:CAMERACTRL_POSES",))
    six = ["Pan Left", 0.5, "Static", 1.0, "Roll Clockwise", 2.0, *["Static", 1.0] * 3]
    last = build.add(
        "ADE_CameraPoseAdvanced", [*six, -1.5, 16], (), ("P:CAMERACTRL_POSES",), prev_poses=(first, 0)
    )
    strength = build.add("ADE_MultivalDynamic", [0.8], (), ("MULTIVAL:MULTIVAL",))
    done = build.finish(
        "ADE_ApplyAnimateDiffModelWithCameraCtrl",
        [0, 1],
        "ADE_LoadAnimateDiffModelWithCameraCtrl",
        ("v3.ckpt", "camera.ckpt"),
        cameractrl_poses=(last, 0),
        cameractrl_multival=(strength, 0),
    )
    new = done.graph
    made = control(done, "FlipbookCameraControl")
    assert widgets(new, made)["strength"] == 0.8 and not done.report.of_kind("lost")
    load, _ = feeder(new, made, "camera_control")
    assert widgets(new, load)["camera_control"] == "camera.ckpt"
    (module,) = nodes_of(new, "FlipbookLoadMotionModule")
    assert widgets(new, module)["motion_module"] == "v3.ckpt"
    end, _ = feeder(new, made, "poses")
    start, _ = feeder(new, end, "previous")
    shown = widgets(new, end)
    assert (shown["motion"], shown["strength"], shown["speed"]) == ("pan left", -0.5, 1.5)
    assert (shown["second_motion"], shown["second_strength"]) == ("roll clockwise", -2.0)
    assert (widgets(new, start)["motion"], widgets(new, start)["frames"]) == ("zoom in", 8)


def test_camera_poses_of_other_packs_stay():
    build = Controlled()
    poses = build.add("ADE_CameraPoseBasic", ["Zoom In", 2.0, 8], (), ("P:CAMERACTRL_POSES",))
    build.add("WanVideoFunCameraEmbeds", [], (), (), poses=(poses, 0))
    done = build.finish(
        "ADE_ApplyAnimateDiffModelWithCameraCtrl",
        [0, 1],
        "ADE_LoadAnimateDiffModelWithCameraCtrl",
        ("v3.ckpt", "camera.ckpt"),
        cameractrl_poses=(poses, 0),
    )
    assert nodes_of(done.graph, "ADE_CameraPoseBasic") == [poses]
    assert len(nodes_of(done.graph, "FlipbookCameraPoses")) == 1
