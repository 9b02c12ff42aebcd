"""What counts as weights, for every loader: floats of plain tensors. Everything else is refused by name."""

from __future__ import annotations

import torch

from .words import shown

EIGHT_BIT = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
"""Kept in files only; fp16 holds each of their values exactly."""
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, *EIGHT_BIT)
LARGEST = 1e18
"""Of a weight: the product of two larger ones is infinite in fp32. Real ones are below a thousand."""


def require_plain(name: str, key: str, tensor: torch.Tensor) -> None:
    """Refuse tensors that hold their values in another way than one after the other.

    Raises:
        ValueError: sparse, quantised, nested, or without values.
    """
    for kind, found in (
        ("a nested tensor", tensor.is_nested),
        ("a sparse tensor", tensor.layout != torch.strided),
        ("a quantised tensor", tensor.is_quantized),
        ("a tensor without values", tensor.is_meta),
    ):
        if found:
            raise ValueError(
                f"{name}: {shown(key)} is {kind}, expected plain numbers. Save the weights as plain fp16 or "
                "fp32 tensors with the program that made the file."
            )


def require_floats(name: str, key: str, dtype: torch.dtype) -> None:
    """Refuse what is no type of a weight.

    Raises:
        ValueError: integers, booleans, complex numbers and other types.
    """
    if dtype not in FLOATS:
        raise ValueError(
            f"{name}: {shown(key)} holds no weights but {str(dtype).removeprefix('torch.')}, expected fp16, "
            "bf16, fp32 or fp8. The file is damaged or quantised; use another copy."
        )


def computable(tensor: torch.Tensor) -> torch.Tensor:
    """Weights in a type that can be computed with: those in 8 bit become fp16, without loss."""
    return tensor.to(torch.float16) if tensor.dtype in EIGHT_BIT else tensor


def in_type(name: str, key: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A weight in the type that a file is to have; None is its own.

    Raises:
        ValueError: it holds values that are too large for the type.
    """
    converted = tensor.to(dtype or tensor.dtype)
    if converted.dtype != tensor.dtype and not converted.isfinite().all() and tensor.isfinite().all():
        raise ValueError(
            f"{name}: {shown(key)} holds values up to {float(tensor.abs().max()):.3g}, too large for "
            f"{str(dtype).removeprefix('torch.')}. Write float32 or bfloat16."
        )
    return converted


def require_finite(name: str, key: str, stored: torch.Tensor, converted: torch.Tensor) -> None:
    """Refuse values that no weight has.

    Raises:
        ValueError: NaN, infinite, or larger than anything can be computed with.
    """
    if not converted.numel():
        return
    # The extremes are NaN or infinite exactly when some value is; one pass, no mask in memory.
    low, high = torch.aminmax(converted)
    if max(-float(low), float(high)) <= LARGEST:
        return
    if torch.isfinite(low) and torch.isfinite(high):
        raise ValueError(
            f"{name}: {shown(key)} holds values up to {max(-float(low), float(high)):.0e}, which no weight "
            "has. The file is damaged; use another copy."
        )
    if converted.dtype != stored.dtype and torch.isfinite(stored.to(torch.float64)).all():
        raise ValueError(
            f"{name}: {shown(key)} holds values too large for {converted.dtype}. Load it as fp32 (ComfyUI's "
            "option --fp32-unet)."
        )
    raise ValueError(
        f"{name}: {shown(key)} holds values that are not finite numbers. The file is damaged or its training "
        "diverged; use another copy."
    )
