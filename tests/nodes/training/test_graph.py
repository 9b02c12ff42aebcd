"""What a graph brings along, and what it may not: patches, other nodes' clips, settings, missing packages."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import comfy.lora
import comfy.model_management
import comfy.ops
import numpy as np
import pytest
import torch
from animatediff_flipbook.nodes.training import extras, runs, train
from animatediff_flipbook.nodes.training.clips import caption_of_each, find_folder, sources
from animatediff_flipbook.nodes.training.preview import PreviewTrainingClips
from animatediff_flipbook.tests.support_clips import moving_square, write_mp4
from animatediff_flipbook.training.model import denoiser
from PIL import Image
from safetensors.torch import load_file


def with_random_patch(model):
    """A clone with a LoRA-like difference on one layer."""
    key = next(name for name in model.model.state_dict() if name.endswith("attn1.to_q.weight"))
    patched = model.clone()
    shape = model.model.state_dict()[key].shape
    patched.add_patches({key: ("diff", (torch.randn(shape),))}, 0.5)
    return patched, key


def test_patches_are_in_the_copy_by_comfyuis_arithmetic_and_not_in_the_model(graph):
    from animatediff_flipbook.nodes.training.base import loaded_base
    from animatediff_flipbook.training.model.loaded import copy_of_unet

    layers = comfy.ops.disable_weight_init

    patched, key = with_random_patch(graph.model)
    before = graph.model.model.state_dict()[key].clone()
    with torch.inference_mode():
        plain = loaded_base(graph.model, graph.clip, graph.vae, None)
        comfy.model_management.load_models_gpu([patched])
        wanted = {k: v.clone() for k, v in graph.model.model.diffusion_model.state_dict().items()}
        loaded = loaded_base(patched, graph.clip, graph.vae, None)
        assert torch.equal(graph.model.model.state_dict()[key], before), "not in memory any more"
        with torch.inference_mode(False):
            copy = copy_of_unet(loaded.model, torch.float32, torch.device("cpu"), layers)
    found = copy.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not torch.equal(found[key.removeprefix("diffusion_model.")], before)
    assert loaded.fingerprint != plain.fingerprint, "another run"
    assert not any(weight.is_inference() for weight in copy.parameters())


def test_what_works_beside_the_weights_is_refused(graph, run):
    patched = graph.model.clone()
    patched.add_object_patch("model_sampling", graph.model.get_model_object("model_sampling"))
    with pytest.raises(ValueError, match="model_sampling.*before that node"):
        run(model=patched)
    patched = graph.model.clone()
    patched.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v))
    with pytest.raises(ValueError, match="attention patches"):
        run(model=patched)


def test_a_finished_run_is_found_and_no_file_is_overwritten(graph, run, monkeypatch):
    first = run()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_run", lambda *_: pytest.fail("trained again"))
        assert run().args[-3] == first.args[-3] == "my_motion_lora.safetensors"
    folder = graph.place / "models" / "animatediff_motion_lora"
    before = (folder / "my_motion_lora.safetensors").read_bytes()
    other = run(learning_rate=5e-3)
    assert other.args[-3] == "my_motion_lora_2.safetensors"
    assert (folder / "my_motion_lora.safetensors").read_bytes() == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_cancelled_anywhere_and_resumed_it_is_as_if_it_had_not_been(graph, run):
    whole = load_file(graph.place / "models" / "animatediff_motion_lora" / run(name="whole").args[-3])
    again = graph.place / "again"
    runs_folder = graph.place / "output" / runs.PLACE
    runs_folder.rename(again)

    class Cancelling(runs.GraphWatch):
        def stepped(self, step, values):
            super().stepped(step, values)
            if step == 1:
                comfy.model_management.interrupt_current_processing(True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "GraphWatch", Cancelling)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(name="whole")
    assert not comfy.model_management.processing_interrupted()
    assert [path.name for path in runs_folder.glob("*/checkpoints/*")] == ["step-00000001"]
    resumed = load_file(graph.place / "models" / "animatediff_motion_lora" / run(name="whole").args[-3])
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_image_batches_are_trained_as_they_are(graph, run, tmp_path):
    batch = torch.from_numpy(moving_square(3)).float() / 255
    found, _ = sources("", [batch], ["a square"], 8.0, tmp_path / "clips")
    frames = sorted((tmp_path / "clips").rglob("*.png"))
    assert len(frames) == 8
    assert all(np.array_equal(np.array(Image.open(f)), moving_square(3)[n]) for n, f in enumerate(frames))
    assert found[0]["caption"] == "a square"
    output = run(folder="", clips=[batch, batch.flip(0)], captions=["to the right", "to the left"], steps=2)
    assert len(output.args[-1]["loss"]) == 2


def test_videos_of_core_are_read_from_their_files(tmp_path):
    from comfy_api.latest import InputImpl

    write_mp4(tmp_path / "a.mp4", moving_square(0, 24), fps=24)
    found, _ = sources("", [InputImpl.VideoFromFile(str(tmp_path / "a.mp4"))], ["x"], 8.0, tmp_path)
    assert found == [{"path": str(tmp_path / "a.mp4"), "caption": "x", "frame_folders": False}]


def test_videos_that_lie_in_memory_are_not_encoded_first(tmp_path, monkeypatch):
    from comfy_api.latest import InputImpl, Types

    frames = torch.from_numpy(moving_square(0, 24)).float() / 255
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=Fraction(24)))
    monkeypatch.setattr(type(video), "save_to", lambda *_, **__: pytest.fail("encoded"))
    found, _ = sources("", [video], ["x"], 8.0, tmp_path)
    assert len(list(Path(found[0]["path"]).rglob("*.png"))) == 8


def test_of_a_cut_video_only_the_part_is_trained(tmp_path):
    """Newer ComfyUIs tell what part it is (0.24), those between do not (0.18), older ones cannot cut."""
    from comfy_api.latest import InputImpl

    write_mp4(tmp_path / "a.mp4", moving_square(0, 24), fps=8)
    video = InputImpl.VideoFromFile(str(tmp_path / "a.mp4"))
    if not hasattr(video, "as_trimmed"):
        pytest.skip("videos cannot be cut in this ComfyUI")
    found, _ = sources("", [video.as_trimmed(1.0, 1.0), video], ["x"], 8.0, tmp_path / "clips")
    files = sorted(Path(found[0]["path"]).rglob("*.png"))
    wanted = (video.get_components().images[8:16] * 255).round().byte().numpy()
    assert [Image.open(file).tobytes() for file in files] == [frame.tobytes() for frame in wanted]
    assert found[1]["path"] == str(tmp_path / "a.mp4")


def test_a_video_file_with_a_name_that_training_does_not_know(tmp_path):
    from comfy_api.latest import InputImpl

    write_mp4(tmp_path / "a.mp4", moving_square(0))
    (tmp_path / "a.mp4").rename(tmp_path / "a.video")
    found, _ = sources("", [InputImpl.VideoFromFile(str(tmp_path / "a.video"))], ["x"], 8.0, tmp_path / "c")
    assert len(list(Path(found[0]["path"]).rglob("*.png"))) == 8


@pytest.mark.parametrize(
    "clip", [{"samples": torch.zeros(1, 4, 8, 8)}, torch.zeros(8, 64, 64), torch.zeros(0, 64, 64, 3), "a.mp4"]
)
def test_what_is_no_clip_is_refused(tmp_path, clip):
    with pytest.raises(ValueError, match="clips got a .*expected IMAGE batches"):
        sources("", [clip], ["x"], 8.0, tmp_path)


def test_core_s_folder_of_videos_and_texts(graph, run):
    """In its order, a caption each; a folder 2_name counts twice, as in other trainers."""
    dataset = pytest.importorskip("comfy_extras.nodes_dataset")
    if not hasattr(dataset, "LoadVideoTextDataSetFromFolderNode"):
        pytest.skip("this ComfyUI has no Load Video-Text (from Folder)")
    folder = graph.place / "input" / "films"
    (folder / "2_twice").mkdir(parents=True)
    for number, place in enumerate((folder, folder, folder / "2_twice")):
        write_mp4(place / f"clip{number}.mp4", moving_square(number))
        (place / f"clip{number}.txt").write_text(f"square {number}")
    videos, texts = dataset.LoadVideoTextDataSetFromFolderNode.execute(folder="films").args
    assert len(videos) == 4
    found, _ = sources("", videos, texts, 8.0, graph.place / "clips")
    words = {(Path(one["path"]).name, one["caption"]) for one in found}
    assert words == {(f"clip{number}.mp4", f"square {number}") for number in range(3)}
    output = run(folder="", clips=videos, captions=texts, steps=2)
    assert len(output.args[-1]["loss"]) == 2
    with pytest.raises(ValueError, match="3 captions for 4 clips"):
        run(folder="", clips=videos, captions=texts[:3])


def test_core_s_folder_of_pictures_makes_an_adapter_that_core_s_nodes_take(graph, run, monkeypatch):
    """Load Image-Text (from Folder), Train Domain Adapter; Load LoRA Model, Save LoRA, Plot Loss Graph."""
    from comfy_extras import nodes_dataset, nodes_train

    folder = graph.place / "input" / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(moving_square(number, size=64 + 16 * number)[0]).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"square {number}")
    images, texts = nodes_dataset.LoadImageTextDataSetFromFolderNode.execute(folder="pictures").args
    model, lora, name, _, losses = run(
        train.TrainDomainAdapter, folder="", clips=images, captions=texts, steps=3, batch_size=1
    ).args
    loaded = nodes_train.LoraModelLoader.execute(graph.model, lora, 1.0).args[0]
    assert patches_of(loaded) == patches_of(model) != []
    monkeypatch.setattr(nodes_train.folder_paths, "get_output_directory", lambda: str(graph.place / "saved"))
    (graph.place / "saved").mkdir()
    nodes_train.SaveLoRA.execute(lora, "x")
    (saved,) = (graph.place / "saved").glob("x*.safetensors")
    published = load_file(graph.place / "models" / "loras" / name)
    assert all(torch.equal(value, published[key]) for key, value in load_file(saved).items())
    monkeypatch.setattr(nodes_train.ui, "PreviewImage", lambda image, cls: {"size": image.shape})
    assert nodes_train.LossGraphNode.execute(losses, "x").ui["size"][-1] == 3


def patches_of(model):
    """Which weights are changed, and by how much."""
    loaded = {
        key: comfy.lora.calculate_weight(patches, torch.zeros(shape_of(model, key)), key)
        for key, patches in model.patches.items()
    }
    return sorted((key, float(value.double().sum()), float(value.norm())) for key, value in loaded.items())


def shape_of(model, key):
    return model.model.state_dict()[key].shape


def test_captions_go_with_clips():
    assert caption_of_each(["one"], 3) == ["one"] * 3
    assert caption_of_each(["a\n\nb"], 2) == ["a", "b"]
    assert caption_of_each([""], 2) == ["", ""]
    with pytest.raises(ValueError, match="2 captions for 3 clips"):
        caption_of_each(["a\nb"], 3)


def test_folders_are_looked_for_in_the_input_folder(graph):
    assert find_folder("squares") == (graph.place / "input" / "squares").resolve()
    assert find_folder(str(graph.place)) == graph.place.resolve()
    with pytest.raises(ValueError, match="leads out of ComfyUI's input folder"):
        find_folder("../output")
    with pytest.raises(ValueError, match="there is nothing at"):
        find_folder("gone")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('output = "elsewhere"', "output is the node's to decide"),
        ("base.custom_nodes = ['x']", "base.custom_nodes is the node's to decide"),
        ("[data]\nsources = []", "data.sources is the node's to decide"),
        ('optimizer.name = "os.system"', "import path, which a graph may not name"),
        ("lora.rnak = 3", "Unknown key 'lora.rnak'. Did you mean 'rank'"),
        ("lora.rank = ", "not valid TOML"),
        ("data = 3", "data must be a table"),
    ],
)
def test_settings_that_a_graph_may_not_make(run, settings, words):
    with pytest.raises(ValueError, match=words):
        run(settings=settings)


def test_a_name_is_no_path(run):
    with pytest.raises(ValueError, match="plain file name"):
        run(name="../../evil")


def test_missing_packages_are_named_with_the_command(run, monkeypatch):
    monkeypatch.setattr(extras, "NEEDED", ("accelerate", "no_such_package_here"))
    with pytest.raises(ValueError, match=r"\(no_such_package_here\).*-m pip install -e \".*\[train\]\""):
        run()


def test_preview_shows_what_training_cuts(graph, run):
    output = run(PreviewTrainingClips, camera="zoom_in", camera_speed=0.4, most=3)
    clips, picture, count = output.args
    assert clips.shape == (3 * 4, 64, 64, 3)
    assert picture.shape[0] == 1 and count == 6
    from animatediff_flipbook.training.config import from_dict
    from animatediff_flipbook.training.data.media import list_media
    from animatediff_flipbook.training.data.tracks import tracks_of_file

    data = {"sources": [{"path": str(graph.place / "input" / "squares")}], "frames": 4, "fps": 8.0}
    config = from_dict(
        {
            "stage": "motion_module",
            "name": "x",
            "output": "x",
            "base": {"checkpoint": "x"},
            "data": data | {"resolutions": [[64, 64]]},
            "camera": {"direction": "zoom_in", "speed": 0.4},
        }
    )
    file = list_media(config.data.sources, config.data)[0]
    pixels = tracks_of_file(file, "any", config).tracks[0][2]
    assert torch.equal((clips[:4] * 255).round().to(torch.uint8), torch.from_numpy(pixels))


def test_several_values_where_one_is_expected_are_not_passed_over(run):
    with pytest.raises(ValueError, match="folder got a list of 2, expected one"):
        run(folder=["squares", "circles"])


@pytest.mark.parametrize("captions", [["a\nb"], ["a", "b"]])
def test_captions_that_cannot_be_given_to_a_folders_files_are_refused(graph, captions, tmp_path):
    with pytest.raises(ValueError, match="2 captions for a folder"):
        sources("squares", [], captions, 8.0, tmp_path)
    found, _ = sources("squares", [], ["\n a  red square\n"], 8.0, tmp_path)
    assert found[0]["caption"] == "a  red square"


def test_a_folder_that_is_linked_into_the_input_folder(graph):
    elsewhere = graph.place / "on another disk"
    (graph.place / "input" / "squares").rename(elsewhere)
    (graph.place / "input" / "squares").symlink_to(elsewhere)
    assert find_folder("squares") == elsewhere.resolve()


def test_a_video_in_memory_may_be_as_much_slower_than_fps_as_one_in_a_file(tmp_path):
    from comfy_api.latest import InputImpl, Types

    frames = torch.from_numpy(moving_square(0, 24)).float() / 255
    components = Types.VideoComponents(images=frames, frame_rate=Fraction(24000, 1001))
    found, _ = sources("", [InputImpl.VideoFromComponents(components)], ["x"], 24.0, tmp_path)
    assert len(list(Path(found[0]["path"]).rglob("*.png"))) == 24


def test_frames_are_not_written_on_once_the_user_has_cancelled(tmp_path):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sources("", [torch.zeros(3, 8, 8, 3)], ["x"], 8.0, tmp_path / "clips")
    assert list((tmp_path / "clips").iterdir()) == []


@pytest.mark.parametrize("part", ["clip", "vae"])
def test_a_checkpoint_without_text_encoder_or_vae(graph, run, part):
    empty = None if part == "clip" else SimpleNamespace(first_stage_model=None)
    with pytest.raises(ValueError, match=f"{part}: there is no .* Connect Load {part.upper()}"):
        run(**{part: empty})


def test_parts_of_another_family_are_found_before_anything_is_encoded(graph, run, monkeypatch):
    def nothing_encoded():
        assert not list((graph.place / "output").rglob("shard-*"))

    with monkeypatch.context() as patch:
        patch.setattr(graph.vae, "latent_channels", 16)
        with pytest.raises(ValueError, match="VAE makes latents of 16 channels.*takes 4"):
            run()
    nothing_encoded()
    config = graph.model.model.model_config.unet_config
    with monkeypatch.context() as patch:
        patch.setitem(config, "context_dim", 999)
        with pytest.raises(ValueError, match="values a token, the base model takes 999"):
            run()
    nothing_encoded()
    with monkeypatch.context() as patch:
        patch.setattr(denoiser, "check_fit", lambda *_: (_ for _ in ()).throw(ValueError("does not fit")))
        with pytest.raises(ValueError, match="does not fit"):
            run()
    nothing_encoded()


def test_a_full_disk_is_named_with_what_to_do(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "_run", full)
    with pytest.raises(OSError, match="The disk is full .*the same inputs go on from there"):
        run()


def test_a_file_that_cannot_be_read_is_left_out_of_the_preview(graph, run, monkeypatch):
    from animatediff_flipbook.training.data.media import MediaFile

    def unreadable(file):
        raise PermissionError(13, "Permission denied", str(file.path))

    content_hash, first = MediaFile.content_hash, "clip0.webp"
    monkeypatch.setattr(
        MediaFile, "content_hash", lambda f: unreadable(f) if f.path.name == first else content_hash(f)
    )
    assert run(PreviewTrainingClips).args[0].shape[0] == 5 * 4


def test_looking_at_the_models_ends_when_the_user_cancels(graph, run):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run()
    assert not list((graph.place / "output" / runs.PLACE).glob("my_motion_lora*"))


def test_training_on_another_device_than_comfyuis_is_said(monkeypatch, tmp_path):
    from animatediff_flipbook.training.run import train as trainer

    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("mps"))
    monkeypatch.setattr(trainer, "train", lambda *_, **__: SimpleNamespace(file=tmp_path))
    config = SimpleNamespace(train=SimpleNamespace(steps=1))
    _, watch = runs._run(train.TrainMotionLora, config, None, tmp_path)
    assert "computes on mps" in watch.warnings[0] and "trains on the CPU" in watch.warnings[0]
