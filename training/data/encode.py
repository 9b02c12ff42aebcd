"""Stored encodings: fills what is missing, then answers from the disk."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ..config import RunConfig
from ..files import read_json, write_json
from ..model.base_model import BaseModel
from .cache import Store
from .media import MediaFile, content_hashes, say_left_out
from .tables import ENCODING
from .tracks import Decoded, Track, frames_at, mirrored_caption, tracks_of_file
from .video import Unreadable

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

SECONDS_BETWEEN_WRITES = 60.0
"""What is encoded goes to the disk at least this often: no more is lost, whatever ends the process."""


def latent_settings(config: RunConfig, base_hash: str) -> dict:
    """Everything that stored latents depend on."""
    data = config.data
    camera = asdict(config.camera) if config.camera.direction else None
    return {
        "base": base_hash,
        "fps": data.fps,
        "resolutions": [list(size) for size in data.resolutions],
        "crop": data.crop,
        "background": data.background,
        "max_frames_per_file": data.max_frames_per_file,
        "repeat_slow_video": data.repeat_slow_video,
        "camera": camera,
        "clip": [data.frames, data.stride] if camera else None,
        "mirrored_too": data.horizontal_flip,
        "dtype": config.cache.dtype,
    }


class Encodings:
    """The stored encodings of a run: fills what is missing, then answers from the disk.

    Args:
        config: the run.
        base_hash: hash of the checkpoint that encodes.
        rank: number of this process; each encodes its part.
        world: how many there are.
    """

    def __init__(self, config: RunConfig, base_hash: str, rank: int = 0, world: int = 1) -> None:
        self.config, self.base_hash = config, base_hash
        self.rank, self.world = rank, world
        root = config.cache_folder
        self.dtype = DTYPES[config.cache.dtype]
        shard = config.cache.shard_megabytes
        self.latents = Store(root, "latents", latent_settings(config, base_hash), shard, rank)
        text_settings = {"base": base_hash, "dtype": config.cache.dtype, "weights": False}
        self.text = Store(root, "text", text_settings, shard, rank)
        self._memo = root / f"hashes-{rank}.json"
        self._facts_path = self.latents.folder / f"files-{rank}.json"
        self._facts: dict[str, dict] = {}
        self._read_facts()

    def missing(
        self, files: Sequence[MediaFile], each: Callable[[int, int], None] | None = None
    ) -> tuple[list[tuple[MediaFile, str]], list[str]]:
        """What this process must still encode: files with their content hashes, and captions. ``each``: see
        :func:`content_hashes`."""
        hashes = content_hashes(files, self._memo, each)
        todo, seen = [], set()
        for file, content_hash in zip(files, hashes, strict=True):
            if content_hash not in seen and not self._known(content_hash):
                todo.append((file, content_hash))
            seen.add(content_hash)
        captions = {"", self.config.samples.negative, *self._prompts()} | {file.caption for file in files}
        if self.config.data.horizontal_flip:
            captions |= {mirrored_caption(caption) for caption in captions}
        texts = sorted(c for c in captions if f"{text_key(c)}.states" not in self.text)
        return todo[self.rank :: self.world], texts[self.rank :: self.world]

    def _prompts(self) -> list[str]:
        return sample_prompts(self.config)

    def _read_facts(self) -> None:
        """What every process has found out about files, by content."""
        for path in sorted(self.latents.folder.glob("files-*.json")):
            for content_hash, facts in read_json(path).items():
                # Another process may have had more luck with a file.
                if not _are_facts(facts):
                    continue  # found out again
                if "error" not in facts or "tracks" not in self._facts.get(content_hash, {}):
                    self._facts[content_hash] = facts

    def _known(self, content_hash: str) -> bool:
        """Whether there is nothing to find out: known to be bad, or all its tracks are in the store."""
        facts = self._facts.get(content_hash)
        if facts is None:
            return False
        return not facts.get("passing") if "error" in facts else self._stored(facts["tracks"])

    def _stored(self, tracks: list[dict]) -> bool:
        return all(f"{track['key']}.mean" in self.latents for track in tracks)

    def fill(
        self,
        base: BaseModel,
        files: Sequence[MediaFile],
        progress: Callable[[str, int, int], None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> None:
        """Encode what is missing. Interrupted at any point, by ``pause`` at every frame, the next call goes
        on."""
        todo, texts = self.missing(files)
        # Facts about a file go to the disk after its latents: written earlier, they would promise what a
        # crash took.
        waiting: dict[str, dict] = {}

        def write() -> None:
            self.latents.flush()
            self._facts.update(waiting)
            waiting.clear()
            write_json(self._facts_path, self._facts)

        with written(self.latents, write) as finished:
            for number, (file, content_hash) in enumerate(todo):
                try:
                    decoded = tracks_of_file(file, content_hash, self.config, pause)
                    for key, _, pixels in decoded.tracks:
                        self._encode(base, key, pixels)
                    waiting[content_hash] = facts_of(file, decoded)
                except Unreadable as error:
                    waiting[content_hash] = failure(file, error)
                finished()
                if progress:
                    progress("latents", number + 1, len(todo))
        with written(self.text, self.text.flush) as finished:
            for number, text in enumerate(texts):
                states, pooled = base.encode_text(text)
                require_finite_text(text, states, pooled)
                self.text.put(f"{text_key(text)}.states", states.to(self.dtype))
                if pooled is not None:
                    self.text.put(f"{text_key(text)}.pooled", pooled.to(self.dtype))
                finished()
                if progress:
                    progress("captions", number + 1, len(texts))

    def _encode(self, base: BaseModel, key: str, pixels: np.ndarray) -> None:
        mean, logvar = base.encode_pixels(torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255)
        moments = {"mean": mean.to(self.dtype)}
        if logvar is not None:
            moments["logvar"] = logvar.to(self.dtype)
        if not all(bool(torch.isfinite(moment).all()) for moment in moments.values()):
            raise not_finite(self.config)
        for name, moment in moments.items():
            self.latents.put(f"{key}.{name}", moment)

    def tracks(self, files: Sequence[MediaFile]) -> list[Track]:
        """All usable tracks, in the order of the files; unusable files are reported, each once.

        Raises:
            ValueError: none is left.
        """
        self.latents.refresh()
        self.text.refresh()
        self._read_facts()
        tracks: list[Track] = []
        stride = 1 if self.config.camera.direction else self.config.data.stride
        hashes = content_hashes(files, self._memo)
        bad: dict[str, str] = {}
        cut: list[str] = []
        for file, content_hash in zip(files, hashes, strict=True):
            facts = self._facts.get(content_hash)
            if facts is None:
                raise ValueError(
                    f"{file.name} is not in the cache. Run the `cache` command, or `train`, which does it."
                )
            if "error" in facts:
                bad[file.name] = facts["error"]
                continue
            plain = [fact for fact in facts["tracks"] if not fact["key"].endswith(".mirror")]
            if facts.get("cut"):
                cut.append(file.name)
            for fact in plain:
                mirror = f"{fact['key']}.mirror" if self.config.data.horizontal_flip else ""
                tracks.append(
                    Track(
                        fact["key"], file, file.caption, fact["num_frames"], tuple(fact["bucket"]),
                        stride, mirror, mirrored_caption(file.caption) if mirror else "",
                    )
                )  # fmt: skip
        if self.rank == 0:
            say_left_out(list(bad.items()))
        if cut and self.rank == 0:
            data = self.config.data
            log.warning(
                "%d files are longer than data.max_frames_per_file, %s; the rest of them is not used: %s%s",
                *(len(cut), frames_at(data.max_frames_per_file, data.fps), ", ".join(cut[:3])),
                " ..." if len(cut) > 3 else "",
            )
        if not tracks:
            name, reason = next(iter(bad.items()))
            raise ValueError(f"None of the {len(files)} files can be used, such as {name}: {reason}")
        return tracks

    def has_variance(self, track: Track) -> bool:
        """Whether the VAE gave a distribution, not a point."""
        return f"{track.key}.logvar" in self.latents

    def latent_frames(self, key: str, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and log-variance of a track's frames, (F, C, H, W) fp32."""
        mean = self.latents.frames(f"{key}.mean", indices).float()
        name = f"{key}.logvar"
        return mean, self.latents.frames(name, indices).float() if name in self.latents else None

    def text_lengths(self, captions: Iterable[str]) -> set[int]:
        """In tokens."""
        return {self.text.shape(f"{text_key(caption)}.states")[0] for caption in captions}

    def text_states(self, caption: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token states (N, D) and the pooled vector, if any, of a caption; fp32."""
        key = text_key(caption)
        pooled = f"{key}.pooled"
        return self.text.get(f"{key}.states").float(), self.text.get(
            pooled
        ).float() if pooled in self.text else None


def _are_facts(facts: object) -> bool:
    """Whether a memory of a file is whole: why it is unusable, or what its tracks are."""
    if not isinstance(facts, dict):
        return False
    if "error" in facts:
        return isinstance(facts["error"], str)
    tracks = facts.get("tracks")
    return isinstance(tracks, list) and all(
        isinstance(track, dict)
        and isinstance(track.get("key"), str)
        and type(track.get("num_frames")) is int
        and isinstance(track.get("bucket"), list)
        and [type(side) for side in track["bucket"]] == [int, int]
        for track in tracks
    )


def facts_of(file: MediaFile, decoded: Decoded) -> dict:
    """What is remembered of a file's tracks."""
    facts = [
        {"key": key, "bucket": list(bucket), "num_frames": len(pixels)}
        for key, bucket, pixels in decoded.tracks
    ]
    return {"name": file.name, "tracks": facts, "cut": decoded.cut}


def not_finite(config: RunConfig) -> Unreadable:
    """What is wrong with a file that encodes to infinite values."""
    error = Unreadable(
        f"the VAE of {Path(config.base.checkpoint).name} gives values that are not finite for it (stored as "
        f"cache.dtype = {config.cache.dtype!r}). Use a checkpoint whose VAE is whole and holds in this "
        "precision"
    )
    error.passing = True  # another machine or precision may do better
    return error


def require_finite_text(text: str, states: torch.Tensor, pooled: torch.Tensor | None) -> None:
    """Refuse a broken text encoder.

    Raises:
        ValueError: names the caption.
    """
    if not all(bool(torch.isfinite(part).all()) for part in (states, pooled) if part is not None):
        raise ValueError(
            f"base.checkpoint: its text encoder gives values that are not finite for the caption "
            f"{text[:60]!r}. The checkpoint is damaged: download it again, or use another."
        )


def failure(file: MediaFile, error: Unreadable) -> dict:
    """What is remembered of an unusable file; an error of the machine only until the next run."""
    return {"name": file.name, "error": str(error), "passing": error.passing}


@contextmanager
def written(store: Store, write: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Gives what to call after each finished entry: it writes when a shard is full or time has passed.
    However the block ends, the rest is written too."""
    last = time.monotonic()

    def finished() -> None:
        nonlocal last
        if store.full or time.monotonic() - last > SECONDS_BETWEEN_WRITES:
            write()
            last = time.monotonic()

    try:
        yield finished
    finally:
        write()


def text_key(caption: str) -> str:
    """Names a caption in the store."""
    return hashlib.blake2b(caption.encode(), digest_size=12).hexdigest()


def sample_prompts(config: RunConfig) -> list[str]:
    """Prompts of the clips rendered during training."""
    prompts = list(config.samples.prompts)
    if config.samples.prompt_file:
        path = Path(config.samples.prompt_file)
        if not path.is_file():
            raise FileNotFoundError(f"samples.prompt_file: there is no file {path}.")
        prompts += [line.strip() for line in path.read_text(encoding=ENCODING).splitlines() if line.strip()]
    return prompts
