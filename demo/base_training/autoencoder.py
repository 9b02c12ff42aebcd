"""Stage 1, the autoencoder, and stage 2, the latents that it makes of the world."""

from __future__ import annotations

from dataclasses import replace

import comfy.taesd.taesd as taesd
import numpy as np
import torch
import torch.distributed as distributed

from .. import world
from .loop import Run
from .narrow_vae import NarrowVae, grown, narrowed, widen
from .settings import STATE, Settings
from .states import read_state, started, write_state

FIRST_LATENT = 10_000  # number of the first scene whose latents are used
LATENT_SCALE = 0.18215  # ComfyUI multiplies SD1.5 latents by this before the UNet sees them


def fresh_vae(settings: Settings) -> NarrowVae:
    """The autoencoder to train: from nothing, or an earlier one with new channels beside its own."""
    network = NarrowVae(settings.vae_widths)
    if settings.start:
        wide = started(settings, "first_stage_model.")
        used = tuple(  # channels of each level that are not all zeros
            int(wide[f"taesd_encoder.{layer}.weight"].flatten(1).any(1).sum()) for layer in (0, 2, 6, 10)
        )
        old = narrowed(wide, NarrowVae(used).state_dict())
        network.load_state_dict(grown(old, network.state_dict()))
    return network


def _pool(settings: Settings, first: int, count: int, domain: str) -> torch.Tensor:
    """Stills of the world, (count, 3, 128, 128) uint8."""
    return _stacked([world.still(settings.seed, first + i, domain)[0] for i in range(count)])


def _stacked(frames: list[np.ndarray]) -> torch.Tensor:
    rounded = np.stack([np.round(frame * 255).astype(np.uint8) for frame in frames])
    return torch.from_numpy(rounded).permute(0, 3, 1, 2).contiguous()


def picture(settings: Settings, number: int) -> tuple[world.Scene, float, world.Camera]:
    """Scene, moment and camera of a picture that the UNet learns from: one after the other, each scene with
    each of the shapes."""
    scene, shape = divmod(number, len(world.SHAPES))
    content, moment, camera = world.still_view(settings.seed, FIRST_LATENT + scene)
    return replace(content, shape=world.SHAPES[shape]), moment, camera


def _slopes(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pictures.diff(dim=-1), pictures.diff(dim=-2)


def train_vae(settings: Settings) -> None:
    """Stage 1. Latents are held near zero mean and unit variance, and get a little noise, so that the UNet's
    small errors do no harm."""
    torch.manual_seed(settings.seed)
    run = Run("vae", fresh_vae(settings), settings.vae_minutes, settings.vae_rate, 0.99)
    if run.done:
        return
    pool = torch.cat([_pool(settings, 0, 2500, "image"), _pool(settings, 2500, 1000, "video")])
    network = run.network.to(memory_format=torch.channels_last)
    batch = settings.vae_batch // distributed.get_world_size()

    def loss_of_step(step: int) -> torch.Tensor:
        counter = step * distributed.get_world_size() + distributed.get_rank()
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + counter)
        which = torch.randint(len(pool), (batch,), generator=random)
        places = torch.randint(0, world.SIZE - 64 + 1, (batch, 2), generator=random).tolist()
        crops = [pool[i, :, y : y + 64, x : x + 64] for i, (y, x) in zip(which.tolist(), places, strict=True)]
        pictures = torch.stack(crops).float().div(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            latents = network.taesd_encoder(pictures).float()
            noisy = latents + 0.05 * torch.randn(latents.shape, generator=random)
            made = network.taesd_decoder(noisy).float()
        flat = latents.transpose(0, 1).flatten(1)  # (4, values of the batch)
        mean = flat.mean(1, keepdim=True)
        spread = (flat - mean) @ (flat - mean).T / flat.shape[1]
        moments = mean.square().mean() + (spread - torch.eye(4)).square().mean()
        edges = sum((a - b).abs().mean() for a, b in zip(_slopes(made), _slopes(pictures), strict=True))
        error = made - pictures
        return error.square().mean() * 10 + error.abs().mean() + edges + 0.05 * moments

    run.train(loss_of_step)


def finished_vae(settings: Settings) -> taesd.TAESD:
    """The trained autoencoder in ComfyUI's form, with the scale and shift that give the UNet unit latents."""
    found = read_state(STATE / "vae.safetensors")
    if not found:
        raise FileNotFoundError(f"{STATE / 'vae.safetensors'} is missing. Run the stage vae first.")
    average = {key[8:]: value for key, value in found[0].items() if key.startswith("average.")}
    vae = taesd.TAESD(latent_channels=4)
    vae.load_state_dict(widen(average, vae.state_dict()))
    narrow = NarrowVae(settings.vae_widths)
    narrow.load_state_dict(average)
    with torch.no_grad():
        latents = narrow.taesd_encoder(_pool(settings, 0, 200, "image").float() / 255)
        vae.vae_scale.fill_(LATENT_SCALE * latents.std())
        vae.vae_shift.copy_(-latents.mean() / vae.vae_scale)
    return vae.requires_grad_(False)


def cache_latents(settings: Settings) -> None:
    """Stage 2. Latents of image-domain stills at the UNet's scale; a picture's number gives its caption.

    The workers take parts of 500 in turn, a file each; the first worker then makes one of them.
    """
    path, folder = STATE / "latents.safetensors", STATE / "latents"
    if path.exists():
        return
    narrow, vae = NarrowVae(settings.vae_widths), finished_vae(settings)
    narrow.load_state_dict(
        {k[8:]: v for k, v in read_state(STATE / "vae.safetensors")[0].items() if k[:8] == "average."}
    )
    narrow = narrow.to(memory_format=torch.channels_last)
    files = [folder / f"{first:06d}.safetensors" for first in range(0, settings.num_latents, 500)]
    for file in files[distributed.get_rank() :: distributed.get_world_size()]:
        if file.exists():
            continue
        first = int(file.stem)
        count = min(500, settings.num_latents - first)
        views = [picture(settings, first + number) for number in range(count)]
        pictures = _stacked(
            [world.render(content, np.array([moment]), camera)[0] for content, moment, camera in views]
        )
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            raw = [narrow.taesd_encoder(batch.float().div(255)).float() for batch in pictures.split(25)]
        raw = torch.cat(raw)
        latents = (raw / vae.vae_scale + vae.vae_shift) * LATENT_SCALE
        write_state(file, {"latents": latents}, {"first": FIRST_LATENT + first})
        print(f"latents {first} to {first + count}, deviation {latents.std():.3f}", flush=True)
    distributed.barrier()
    if distributed.get_rank() == 0:
        parts = [read_state(file)[0]["latents"] for file in files]
        write_state(path, {"latents": torch.cat(parts)}, {"first": FIRST_LATENT})
