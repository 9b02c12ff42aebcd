"""Render our published workflows in a real ComfyUI, on a model family small enough for any CPU.

    python run.py demo [--prompt TEXT] [--seed N] [--gpu]

What: each `Render` of renders.py becomes a `Result`. The models are those of `demo/models` or, where none are
there yet, random ones of the same shape.
Runs with the Python of `.venv`; `run.py` starts it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from base_directory import prepare_base
from PIL import Image, ImageChops
from renders import RENDERS, Render, changed, fitted, load_workflow, with_text
from server import ComfyServer, PromptError

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "demo" / "models"
STATE = ROOT / ".flipbook" / "demo"

PACKS = {"animatediff-flipbook": ROOT, "tiny-family": ROOT / "demo" / "tiny_family"}


@dataclass(frozen=True)
class Result:
    """A finished render."""

    render: Render
    path: Path
    """The animated WEBP."""
    frames: int
    seconds: float
    """From the prompt to the saved file, without the start of the server."""


# --- models ---


def demo_models(comfyui: Path) -> dict[str, list[Path]]:
    """Model files by folder: the trained ones of `demo/models`, or random ones, written anew."""
    folders = ("checkpoints", "animatediff_models", "animatediff_motion_lora", "loras")
    models = {folder: sorted((MODELS / folder).glob("*.safetensors")) for folder in folders}
    if models["checkpoints"] and models["animatediff_models"]:
        return models
    print("==> Writing random models: expect moving patterns, not pictures", file=sys.stderr, flush=True)
    random = STATE / "random_models"
    script = str(ROOT / "demo" / "random_models.py")
    subprocess.run([sys.executable, script, "--comfyui", str(comfyui), "--output", str(random)], check=True)
    return {folder: sorted((random / folder).glob("*.safetensors")) for folder in models}


# --- rendering ---


def render_all(
    server: ComfyServer, renders: tuple[Render, ...], models: Mapping[str, list[Path]]
) -> list[Result]:
    """Render one after another. Raises PromptError, or ValueError if a result is no animation."""
    results = []
    for render in renders:
        print(f"==> Rendering {render.name}: {render.caption}", file=sys.stderr, flush=True)
        prompt = changed(fitted(load_workflow(render.workflow), models), render.changes)
        if render.prompt is not None:
            prompt = with_text(prompt, render.prompt)
        history = server.run(prompt, timeout=600, on_event=progress_printer(prompt))
        saved = [file for file in history.files if file.filename.endswith(".webp")]
        if not saved:
            raise ValueError(
                f"{render.workflow} saved no WEBP; it saved {[f.filename for f in history.files]}"
            )
        path = STATE / f"{render.name}.webp"
        temporary = path.with_suffix(".tmp")
        shutil.copyfile(saved[0].path, temporary)
        os.replace(temporary, path)
        results.append(Result(render, path, count_moving_frames(path), history.seconds))
    return results


def progress_printer(prompt: dict) -> Callable[[str, dict], None]:
    """For `ComfyServer.run`: sampling steps on stderr; one changing line on a terminal, else now and then."""
    terminal = sys.stderr.isatty()
    shown = time.monotonic()

    def show(kind: str, data: dict) -> None:
        nonlocal shown
        node = prompt.get(data.get("node"), {})
        if kind != "progress" or not node.get("class_type", "").startswith("KSampler"):
            return
        last, now = data["value"] == data["max"], time.monotonic()
        if not (last or terminal or now - shown > 5):
            return
        shown = now
        start, end = ("\r", "\n" if last else "") if terminal else ("", "\n")
        print(f"{start}    step {data['value']} of {data['max']}", end=end, file=sys.stderr, flush=True)

    return show


def count_moving_frames(path: Path) -> int:
    """Number of frames of an animation. Raises ValueError if there is one only, or if nothing moves."""
    with Image.open(path) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(image.convert("RGB"))
    if len(frames) < 2:
        raise ValueError(f"{path} holds one frame: the result is a picture and no animation")
    if not any(ImageChops.difference(frames[0], frame).getbbox() for frame in frames[1:]):
        raise ValueError(f"{path} holds {len(frames)} equal frames: nothing moves")
    return len(frames)


def main() -> int:
    """Exit status 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="run.py demo", description="Render the demo.")
    parser.add_argument("--comfyui", type=Path, required=True, help=argparse.SUPPRESS)  # run.py passes it
    parser.add_argument("--prompt", help="another text; the tiny models know shapes, colours and directions")
    parser.add_argument("--seed", type=int, help="another noise seed")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use its GPU instead of the CPU")
    options = parser.parse_args()

    renders = RENDERS
    if options.prompt is not None or options.seed is not None:
        seed = {} if options.seed is None else {"KSampler.seed": options.seed}
        renders = tuple(
            replace(render, prompt=options.prompt or render.prompt, changes={**render.changes, **seed})
            for render in renders
        )
    try:
        models = demo_models(options.comfyui)
        base = prepare_base(STATE / "base", PACKS, models)
        print("==> Starting ComfyUI with this pack", file=sys.stderr, flush=True)
        node = ("FlipbookApplyMotionModule",)
        with ComfyServer(options.comfyui, base, wait_for=node, cpu=not options.gpu) as server:
            results = render_all(server, renders, models)
    except PromptError as error:
        print(f"\nThe render failed ({error.kind}): {error}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    for result in results:
        print(f"{result.path}  ({result.frames} frames, {result.seconds:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
