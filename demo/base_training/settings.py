"""What the stages are told, and where they leave their work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".flipbook" / "train"
CHECKPOINT = ROOT / "demo" / "models" / "checkpoints" / "tiny_ad.safetensors"


@dataclass(frozen=True)
class Settings:
    """What the stages do; stored with their states."""

    output: str = str(CHECKPOINT)
    """The file to write."""
    seed: int = 1
    """Of the world's training scenes (evaluation uses others) and of all noise."""
    start: str = ""
    """Checkpoint of the family whose weights the networks begin with; empty: from nothing."""
    bfloat16: bool = False
    """Products in bfloat16: about half the time on processors with matrix units for it, twice the time on all
    others."""
    vae_minutes: float = 9.0
    """Working time of the autoencoder; its learning rate falls to nothing over this time."""
    vae_batch: int = 16
    """Crops of 64x64 pixels a step."""
    vae_rate: float = 2e-3
    """Highest learning rate."""
    vae_widths: tuple[int, ...] = (32, 48, 64, 64)
    """Channels at 1/1, 1/2, 1/4 and 1/8 of the picture: TAESD's layout has 64 everywhere, which is twice
    the work; the narrower network is trained and then set into the wide one among zeros."""
    num_latents: int = 16000
    """Pictures whose latents the UNet trains on: every scene with each of the shapes."""
    unet_minutes: float = 36.0
    """Working time of the UNet and text encoder together."""
    unet_batch: int = 32
    """Latents a step; those of a scene stand together."""
    unet_rate: float = 8e-4
    """Highest learning rate."""
    ema: float = 0.998
    """Decay per step of the averaged weights that are written."""
    focus: tuple[int, int] = (400, 800)
    """Half of the timesteps are from here, where noise shows the place of a shape and need not show its
    outline; at these, pictures come with the caption of another shape, and are to become what it says."""
    word_weight: float = 6.0
    """Of the part of an error that differs between pictures which differ in the shape's word alone, over the
    part that they share. A shape's outline is a hundredth of a picture: unweighted, its word is learnt the
    last. The weight falls to 1 over the run."""
    empty_captions: float = 0.1
    """Share of captions left out, for classifier-free guidance."""
