"""What a socket for numbers takes: one, or a list of them from Float Schedule or another pack."""

from __future__ import annotations

import torch

from ...motion_core.module.values import check_value


def as_numbers(name: str, value: object, lowest: float, highest: float) -> float | torch.Tensor:
    """A number, or several as one row per frame, ``(R,)``.

    Raises:
        ValueError: anything else, or outside of ``lowest .. highest``.
    """
    try:
        several = isinstance(value, (list, tuple, torch.Tensor))
        found = torch.as_tensor(value, dtype=torch.float32).flatten() if several else float(value)
        if isinstance(value, (bool, str)):
            raise ValueError
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{name} got a {type(value).__name__}, expected a number or a list of them (Float Schedule)."
        ) from None
    check_value(name, found, lowest, highest)
    return found
