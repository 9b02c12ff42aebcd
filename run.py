#!/usr/bin/env python3
"""The one door for people: everything this repository can do by itself, from an empty machine.

    python run.py demo                render the gallery through our nodes in a real ComfyUI, on the CPU
    python run.py evaluate [--json]   measure the trained tiny family by fresh samples through our nodes
    python run.py experiments quick   the paper's claims in miniature, trained and measured; also `full`
    python run.py test [pytest args]  run the test suite
    python run.py bench [args]        how fast full-size models are here, beside diffusers
    python run.py compatibility       what of another ComfyUI would break us, and the tests that depend on it
    python run.py comfyui [args]      open ComfyUI with this pack for hand use (args go to its main.py)
    python run.py paths               print one JSON object: python, comfyui, base_directory, pack

What: makes `.venv`, installs what the command needs, gets ComfyUI, links the pack into a base directory of
its own below `.flipbook`, then runs the command. A ComfyUI of yours gets its requirements in a layer of its
own over `.venv`: versions do not overwrite each other's packages, and torch is there once. Standard library
only, Python 3.10 or newer, any system.
How it does that is in `demo/setup`; an interrupted run needs no cleaning up.
Progress goes to stderr; stdout carries what was asked for, so `paths` can be piped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACK = "animatediff_flipbook"


def check_python(version: tuple[int, ...] = tuple(sys.version_info)) -> None:
    """Ends with a sentence if this Python is too old for ComfyUI and for us."""
    if tuple(version[:2]) < (3, 10):
        sys.exit(
            f"Stopped: This is Python {version[0]}.{version[1]}; 3.10 or newer is needed. Install one from "
            "python.org and start it by name, for example: python3.11 run.py demo"
        )


check_python()  # before it reads files that are written for newer ones
if PACK not in sys.modules:  # by its path, as ComfyUI loads it: none of our folders need be on sys.path
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])

from animatediff_flipbook.demo.setup import venv  # noqa: E402
from animatediff_flipbook.demo.setup.comfyui import comfyui_version  # noqa: E402
from animatediff_flipbook.demo.setup.prepare import prepare  # noqa: E402
from animatediff_flipbook.demo.setup.processes import run_here  # noqa: E402
from animatediff_flipbook.demo.setup.talk import Stop, say  # noqa: E402

# What stands on ComfyUI's code and not on ours alone.
HOST_TESTS = (
    *("tests/compatibility", "tests/nodes", "tests/motion_core/module"),
    *("tests/training/model", "tests/training/run/test_train.py"),
    *("tests/test_server.py", "tests/test_workflows.py", "tests/demo/test_server.py"),
)


def command_paths(options: argparse.Namespace, rest: list[str]) -> int:
    paths = prepare(options, extras=False)
    paths.pop("gpu")
    print(json.dumps(paths, indent=2))
    return 0


def run_script(script: str, options: argparse.Namespace, rest: list[str], extras: bool = False) -> int:
    paths = prepare(options, extras=extras)
    return run_here([paths["python"], str(ROOT / script), "--comfyui", paths["comfyui"], *rest])


def command_demo(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("demo/demo.py", options, rest)


def command_evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("demo/evaluate.py", options, rest)


def command_bench(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("bench/bench.py", options, rest, extras=True)


def command_experiments(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("experiments/experiments.py", options, rest, extras=True)


def command_test(options: argparse.Namespace, rest: list[str]) -> int:
    paths = prepare(options, extras=True)
    # -P (3.11+) keeps this folder off sys.path, where our `nodes` would hide ComfyUI's; tests/conftest.py
    # drops it for 3.10.
    safe = ["-P"] if (venv.version() or (0, 0)) >= (3, 11) else []
    # A test uses one core, so the whole suite runs in several processes. Chosen tests run in one, where -s
    # and --pdb work.
    rest = rest or ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"]
    return run_here([paths["python"], *safe, "-m", "pytest", *rest], {"COMFYUI_PATH": paths["comfyui"]})


def command_compatibility(options: argparse.Namespace, rest: list[str]) -> int:
    """First what can be read in a second or two, then the tests that depend on ComfyUI."""
    paths = prepare(options, extras=True)
    script = str(ROOT / "tests" / "compatibility" / "host_names.py")
    changed = run_here([paths["python"], script, "--comfyui", paths["comfyui"]])
    failed = command_test(options, [*rest, *HOST_TESTS])
    version = ".".join(map(str, comfyui_version(Path(paths["comfyui"])))) or "of unknown version"
    names, tests = ("changed" if changed else "as known"), ("failed" if failed else "passed")
    say(f"==> ComfyUI {version}: names {names}, tests {tests}")
    return changed or failed


def command_comfyui(options: argparse.Namespace, rest: list[str]) -> int:
    paths = prepare(options, extras=False)
    base = Path(paths["base_directory"])
    command = [paths["python"], str(Path(paths["comfyui"]) / "main.py"), "--base-directory", str(base)]
    if not any(argument.startswith("--database-url") for argument in rest):
        command += ["--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"]
    if not paths["gpu"] and "--cpu" not in rest:
        say("    torch sees no GPU here: starting on the CPU. For another build of torch see --torch-index.")
        command.append("--cpu")
    say(f"==> ComfyUI with models in {base / 'models'}; Ctrl-C stops it")
    return run_here([*command, *rest])


COMMANDS = {
    "demo": (command_demo, "render the gallery through our nodes in a real ComfyUI and print its path"),
    "evaluate": (command_evaluate, "measure the trained tiny family by fresh samples"),
    "experiments": (
        command_experiments,
        "train and measure the paper's claims in miniature: quick (minutes), full (hours), report",
    ),
    "test": (command_test, "run the test suite; what follows goes to pytest"),
    "bench": (command_bench, "measure full-size models on this machine, or --pack a folder to carry to one"),
    "compatibility": (
        command_compatibility,
        "read what another ComfyUI (--comfyui DIR) has changed, and run the tests that depend on it",
    ),
    "comfyui": (command_comfyui, "open ComfyUI with this pack; what follows goes to ComfyUI's main.py"),
    "paths": (command_paths, "print one JSON object: python, comfyui, base_directory, pack"),
}


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, before or after the command, and everything else in order for the command."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python run.py COMMAND [options] [arguments of the command]",
        description="AnimateDiff Flipbook: everything from an empty machine.\n\ncommands:\n"
        + "\n".join(f"  {name:<13} {text}" for name, (_, text) in COMMANDS.items()),
    )
    parser.add_argument("--comfyui", metavar="DIR", help="use this ComfyUI (also: COMFYUI_PATH)")
    parser.add_argument(
        "--torch",
        metavar="PAIR",
        help='another pair, such as "torch==X torchvision==Y" (also: FLIPBOOK_TORCH); remembered',
    )
    parser.add_argument(
        "--torch-index",
        metavar="URL",
        help="package index for torch (also: FLIPBOOK_TORCH_INDEX), remembered. The default build uses an "
        "NVIDIA GPU on Linux and the built-in one on a Mac; for a GPU on Windows, or an AMD or Intel GPU, "
        "give the index that pytorch.org/get-started names for it",
    )
    parser.add_argument(
        "--no-hashes",
        action="store_true",
        help="do not check packages by the hashes in locks/: for a package index that serves other builds",
    )
    options, rest = parser.parse_known_args(argv)
    command = next((argument for argument in rest if not argument.startswith("-")), None)
    if command not in COMMANDS or rest[0] != command:
        wrong = f"{rest[0]} is not a command. " if rest else ""
        parser.error(f"{wrong}Commands: {', '.join(COMMANDS)}.")
    options.command = command
    if command == "paths" and rest[1:]:
        parser.error(f"paths takes no arguments, got {' '.join(rest[1:])}")
    return options, rest[1:]


def main(argv: list[str]) -> int:
    """Exit status: the command's own; 1 when a step cannot be done, 2 for wrong usage, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end children in order, as Ctrl-C does
    try:
        options, rest = parse(argv)
        start = time.monotonic()
        status = COMMANDS[options.command][0](options, rest)
        say(f"==> {options.command}: {time.monotonic() - start:.1f} s in all")
        return status
    except Stop as reason:
        say(f"\nStopped: {reason}")
        return 1
    except KeyboardInterrupt:
        say("\nStopped by you. Run the same command again to go on; half-done steps are done anew.")
        return 130
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say(f"\nStopped: {place}{error.strerror or error}. This folder must be writable: {ROOT}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
