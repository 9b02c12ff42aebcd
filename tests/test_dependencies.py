"""nodes -> motion_core <- training, and graphs by itself: who may import whom, told from syntax trees."""

import ast
import graphlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE_MAY = {"torch", "einops", "safetensors"}
HOST = {
    "comfy",
    "comfy_api",
    "folder_paths",
    "nodes",
    "execution",
    "server",
    "comfy_extras",
    "latent_preview",
}


def imports(file: Path):
    """(module, level of relativity, inside a function) of every import."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inner = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0, node in inner
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield name, node.level, node in inner


def files(folder: str):
    return sorted((ROOT / folder).rglob("*.py"))


def short(file: Path) -> str:
    """A file's place in the repository, as a test's name."""
    return file.relative_to(ROOT).as_posix()


def room(file: Path, level: int, name: str) -> str:
    """Top-level package that a relative import reaches, "" for the pack's root."""
    place = file.relative_to(ROOT).parts[: -level or None]
    return (*place, *name.split("."))[0]


@pytest.mark.parametrize("file", files("motion_core"), ids=short)
def test_motion_core_knows_torch_and_itself(file):
    for name, level, _ in imports(file):
        top = name.split(".")[0]
        if level:
            assert room(file, level, name) == "motion_core", f"{file.name} reaches out: {name}"
        else:
            assert top in CORE_MAY | set(sys.stdlib_module_names), f"{file.name} imports {name}"


@pytest.mark.parametrize("file", files("training"), ids=short)
def test_training_never_imports_nodes_and_comfy_in_three_files_only(file):
    for name, level, _ in imports(file):
        assert not level or room(file, level, name) != "nodes", f"{file.name} imports our nodes"
        if not level and file.name not in ("base_model.py", "host.py", "loaded.py"):
            assert name.split(".")[0] not in HOST, f"{file.name} imports {name}"


@pytest.mark.parametrize("file", files("nodes"), ids=short)
def test_nodes_import_training_only_inside_a_function(file):
    for name, level, inside in imports(file):
        top = name.split(".")[0]
        if (level and room(file, level, name) == "training") or top in ("peft", "accelerate", "tensorboard"):
            assert inside, f"{file.name} imports {name} at the top: its extras may be missing"


@pytest.mark.parametrize(
    "file", [*files("graphs"), *files("motion_core"), *files("nodes"), *files("training")], ids=short
)
def test_imports_within_the_pack_are_relative_and_nothing_is_evaluated(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for name, level, _ in imports(file):
        assert level or name.split(".")[0] not in ("animatediff_flipbook", "motion_core", "training")
        assert name.split(".")[0] not in ("cloudpickle", "dill")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{file.name}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{file.name}:{node.lineno} catches everything"
        if isinstance(node, ast.ImportFrom):
            assert not any(alias.name == "*" for alias in node.names)
        if isinstance(node, ast.ClassDef):
            bases = {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
            assert "ModelPatcher" not in bases


@pytest.mark.parametrize("file", files("graphs"), ids=short)
def test_graphs_are_pure_data(file):
    for name, level, inside in imports(file):
        top = name.split(".")[0]
        if level:
            assert room(file, level, name) == "graphs", f"{file.name} reaches out: {name}"
        else:
            picture = top == "PIL" and inside  # ComfyUI installs it; only pictures need it
            assert picture or top in sys.stdlib_module_names, f"{file.name} imports {name}"


def file_of(module: Path) -> Path | None:
    """The file behind a module's place, None where there is none."""
    return next((f for f in (module.with_suffix(".py"), module / "__init__.py") if f.is_file()), None)


def reached(file: Path) -> set[Path]:
    """Files that a file imports by relative imports, also in functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = file.parents[node.level - 1].joinpath(*filter(None, (node.module or "").split(".")))
            found |= {file_of(place / alias.name) or file_of(place) for alias in node.names}
    return found - {file, None}


def test_no_files_import_each_other_in_a_circle():
    everything = [ROOT / "__init__.py"]
    for folder in ("graphs", "motion_core", "nodes", "training", "demo", "bench", "experiments"):
        everything += files(folder)
    imports = {file: reached(file) for file in everything}
    assert sum(map(len, imports.values())) > 500, "they were not found"
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" -> ".join(str(file.relative_to(ROOT)) for file in circle.args[1]))


def in_a_clean_process(code: str, tmp_path: Path) -> list[str]:
    """Top-level modules that ``code`` brings in, with the pack loaded by its path."""
    script = f"""
import importlib.util, json, sys
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("pack", {str(ROOT / "__init__.py")!r},
                                              submodule_search_locations=[{str(ROOT)!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_root_imports_without_comfyui_and_costs_nothing(tmp_path):
    modules = in_a_clean_process("", tmp_path)
    assert not [m for m in modules if m.split(".")[0] in {"torch", "comfy", "numpy", "peft", "accelerate"}]


def test_motion_core_imports_without_comfyui(tmp_path):
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files("motion_core")
        if file.stem != "__init__"
    ]
    code = "import importlib\n" + "\n".join(f"importlib.import_module('pack.{name}')" for name in names)
    tops = {m.split(".")[0] for m in in_a_clean_process(code, tmp_path)}
    assert not tops & {"comfy", "peft", "accelerate", "diffusers", "transformers"}


def test_published_archive_holds_the_pack_and_nothing_beside():
    """`comfy node publish` packs what git tracks, less what .comfyignore names."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout")

    def listed(*arguments):
        return set(subprocess.check_output([git, "ls-files", *arguments], cwd=ROOT, text=True).splitlines())

    kept = listed("--cached") - listed("--cached", "--ignored", "--exclude-from=.comfyignore")
    rooms = {name.split("/")[0] for name in kept if "/" in name}
    assert rooms >= {"motion_core", "nodes", "training", "web", "workflows", "docs", "locales"}
    assert not rooms & {"tests", "demo", "bench", "experiments", "words", "locks", ".ci"}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"} <= kept
    assert not [name for name in kept if name.endswith((".safetensors", ".ckpt", ".pth"))]
    assert sum((ROOT / name).stat().st_size for name in kept) < 8 * 2**20
