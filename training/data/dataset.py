"""Samples and their order: which clip, which of its frames, which caption, decided by (seed, epoch, slot)
alone.

An epoch is a list of global batches of one shape each. Every process computes the same list and takes its
part, so the state of the data is (epoch, position), and one process or several see the same batches.

Shapes: ``B`` clips, ``F`` frames, ``C`` channels, ``H W`` latent height and width, ``N`` tokens, ``D`` width.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from .. import randomness
from ..config import RunConfig
from ..randomness import Key
from .encode import Encodings
from .media import say_left_out
from .tracks import Track, frames_at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """What a training step sees. fp32, on the CPU until moved."""

    latents: torch.Tensor
    """Clean latents (B, F, C, H, W), a fresh sample of the VAE's distribution."""
    context: torch.Tensor
    """Token states (B, N, D)."""
    pooled: torch.Tensor | None
    """Pooled text (B, D'), for families that have it."""
    mask: torch.Tensor | None
    """1 for real, 0 for held frames (B, F); None if all are real."""
    keys: tuple[Key, ...]
    """Of each clip's random numbers."""
    names: tuple[str, ...]
    """Of the files, for messages."""
    size: tuple[int, int]
    """(width, height) in pixels."""


@dataclass(frozen=True)
class Window:
    """The frames a sample takes from its track."""

    indices: list[int]
    num_real: int
    """Frames that are not held ones; they come first."""


def _frames_there(track: Track) -> int:
    """At the track's stride."""
    return (track.num_frames - 1) // track.stride + 1


class ClipData:
    """The samples of a run.

    Args:
        config: the run.
        encodings: the store.
        tracks: what to sample from.

    Raises:
        ValueError: every track is too short.
    """

    def __init__(self, config: RunConfig, encodings: Encodings, tracks: Sequence[Track]) -> None:
        self.config = config
        self.encodings = encodings
        self.tracks: list[Track] = []
        too_short: dict[str, int] = {}
        for track in tracks:
            if self._frames_of(track) is None:
                too_short[track.file.name] = track.num_frames
            else:
                self.tracks.extend([track] * track.file.repeats)
        span = (config.frames - 1) * config.data.stride + 1
        if encodings.rank == 0:
            wanted = f"are too few for a clip of {span} (data.frames, data.stride)"
            say_left_out(
                [(name, f"its {frames_at(n, config.data.fps)} {wanted}") for name, n in too_short.items()]
            )
        short = {track.file.name for track in self.tracks if self._is_short(track)}
        if short and encodings.rank == 0:
            policy = config.data.short_clips
            log.info("%d files are shorter than a clip: data.short_clips = %r", len(short), policy)
        if not self.tracks:
            longest = frames_at(max(too_short.values(), default=0), config.data.fps)
            raise ValueError(
                f"Every file has fewer frames than a clip of data.frames = {config.data.frames} with "
                f"data.stride = {config.data.stride} needs, the longest {longest}. Lower data.frames or "
                "data.stride, raise data.fps, or set data.short_clips = 'loop', 'shorten' or 'pad'."
            )

    def __len__(self) -> int:
        return len(self.tracks)

    def _frames_of(self, track: Track) -> int | None:
        """Frames of a sample of this track; None if it is too short to be used."""
        wanted, policy = self.config.frames, self.config.data.short_clips
        if not self._is_short(track):
            return wanted
        there = _frames_there(track)
        if policy == "skip" or there < self.config.data.min_frames:
            return None
        return there if policy == "shorten" else wanted

    def _is_short(self, track: Track) -> bool:
        return _frames_there(track) < self.config.frames

    def window(self, track: Track, key: Key) -> Window:
        """The frames of a sample."""
        frames = self._frames_of(track)
        span = (frames - 1) * track.stride + 1
        if track.num_frames >= span:
            start = int(randomness.stream(*key, "window").integers(track.num_frames - span + 1))
            return Window([start + i * track.stride for i in range(frames)], frames)
        steps = list(range(0, track.num_frames, track.stride))
        if self.config.data.short_clips == "pad":
            return Window(steps + [steps[-1]] * (frames - len(steps)), len(steps))
        # Forward and backward without showing an end twice: 0 1 2 3 2 1 0 1 ...
        round_trip = steps + steps[-2:0:-1]
        return Window([round_trip[i % len(round_trip)] for i in range(frames)], frames)

    def require_common_length(self) -> None:
        """Find captions that cannot share a batch before training does.

        Raises:
            ValueError: there are such.
        """
        captions = {"", *(t.caption for t in self.tracks), *(t.mirror_caption for t in self.tracks)}
        require_common_length(self.encodings.text_lengths(captions))

    def epoch(self, seed: int, epoch: int, global_batch: int) -> list[list[int]]:
        """The batches of an epoch as indices of tracks, each of one shape and of ``global_batch`` clips.

        A shape's last batch is filled up from the beginning of its order, so that none is left out and all
        are whole.
        """
        buckets: dict[tuple, list[int]] = defaultdict(list)
        for index in randomness.order(len(self.tracks), seed, epoch, "clips"):
            track = self.tracks[index]
            buckets[(*track.bucket, self._frames_of(track))].append(int(index))
        batches = []
        for _, members in sorted(buckets.items()):
            missing = -len(members) % global_batch
            members = members + [members[i % len(members)] for i in range(missing)]
            batches += [members[i : i + global_batch] for i in range(0, len(members), global_batch)]
        return [batches[i] for i in randomness.order(len(batches), seed, epoch, "batches")]

    def load(self, indices: Sequence[int], keys: Sequence[Key], *, training: bool = True) -> Batch:
        """Read samples from the store.

        Args:
            indices: of tracks.
            keys: of each sample's random numbers.
            training: draw captions to drop and mirrored tracks; validation sees everything as it is.
        """
        latents, states, pooled, masks, names = [], [], [], [], []
        for index, key in zip(indices, keys, strict=True):
            track = self.tracks[index]
            window = self.window(track, key)
            name, caption = track.key, track.caption
            if training and track.mirror and randomness.stream(*key, "mirror").random() < 0.5:
                name, caption = track.mirror, track.mirror_caption
            if (
                training
                and randomness.stream(*key, "caption").random() < self.config.objective.caption_dropout
            ):
                caption = ""
            mean, logvar = self.encodings.latent_frames(name, window.indices)
            if logvar is not None:
                mean = mean + (0.5 * logvar).exp() * randomness.gaussian(tuple(mean.shape), *key, "vae")
            text, vector = self.encodings.text_states(caption)
            latents.append(mean)
            states.append(text)
            pooled.append(vector)
            masks.append([1.0] * window.num_real + [0.0] * (len(window.indices) - window.num_real))
            names.append(track.file.name)
        mask = torch.tensor(masks)
        return Batch(
            latents=torch.stack(latents),
            context=stacked(states),
            pooled=None if pooled[0] is None else torch.stack(pooled),
            mask=None if bool(mask.all()) else mask,
            keys=tuple(keys),
            names=tuple(names),
            size=self.tracks[indices[0]].bucket,
        )


MOST_REPEATS = 4
"""ComfyUI too puts prompts of different lengths together only while none repeats more often than this."""


def require_common_length(lengths: Iterable[int]) -> None:
    """Whether captions of these lengths in tokens may be in one batch.

    Raises:
        ValueError: they would have to repeat too often.
    """
    for one, other in combinations(sorted(set(lengths)), 2):
        if math.lcm(one, other) > MOST_REPEATS * one:
            raise ValueError(
                f"Captions of {one} and {other} tokens cannot share a batch: the shorter would repeat "
                f"{math.lcm(one, other) // one} times, at most {MOST_REPEATS} are possible. Shorten the long "
                "ones, or set train.batch_size = 1."
            )


def stacked(states: list[torch.Tensor]) -> torch.Tensor:
    """(B, N, D). Long prompts come in whole chunks of tokens; all repeat up to their common length, as in
    ComfyUI at inference. Attention over repeated tokens gives the same."""
    lengths = [len(s) for s in states]
    require_common_length(lengths)
    return torch.stack([s.repeat(math.lcm(*lengths) // len(s), 1) for s in states])


class Schedule:
    """Which samples belong to which optimizer step; the whole state of the data is the step's number.

    Args:
        data: the samples.
        seed: of the order.
        global_batch: clips per optimizer step, over all processes and micro-steps.
    """

    def __init__(self, data: ClipData, seed: int, global_batch: int) -> None:
        self._data, self._seed, self._global_batch = data, seed, global_batch
        self._epoch = -1
        self._batches: list[list[int]] = []
        # Every epoch has as many batches, whatever its order: the buckets' sizes decide.
        self.steps_per_epoch = len(data.epoch(seed, 0, global_batch))

    def step(self, step: int) -> tuple[list[int], list[Key]]:
        """Track indices and random keys of the clips of optimizer step ``step`` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._data.epoch(self._seed, epoch, self._global_batch)
        slots = range(position * self._global_batch, (position + 1) * self._global_batch)
        return self._batches[position], [(self._seed, epoch, slot) for slot in slots]
