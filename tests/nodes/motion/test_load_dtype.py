"""In which type a motion module's weights are held, by file, device and size."""

import comfy.model_management
import pytest
import torch
from animatediff_flipbook.nodes.motion.load import SMALL_BYTES, weight_dtype

LARGE = SMALL_BYTES  # values: several bytes each


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_large_16_bit_file_keeps_its_size_where_comfyui_computes_in_fp32(stored: torch.dtype) -> None:
    assert comfy.model_management.unet_dtype(model_params=LARGE, weight_dtype=stored) == torch.float32
    assert weight_dtype(stored, LARGE) == stored


def test_a_small_16_bit_file_is_held_as_comfyui_would() -> None:
    assert weight_dtype(torch.float16, SMALL_BYTES // 4) == torch.float32
    assert weight_dtype(torch.float16, SMALL_BYTES // 4 + 1) == torch.float16


@pytest.mark.parametrize(
    ("stored", "held"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float32),
        (torch.float8_e4m3fn, torch.float16),
    ],
)
def test_other_types_are_held_in_one_to_compute_with(stored: torch.dtype, held: torch.dtype) -> None:
    assert weight_dtype(stored, LARGE) == held
