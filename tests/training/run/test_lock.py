"""One run per folder, and nothing left of those that were killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from animatediff_flipbook.tests.support_training import start_training
from animatediff_flipbook.training.locks import Busy, lock, sweep
from animatediff_flipbook.training.run.train import Run, train


def test_a_second_run_on_one_folder_is_refused(stage_settings, tmp_path):
    config = stage_settings("domain_adapter", tmp_path / "run", "train.steps=1")
    run = Run(config, resume=False)
    try:
        for resume in (False, True):
            with pytest.raises(ValueError, match="Another training is running in .*run.*another output"):
                train(config, resume=resume)
        process = start_training(config, tmp_path / "second", resume=True)
        assert process.wait() != 0
        assert "Another training is running" in (tmp_path / "second" / "process.log").read_text()
        train(stage_settings("domain_adapter", tmp_path / "other", "train.steps=1"))
    finally:
        run.close()
    train(config)


def test_a_run_whose_logs_cannot_be_closed_lets_go_of_its_folder(stage_settings, tmp_path, monkeypatch):
    """As on a full disk."""
    config = stage_settings("domain_adapter", tmp_path / "run", "train.steps=1")
    run = Run(config, resume=False)
    close = run.report.close

    def full():
        close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.report, "close", full)
    with pytest.raises(OSError, match="No space left"):
        run.close()
    assert run.parts is None
    lock(tmp_path / "run" / "run.lock").close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_ends_with_its_process(shared, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "import conftest, time\n"
        "from pathlib import Path\n"
        "from animatediff_flipbook.training.locks import lock\n"
        f"held = lock(Path({str(tmp_path / 'x.lock')!r}), shared={shared})\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(Busy):
        lock(tmp_path / "x.lock")
    if shared:
        lock(tmp_path / "x.lock", shared=True).close()
    process.kill()
    process.wait()
    process.stdout.close()
    lock(tmp_path / "x.lock").close()


OURS = {
    "run": (".config.json.12-0123abcd.tmp", ".metrics.jsonl.1.tmp", ".result.abc_.partial", ".0123abcd.tmp"),
    "run/checkpoints": (".step-00000002.12.tmp/weights.safetensors",),
    "run/samples": (".step-00000002-00.webp.12.tmp",),
    "run/exports": (".result-00000002.abc_12x.partial",),
    "cache": (".base-hash.json.12-0123abcd.tmp", ".hashes-0.json.12-0123abcd.tmp", ".89abcdef.tmp"),
    "cache/STORE": (
        ".settings-0.json.12-0123abcd.tmp", ".files-0.json.12-0123abcd.tmp",
        ".shard-000-0123456789abcdef.x.partial",
    ),
}  # fmt: skip
OTHERS = {
    "run": (".note.tmp", ".other.abc_12x.partial", "config.json.12-0123abcd.tmp", ".gitignore"),
    "run/samples": (".mine.webp", ".DS_Store"),
    "cache": (".shard.partial", ".hidden", "video.mp4"),
    "clips": (".config.json.12-0123abcd.tmp",),
}


def write(root, tree, store) -> list:
    paths = [root / folder.replace("STORE", store) / name for folder, names in tree.items() for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def test_what_killed_runs_left_is_swept_and_nothing_else(stage_settings, tmp_path):
    cache = f"cache.folder={tmp_path / 'cache'}"
    train(stage_settings("domain_adapter", tmp_path / "run", cache, "train.steps=1"))
    store = next((tmp_path / "cache").glob("latents-*")).name
    ours, others = write(tmp_path, OURS, store), write(tmp_path, OTHERS, store)
    train(stage_settings("domain_adapter", tmp_path / "run", cache, "train.steps=2"), resume=True)
    assert [path for path in ours if path.exists()] == []
    assert [path for path in others if not path.exists()] == []


def test_while_another_run_uses_the_cache_only_old_files_go(stage_settings, tmp_path):
    held = lock(tmp_path / "cache" / "cache.lock", shared=True)
    new, old = (tmp_path / "cache" / f".hashes-0.json.{n}-0123abcd.tmp" for n in (1, 2))
    for path in (new, old):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    cache = f"cache.folder={tmp_path / 'cache'}"
    train(stage_settings("domain_adapter", tmp_path / "run", cache, "train.steps=1"))
    assert new.exists() and not old.exists()
    held.close()


def test_a_link_is_removed_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".0123abcd.tmp").symlink_to(tmp_path / "data")
    sweep([tmp_path / "x", tmp_path / "nothing"], r"\.[0-9a-f]{8}\.tmp", alone=True)
    assert not list((tmp_path / "x").iterdir())
    assert (tmp_path / "data" / "a").exists()


def test_killed_while_encoding_leaves_nothing_after_the_next_run(stage_settings, tmp_path):
    """kill -9 at several moments of the first seconds, then a run to its end."""
    config = stage_settings(
        "domain_adapter", tmp_path / "run", f"cache.folder={tmp_path / 'cache'}", "train.steps=1"
    )
    for number in range(2):
        process = start_training(config, tmp_path / "process", resume=True)
        while process.poll() is None and not list((tmp_path / "cache").glob("*/settings-0.json")):
            time.sleep(0.01)
        time.sleep(0.3 * number)
        process.kill()
        process.wait()
    write(tmp_path, OURS, "latents-0")
    train(config, resume=True)
    rubbish = [p for p in tmp_path.rglob(".*") if p.suffix in (".tmp", ".partial")]
    assert not rubbish
