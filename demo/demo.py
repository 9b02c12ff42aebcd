"""Render our published workflows in a real ComfyUI, on a model family small enough for any CPU.

    python run.py demo [--fresh] [--prompt TEXT] [--seed N] [--gpu] [--hero FILE] [--thumbnails DIR]

What: each `Render` of renders.py becomes an animated WEBP on a page. A second run makes the first one anew
and keeps the others, as long as nothing that they were made of has changed. With a prompt or seed of the
user's only the first one is made.
`--thumbnails workflows` makes every picture of the template browser anew, after the models have changed.
The models are those of `demo/models`; where none are there yet, random ones of the same shape stand in.
Runs with the Python of `.venv`; `run.py` starts it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from base_directory import prepare_base
from gallery import count_moving_frames, write_page, write_strip, write_thumbnail
from renders import FILES, RENDERS, THUMBNAILS, Render, Result, prompt_of
from server import ComfyServer, PromptError
from thumbnails import draw_thumbnails

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "demo" / "models"
STATE = ROOT / ".flipbook" / "demo"

TRAINED = (
    "Made by a real ComfyUI with this pack on a CPU, through the published workflows. The models are tiny "
    "ones, trained by this repository on a world of moving shapes."
)
RANDOM = (
    "Made by a real ComfyUI with this pack on a CPU, through the published workflow. There are models with "
    "random weights among those used: the picture means nothing; it shows that everything works together."
)
PACKS = {"animatediff-flipbook": ROOT, "tiny-family": ROOT / "demo" / "tiny_family"}


# --- models ---


def demo_models(comfyui: Path) -> tuple[dict[str, list[Path]], bool]:
    """Model files by folder: those of `demo/models`, else random ones; and whether all are trained."""
    models = {folder: sorted((MODELS / folder).glob("*.safetensors")) for folder in set(FILES.values())}
    if models["checkpoints"] and models["animatediff_models"]:
        return models, True
    print("==> Writing random models: expect moving patterns, not pictures", file=sys.stderr, flush=True)
    random = STATE / "random_models"
    script = str(ROOT / "demo" / "random_models.py")
    subprocess.run([sys.executable, script, "--comfyui", str(comfyui), "--output", str(random)], check=True)
    return {k: found or sorted((random / k).glob("*.safetensors")) for k, found in models.items()}, False


# --- rendering ---


def parts_of(models: Mapping[str, list[Path]], comfyui: Path) -> str:
    """Digest of what all renders are made of: model files, our code and the tiny family's, ComfyUI."""
    files = [path for folder in sorted(models) for path in models[folder]]
    for folder in ("nodes", "motion_core", "demo/tiny_family"):
        files += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".py", ".txt")]
    files += [path for path in [comfyui / "comfyui_version.py"] if path.exists()]
    digest = hashlib.sha256(str(comfyui).encode())
    for path in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def recipe_of(prompt: dict, parts: str) -> str:
    """Digest of all that one render is made of: graph and values, and the parts."""
    return hashlib.sha256(json.dumps([prompt, parts], sort_keys=True).encode()).hexdigest()


def render_all(
    server: ComfyServer, renders: Sequence[Render], models: Mapping[str, list[Path]], fresh: bool
) -> list[Result]:
    """Render one after another, printing each path as it is written; a render without its model is left out.

    fresh: make all anew. Otherwise that is done with the first one and with those made of other parts.
    Raises PromptError, or ValueError if a result is no animation.
    """
    results, parts = [], parts_of(models, server.comfyui)
    for number, render in enumerate(renders, start=1):
        try:
            prompt = prompt_of(render, models)
        except LookupError as missing:
            print(f"==> Leaving {render.name} out: {missing}", file=sys.stderr, flush=True)
            continue
        path = STATE / f"{render.name}.webp"
        facts, recipe = path.with_suffix(".json"), recipe_of(prompt, parts)
        kept = _facts_of(path, facts)
        if not fresh and number > 1 and kept and kept["recipe"] == recipe:
            results.append(Result(render, path, kept["frames"], kept["seconds"]))
            print(f"{path}  (kept from an earlier run)", flush=True)
            continue
        title = f"==> Rendering {number} of {len(renders)}, {render.name}: {render.caption}"
        print(title, file=sys.stderr, flush=True)
        history = server.run(prompt, timeout=600, on_event=progress_printer(prompt))
        saved = [file for file in history.files if file.filename.endswith(".webp")]
        if not saved:
            names = [file.filename for file in history.files]
            raise ValueError(f"{render.workflow} saved no WEBP; it saved {names}")
        facts.unlink(missing_ok=True)
        temporary = path.with_suffix(".tmp")
        shutil.copyfile(saved[0].path, temporary)
        os.replace(temporary, path)
        result = Result(render, path, count_moving_frames(path), history.seconds)
        facts.write_text(
            json.dumps({"recipe": recipe, "frames": result.frames, "seconds": result.seconds}), "utf-8"
        )
        print(f"{path}  ({result.frames} frames, {result.seconds:.1f} s)", flush=True)
        results.append(result)
    return results


def _facts_of(path: Path, facts: Path) -> dict | None:
    """What is noted beside a picture of an earlier run; None if either is missing or damaged."""
    if not path.exists() or not facts.exists():
        return None
    try:
        noted = json.loads(facts.read_text("utf-8"))
    except ValueError:
        return None
    known = isinstance(noted, dict) and {"recipe", "frames", "seconds"} <= noted.keys()
    return noted if known else None


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


def main() -> int:
    """Exit status 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="run.py demo", description="Render the demo.")
    parser.add_argument("--comfyui", type=Path, required=True, help=argparse.SUPPRESS)  # run.py passes it
    parser.add_argument("--fresh", action="store_true", help="keep nothing of earlier runs")
    parser.add_argument("--prompt", help="another text; the tiny models know shapes, colours and directions")
    parser.add_argument("--seed", type=int, help="another noise seed")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use its GPU instead of the CPU")
    parser.add_argument(
        "--hero",
        type=Path,
        metavar="FILE",
        help="also write the first row side by side (the README's picture); with --prompt or --seed, the one",
    )
    parser.add_argument(
        "--thumbnails",
        type=Path,
        metavar="DIR",
        help="also write a picture for each workflow, as ComfyUI's template browser wants it there",
    )
    options = parser.parse_args()
    try:
        models, trained = demo_models(options.comfyui)
        renders = chosen_renders(options, trained)
        base = prepare_base(STATE / "base", PACKS, models)
        print("==> Starting ComfyUI with this pack", file=sys.stderr, flush=True)
        with ComfyServer(
            options.comfyui,
            base,
            wait_for=("FlipbookApplyMotionModule",),
            cpu=not options.gpu,
            # ComfyUI's own choice for a CPU, sub-quadratic attention, is the slower one at this size
            extra_args=() if options.gpu else ("--use-pytorch-cross-attention",),
        ) as server:
            results = render_all(server, renders, models, options.fresh)
            if options.thumbnails:
                more = render_all(server, THUMBNAILS, models, options.fresh) if trained else []
        page = STATE / "index.html"
        write_page(results, page, TRAINED if trained else RANDOM)
        print(f"{page}  ({len(results)} animations)", flush=True)
        if options.hero:
            row = [r.path for r in results if r.render.section == results[0].render.section]
            write_strip(row, options.hero)
        if options.thumbnails:
            for workflow, path in {r.render.workflow: r.path for r in (*results, *more)}.items():
                write_thumbnail(path, options.thumbnails / f"{workflow}.jpg")
            draw_thumbnails(options.thumbnails)
    except PromptError as error:
        print(f"\nThe render failed ({error.kind}): {error}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def chosen_renders(options: argparse.Namespace, trained: bool) -> tuple[Render, ...]:
    """All; a prompt or seed of the user's, or random models, are worth one."""
    renders = RENDERS if trained and options.prompt is None and options.seed is None else RENDERS[:1]
    if options.prompt is not None:
        renders = tuple(replace(render, prompt=options.prompt, caption=options.prompt) for render in renders)
    if options.seed is not None:
        renders = tuple(replace(render, seed=options.seed) for render in renders)
    return renders


if __name__ == "__main__":
    sys.exit(main())
