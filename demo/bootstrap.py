"""Enter ComfyUI as a library, by default on the CPU, and load this pack as ComfyUI would, for scripts.

Scripts run as files: their own folder is on the path, so `from bootstrap import enter` works from anywhere.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "animatediff_flipbook"


def enter(comfyui: Path | None = None, pytorch_attention: bool = True, cpu: bool = True) -> Path:
    """Put ComfyUI on the path, make `import comfy` work on the CPU, load the pack as `animatediff_flipbook`.

    comfyui: its folder; by default the variable COMFYUI_PATH, else the copy that `python run.py` unpacks.
    cpu: off, ComfyUI takes the GPU that it finds.
    Returns the folder. Raises FileNotFoundError if no ComfyUI is there. Call before anything imports comfy.
    """
    folder = Path(
        comfyui or os.environ.get("COMFYUI_PATH") or ROOT / ".flipbook" / "comfyui-0.3.75"
    ).resolve()
    if not (folder / "comfy").is_dir():
        raise FileNotFoundError(
            f"{folder} holds no ComfyUI. Run `python run.py demo` once, which gets one, or set COMFYUI_PATH."
        )
    # `nodes` is the name of our folder and of ComfyUI's module: our root must never be importable from
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.import_module("utils.extra_config")  # claims `utils` before ComfyUI's nodes.py shadows it
    args = importlib.import_module("comfy.cli_args").args
    args.cpu = cpu
    args.use_pytorch_cross_attention = pytorch_attention
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return folder
