"""The trainer's command line: ``python -m animatediff_flipbook.training COMMAND ...`` or ``flipbook-train``.

train  CONFIG.toml [key=value ...] [--resume]     cache what is missing, train, export
cache  CONFIG.toml [key=value ...]                only encode latents and captions
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Before torch starts its threads: on a machine with other work, threads that spin while they wait cost many
# times more.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from . import config as configuration
from .run.report import printable, setup_logging
from .run.stopping import Interrupted, kept_when_stopped

log = logging.getLogger(f"{__package__}.command")  # __name__ is no part of the package when it is run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no second group of positional arguments after an option.
    if any(text.startswith("-") or not hasattr(options, "overrides") for text in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    setup_logging(main=int(os.environ.get("RANK", "0")) == 0)
    try:
        with _terminated_as_interrupted():
            return options.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        return 1
    except Interrupted:
        print("Stopped. What was finished is kept: the same command goes on from there.", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does, so that whoever holds finished work writes it down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    kept = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flipbook-train", description="Train domain adapters, motion modules and MotionLoRAs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = _command(commands, "train", _train, "cache what is missing, train, export")
    train.add_argument(
        "--resume", action="store_true", help="go on from the newest complete state in the output folder"
    )
    _command(commands, "cache", _cache, "only encode latents and captions")
    sampling = _command(commands, "sample", _sample, "render clips with a run's newest weights")
    sampling.add_argument("--prompt", action="append", default=[], help="once for each clip")
    sampling.add_argument("--out", default="", help="folder of the clips; by default in the run's folder")
    _command(commands, "evaluate", _evaluate, "loss on held-out clips by range of timesteps, as JSON")
    text = "write a motion module or LoRA of any layout in the original one, or in diffusers'"
    converting = commands.add_parser("convert", help=text, description=text)
    converting.add_argument("source", help="file to read")
    converting.add_argument(
        "target",
        help="file to write: .safetensors, or .ckpt for the original repository; for diffusers a folder",
    )
    converting.add_argument(
        "--layout", choices=("original", "diffusers"), default="original", help="of a motion module"
    )
    converting.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights")
    converting.set_defaults(run=_convert)
    _weights_commands(commands)
    return parser


def _weights_commands(commands) -> None:
    def add(name: str, text: str, run, *files: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        for file in files:
            one.add_argument(file)
        if files != ("file",):
            one.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights")
        one.set_defaults(run=run)
        return one

    merging = add("merge", "put a MotionLoRA into a module's weights", _merge, "module", "lora", "target")
    merging.add_argument("--strength", type=float, default=1.0)
    blending = add("blend", "mix two motion modules", _blend, "module", "other", "target")
    blending.add_argument("--weight", type=float, default=0.5, help="share of the second, 0 to 1")
    blending.add_argument("--block", action="append", default=[], help='such as "up_blocks.1: 0.3"')
    text = "write the difference of two modules as a MotionLoRA"
    extracting = add("extract", text, _extract, "module", "tuned", "target")
    extracting.add_argument("--rank", type=int, default=32)
    extracting.add_argument("--attention-only", action="store_true", help="leave the other linear layers")
    add("inspect", "tell what a motion module or LoRA is made of", _inspect, "file")


def _command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("config", help="TOML file; recipes lie in training/recipes")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings in place of the file's, such as train.steps=100",
    )
    parser.set_defaults(run=run)
    return parser


def _train(options: argparse.Namespace) -> int:
    from .run.train import train

    config = configuration.load(options.config, options.overrides)
    result = train(config, resume=options.resume)
    as_asked = result.file or 0 < config.train.stop_at <= result.steps
    return 0 if as_asked else 3


def _cache(options: argparse.Namespace) -> int:
    from .run.engine import make_accelerator
    from .run.prepare import fill_cache

    config = configuration.load(options.config, options.overrides)
    with kept_when_stopped():
        encodings, files, held = fill_cache(config, make_accelerator(config))
    tracks = encodings.tracks([*files, *held])
    log.info("The cache is complete: %d tracks of %d files", len(tracks), len(files) + len(held))
    return 0


def _sample(options: argparse.Namespace) -> int:
    from .commands import sample
    from .data.encode import sample_prompts

    config = configuration.load(options.config, options.overrides)
    folder = Path(options.out or Path(config.output) / "samples")
    for path in sample(config, options.prompt or sample_prompts(config), folder):
        print(path)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .commands import evaluate

    print(json.dumps(evaluate(configuration.load(options.config, options.overrides))))
    return 0


def _convert(options: argparse.Namespace) -> int:
    from .commands import convert

    done = convert(Path(options.source), Path(options.target), options.dtype, options.layout)
    print(f"{options.target}: {done}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from .weights_commands import merged

    files = (Path(name) for name in (options.module, options.lora, options.target))
    return _told(merged(*files, options.strength, options.dtype))


def _blend(options: argparse.Namespace) -> int:
    from .weights_commands import blended

    files = (Path(name) for name in (options.module, options.other, options.target))
    return _told(blended(*files, options.weight, options.block, options.dtype))


def _extract(options: argparse.Namespace) -> int:
    from .weights_commands import extracted

    files = (Path(name) for name in (options.module, options.tuned, options.target))
    return _told(extracted(*files, options.rank, options.attention_only, options.dtype))


def _inspect(options: argparse.Namespace) -> int:
    from .weights_commands import inspected

    return _told(inspected(Path(options.file)))


def _told(lines: list[str]) -> int:
    for line in lines:
        print(printable(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
