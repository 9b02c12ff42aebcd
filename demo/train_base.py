"""Train the base of the tiny family from nothing: autoencoder, then text-to-image UNet and text encoder.

    python demo/train_base.py                 # all stages, about an hour on two CPU cores
    python demo/train_base.py --stage vae     # one of: vae, latents, unet, export, measure
    python demo/train_base.py --start FILE --output FILE2   # go on from an earlier checkpoint's weights

Every stage keeps its state in `.flipbook/train/`, once a minute, and goes on from there when started again; a
finished stage is skipped. The last one writes `demo/models/checkpoints/tiny_ad.safetensors` (fp16).
Data: `world.py`, image domain for the UNet, both domains for the autoencoder (it must show video frames too).

Shapes: B pictures, pictures (B, 3, 128, 128) in 0..1, latents (B, 4, 16, 16), context (B, 32, 64).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bootstrap import ROOT, enter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin lose ten times on a shared machine
enter()

import comfy.sample  # noqa: E402  # ComfyUI is importable only after enter()
import comfy.sd  # noqa: E402
import comfy.taesd.taesd as taesd  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as distributed  # noqa: E402
from animatediff_flipbook.demo import probes, world  # noqa: E402
from animatediff_flipbook.demo.tiny_family import build, tokenizer  # noqa: E402
from animatediff_flipbook.demo.tiny_family.model import TinyAD  # noqa: E402
from animatediff_flipbook.motion_core.schedule.beta_schedules import BetaSchedule, alphas_cumprod  # noqa: E402
from comfy.ldm.modules.attention import SpatialTransformer  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

STATE = ROOT / ".flipbook" / "train"
CHECKPOINT = ROOT / "demo" / "models" / "checkpoints" / "tiny_ad.safetensors"
SAVE_EVERY = 60.0  # seconds
FIRST_LATENT = 10_000  # number of the first scene whose latents are used
LATENT_SCALE = 0.18215  # ComfyUI multiplies SD1.5 latents by this before the UNet sees them


@dataclass(frozen=True)
class Settings:
    """What the stages do; stored with their states."""

    output: str = str(CHECKPOINT)
    """The file to write."""
    seed: int = 1
    """Of the world's training scenes (evaluation uses others) and of all noise."""
    start: str = ""
    """Checkpoint of the family whose weights the networks begin with; empty: from nothing."""
    look: str = "plain"
    """Of the world, one of `world.LOOKS`."""
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
    """Pictures whose latents the UNet trains on."""
    unet_minutes: float = 36.0
    """Working time of the UNet and text encoder together."""
    unet_batch: int = 32
    """Latents a step."""
    unet_rate: float = 8e-4
    """Highest learning rate."""
    ema: float = 0.998
    """Decay per step of the averaged weights that are written."""
    focus: tuple[int, int] = (0, 1000)
    """Half of the timesteps are from here, the other half from all. Words for shapes are learnt only where
    noise shows the place of a shape and hides its outline."""
    empty_captions: float = 0.1
    """Share of captions left out, for classifier-free guidance."""


# --- states -------------------------------------------------------------------------------------------------


def write_state(path: Path, tensors: dict[str, torch.Tensor], facts: dict) -> None:
    """Write tensors and facts (JSON) as one safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    tensors = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
    os.replace(temporary, path)


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """Tensors and facts of a state, None where there is none yet."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        return tensors, json.loads(file.metadata()["facts"])


def share_gradients(network: nn.Module, seconds: float) -> float:
    """Average the gradients, and the step's seconds, over the workers; returns the seconds.

    One meeting a step: two processes of one thread each get far more done on a busy machine than two threads
    that wait for each other in every layer.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters] + [torch.tensor([seconds])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, flat[:-1].split(sizes), strict=True):
        parameter.grad.copy_(part.view_as(parameter))
    return float(flat[-1])


class Run:
    """The loop that both networks share: AdamW, a rate that follows the clock, averaged weights, states.

    The clock and not a number of steps ends a stage, because the machine's speed is not known beforehand; the
    time counted is what this process has computed, kept across restarts: on a machine that others use, and over a
    pause, it stands still.
    """

    def __init__(self, name: str, network: nn.Module, minutes: float, rate: float, ema: float) -> None:
        self.path = STATE / f"{name}.safetensors"
        self.name, self.network, self.ema_decay, self.rate = name, network, ema, rate
        self.seconds_allowed = minutes * 60
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=rate, weight_decay=1e-3, betas=(0.9, 0.99)
        )
        self.average = {key: value.detach().clone() for key, value in network.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        found = read_state(self.path)
        if found:
            self._load(*found)

    def _load(self, tensors: dict[str, torch.Tensor], facts: dict) -> None:
        part = {
            kind: {
                key[len(kind) + 1 :]: value for key, value in tensors.items() if key.startswith(kind + ".")
            }
            for kind in ("now", "average", "first", "second")
        }
        self.network.load_state_dict(part["now"])
        self.average = part["average"]
        self.step, self.seconds = facts["step"], facts["seconds"]
        for key, parameter in self.network.named_parameters():
            if key in part["first"]:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": part["first"][key],
                    "exp_avg_sq": part["second"][key],
                }

    def save(self, **facts) -> None:
        """Keep everything that going on needs."""
        tensors = {f"now.{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.items()}
        for key, parameter in self.network.named_parameters():
            state = self.optimizer.state.get(parameter)
            if state:
                tensors |= {f"first.{key}": state["exp_avg"], f"second.{key}": state["exp_avg_sq"]}
        write_state(self.path, tensors, {"step": self.step, "seconds": self.seconds, **facts})

    @property
    def progress(self) -> float:
        """Share of the stage's time that has passed, 0..1."""
        return min(self.seconds / self.seconds_allowed, 1.0)

    def train(self, loss_of_step: Callable[[int], torch.Tensor]) -> None:
        """Run to the end of the stage's time. `loss_of_step(step)` is the loss of one fresh batch."""
        saved, shown, losses = time.monotonic(), 0.0, []
        while self.progress < 1.0:
            began = time.process_time()
            warm = min(1.0, (self.step + 1) / 50)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
            loss = loss_of_step(self.step)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"{self.name}: the loss is {loss.item()} at step {self.step}. Lower the rate."
                )
            loss.backward()
            spent = share_gradients(self.network, time.process_time() - began)
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for key, value in self.network.state_dict().items():
                    self.average[key].lerp_(value, 1 - decay)
            losses.append(loss.item())
            now = time.monotonic()
            self.seconds += spent
            if distributed.get_rank() > 0:
                continue
            if now - shown > 15:
                mean = sum(losses[-50:]) / len(losses[-50:])
                print(
                    f"{self.name} step {self.step} loss {mean:.4f} {self.progress:6.1%} "
                    f"{self.seconds / self.step:.2f} s/step in all",
                    flush=True,
                )
                shown = now
            if now - saved > SAVE_EVERY:
                self.save(done=False)
                saved = now
        if distributed.get_rank() == 0:
            self.save(done=True)

    @property
    def done(self) -> bool:
        """Whether the stage has used its time."""
        return self.progress >= 1.0


# --- stage 1: autoencoder -----------------------------------------------------------------------------------


class NarrowVae(nn.Module):
    """TAESD with its own width at each resolution; key names and order of layers are TAESD's."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c, d = widths
        conv, block = taesd.conv, taesd.Block

        def blocks(width: int) -> list[nn.Module]:
            return [block(width, width) for _ in range(3)]

        def half(wide: int, narrow: int) -> list[nn.Module]:
            return [conv(wide, narrow, stride=2, bias=False), *blocks(narrow)]

        def double(narrow: int, wide: int) -> list[nn.Module]:
            return [*blocks(narrow), nn.Upsample(scale_factor=2), conv(narrow, wide, bias=False)]

        self.taesd_encoder = nn.Sequential(
            conv(3, a), block(a, a), *half(a, b), *half(b, c), *half(c, d), conv(d, 4)
        )
        self.taesd_decoder = nn.Sequential(
            taesd.Clamp(),
            conv(4, d),
            nn.ReLU(),
            *double(d, c),
            *double(c, b),
            *double(b, a),
            block(a, a),
            conv(a, 3),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self._begin_as_pooling()

    def _begin_as_pooling(self) -> None:
        """Let three channels carry colour through both networks from the start: the encoder pools, the
        decoder interpolates. Training then only adds detail, for which a few minutes suffice."""
        binomial = torch.tensor([1.0, 2.0, 1.0])
        binomial = torch.outer(binomial, binomial) / 16
        centre = torch.zeros(3, 3)
        centre[1, 1] = 1.0
        # luminance and two colour differences, scaled to about unit variance over the world
        mix = torch.tensor([[1.6, 1.8, 1.4], [5.0, -5.0, 0.0], [2.5, 2.5, -5.0]])

        def carry(layer: nn.Conv2d, kernel: torch.Tensor, matrix: torch.Tensor) -> None:
            rows, columns = matrix.shape
            layer.weight[:rows] = 0.0
            layer.weight[:rows, :columns] = matrix[:, :, None, None] * kernel

        eye = torch.eye(3)
        encoder = [layer for layer in self.taesd_encoder if isinstance(layer, nn.Conv2d)]
        decoder = [layer for layer in self.taesd_decoder if isinstance(layer, nn.Conv2d)]
        carry(encoder[0], centre, eye)
        for layer in encoder[1:-1]:
            carry(layer, binomial, eye)
        encoder[-1].weight[3:] *= 0.5
        carry(encoder[-1], centre, mix)
        encoder[-1].bias[:3] = -0.5 * mix.sum(1)
        carry(decoder[0], centre, torch.linalg.inv(mix))
        decoder[0].bias[:3] = 0.5
        for layer in decoder[1:-1]:
            carry(layer, binomial, eye)
        decoder[-1].weight *= 0.1
        carry(decoder[-1], centre, eye)
        for module in self.modules():
            if isinstance(module, taesd.Block):  # residual branches begin small and leave colour alone
                module.conv[-1].weight *= 0.2
                module.conv[-1].weight[:3] = 0.0


def grown(old: dict[str, torch.Tensor], fresh: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The fresh wider network with the old one in its corner: the same function, and room to learn more.

    The old channels do not listen to the new ones yet (zeros); the new ones listen to all.
    """
    result = {key: value.clone() for key, value in fresh.items()}
    for key, value in result.items():
        corner = tuple(slice(size) for size in old[key].shape)
        value[: old[key].shape[0]] = 0.0
        value[corner] = old[key]
    return result


def narrowed(wide: dict[str, torch.Tensor], shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `widen` undoes: the corner of each weight without the zeros around it."""
    corners = {}
    for key, value in shapes.items():
        outside, inside = wide[key].float(), tuple(slice(size) for size in value.shape)
        corners[key] = outside[inside].clone()
    return corners


def started(settings: Settings, prefix: str) -> dict[str, torch.Tensor]:
    """Weights of one network in the checkpoint to begin with."""
    with safe_open(settings.start, "pt") as file:
        names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118  # no mapping
        return {key[len(prefix) :]: file.get_tensor(key).float() for key in names}


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


def widen(narrow: dict[str, torch.Tensor], wide: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Set the narrow network's weights into a corner of the wide one's shapes, among zeros: same function."""
    result = {}
    for key, value in wide.items():
        if key not in narrow:
            result[key] = value.clone()
            continue
        result[key] = torch.zeros_like(value)
        result[key][tuple(slice(size) for size in narrow[key].shape)] = narrow[key]
    return result


def _pool(settings: Settings, first: int, count: int, domain: str) -> torch.Tensor:
    """Stills of the world, (count, 3, 128, 128) uint8."""
    frames = [
        np.round(world.still(settings.seed, first + i, domain, settings.look)[0] * 255).astype(np.uint8)
        for i in range(count)
    ]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


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


# --- stage 2: latents ---------------------------------------------------------------------------------------


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
        pictures = _pool(settings, FIRST_LATENT + first, count, "image")
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


# --- stage 3: text-to-image ---------------------------------------------------------------------------------


class TextToImage(nn.Module):
    """UNet and text model, trained together."""

    def __init__(self, networks: build.TinyNetworks, bfloat16: bool) -> None:
        super().__init__()
        self.unet, self.text = networks.unet, networks.text.requires_grad_(True)
        self.bfloat16 = bfloat16

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Predicted v (B, 4, H, W)."""
        context = self.text.encode_for_training(tokens)
        options = {"optimized_attention_override": full_precision} if self.bfloat16 else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return self.unet(latents, timesteps, context, transformer_options=options).float()


def full_precision(attention: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *more, **options):
    """ComfyUI's attention in fp32: for heads this narrow, PyTorch's backward pass in bfloat16 takes five
    times as long."""
    with torch.autocast("cpu", enabled=False):
        return attention(q.float(), k.float(), v.float(), *more, **options)


def fresh_text_to_image(settings: Settings) -> TextToImage:
    """The networks to train: an earlier checkpoint's, or new ones whose residual branches and output begin at
    zero, as usual for diffusion UNets."""
    model = TextToImage(build.build_networks(settings.seed), settings.bfloat16)
    if settings.start:
        model.unet.load_state_dict(started(settings, "model.diffusion_model."))
        model.text.load_state_dict(started(settings, "cond_stage_model."))
        return model
    with torch.no_grad():
        model.unet.out[-1].weight.zero_()
        for module in model.unet.modules():
            if isinstance(module, ResBlock):
                module.out_layers[-1].weight.zero_()
            elif isinstance(module, SpatialTransformer):
                module.proj_out.weight.zero_()
    return model


def caption_for_training(content: world.Scene, rng: np.random.Generator, empty: float) -> str:
    """The scene's caption, at times empty, partial, or with words in front that the vocabulary lacks."""
    if rng.random() < empty:
        return ""
    words = [content.colour, content.shape, content.motion, f"on a {content.texture} background"]
    if rng.random() < 0.15:
        words = [word for word in words if rng.random() < 0.6]
    caption = " ".join(words if not words or words[0].startswith("on") else ["a", *words])
    if rng.random() < 0.1:
        caption = "unknown " * int(rng.integers(1, 4)) + caption
    return caption


def family_schedule() -> BetaSchedule:
    """The noise schedule that ComfyUI gives a model of the family."""
    told = TinyAD.sampling_settings
    return BetaSchedule(told["beta_schedule"], told["linear_start"], told["linear_end"])


def train_unet(settings: Settings) -> None:
    """Stage 3. v prediction (arXiv 2202.00512) over the family's noise schedule. Its square error counts an
    error of the picture at every noise level, so the words, which decide where noise hides the rest,
    are learnt soon; under noise prediction that error is weighted by next to nothing there."""
    torch.manual_seed(settings.seed)
    run = Run("unet", fresh_text_to_image(settings), settings.unet_minutes, settings.unet_rate, settings.ema)
    if run.done:
        return
    latents = read_state(STATE / "latents.safetensors")[0]["latents"]
    scenes = [world.scene(settings.seed, FIRST_LATENT + i) for i in range(len(latents))]
    words = tokenizer.WordTokenizer(tokenizer.read_vocabulary())
    kept = alphas_cumprod(family_schedule()).float()
    rank, workers = distributed.get_rank(), distributed.get_world_size()
    batch = settings.unet_batch // workers

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng([settings.seed, 7, step, rank])
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step * workers + rank)
        which = rng.integers(0, len(latents), batch)
        captions = [caption_for_training(scenes[i], rng, settings.empty_captions) for i in which]
        tokens = torch.full((batch, tokenizer.CONTEXT_LENGTH), tokenizer.END)
        for row, caption in enumerate(captions):
            numbers = words(caption)["input_ids"]
            tokens[row, : len(numbers)] = torch.tensor(numbers)
        # one timestep in each of as many equal parts of the schedule as there are latents: a quieter loss
        part = torch.arange(batch) * workers + rank
        t = (part + torch.rand(batch, generator=random)) / (batch * workers)
        first, end = settings.focus
        t = torch.where(part % 2 == 0, first + t * (end - first), t * 1000).long()
        clean = latents[torch.from_numpy(which)]
        noise = torch.randn(clean.shape, generator=random)
        a = kept[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        made = run.network(noisy, t, tokens)
        target = a.sqrt() * noise - (1 - a).sqrt() * clean
        return (made - target).square().mean()

    run.train(loss_of_step)


# --- stage 4: the file --------------------------------------------------------------------------------------


def export(settings: Settings) -> None:
    """Stage 4. Write the averaged weights as one checkpoint; also serves to look at a half-trained base."""
    found = read_state(STATE / "unet.safetensors")
    if not found:
        raise FileNotFoundError(f"{STATE / 'unet.safetensors'} is missing. Run the stage unet first.")
    model = fresh_text_to_image(settings)
    model.load_state_dict({key[8:]: value for key, value in found[0].items() if key.startswith("average.")})
    networks = build.TinyNetworks(unet=model.unet, text=model.text, vae=finished_vae(settings))
    facts = {"steps": found[1]["step"], "seconds": round(found[1]["seconds"]), "settings": asdict(settings)}
    output = Path(settings.output)
    build.write_checkpoint(output, networks, {"family": "tiny_ad", "training": json.dumps(facts)})
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {found[1]['step']} steps", flush=True)


# --- stage 5: figures ---------------------------------------------------------------------------------------


@torch.no_grad()
def measure(settings: Settings, count: int = 48, steps: int = 20, cfg: float = 5.0) -> None:
    """Stage 5. Sample pictures through ComfyUI's own loader and sampler for captions of unseen scenes; print
    how many show the asked colour and shape, and write them as a sheet to `.flipbook/train/base.png`."""
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(settings.output)
    scenes = [world.scene(settings.seed + 1000, i, "still") for i in range(count)]
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    pictures = []
    for number, content in enumerate(scenes):
        words = clip.encode_from_tokens_scheduled(clip.tokenize(content.caption))
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(number))
        latent = torch.zeros_like(noise)
        made = comfy.sample.sample(
            model, noise, steps, cfg, "euler", "normal", words, empty, latent, disable_pbar=True, seed=number
        )
        pictures.append(vae.decode(made).numpy())
    pictures = np.concatenate(pictures)
    colours = [probes.colour(picture[None]) == s.colour for picture, s in zip(pictures, scenes, strict=True)]
    shapes = [probes.shape(picture) == s.shape for picture, s in zip(pictures, scenes, strict=True)]
    drawn = np.stack([world.render(s, np.array([0.5]))[0] for s in scenes])
    figures = {
        "samples": count,
        "colour_accuracy": round(float(np.mean(colours)), 3),
        "shape_accuracy": round(float(np.mean(shapes)), 3),
        "sharpness_to_world": round(probes.sharpness(pictures) / probes.sharpness(drawn), 3),
    }
    print(json.dumps(figures), flush=True)
    for content in scenes[:16]:
        print(content.caption, flush=True)
    rows = [np.concatenate(row, axis=1) for row in np.split(pictures[: count // 8 * 8], count // 8)]
    Image.fromarray(np.round(np.concatenate(rows) * 255).astype(np.uint8)).save(STATE / "base.png")


def main() -> None:
    """Run the asked stages in order."""
    stages = {
        "vae": train_vae,
        "latents": cache_latents,
        "unet": train_unet,
        "export": export,
        "measure": measure,
    }
    parser = argparse.ArgumentParser(description="Train the base of the tiny family.")
    parser.add_argument("--stage", choices=("all", *stages), default="all")
    parser.add_argument("--look", choices=world.LOOKS, default=Settings.look, help="of the world")
    parser.add_argument("--focus", type=int, nargs=2, default=Settings.focus, help="timesteps of one half")
    parser.add_argument("--start", default="", help="checkpoint to begin with")
    parser.add_argument("--output", default=str(CHECKPOINT), help="checkpoint to write")
    parser.add_argument("--bfloat16", action="store_true", help="bfloat16 products")
    parser.add_argument("--vae-minutes", type=float, default=Settings.vae_minutes)
    parser.add_argument("--unet-minutes", type=float, default=Settings.unet_minutes)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one CPU thread each")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--meeting", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    settings = Settings(
        start=chosen.start,
        output=chosen.output,
        look=chosen.look,
        focus=tuple(chosen.focus),
        bfloat16=chosen.bfloat16,
        vae_minutes=chosen.vae_minutes,
        unet_minutes=chosen.unet_minutes,
    )
    torch.set_num_threads(1)
    meeting = chosen.meeting or str(Path(tempfile.mkdtemp(prefix="train_base_")) / "meeting")
    if chosen.rank == 0:
        for rank in range(1, chosen.workers):
            more = ["--rank", str(rank), "--meeting", meeting]
            subprocess.Popen([sys.executable, *sys.argv, *more])
    distributed.init_process_group(
        "gloo", init_method=Path(meeting).as_uri(), rank=chosen.rank, world_size=chosen.workers
    )
    for name, stage in stages.items():
        if chosen.stage in ("all", name):
            if chosen.rank == 0 or name in ("vae", "latents", "unet"):
                stage(settings)
            distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
