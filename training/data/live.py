"""Training without stored latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from ..config import RunConfig
from ..files import write_json
from ..model.base_model import BaseModel
from .encode import Encodings, facts_of, failure, not_finite, require_finite_text, written
from .media import MediaFile
from .tracks import Track, tracks_of_file
from .video import Unreadable


class LiveEncodings(Encodings):
    """The same answers without stored latents: files are decoded and encoded when a sample asks for them.

    Every file is decoded once beforehand, to know its frames and to find the unusable ones.
    :attr:`base` must be set before the first sample is read.
    """

    base: BaseModel | None = None
    """The model that encodes."""

    def __init__(self, config: RunConfig, base_hash: str, rank: int = 0, world: int = 1) -> None:
        super().__init__(config, base_hash, rank, world)
        self._texts: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._files: dict[str, MediaFile] = {}

    def _stored(self, tracks: list[dict]) -> bool:
        return True  # nothing is

    def missing(
        self, files: Sequence[MediaFile], each: Callable[[int, int], None] | None = None
    ) -> tuple[list[tuple[MediaFile, str]], list[str]]:
        """Files that were not looked at yet; texts are encoded when they are needed."""
        return super().missing(files, each)[0], []

    def fill(
        self,
        base: BaseModel | None,
        files: Sequence[MediaFile],
        progress: Callable[[str, int, int], None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> None:
        """Look at the files."""
        todo, _ = self.missing(files)
        with written(self.latents, lambda: write_json(self._facts_path, self._facts)) as finished:
            for number, (file, content_hash) in enumerate(todo):
                try:
                    decoded = tracks_of_file(file, content_hash, self.config, pause)
                    self._facts[content_hash] = facts_of(file, decoded)
                except Unreadable as error:
                    self._facts[content_hash] = failure(file, error)
                finished()
                if progress:
                    progress("nothing yet, looking at files", number + 1, len(todo))

    def tracks(self, files: Sequence[MediaFile]) -> list[Track]:
        """As of the store; remembers which file a track is in."""
        tracks = super().tracks(files)
        self._files |= {track.key.split(".")[0]: track.file for track in tracks}
        return tracks

    def latent_frames(self, key: str, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decode the file and encode the frames asked for.

        Raises:
            ValueError: the file is gone, has changed, or encodes to infinite values.
        """
        content_hash = key.split(".")[0]
        file = self._files[content_hash]
        try:
            decoded = tracks_of_file(file, content_hash, self.config)
            pixels = next((pixels for name, _, pixels in decoded.tracks if name == key), ())
            if max(indices) >= len(pixels):
                raise Unreadable("it holds fewer frames than before")
            part = torch.from_numpy(np.ascontiguousarray(pixels[indices])).float() / 255
            mean, logvar = self.base.encode_pixels(part)
            if not bool(torch.isfinite(mean if logvar is None else mean + logvar).all()):
                raise not_finite(self.config)
        except Unreadable as error:
            raise ValueError(
                f"{file.name} could be used when the run began, and now cannot: {error}. Put it back as it "
                "was, or take it out of the sources, and go on with --resume."
            ) from error
        return mean, logvar

    def text_lengths(self, captions: Iterable[str]) -> set[int]:
        """Not known beforehand."""
        return set()

    def text_states(self, caption: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode a caption, once per run."""
        if caption not in self._texts:
            states, pooled = self.base.encode_text(caption)
            require_finite_text(caption, states, pooled)
            self._texts[caption] = states, pooled
        return self._texts[caption]

    def has_variance(self, track: Track) -> bool:
        """Not known before the first sample; nothing is stored that could be a frozen one."""
        return True
