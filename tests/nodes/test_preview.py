"""The moving preview, on ComfyUI's own sampling: what is sent, when, and that the run is the same."""

import base64
import io
from types import SimpleNamespace

import comfy.sample
import comfy.utils
import folder_paths
import latent_preview
import pytest
import torch
from animatediff_flipbook import nodes
from animatediff_flipbook.nodes import host_preview, preview
from animatediff_flipbook.nodes.preview import CELL, MovingPreview, chosen_frames, contact_sheet
from comfy.cli_args import LatentPreviewMethod, args
from comfy.model_management import InterruptProcessingException
from comfy.taesd.taesd import TAESD
from PIL import Image
from safetensors.torch import save_file

FRAMES, SIZE = 6, 8
NODE = {"node_id": "7", "display_node_id": "7", "prompt_id": "p"}


@pytest.fixture
def model(tiny_model, motion_module):
    return nodes.ApplyMotionModule.execute(model=tiny_model, motion_module=motion_module())[0]


@pytest.fixture
def sent(monkeypatch):
    """Messages to a page that looks on; time passes so fast that every step has one."""
    messages = []
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(host_preview, "way_to_show", lambda: "moving")
    monkeypatch.setattr(host_preview, "running_node", lambda: NODE)
    monkeypatch.setattr(host_preview, "send", messages.append)
    monkeypatch.setattr(preview, "INTERVAL", 0.0)
    monkeypatch.setattr(preview, "SHARE", 1e9)
    return messages


def sample(model, frames=FRAMES, callback=lambda *_: None, sampler="euler_ancestral", size=SIZE):
    latent = torch.zeros(frames, 4, size, size)
    conds = [[torch.ones(1, 4, model.model.model_config.unet_config["context_dim"]), {}]]
    noise = comfy.sample.prepare_noise(latent, 3)
    return comfy.sample.sample(
        *(model, noise, 3, 2.0, sampler, "normal", conds, conds, latent),
        seed=5,
        callback=callback,
        disable_pbar=True,
    )


def picture(message):
    return Image.open(io.BytesIO(base64.b64decode(message["image"])))


@pytest.fixture
def taesd(tmp_path, monkeypatch):
    """A small autoencoder with random weights where ComfyUI looks for TAESD."""
    torch.manual_seed(0)
    network = TAESD(latent_channels=4)
    for parameter in network.taesd_decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(network.taesd_decoder.state_dict(), tmp_path / "taesd_decoder.safetensors")
    _, endings = folder_paths.folder_names_and_paths["vae_approx"]
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], endings | {".safetensors"})
    )
    monkeypatch.delitem(folder_paths.filename_list_cache, "vae_approx", raising=False)
    yield network
    folder_paths.filename_list_cache.pop("vae_approx", None)


@pytest.mark.parametrize(
    ("method", "previewer", "way"),
    [
        (LatentPreviewMethod.Latent2RGB, latent_preview.Latent2RGBPreviewer, "moving"),
        (LatentPreviewMethod.Latent2RGB, latent_preview.Latent2RGBPreviewer, "sheet"),
        (LatentPreviewMethod.TAESD, latent_preview.TAESDPreviewerImpl, "moving"),
        (LatentPreviewMethod.NoPreviews, None, "moving"),
    ],
    ids=["latent2rgb", "latent2rgb, sheet", "taesd", "off"],
)
def test_latents_are_the_same_to_the_bit(model, sent, taesd, monkeypatch, method, previewer, way):
    """With ComfyUI's own callback, as its samplers have it; a TAESD shows eight pixels for one."""
    used = []
    monkeypatch.setattr(args, "preview_method", method)
    monkeypatch.setattr(host_preview, "way_to_show", lambda: way)
    monkeypatch.setattr(host_preview, "send_as_core_does", lambda picture, *_: sent.append(picture))
    draw = preview.contact_sheet
    monkeypatch.setattr(
        preview, "contact_sheet", lambda *given: (used.append(type(given[0])), draw(*given))[1]
    )
    with_preview = sample(model, callback=latent_preview.prepare_callback(model, 3))
    assert len(sent) == (3 if previewer else 0) and set(used) == ({previewer} if previewer else set())
    if previewer:
        factor = 8 if method == LatentPreviewMethod.TAESD else 1
        shown = sent[0] if way == "sheet" else picture(sent[0])
        assert shown.size == (3 * SIZE * factor, 2 * SIZE * factor)
    monkeypatch.setattr(host_preview, "way_to_show", lambda: None)
    assert torch.equal(sample(model, callback=None), with_preview)


def test_a_sheet_holds_every_frame(model, sent):
    sample(model)
    assert [message["step"] for message in sent] == [1, 2, 3]
    assert (sent[0]["frames"], sent[0]["columns"], sent[0]["node_id"]) == (FRAMES, 3, "7")
    assert picture(sent[0]).size == (3 * SIZE, 2 * SIZE)


def test_context_windows_without_a_module_have_a_preview(tiny_model, sent):
    sample(nodes.ContextWindows.execute(model=tiny_model, length=4, overlap=1)[0])
    assert len(sent) == 3


def test_with_module_and_windows_one_preview(model, sent):
    sample(nodes.ContextWindows.execute(model=model, length=4, overlap=1)[0])
    assert len(sent) == 3


@pytest.mark.parametrize("why", ["previews off", "another pack's", "no module", "one frame", "no callback"])
def test_nothing_is_sent(why, tiny_model, model, sent, monkeypatch):
    if why == "previews off":
        monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.NoPreviews)
    if why == "another pack's":
        theirs = type("Theirs", (latent_preview.LatentPreviewer,), {"__module__": "their_pack"})()
        monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: theirs)
    if why in ("no module", "one frame"):
        model = tiny_model
    if why == "one frame":
        model = nodes.ContextWindows.execute(model=model, length=4, overlap=1)[0]
    sample(model, frames=1 if why == "one frame" else FRAMES, callback=None if why == "no callback" else id_)
    assert sent == []


def id_(*_):
    return None


def test_the_samplers_own_callback_sees_what_it_saw(model, sent):
    seen = []
    sample(model, callback=lambda step, x0, x, total: seen.append((step, x0.shape, total)))
    assert seen == [(step, (FRAMES, 4, SIZE, SIZE), 3) for step in range(3)]


@pytest.fixture
def pages(monkeypatch):
    """A server with the connections of four pages; ``pages(name)``: who has queued the prompt."""
    knowing = {"feature_flags": {"supports_preview_metadata": True}}
    server = SimpleNamespace(
        client_id=None,
        sockets_metadata={
            "plays": {**knowing, host_preview.EVENT: True},
            "off": {**knowing, host_preview.EVENT: False},
            "without our extension": dict(knowing),
            "old frontend": {"feature_flags": {}, host_preview.EVENT: True},
        },
    )
    monkeypatch.setattr(host_preview, "running_server", lambda: server)
    return lambda name: setattr(server, "client_id", name)


@pytest.mark.parametrize(
    ("page", "way"),
    [
        ("plays", "moving"),
        ("off", None),
        ("without our extension", "sheet"),
        ("old frontend", "sheet"),
        ("gone", None),
        (None, None),
    ],
)
def test_what_a_page_can_decides_how_it_is_shown(pages, page, way):
    pages(page)
    assert host_preview.way_to_show() == way


def test_without_a_server_nobody_looks_on(monkeypatch):
    monkeypatch.setattr(host_preview, "running_server", lambda: None)
    assert host_preview.way_to_show() is None


@pytest.mark.parametrize("often", [True, False])
def test_a_page_that_cannot_play_has_a_sheet_for_comfyuis_preview(model, sent, monkeypatch, often):
    """After every step the sheet is what was sent last, also between two sheets that are made."""
    monkeypatch.setattr(host_preview, "way_to_show", lambda: "sheet")
    core = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *given, **_: core.append(given))

    def then_only_one(*_):
        if not often and len(core) > 1:
            monkeypatch.setattr(preview, "INTERVAL", 1e9)
        core.append("step")

    wanted = sample(model, callback=None)
    both = [latent_preview.prepare_callback(model, 3), then_only_one]
    found = sample(model, callback=lambda *given: [one(*given) for one in both])
    assert torch.equal(found, wanted) and sent == []
    assert [(one[0], one[2][1].size) for one in core if one != "step"] == [
        place for step in (1, 2, 3) for place in ((step, (SIZE, SIZE)), (step, (3 * SIZE, 2 * SIZE)))
    ]


def test_a_failing_preview_is_told_once_and_the_run_goes_on(model, sent, monkeypatch, caplog):
    monkeypatch.setattr(preview, "contact_sheet", lambda *_: 1 / 0)
    sample(model)
    assert [line for line in caplog.messages if "No moving preview" in line] == [
        "No moving preview for the rest of this run: division by zero"
    ]


def test_a_cancel_within_a_preview_is_a_cancel_and_leaves_nothing(model, sent, monkeypatch):
    wanted = sample(model)
    with monkeypatch.context() as patch:
        patch.setattr(host_preview, "send", cancel)
        with pytest.raises(InterruptProcessingException):
            sample(model)
    assert preview.MARK not in model.model_options
    assert torch.equal(sample(model), wanted)


def cancel(_):
    raise InterruptProcessingException()


def test_sheets_take_no_more_than_their_share(monkeypatch, sent):
    """A clock that tells the time: steps of 0.1 s, sheets of 0.05 s."""
    monkeypatch.setattr(preview, "INTERVAL", 0.5)
    monkeypatch.setattr(preview, "SHARE", 0.02)
    now, spent = [0.0], [0.0]

    def sheet(previewer, latents):
        cost = 0.05 * len(latents) / FRAMES
        now[0] += cost
        spent[0] += cost
        return Image.new("RGB", (8, 8)), 1

    monkeypatch.setattr(preview, "contact_sheet", sheet)
    monkeypatch.setattr(host_preview, "core_previewer", lambda _: object())
    moving = MovingPreview(lambda *_: None, SimpleNamespace(), clock=lambda: now[0])
    for step in range(400):
        now[0] += 0.1
        moving(step, torch.zeros(FRAMES, 4, 8, 8), None, 400)
    assert 10 <= len(sent) <= 17
    assert spent[0] <= 0.021 * now[0]


def test_tensors_of_several_kinds_are_left_alone(sent):
    nested = SimpleNamespace(is_nested=True, ndim=4)
    MovingPreview(lambda *_: None, SimpleNamespace())(0, nested, None, 3)
    assert sent == []


@pytest.mark.parametrize("count", [2, 16, 17, 100])
def test_frames_are_spread_over_the_clip(count):
    found = chosen_frames(count)
    assert len(found) == min(count, 16)
    assert found[0] == 0 and found == sorted(set(found)) and found[-1] >= count - 1 - count / 16


@pytest.mark.parametrize("count", [3, 16])
def test_cells_are_the_frames_decoded_one_by_one(count):
    factors = latent_preview.Latent2RGBPreviewer([[0.3, 0.2, 0.1]] * 4)
    latents = torch.randn(count, 4, 6, 10, generator=torch.Generator().manual_seed(1))
    sheet, columns = contact_sheet(factors, latents)
    for number in range(count):
        row, column = divmod(number, columns)
        cell = sheet.crop((column * 10, row * 6, column * 10 + 10, row * 6 + 6))
        alone = factors.decode_latent_to_preview(latents[number : number + 1])
        assert cell.tobytes() == alone.tobytes()


def test_taesd_frames_are_apart():
    """What is in a neighbour changes nothing in a frame but a little at its border."""
    torch.manual_seed(0)
    network = TAESD(latent_channels=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    previewer = latent_preview.TAESDPreviewerImpl(network)
    latents = torch.randn(4, 4, 40, 8)
    changed = latents.clone()
    changed[1:] = 0.0
    with torch.inference_mode():
        (one, columns), (other, _) = contact_sheet(previewer, latents), contact_sheet(previewer, changed)
    width, height = one.width // columns, one.height // 2
    assert max(width, height) == CELL
    inner = (0, 0, width // 2, height // 2)
    difference = torch.tensor(list(one.crop(inner).tobytes())) - torch.tensor(
        list(other.crop(inner).tobytes())
    )
    assert difference.abs().float().mean() < 2
