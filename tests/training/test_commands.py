"""The command line: every command once, on a run of two steps."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import open_motion_module
from animatediff_flipbook.motion_core.files.lora import read_lora, save_motion_lora
from animatediff_flipbook.training.__main__ import main
from animatediff_flipbook.training.config import to_dict
from animatediff_flipbook.training.data import cache, encode
from PIL import Image
from safetensors.torch import load_file, save_file


def toml(tree: dict) -> str:
    """A configuration as TOML."""

    def value(item) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{k} = {value(v)}" for k, v in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(map(value, item)) + "]"
        return json.dumps(item)

    return "\n".join(f"{key} = {value(item)}" for key, item in tree.items())


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A finished run, its configuration file and its folder."""
    folder = tmp_path_factory.mktemp("commands")
    held = ("validation.fraction=0.2", "samples.steps=2", "samples.prompts=['a red square left']")
    config = settings(folder / "run", "train.steps=2", "samples.every=2", *held)
    path = folder / "config.toml"
    path.write_text(toml(to_dict(config)))
    assert main(["cache", str(path)]) == 0
    assert main(["train", str(path)]) == 0
    return path, folder / "run"


def test_training_leaves_its_file_logs_and_samples(run):
    _, folder = run
    assert open_motion_module(folder / "result.safetensors").config.generation == "v3"
    assert json.loads((folder / "config.json").read_text())["train"]["steps"] == 2
    samples = sorted((folder / "samples").glob("step-*.webp"))
    assert [path.name for path in samples] == ["step-00000000-00.webp", "step-00000002-00.webp"]
    with Image.open(samples[0]) as image:
        assert (image.n_frames, image.size) == (4, (64, 64))
    assert list((folder / "tensorboard").iterdir())
    values = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation/loss" in line for line in values) == 2


def test_sample(run, tmp_path, capsys):
    path, _ = run
    assert main(["sample", str(path), "--prompt", "a red square up", "--out", str(tmp_path)]) == 0
    written = tmp_path / "result-00000002-00.webp"
    assert str(written) in capsys.readouterr().out
    with Image.open(written) as image:
        assert image.n_frames == 4


def test_evaluate_repeats_the_last_validation(run, capsys):
    path, folder = run
    assert main(["evaluate", str(path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["step"] == 2
    assert result["validation/loss"] == pytest.approx(last["validation/loss"], abs=1e-6)


def test_convert(run, tmp_path):
    _, folder = run
    source = folder / "result.safetensors"
    assert main(["convert", str(source), str(tmp_path / "half.safetensors"), "--dtype", "float16"]) == 0
    found, before = load_file(tmp_path / "half.safetensors"), load_file(source)
    assert found.keys() == before.keys()
    assert all(t.dtype == (torch.float32 if n.endswith(".pe") else torch.float16) for n, t in found.items())
    assert open_motion_module(tmp_path / "half.safetensors").config == open_motion_module(source).config


def test_convert_folds_alpha(tmp_path):
    layer = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q"
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    save_motion_lora(tmp_path / "plain.safetensors", {layer: (down, up)})
    tensors = {
        f"{layer}.lora_A.weight": down,
        f"{layer}.lora_B.weight": up,
        f"{layer}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "peft.safetensors")
    assert main(["convert", str(tmp_path / "peft.safetensors"), str(tmp_path / "out.safetensors")]) == 0
    out = read_lora(tmp_path / "out.safetensors").layers[layer]
    assert out.alpha is None
    assert torch.allclose(out.up @ out.down, 0.5 * (up @ down))


def test_mistakes_end_with_one_sentence(run, capsys, tmp_path):
    path, _ = run
    assert main(["train", str(path)]) == 1
    assert "holds a finished run of 2 steps; nothing was trained." in capsys.readouterr().err
    assert main(["train", str(path), "train.steps=3"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["train", str(path), "train.stepz=1"]) == 1
    assert "Did you mean 'steps'" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "none.safetensors"), "x.safetensors"]) == 1
    capsys.readouterr()
    assert main(["train", str(path), f"output={path}"]) == 1
    assert capsys.readouterr().err == f"Error: output: {path} cannot be written to (File exists).\n"


def test_stopped_while_encoding_what_is_done_is_kept(settings, tmp_path, monkeypatch, caplog):
    config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}")
    path = tmp_path / "config.toml"
    path.write_text(toml(to_dict(config)))
    decode, decoded = encode.tracks_of_file, []

    def stops(file, *rest):
        decoded.append(file.name)
        if len(decoded) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return decode(file, *rest)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(encode, "tracks_of_file", stops)
    # Should nobody take the signal, the test fails instead of ending the session.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert main(["cache", str(path)]) == 3
        assert main(["cache", str(path)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(decoded) == 4 + 3, "three files were finished before the signal"


def test_overrides_may_stand_on_both_sides_of_an_option(run, capsys):
    path, folder = run
    arguments = ["train", str(path), "train.steps=2", "--resume", "train.stepz=1"]
    assert main(arguments) == 1
    assert "Did you mean 'steps'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", str(path), "--resumee", "train.steps=2"])
    assert "--resumee" in capsys.readouterr().err


def test_what_was_not_trained_is_said(run, capsys, caplog):
    path, folder = run
    before = load_file(folder / "result.safetensors")
    assert main(["train", str(path), "--resume", "train.steps=1"]) == 1
    error = capsys.readouterr().err
    assert "train.steps = 1, but the run" in error and "nothing was trained" in error
    caplog.clear()
    assert main(["train", str(path), "--resume"]) == 0
    assert "all its 2 steps: nothing is trained, its file is written again" in caplog.text
    after = load_file(folder / "result.safetensors")
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert main(["train", str(path), "--resume", "train.steps=9", "train.stop_at=1"]) == 0
    assert "train.stop_at = 1 is not after step 2: nothing is trained" in caplog.text


@pytest.mark.parametrize("how", ["same", "other spelling", "link", "hard link"])
def test_a_file_is_not_converted_onto_itself(how, run, tmp_path, capsys):
    _, folder = run
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    source.write_bytes((folder / "result.safetensors").read_bytes())
    if how == "same":
        target = source
    elif how == "other spelling":
        target = tmp_path / "x" / ".." / "a.safetensors"
        (tmp_path / "x").mkdir()
    elif how == "link":
        target.symlink_to(source)
    else:
        os.link(source, target)
    before = source.read_bytes()
    assert main(["convert", str(source), str(target), "--dtype", "float16"]) == 1
    assert "Nothing was converted" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["cache", "train"])
def test_stopped_before_the_first_step_it_exits_with_3_and_leaves_no_rubbish(
    command, number, settings, tmp_path, monkeypatch, request
):
    config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}")
    path = tmp_path / "config.toml"
    path.write_text(toml(to_dict(config)))
    save, kept = cache.save_tensors, signal.getsignal(signal.SIGTERM)
    # Where the suite runs in the background, it may have been told to ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def stops(*arguments):
        monkeypatch.setattr(cache, "save_tensors", save)
        os.kill(os.getpid(), number)
        return save(*arguments)

    monkeypatch.setattr(cache, "save_tensors", stops)
    assert main([command, str(path)]) == 3
    assert signal.getsignal(signal.SIGTERM) == kept
    assert not [p for p in tmp_path.rglob(".*") if p.suffix in (".tmp", ".partial")]
    assert main(["cache", str(path)]) == 0


def test_the_first_words_are_ours(settings, tmp_path):
    """As a new user sees them: nothing of what ComfyUI misses for sound, but our own lines."""
    config = settings(tmp_path / "run")
    path = tmp_path / "config.toml"
    path.write_text(toml(to_dict(config)))
    comfy = Path(config.base.comfyui) / "comfy"
    files = (file.read_text(encoding="utf-8", errors="replace") for file in comfy.rglob("*.py"))
    missing = "sys.modules['torchaudio'] = None"
    always = any(re.search(r"^import torchaudio", text, re.MULTILINE) for text in files)
    code = (
        f"import sys; {'' if always else missing}\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "import conftest\n"
        "from animatediff_flipbook.training.__main__ import main\n"
        f"sys.exit(main(['train', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torchaudio" not in done.stderr
    assert "INFO Base model tiny.safetensors" in done.stderr and "INFO Training motion_module" in done.stderr
    code = code.replace("'train'", "'cache'")
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "INFO The cache is complete: 6 tracks of 6 files" in done.stderr


def test_a_file_s_words_are_escaped(settings, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a\n\x1b[31mINFO all is well\r.mp4").write_bytes(b"no video" * 99)
    config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}")
    tree = to_dict(config)
    tree["data"]["sources"][0]["path"] = str(folder)
    path = tmp_path / "config.toml"
    path.write_text(toml(tree))
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "import conftest\n"
        "from animatediff_flipbook.training.__main__ import main\n"
        f"sys.exit(main(['train', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Left out: " in done.stderr and "Error: None of the 1 files can be used" in done.stderr
    assert r"a\n\x1b[31mINFO all is well\r.mp4" in done.stderr
    assert "\x1b" not in done.stderr and "\nINFO all" not in done.stderr
