"""Latents and text encodings on disk: encode once, train without VAE and text encoder.

A store is a folder of safetensors shards. What lies in it is known from the shards' own headers, a shard is
written whole or not at all, so an interrupted run goes on where it stopped; it carries a hash of its tensors,
so that what a disk has changed since is made again. Stores are named by a hash of
every setting that shapes their content; entries by the content of the file they come from: a stale entry
can never be taken for a fresh one. Latents are kept as mean and log-variance, so that every epoch draws its
own sample of the VAE's distribution.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...motion_core.files.tensor_file import save_tensors
from ..files import read_json, write_json

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 2.0
"""Of progress, while a large cache is checked."""

FORMAT = 2
"""Raised when entries are made in another way, so that old stores are not used."""


def digest(data: Any, length: int = 16) -> str:
    """A short hash of plain data or text."""
    text = data if isinstance(data, str) else json.dumps(data, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=length // 2).hexdigest()


def content_hash(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Of names, types, shapes and values."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


class Store:
    """Tensors by name in shards of one folder.

    Args:
        root: folder of all stores.
        kind: ``latents`` or ``text``.
        settings: everything that the content depends on.
        shard_megabytes: size at which a shard is written.
        writer: this process's number; several processes may fill one store.
    """

    def __init__(
        self, root: Path, kind: str, settings: dict[str, Any], shard_megabytes: int = 256, writer: int = 0
    ) -> None:
        self.settings = {"format": FORMAT, **settings}
        self.folder = root / f"{kind}-{digest(self.settings)}"
        self._limit = shard_megabytes * 2**20
        self._writer = writer
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._where: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, safe_open] = {}
        self._known: set[Path] = set()
        self._own: Path | None = None
        self._told = False
        if not self.folder.is_dir():
            _report_other_stores(root, kind, self.settings)
        write_json(self.folder / f"settings-{writer}.json", self.settings)
        self.refresh()

    def refresh(self) -> None:
        """Look for shards that other processes have written. A damaged shard is reported and left out."""
        paths, last = sorted(self.folder.glob("shard-*.safetensors")), time.monotonic()
        for number, path in enumerate(paths):
            if path in self._known:
                continue
            self._known.add(path)
            try:
                shard = safe_open(str(path), framework="pt")
                names = list(shard.keys())
                if path != self._own:
                    self._check(shard, names)
                shapes = {name: tuple(shard.get_slice(name).get_shape()) for name in names}
            except (SafetensorError, OSError, ValueError, RuntimeError) as error:
                log.warning("%s is damaged (%s); its entries are made again", path.name, error)
                continue
            self._where |= dict.fromkeys(names, path)
            self._shapes |= shapes
            self._open[path] = shard
            if time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                log.info("Checking the cache: %d of %d shards", number + 1, len(paths))

    def _check(self, shard: safe_open, names: list[str]) -> None:
        """Compare a shard with its hash.

        Raises:
            ValueError: they differ.
        """
        expected = (shard.metadata() or {}).get("hash")
        if expected is None:
            if not self._told:
                log.info(
                    "%s: shards of an earlier version carry no hash and are not checked", self.folder.name
                )
            self._told = True
        elif expected != content_hash((name, shard.get_tensor(name)) for name in sorted(names)):
            raise ValueError("its content has changed since it was written")

    def __contains__(self, name: str) -> bool:
        return name in self._where or name in self._pending

    def __len__(self) -> int:
        return len(self._where) + len(self._pending)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a stored tensor."""
        return tuple(self._pending[name].shape) if name in self._pending else self._shapes[name]

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Store a tensor; on the disk after :meth:`flush`, or earlier."""
        self._pending[name] = tensor.detach().cpu().contiguous()
        self._pending_bytes += tensor.numel() * tensor.element_size()

    @property
    def full(self) -> bool:
        """Whether enough is waiting for a shard."""
        return self._pending_bytes >= self._limit

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._pending:
            return
        # By chance: another run may be filling the same store.
        path = self.folder / f"shard-{self._writer:03d}-{secrets.token_hex(8)}.safetensors"
        facts = {"format": str(FORMAT), "hash": content_hash(sorted(self._pending.items()))}
        save_tensors(path, self._pending, facts)
        self._own = path
        self._pending, self._pending_bytes = {}, 0
        self.refresh()

    def get(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        if name in self._pending:
            return self._pending[name]
        return self._open[self._where[name]].get_tensor(name)

    def frames(self, name: str, indices: list[int]) -> torch.Tensor:
        """Entries of the first axis; only the span they lie in is read."""
        if name in self._pending:
            return self._pending[name][indices]
        first, last = min(indices), max(indices)
        span = self._open[self._where[name]].get_slice(name)[first : last + 1]
        return span[[index - first for index in indices]]


def _report_other_stores(root: Path, kind: str, settings: dict[str, Any]) -> None:
    """Say once what differs from stores that are there but do not serve."""
    for other in sorted(root.glob(f"{kind}-*/settings-0.json")):
        old = read_json(other)
        changed = [
            f"{key}: {_short(old.get(key))} -> {_short(settings.get(key))}"
            for key in sorted({*old, *settings})
            if old.get(key) != settings.get(key)
        ]
        log.info(
            "The cache %s was made with other settings and is not used (%s)",
            other.parent.name,
            "; ".join(changed),
        )


def _short(value: Any) -> str:
    """A setting for a message; of a hash its beginning."""
    text = str(value)
    return f"{text[:8]}.." if len(text) == 64 else text
