"""The trainer's command line: ``python -m animatediff_flipbook.training COMMAND ...`` or ``flipbook-train``.

train  CONFIG.toml [key=value ...] [--resume]     cache what is missing, train, export
cache  CONFIG.toml [key=value ...]                only encode latents and captions
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

# Before torch starts its threads: on a machine with other work, threads that spin while they wait cost many
# times more.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from . import config as configuration
from .report import setup_logging

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    setup_logging(main=int(os.environ.get("RANK", "0")) == 0)
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


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
    return parser


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
    from .train import train

    result = train(configuration.load(options.config, options.overrides), resume=options.resume)
    return 0 if result.file else 3


def _cache(options: argparse.Namespace) -> int:
    from .train import fill_cache, make_accelerator

    config = configuration.load(options.config, options.overrides)
    encodings, files, held = fill_cache(config, make_accelerator(config))
    tracks = encodings.tracks([*files, *held])
    log.info("The cache is complete: %d tracks of %d files", len(tracks), len(files) + len(held))
    return 0


if __name__ == "__main__":
    sys.exit(main())
