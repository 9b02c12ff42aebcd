"""The model of a run."""

import pytest
from animatediff_flipbook.training.model import denoiser


@pytest.mark.parametrize("generation", ["v1", "v3", "sdxl"])
@pytest.mark.parametrize("base", ["sd15", "sdxl", "custom"])
def test_a_fresh_module_with_another_familys_conventions_is_told_of(generation, base, caplog):
    """The node's default is v3 also where the MODEL is SDXL."""
    denoiser._tell_of_generation(generation, base)
    fits = base == "custom" or (base == "sdxl") == (generation == "sdxl")
    assert bool(caplog.records) != fits
    if not fits:
        assert caplog.text.count(base) >= 1 and generation in caplog.text
