"""From sources to encodings: which files are trained on, which are held out, and what the cache lacks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from ..config import RunConfig
from ..data.encode import Encodings
from ..data.live import LiveEncodings
from ..data.media import MediaFile, content_hashes, list_media
from ..locks import PROBE, Busy, lock, sweep
from ..model.base_model import BaseModel, file_hash
from ..model.denoiser import require_fit
from ..model.loaded import Loaded
from .engine import release_memory
from .validate import held_out
from .watching import Watcher

log = logging.getLogger(__name__)


def fill_cache(
    config: RunConfig,
    accelerator: Accelerator,
    loaded: Loaded | None = None,
    watcher: Watcher | None = None,
) -> tuple[Encodings, list[MediaFile], list[MediaFile]]:
    """Encode what is missing; returns the store, the training files and the held-out files."""
    with _using_cache(config.cache_folder, accelerator):
        _hash_in_shares(config, accelerator)
        progress = _Progress(accelerator.is_main_process, watcher or Watcher())
        files, held = split_files(config, accelerator.process_index, progress.reading)
        base_hash = file_hash_of(config, accelerator) if loaded is None else loaded.fingerprint
        kind = LiveEncodings if config.cache.mode == "off" else Encodings
        encodings = kind(config, base_hash, accelerator.process_index, accelerator.num_processes)
        todo, texts = encodings.missing([*files, *held], progress.reading)
        if isinstance(encodings, LiveEncodings):
            encodings.fill(None, [*files, *held], progress, progress.pause)
        elif todo or texts:
            log.info("Encoding %d files and %d captions into %s", len(todo), len(texts), config.cache_folder)
            base = BaseModel(
                config.base, accelerator.device, "fp32", encoders=True, unet=False, loaded=loaded
            )
            base.require_family()
            require_fit(config, base)
            encodings.fill(base, [*files, *held], progress, progress.pause)
            del base
            release_memory()
        accelerator.wait_for_everyone()
        return encodings, files, held


@contextmanager
def _using_cache(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Several runs may fill one cache; what killed ones have left goes while no other is at work there."""
    if accelerator.is_main_process:
        try:
            alone = lock(folder / "cache.lock")
        except Busy:
            alone = None
        # Windows knows no shared locks, so there nobody knows of the others.
        certain = alone is not None and os.name != "nt"
        names = r"(base-hash|hashes-\d+|settings-\d+|files-\d+)\.json\.[\w-]+\.tmp|shard-[\w-]+\.\w+\.partial"
        sweep(
            [folder, *folder.glob("latents-*"), *folder.glob("text-*")],
            rf"\.({names})|{PROBE}",
            alone=certain,
        )
        if alone is not None:
            alone.close()
    accelerator.wait_for_everyone()
    held = None
    while os.name != "nt":
        try:
            held = lock(folder / "cache.lock", shared=True)
            break
        except Busy:
            time.sleep(0.1)  # another run is sweeping
    try:
        yield
    finally:
        if held is not None:
            held.close()


def file_hash_of(config: RunConfig, accelerator: Accelerator) -> str:
    """Hash of the base checkpoint, computed by one process and remembered."""
    if not Path(config.base.checkpoint).is_file():
        raise FileNotFoundError(f"base.checkpoint: there is no file {config.base.checkpoint}.")
    memo = config.cache_folder / "base-hash.json"
    with accelerator.main_process_first():
        return file_hash(config.base.checkpoint, memo)


def _hash_in_shares(config: RunConfig, accelerator: Accelerator) -> None:
    """Let each process read its part of the files once; the hashes are there for all afterwards."""
    if accelerator.num_processes == 1:
        return
    files = list_media([*config.data.sources, *config.validation.sources], config.data, samples_of(config))
    mine = files[accelerator.process_index :: accelerator.num_processes]
    content_hashes(mine, config.cache_folder / f"hashes-{accelerator.process_index}.json")
    accelerator.wait_for_everyone()


def samples_of(config: RunConfig) -> Path:
    """Folder of the clips that a run renders to be looked at."""
    return Path(config.output) / "samples"


def split_files(
    config: RunConfig, rank: int = 0, each: Callable[[int, int], None] | None = None
) -> tuple[list[MediaFile], list[MediaFile]]:
    """Training files and held-out files. ``each``: see :func:`content_hashes`."""
    samples = samples_of(config)
    files = list_media(config.data.sources, config.data, samples)
    held = list_media(config.validation.sources, config.data, samples) if config.validation.sources else []
    if config.validation.fraction:
        hashes = content_hashes(files, config.cache_folder / f"hashes-{rank}.json", each)
        out = held_out(hashes, config.validation.fraction)
        held += [file for file, is_out in zip(files, out, strict=True) if is_out]
        files = [file for file, is_out in zip(files, out, strict=True) if not is_out]
        if not files:
            raise ValueError(
                f"validation.fraction = {config.validation.fraction}: no file is left for training."
            )
    return files, [replace(file, repeats=1) for file in held]


class _Progress:
    """Encoding progress as occasional log lines, and to who looks on."""

    def __init__(self, main: bool, watcher: Watcher) -> None:
        self._main, self._watcher, self._last = main, watcher, time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._watcher.encoded(what, done, total)
        self.pause()
        if self._main and (done == total or time.monotonic() - self._last > 10):
            self._last = time.monotonic()
            log.info("Encoding %s: %d of %d", what, done, total)

    def reading(self, done: int, total: int) -> None:
        """Files are read, to know their content."""
        self._watcher.doing("Reading files", done, total)
        self.pause()

    def pause(self) -> None:
        """A place to stop at: as Ctrl-C would, what is finished is written."""
        if self._watcher.wants_stop():
            raise KeyboardInterrupt
