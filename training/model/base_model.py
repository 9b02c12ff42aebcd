"""The frozen image model of a run, through ComfyUI's own loaders: any checkpoint that ComfyUI loads can be
trained on.

With :mod:`host` and :mod:`loaded` the only files here that import comfy. No server is started and no GPU is
needed. The UNet is ComfyUI's ``UNetModel``, the one that inference uses; what inference does around it
(patches, memory management) is left out.

Shapes: ``B`` clips, ``F`` frames, ``C`` channels, ``H W`` latent height and width, ``N`` tokens, ``D`` width.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..config import BaseConfig
from ..files import read_json, write_json
from .host import layers, load_checkpoint
from .loaded import Loaded, copy_of_unet

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BaseModel:
    """UNet, VAE and text encoder of one checkpoint.

    Args:
        config: which checkpoint, from where.
        device: where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``: type of the UNet's weights and of its inputs.
        encoders: whether to load VAE and text encoder too; training from a cache does without.
        decoder: whether to load the VAE alone, to look at samples.
        unet: whether to load the UNet; caching does without.
        loaded: take these in place of the checkpoint's; the UNet is copied.

    Raises:
        FileNotFoundError: no ComfyUI or no checkpoint there.
        ValueError: not a checkpoint of a UNet family.
    """

    def __init__(
        self,
        config: BaseConfig,
        device: torch.device,
        precision: str = "fp32",
        *,
        encoders: bool,
        decoder: bool = False,
        unet: bool = True,
        loaded: Loaded | None = None,
    ) -> None:
        self.device = device
        self.dtype = DTYPES[precision]
        self.loaded = loaded
        if loaded is None:
            patcher, clip, vae = load_checkpoint(config, self.dtype, encoders, encoders or decoder)
        else:
            patcher, clip, vae = loaded.model, loaded.clip, loaded.vae
        import comfy.model_base

        self._clip, self._vae = clip, vae
        self._model = patcher.model
        if type(self._model.diffusion_model).__name__ != "UNetModel":
            raise ValueError(
                f"{config.checkpoint} holds a {type(self._model).__name__}, not a UNet with input, middle "
                "and output "
                "blocks. AnimateDiff trains on SD1.5 and SDXL checkpoints."
            )
        kinds = {comfy.model_base.ModelType.EPS: "eps", comfy.model_base.ModelType.V_PREDICTION: "v"}
        if self._model.model_type not in kinds:
            raise ValueError(
                f"{config.checkpoint} predicts {self._model.model_type.name}; only eps and v can be trained."
            )
        channels = self._model.diffusion_model.in_channels
        if channels != 4:
            raise ValueError(
                f"{config.checkpoint} takes {channels} channels, expected 4: inpainting models and the like "
                "want more than noisy latents. Train on the plain model of the same family."
            )
        if getattr(self._model.model_sampling, "zsnr", False):
            raise ValueError(
                f"{config.checkpoint} has a noise schedule with zero terminal SNR, which motion modules and "
                "domain adapters do not have. Train on a checkpoint without it (no key ztsnr)."
            )
        self.prediction = kinds[self._model.model_type]
        sampling = self._model.model_config.sampling_settings
        self.beta_schedule = (
            sampling.get("beta_schedule", "linear"),
            sampling.get("linear_start", 0.00085),
            sampling.get("linear_end", 0.012),
        )
        self.unet: nn.Module = self._model.diffusion_model
        if loaded is not None and unet:
            self.unet = copy_of_unet(patcher, self.dtype, device, layers(self.dtype))
        if loaded is None or unet:
            self.unet.requires_grad_(False).eval()
        for name, part in (
            ("UNet", self.unet),
            ("VAE", vae and vae.first_stage_model),
            ("text encoder", clip and clip.cond_stage_model),
        ):
            # What ComfyUI has loaded may be in 8 bit; what comes out of it is looked at.
            if part is not None and (loaded is None or (unet and part is self.unet)):
                require_finite_weights(part, "base.checkpoint", f"{name} ({precision})")
        if unet and loaded is None:
            self.unet.to(device)
        zero, one = (self._model.process_latent_in(torch.full((1, 4, 1, 1), v)) for v in (0.0, 1.0))
        self.latent_shift, self.latent_scale = float(zero.mean()), float((one - zero).mean())
        log.info(
            "Base model %s: %d million values, %s, predicts %s",
            Path(config.checkpoint).name,
            sum(p.numel() for p in self.unet.parameters()) // 10**6,
            precision,
            self.prediction,
        )

    # --- encoders ---

    def require_family(self) -> None:
        """Refuse a VAE or a text encoder that the UNet cannot go with.

        Raises:
            ValueError: names what it gives and what the UNet takes.
        """
        vae = self._need(self._vae, "VAE")
        channels, axes = getattr(vae, "latent_channels", 4), getattr(vae, "latent_dim", 2)
        if (channels, axes) != (4, 2):
            kind = {2: "pictures", 3: "videos"}.get(axes, "sound")
            raise ValueError(
                f"The VAE makes latents of {channels} channels out of {kind}; the base model takes 4 "
                "channels of pictures. Use the VAE of the base model's family."
            )
        states, pooled = self.encode_text("")
        wanted = self._model.model_config.unet_config.get("context_dim")
        fits = wanted in (None, states.shape[-1]) and (self.unet.num_classes is None or pooled is not None)
        if not fits:
            raise ValueError(
                f"The text encoder gives {states.shape[-1]} values a token, the base model takes {wanted}"
                f"{'' if self.unet.num_classes is None else ' and a vector of the whole prompt'}. Use the "
                "text encoder of the base model's family."
            )

    def unload_encoders(self) -> None:
        """Let go of VAE and text encoder."""
        self._clip = self._vae = None

    def _as_host(self) -> AbstractContextManager:
        """Where ComfyUI's own VAE and text encoder are at work: they were loaded in inference mode, and
        ComfyUI may move and patch them only there."""
        return nullcontext() if self.loaded is None else torch.inference_mode()

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Frames to latents, as the UNet sees them (scaled).

        Args:
            pixels: (F, height, width, 3), 0..1.
            batch: frames encoded at a time.

        Returns:
            Mean (F, C, H, W) and log-variance of the same shape, fp32 on the CPU; None for a VAE without one.
        """
        import comfy.model_management

        vae = self._need(self._vae, "VAE")
        means, logvars = [], []
        for part in pixels.movedim(-1, 1).split(batch):
            with self._as_host():
                comfy.model_management.load_models_gpu([vae.patcher])
                x = vae.process_input(part.to(vae.device).float()).to(vae.vae_dtype)
                moments, has_variance = _vae_moments(vae.first_stage_model, x)
            moments = moments.float().cpu()
            mean, logvar = moments.chunk(2, dim=1) if has_variance else (moments, None)
            means.append(self.latent_scale * mean + self.latent_shift)
            if has_variance:
                # The variance takes the square of the scale, as a sample mean + std * noise is scaled as a
                # whole.
                logvars.append(logvar.clamp(-30, 20) + 2 * torch.tensor(self.latent_scale).log())
        return torch.cat(means), torch.cat(logvars) if logvars else None

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (F, C, H, W) as the UNet sees them -> pixels (F, height, width, 3), 0..1, on the CPU."""
        vae = self._need(self._vae, "VAE")
        with self._as_host():
            pixels = vae.decode(self._model.process_latent_out(latents.float().cpu()))
        return pixels.clamp(0, 1).cpu()

    @torch.no_grad()
    def encode_text(self, text: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A prompt -> (N, D) token states and, where the family has one, a pooled vector (D',); fp32 on the
        CPU.

        Parentheses are read as they stand and not as weights: captions hold scores, ratios and times of day.
        """
        clip = self._need(self._clip, "text encoder")
        with self._as_host():
            result = clip.encode_from_tokens(clip.tokenize(text, disable_weights=True), return_dict=True)
        pooled = result["pooled_output"]
        wanted = self.unet.num_classes is not None and pooled is not None
        states = torch.clone(result["cond"])[0].float().cpu()
        return states, torch.clone(pooled)[0].float().cpu() if wanted else None

    def vector_condition(self, pooled: torch.Tensor | None, width: int, height: int) -> torch.Tensor | None:
        """SDXL's second condition (B, A) from pooled text (B, D') and the picture's size in pixels; None for
        SD1.5."""
        if self.unet.num_classes is None:
            return None
        if pooled is None:
            raise ValueError(
                "This base model wants pooled text, but the text encodings have none. Cache them again."
            )
        self._model.embedder = self._model.embedder.to("cpu") if hasattr(self._model, "embedder") else None
        return self._model.encode_adm(
            pooled_output=pooled.cpu(), width=width, height=height, device=torch.device("cpu")
        )

    def _need(self, part: Any, name: str) -> Any:
        if part is None:
            raise ValueError(f"The {name} is not loaded, or the checkpoint has none.")
        return part

    # --- UNet ---

    def predict(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        y: torch.Tensor | None = None,
        *,
        recompute: bool = False,
        keep_rng: bool = False,
    ) -> torch.Tensor:
        """One UNet call on folded frames.

        Args:
            x: (B*F, C, H, W), video-major.
            timesteps: (B*F,).
            context: (B*F, N, D).
            y: (B*F, A) or None.
            recompute: gradient checkpointing, a block at a time, motion modules and middle block included.
            keep_rng: with `recompute`, draw the same dropout masks again.
        """
        options = {"optimized_attention_override": _torch_attention}
        x, context = x.to(self.dtype), context.to(self.dtype)
        y = None if y is None else y.to(self.dtype)
        if not recompute:
            return self.unet(x, timesteps=timesteps, context=context, y=y, transformer_options=options)
        return _predict_recomputing(self.unet, x, timesteps, context, y, options, keep_rng)


def require_finite_weights(module: nn.Module, setting: str, part: str) -> None:
    """Refuse weights that can only give a loss that is no number.

    Raises:
        ValueError: names the setting, the part and a tensor.
    """
    bad = [name for name, weight in module.state_dict().items() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise ValueError(
            f"{setting}: {len(bad)} tensors of its {part} hold values that are not finite, such as {bad[0]}. "
            "The file is damaged or was saved from a failed training: use another."
        )


def _torch_attention(_: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Every attention through torch's SDPA: the alternatives that ComfyUI may choose are made for
    inference."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


def _predict_recomputing(
    unet: nn.Module,
    x: torch.Tensor,
    timesteps: torch.Tensor,
    context: torch.Tensor,
    y: torch.Tensor | None,
    options: dict,
    keep_rng: bool,
) -> torch.Tensor:
    """``UNetModel.forward`` with every block under non-reentrant checkpointing.

    Written out, because ComfyUI's own checkpointing is reentrant and stops at the ResBlock.
    """
    from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed
    from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

    def run(block: nn.Module, h: torch.Tensor, output_shape: torch.Size | None = None) -> torch.Tensor:
        def call(h: torch.Tensor, emb: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return forward_timestep_embed(block, h, emb, context, dict(options), output_shape)

        return checkpoint(call, h, emb, context, use_reentrant=False, preserve_rng_state=keep_rng)

    emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels, repeat_only=False).to(x.dtype))
    if unet.num_classes is not None:
        emb = emb + unet.label_emb(y)
    skips, h = [], x
    for block in unet.input_blocks:
        h = run(block, h)
        skips.append(h)
    if unet.middle_block is not None:
        h = run(unet.middle_block, h)
    for block in unet.output_blocks:
        h = torch.cat([h, skips.pop()], dim=1)
        h = run(block, h, skips[-1].shape if skips else None)
    return unet.out(h.type(x.dtype))


def _vae_moments(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Mean and log-variance in one tensor, or the latent alone (TAESD) and False."""
    if hasattr(model, "quant_conv") and getattr(model, "bn", None) is None:
        return model.quant_conv(model.encoder(x)), True
    if hasattr(model, "regularization") and not hasattr(model, "quant_conv"):
        return model.encode(x, unregularized=True)[0], True
    return model.encode(x), False


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for code outside of accelerate's own (sampling, evaluation)."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


def pick_device(choice: str) -> torch.device:
    """The device of a configuration's ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: cuda is asked for and not there.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("base.device = 'cuda', but torch finds no GPU. Use 'auto' or 'cpu'.")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def file_hash(path: str | Path, memo: Path | None = None) -> str:
    """SHA-256 of a file. With ``memo``, a JSON file that remembers it until size or time of change differ."""
    path = Path(path).resolve()
    stat = path.stat()
    facts = [stat.st_size, stat.st_mtime_ns]
    known: dict[str, Any] = {}
    if memo is not None and memo.is_file():
        known = read_json(memo)
        entry = known.get(str(path))
        if isinstance(entry, dict) and entry.get("facts") == facts and isinstance(entry.get("sha256"), str):
            return entry["sha256"]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    if memo is not None:
        write_json(memo, {**known, str(path): {"facts": facts, "sha256": digest.hexdigest()}})
    return digest.hexdigest()
