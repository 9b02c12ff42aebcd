"""Shared set-up: a real ComfyUI on the path and this pack loaded as ComfyUI loads it. On the CPU, unless
FLIPBOOK_TEST_DEVICE=gpu lets ComfyUI take the GPU that it finds (docs/gpu.md)."""

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest

# Tiny tensors: a second thread costs more than it gives, above all beside other busy processes. Set before
# torch is imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
PACK = "animatediff_flipbook"

# `nodes` is the name of our folder and of ComfyUI's module: our root must never be importable from.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]


def comfyui_folder() -> Path:
    """The ComfyUI under test: COMFYUI_PATH, else the pinned copy that `python run.py` unpacks."""
    folder = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".flipbook" / "comfyui-0.3.75")
    if not (folder / "comfy").is_dir():
        raise FileNotFoundError(
            f"{folder} holds no ComfyUI. Run the suite with `python run.py test`, which fetches one, "
            "or set COMFYUI_PATH."
        )
    return folder.resolve()


def _enter_comfyui() -> None:
    """Make `comfy` importable, with a GPU or without; done once, before any test module imports it."""
    sys.path.insert(0, str(comfyui_folder()))
    import utils.extra_config  # noqa: F401  # claims the name `utils` before ComfyUI's nodes.py shadows it
    from comfy.cli_args import args

    args.cpu = os.environ.get("FLIPBOOK_TEST_DEVICE", "cpu") == "cpu"


def _load_pack() -> None:
    """Load the pack by its path, as ComfyUI's custom node loader does."""
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


_enter_comfyui()
_load_pack()


@pytest.fixture(autouse=True)
def levels_of_loggers():
    """Put back what a command that a test runs here has set: the next test may wait for a message."""
    names = {PACK, *(name for name in logging.root.manager.loggerDict if name.startswith(PACK))}
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


class ModelFolders:
    """ComfyUI's model folders, for one test, in a place of their own."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import folder_paths
        from animatediff_flipbook.nodes.paths import EXTENSIONS

        self.base = base
        for name in ("animatediff_models", "animatediff_motion_lora", "loras", "controlnet"):
            (base / name).mkdir(parents=True)
            places = ([str(base / name)], set(EXTENSIONS))
            monkeypatch.setitem(folder_paths.folder_names_and_paths, name, places)

    def __getitem__(self, folder: str) -> Path:
        return self.base / folder

    def add(self, folder: str, file: Path, name: str | None = None) -> str:
        """Show a file in a folder; returns the name that a node's list has for it."""
        place = self.base / folder / (name or file.name)
        place.symlink_to(file)
        return place.name


@pytest.fixture
def model_folders(tmp_path, monkeypatch) -> ModelFolders:
    """Empty model folders."""
    return ModelFolders(tmp_path / "models", monkeypatch)
