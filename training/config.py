"""What a training run is told: a TOML file, `key=value` overrides, and nothing else.

Every setting is a field of a frozen dataclass with its meaning below it. Unknown keys and impossible values
are refused with the allowed ones named, because a typing error in a setting costs a night.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Stage = Literal["domain_adapter", "motion_module", "motion_lora"]
DIRECTIONS = (
    "zoom_in",
    "zoom_out",
    "pan_left",
    "pan_right",
    "pan_up",
    "pan_down",
    "roll_clockwise",
    "roll_anticlockwise",
)


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The frozen image model."""

    checkpoint: str
    """A checkpoint file that ComfyUI's "Load Checkpoint" takes (UNet, text encoder and VAE in one)."""
    comfyui: str = ""
    """ComfyUI's folder. Empty: the environment variable COMFYUI_PATH."""
    custom_nodes: tuple[str, ...] = ()
    """Folders or files of custom node packs to load first, for bases that a pack makes known to ComfyUI."""
    domain_adapter: str = ""
    """A stage 1 file that stages 2 and 3 train on top of."""
    domain_adapter_strength: float = 1.0
    """Its strength while training; 1 as in the paper, so that motion need not learn what the adapter
    knows."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """The motion module: trained in stage 2, carried by stage 3."""

    file: str = ""
    """A motion module to start from (stage 2) or to train on top of (stage 3). Empty: a fresh one."""
    generation: Literal["v1", "v2", "v3", "sdxl"] = "v3"
    """Whose conventions a fresh module takes: noise schedule, GroupNorm modes, mid block, length."""
    pe_length: int = 0
    """Rows of the position table = most frames in one call. 0: the generation's."""
    mid_block: Literal["auto", "yes", "no"] = "auto"
    """A module in the UNet's middle block too. auto: as the generation has it (only v2)."""
    unet_groupnorm: Literal["auto", "joint", "per_frame"] = "auto"
    """Statistics of the UNet's norms, over a video's frames together (v1) or each frame by itself."""
    module_groupnorm: Literal["auto", "joint", "per_frame"] = "auto"
    """The same for the motion module's own norm (joint only in the SDXL beta)."""
    num_heads: int = 8
    """Attention heads."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank layers of stages 1 and 3."""

    rank: int = 16
    """Rank r; a layer in -> out costs r * (in + out) values."""
    alpha: float = 0.0
    """Scale alpha / r. 0: alpha = r. Folded into the exported weights."""
    dropout: float = 0.0
    """Dropout before the low-rank product, 0..1."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Which layers of each attention get one."""
    file: str = ""
    """Start from this LoRA file instead of from zero. Its rank must be the one above."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One place that training clips or images come from."""

    path: str
    """A folder (searched through), a `.jsonl` list, a `.csv` table, or a WebDataset `.tar` (`{0000..0012}`
    expands)."""
    caption: str = ""
    """One caption for everything here, in place of text files and tables."""
    media_root: str = ""
    """Folder that relative paths in a .jsonl or .csv start from. Empty: the list's own folder."""
    frame_folders: bool = False
    """Each sub-folder with images is one clip, its frames in order of name (2.png before 10.png) and
    already at `data.fps`."""
    repeats: int = 1
    """How often everything here is seen per epoch."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Clips, frames and captions."""

    sources: tuple[SourceConfig, ...] = ()
    """At least one."""
    resolutions: tuple[tuple[int, int], ...] = ((256, 256),)
    """(width, height) buckets in pixels; a file goes to the one nearest to its shape. Multiples of 8."""
    frames: int = 16
    """Frames per clip; stage 1 always takes single frames."""
    fps: float = 8.0
    """Frames per second of the grid that videos are resampled to. 0: every source frame, whatever its
    time."""
    stride: int = 1
    """A clip takes every stride-th frame of that grid."""
    short_clips: Literal["skip", "loop", "shorten", "pad"] = "skip"
    """Files with too few frames: leave out; play forward and backward; own bucket with fewer frames; or
    hold the last frame and leave the held ones out of the loss."""
    min_frames: int = 4
    """With `loop`, `shorten` and `pad`, files with fewer frames than this are left out: a picture, shown 16
    times, would teach standing still."""
    repeat_slow_video: bool = False
    """A video slower than `fps` would need repeated frames. False: it is left out and reported."""
    max_frames_per_file: int = 256
    """Only this many frames of a file's grid are used, from its start."""
    crop: Literal["center", "random"] = "center"
    """Where the bucket's shape is cut from a wider or taller picture; random is drawn once per file."""
    horizontal_flip: bool = False
    """Mirror half of the samples; left and right change places in their captions. Refused for camera
    motion."""
    background: str = "#ffffff"
    """Colour behind pictures with transparency."""
    missing_captions: Literal["empty", "refuse", "name"] = "empty"
    """Files without a caption: empty prompt, error, or words of the file name."""
    caption_prefix: str = ""
    """Put before every caption, with a space between (a trigger word)."""


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Camera motion made by a moving crop, for MotionLoRAs (paper, section 4.3)."""

    direction: str = ""
    """One of zoom_in, zoom_out, pan_left, pan_right, pan_up, pan_down (where the camera goes),
    roll_clockwise, roll_anticlockwise (how the picture turns). Empty: none."""
    speed: float = 0.25
    """Over a whole clip: zoom, part of the frame's side lost or won; pan, part of the side passed; roll,
    quarter turns."""
    still: bool = False
    """Hold one source frame, so that the camera is the only motion."""
    clips_per_file: int = 4
    """Clips taken from each file, evenly over its length."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Latents and text encodings on disk, so that training needs neither VAE nor text encoder."""

    folder: str = ""
    """Empty: `cache` in the run's folder."""
    mode: Literal["disk", "off"] = "disk"
    """off: decode and encode in every step, with VAE and text encoder loaded (slow; for data sets too large
    to cache). Only what each file holds is stored."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of stored latents and text encodings."""
    shard_megabytes: int = 256
    """A shard is written at this size, after a minute, and when a run is stopped."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised."""

    prediction: Literal["auto", "eps", "v"] = "auto"
    """What the UNet predicts. auto: what ComfyUI says of the checkpoint."""
    beta_schedule: Literal["auto", "sqrt_linear", "linear"] = "auto"
    """ComfyUI's names. auto: the motion module's (sqrt_linear for v1, v2, v3); in stage 1 the image model's
    own."""
    beta_start: float = 0.00085
    """First beta of a named schedule."""
    beta_end: float = 0.012
    """Last beta of a named schedule."""
    caption_dropout: float = 0.1
    """Part of the samples seen with the empty prompt, so that guidance works."""
    min_snr_gamma: float = 0.0
    """Weight min(SNR, gamma)/SNR (eps), min(SNR, gamma)/(SNR+1) (v); 5 is usual, 0 is off as in released
    modules."""
    offset_noise: float = 0.0
    """Strength of noise that is constant over a picture and shared by the frames of a clip."""
    min_timestep: int = 0
    """Lowest timestep drawn."""
    max_timestep: int = 999
    """Highest timestep drawn."""
    timestep_shift: float = 1.0
    """Draw noisier timesteps more often: of the range from min to max, x becomes
    shift x / (1 + (shift - 1) x). 1 draws evenly, as released modules. Frames repeat what they show, so where
    things are stays readable up to more noise than in one picture, and is decided there; 3 to 4 helps where
    clips fall into parts that do not agree."""
    debiased: float = 0.0
    """Stage 3: beta of the debiased loss (MotionDirector), which weakens what a clip looks like; 1 is usual,
    0 is off."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move."""

    name: str = "AdamW"
    """AdamW, AdamW8bit, Adafactor, Lion, Prodigy, AdamWScheduleFree, ... or an import path
    `package.module.Class`."""
    lr: float = 1e-4
    """Peak learning rate."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Passed on as they are, e.g. { betas = [0.9, 0.999], weight_decay = 0.01 }."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After warm-up: stay, or fall to `final_lr` by half a cosine or a straight line."""
    final_lr: float = 0.0
    """Where a falling schedule ends."""
    warmup_steps: int = 0
    """Steps over which the rate rises from 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 is off."""
    lora_plus_ratio: float = 1.0
    """LoRA+: how much faster `up` learns than `down`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    """Optimizer steps in all."""
    stop_at: int = 0
    """Save and stop after this step, to go on with --resume: for runs in parts that differ in a setting. The
    learning rate is that of the whole run. 0 is off."""
    batch_size: int = 1
    """Clips per process and micro-step. Clips per step = batch_size * accumulation * processes."""
    accumulation: int = 1
    """Micro-steps per optimizer step; equal to one batch of the whole size."""
    shard: bool = False
    """Stage 2 on several processes: each keeps a part of the weights and of the optimizer's state (FSDP)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of computation and of the frozen base. Trained weights are always fp32."""
    gradient_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory for about a third more time."""
    ema_decay: float = 0.0
    """Average of the weights over about 1/(1-decay) steps, exported in place of the last ones; 0 is off."""
    channels_last: bool = False
    """Memory layout of the UNet's convolutions; faster on many devices."""
    threads: int = 0
    """CPU threads of torch; 0 leaves its own choice."""
    tf32: bool = True
    """Allow TF32 matrix products on NVIDIA GPUs."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """States to resume from."""

    every: int = 500
    """Steps between two; one more at the end and on Ctrl-C or SIGTERM."""
    keep: int = 3
    """The newest this many are kept."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Loss on held-out clips with the same noise and timesteps each time: the curve to trust."""

    every: int = 500
    """Steps between two; 0 is off."""
    fraction: float = 0.0
    """Part of the files held out of training, chosen by their content."""
    sources: tuple[SourceConfig, ...] = ()
    """Or separate held-out files."""
    max_clips: int = 16
    """At most this many clips."""
    bins: int = 4
    """Timestep ranges; one fixed timestep of each is measured per clip."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Rendered clips with fixed seeds during training."""

    every: int = 0
    """Steps between two, beginning with step 0; 0 is off."""
    prompts: tuple[str, ...] = ()
    """One clip each. Parentheses are no weights, here as in captions."""
    prompt_file: str = ""
    """A text file with a prompt per line, besides."""
    negative: str = ""
    """Negative prompt."""
    steps: int = 20
    """Sampling steps (DDIM)."""
    cfg: float = 7.5
    """Guidance scale."""
    seed: int = 0
    """Of the first clip; the next ones count up."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The file that leaves the run."""

    folder: str = ""
    """Also copied here at the end, e.g. ComfyUI's models/animatediff_models."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Of the exported weights."""
    licence: str = ""
    """Written to the metadata."""
    every: int = 0
    """Steps between intermediate exports; 0: only at the end."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    stage: Stage
    """domain_adapter (LoRA on single frames), motion_module, or motion_lora."""
    name: str
    """Name of the exported file, without ending."""
    output: str
    """Folder of the run: checkpoints, logs, exports, resolved config."""
    base: BaseConfig
    """The frozen image model."""
    seed: int = 42
    """Of everything random."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """The motion module."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank layers."""
    data: DataConfig = field(default_factory=DataConfig)
    """Clips and captions."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """Made camera motion."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Stored encodings."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The loop."""
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    """States."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Held-out loss."""
    samples: SampleConfig = field(default_factory=SampleConfig)
    """Rendered clips."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Result."""

    def __post_init__(self) -> None:
        _check_run(self)

    @property
    def frames(self) -> int:
        """Frames per training sample: 1 in stage 1."""
        return 1 if self.stage == "domain_adapter" else self.data.frames

    @property
    def cache_folder(self) -> Path:
        """Where stored encodings lie."""
        return Path(self.cache.folder or Path(self.output) / "cache")


AT_LEAST = {
    0: (
        "motion.pe_length", "lora.alpha", "objective.offset_noise", "objective.debiased",
        "optimizer.final_lr", "optimizer.warmup_steps", "optimizer.max_grad_norm", "train.stop_at",
        "train.threads",
        "validation.every", "samples.every", "export.every",
    ),
    1: (
        "motion.num_heads", "lora.rank", "data.frames", "data.stride", "data.min_frames",
        "data.max_frames_per_file", "camera.clips_per_file", "cache.shard_megabytes", "train.steps",
        "train.batch_size", "train.accumulation", "checkpoints.every", "checkpoints.keep",
        "validation.max_clips", "samples.steps",
    ),
}  # fmt: skip
"""Settings whose only rule is how small they may be."""


def _check_run(config: RunConfig) -> None:
    """Refuse what cannot work, before anything is loaded."""

    def require(condition: bool, key: str, value: Any, rule: str) -> None:
        if not condition:
            raise ValueError(f"{key} = {value!r}: {rule}")

    data, train, loss = config.data, config.train, config.objective
    require(
        bool(data.sources), "data.sources", list(data.sources), "name at least one source ([[data.sources]])."
    )
    for least, keys in AT_LEAST.items():
        for key in keys:
            section, name = key.split(".")
            value = getattr(getattr(config, section), name)
            require(value >= least, key, value, f"must be at least {least}.")
    for key, sources in (("data", data.sources), ("validation", config.validation.sources)):
        for index, source in enumerate(sources):
            where = f"{key}.sources.{index}"
            require(bool(source.path.strip()), f"{where}.path", source.path, "name a folder or a file.")
            require(source.repeats >= 1, f"{where}.repeats", source.repeats, "must be at least 1.")
    require(bool(data.resolutions), "data.resolutions", [], "name at least one, such as [[256, 256]].")
    require(
        re.fullmatch(r"[^/\\]+", config.name) is not None and config.name.strip(". ") != "",
        *("name", config.name, "must be a plain file name."),
    )
    require(bool(config.output.strip()), "output", config.output, "name the folder of the run.")
    for width, height in data.resolutions:
        ok = width > 0 and height > 0 and width % 8 == 0 and height % 8 == 0
        require(
            ok, "data.resolutions", [width, height], "sides must be multiples of 8 pixels (the VAE's factor)."
        )
    require(data.fps >= 0, "data.fps", data.fps, "must be positive, or 0 for every source frame.")
    require(
        re.fullmatch(r"#[0-9a-fA-F]{6}", data.background) is not None,
        "data.background",
        data.background,
        "write a colour as #rrggbb.",
    )
    flips = data.horizontal_flip and (config.stage == "motion_lora" or config.camera.direction)
    require(
        not flips,
        "data.horizontal_flip",
        True,
        "a mirrored clip moves the other way, so camera motion is never flipped.",
    )
    directions = ("", *DIRECTIONS)
    require(
        config.camera.direction in directions,
        "camera.direction",
        config.camera.direction,
        f"choose one of {', '.join(DIRECTIONS)}, or leave it empty.",
    )
    limit = 1.0 if config.camera.direction.startswith(("zoom", "pan")) else 4.0
    require(
        0 < config.camera.speed < limit,
        "camera.speed",
        config.camera.speed,
        f"must lie between 0 and {limit:g}.",
    )
    require(
        config.stage != "motion_lora" or bool(config.motion.file),
        "motion.file",
        "",
        "a MotionLoRA is trained on top of a motion module: name its file.",
    )
    require(
        config.stage != "domain_adapter" or not config.camera.direction,
        "camera.direction",
        config.camera.direction,
        "stage domain_adapter sees single frames.",
    )
    require(
        config.stage != "domain_adapter" or not config.base.domain_adapter,
        "base.domain_adapter",
        config.base.domain_adapter,
        "stage 1 makes the adapter; to go on with one, set lora.file.",
    )
    span = 1 if config.camera.direction else (config.frames - 1) * data.stride + 1
    require(
        span <= data.max_frames_per_file,
        "data.max_frames_per_file",
        data.max_frames_per_file,
        f"a clip of data.frames = {config.frames} with data.stride = {data.stride} spans {span} frames, "
        "so no file would have enough.",
    )
    samples = config.samples
    require(
        not samples.every or bool(samples.prompts or samples.prompt_file),
        "samples.every",
        samples.every,
        "there is nothing to render: write samples.prompts or samples.prompt_file.",
    )
    require(0 <= config.lora.dropout < 1, "lora.dropout", config.lora.dropout, "must lie in [0, 1).")
    known = ("to_q", "to_k", "to_v", "to_out.0")
    for target in config.lora.targets:
        require(target in known, "lora.targets", target, f"choose from {', '.join(known)}.")
    require(bool(config.lora.targets), "lora.targets", [], f"choose from {', '.join(known)}.")
    require(
        0 <= loss.caption_dropout <= 1,
        "objective.caption_dropout",
        loss.caption_dropout,
        "must lie in [0, 1].",
    )
    ordered = 0 <= loss.min_timestep <= loss.max_timestep <= 999
    require(
        ordered,
        "objective.min_timestep, max_timestep",
        (loss.min_timestep, loss.max_timestep),
        "must satisfy 0 <= min <= max <= 999.",
    )
    require(
        0 < loss.beta_start <= loss.beta_end < 1,
        "objective.beta_start, beta_end",
        (loss.beta_start, loss.beta_end),
        "must satisfy 0 < start <= end < 1.",
    )
    require(loss.timestep_shift > 0, "objective.timestep_shift", loss.timestep_shift, "must be positive.")
    require(
        loss.min_snr_gamma >= 0,
        "objective.min_snr_gamma",
        loss.min_snr_gamma,
        "must be positive, or 0 for off.",
    )
    require(
        loss.debiased == 0 or config.stage == "motion_lora",
        "objective.debiased",
        loss.debiased,
        "belongs to stage motion_lora.",
    )
    require(
        not train.shard or config.stage == "motion_module",
        "train.shard",
        train.shard,
        "belongs to stage motion_module: LoRA layers are too small to divide.",
    )
    require(
        not train.shard or train.precision != "fp16",
        "train.shard",
        train.shard,
        "goes with fp32 or bf16: the fp16 scaler looks at one process's part of the gradients.",
    )
    require(0 <= train.ema_decay < 1, "train.ema_decay", train.ema_decay, "must lie in [0, 1).")
    require(config.optimizer.lr > 0, "optimizer.lr", config.optimizer.lr, "must be positive.")
    ratio = config.optimizer.lora_plus_ratio
    require(ratio > 0, "optimizer.lora_plus_ratio", ratio, "must be positive.")
    require(
        0 <= config.validation.fraction < 1,
        "validation.fraction",
        config.validation.fraction,
        "must lie in [0, 1).",
    )
    bins = config.validation.bins
    require(1 <= bins <= 1000, "validation.bins", bins, "must lie in 1 to 1000, the number of timesteps.")


# --- from text to dataclasses -------------------------------------------------------------------------------


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a TOML file and apply overrides such as ``train.steps=10`` or ``data.sources.0.path=clips``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not TOML, an unknown key, or a value that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no configuration file {path}. Recipes to start from lie in training/recipes."
        )
    try:
        # Windows' Notepad puts a mark before the text.
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    for text in overrides:
        override(tree, text)
    return from_dict(tree)


def from_dict(tree: dict[str, Any]) -> RunConfig:
    """Build the configuration from plain data, as in a TOML file or in a run's record.

    Raises:
        ValueError: an unknown or missing key, a value of the wrong type or out of range.
    """
    return _build(RunConfig, tree, "")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain data that :func:`from_dict` and JSON understand."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no override. Write key=value, for example train.steps=100.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word or path: shells eat the quotes that TOML wants
    *parents, last = key.strip().split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        if not isinstance(node, dict | list):
            raise ValueError(f"{key}: {'.'.join(parents[:depth])} is a value, not a table.")
        node = node[_index(node, part, key)] if isinstance(node, list) else node.setdefault(part, {})
    if isinstance(node, list):
        node[_index(node, last, key)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise ValueError(f"{key}: {'.'.join(parents)} is a value, not a table.")


def _index(items: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ValueError(f"{key}: {part!r} is no place in a list of {len(items)}; count from 0.")
    return int(part)


def _build(kind: type, tree: Any, where: str) -> Any:
    """A dataclass from a table, recursively."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where or 'The configuration'} must be a table, got {tree!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown key {_join(where, key)!r}.{hint} Allowed here: {', '.join(fields)}.")
    for name, f in fields.items():
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in tree:
            raise ValueError(f"{_join(where, name)!r} is missing.")
    return kind(**{key: _convert(hints[key], value, _join(where, key)) for key, value in tree.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A value as its field wants it."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            allowed = ", ".join(map(repr, typing.get_args(hint)))
            raise ValueError(f"{where} = {value!r} is not possible; choose one of {allowed}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}.")
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis:
            return tuple(_convert(kinds[0], item, f"{where}.{i}") for i, item in enumerate(value))
        if len(kinds) != len(value):
            raise ValueError(f"{where} must have {len(kinds)} entries, got {value!r}.")
        return tuple(
            _convert(kind, item, f"{where}.{i}")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a table, got {value!r}.")
        return value
    if isinstance(hint, types.UnionType):
        raise TypeError(f"{where}: unions are not used in the configuration.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be finite, got {value!r}.")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be of type {hint.__name__}, got {value!r}.")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
