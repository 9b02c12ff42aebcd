"""Random numbers that depend on nothing but what they are for.

Every draw of a sample (which frames, which timestep, which noise) comes from its own stream, keyed by
(seed, epoch, slot, purpose), where a slot is a sample's place in the epoch. There is no state to save and
none to lose: a resumed run, a run with other workers or on more processes draws the same numbers. Philox is
a counter-based generator made for this (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Key = tuple[int | str, ...]
"""What random numbers are drawn for: a sample's is (seed, epoch, slot)."""


def stream(*key: int | str) -> np.random.Generator:
    """The generator of a key, such as ``stream(seed, epoch, slot, "noise")``. The same key gives the same
    numbers."""
    digest = hashlib.blake2b("/".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def gaussian(shape: tuple[int, ...], *key: int | str) -> torch.Tensor:
    """Standard normal numbers of the key, fp32 on the CPU, so that no device's own generator matters."""
    return torch.from_numpy(stream(*key).standard_normal(shape, dtype=np.float32))


def order(num_items: int, *key: int | str) -> np.ndarray:
    """A permutation of ``range(num_items)``."""
    return stream(*key, "order").permutation(num_items)
