"""What of ComfyUI we use, and what of that a given ComfyUI has changed: read from its files, nothing is run.

    python tests/compatibility/host_names.py --comfyui DIR            status 1 if something is to be looked at
    python tests/compatibility/host_names.py --comfyui DIR --record   write DIR's signatures as the known ones

Names that our code imports, subclasses or calls are looked up in DIR with their signatures. Reported are: a
name that is gone; a call of ours that no longer fits; an argument that is not in the recorded signature
(host_names.json, of the pinned version) and that nobody has read about and judged (reviewed.json, with the
reason; "passed in FILE: ..." counts only while that file of ours names the argument). Methods are found by
their names on the classes of HANDED_TO_US, whose objects ComfyUI gives us.

It takes a second or two, so that the next break is found by reading, before users find it.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KNOWN, REVIEWED = HERE / "host_names.json", HERE / "reviewed.json"
OURS = ("nodes", "training", "demo", "tests/support*.py", "tests/nodes/conftest.py", "__init__.py")
HOST = (
    *("comfy", "comfy_api", "comfy_execution", "comfy_extras"),
    *("execution", "folder_paths", "latent_preview", "nodes", "server", "utils"),
)
HANDED_TO_US = (
    "comfy.model_patcher.ModelPatcher",
    "comfy.model_base.BaseModel",
    "comfy.samplers.CFGGuider",
    "comfy.samplers.KSampler",
    "comfy.samplers.KSAMPLER",
    "comfy.controlnet.ControlBase",
    "comfy.conds.CONDRegular",
    "comfy.model_sampling.ModelSamplingDiscrete",
    "comfy.patcher_extension.WrapperExecutor",
    "comfy.sd.CLIP",
    "comfy.sd.VAE",
)


@dataclass
class Call:
    """One call of ours."""

    place: str
    positional: int
    keywords: tuple[str, ...]
    open: bool
    """Whether arguments are unpacked that cannot be counted here."""


@dataclass
class Use:
    """A name of ComfyUI in our code."""

    places: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


# -- our code --


def our_uses(root: Path = ROOT) -> dict[str, Use]:
    """Dotted names of ComfyUI's that our files use; methods as ``*.name``."""
    uses: dict[str, Use] = {}
    for pattern in OURS:
        for path in sorted((root / pattern).rglob("*.py") if "." not in pattern else root.glob(pattern)):
            _read_uses(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root).as_posix(), uses)
    return uses


def _read_uses(tree: ast.Module, file: str, uses: dict[str, Use]) -> None:
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in HOST:
                    bound[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
                    uses.setdefault(alias.name, Use()).places.append(f"{file}:{node.lineno}")
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in HOST:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                bound[alias.asname or alias.name] = name
                uses.setdefault(name, Use()).places.append(f"{file}:{node.lineno}")

    def dotted(node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return bound.get(node.id)
        if isinstance(node, ast.Attribute):
            before = dotted(node.value)
            return before and f"{before}.{node.attr}"
        return None

    bases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found = [name for name in map(dotted, node.bases) if name]
            for child in ast.walk(node):
                bases.setdefault(id(child), found)
            for method in node.body:
                if found and isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    for base in found:
                        uses.setdefault(f"{base}.{method.name}", Use()).places.append(
                            f"{file}:{method.lineno}"
                        )
        place = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute) and (name := dotted(node)):
            uses.setdefault(name, Use()).places.append(place)
        if isinstance(node, ast.Call):
            for name in _called(node.func, dotted, bases.get(id(node), [])):
                use = uses.setdefault(name, Use())
                use.places.append(place)
                use.calls.append(
                    Call(
                        place,
                        sum(not isinstance(a, ast.Starred) for a in node.args),
                        tuple(k.arg for k in node.keywords if k.arg),
                        any(isinstance(a, ast.Starred) for a in node.args)
                        or any(k.arg is None for k in node.keywords),
                    )
                )


def _called(function: ast.expr, dotted, bases: list[str]) -> list[str]:
    """What a call calls: a name, a method of our base class, or a method of somebody's."""
    if name := dotted(function):
        return [name]
    if not isinstance(function, ast.Attribute):
        return []
    above = function.value
    if isinstance(above, ast.Call) and getattr(above.func, "id", "") == "super":
        return [f"{base}.{function.attr}" for base in bases]
    return [f"*.{function.attr}"]


# -- a ComfyUI --


@dataclass(frozen=True)
class Signature:
    """Parameters without their types: ``(name, default or None)``."""

    plain: tuple[tuple[str, str | None], ...]
    named: tuple[tuple[str, str | None], ...]
    rest: bool
    named_rest: bool

    def listed(self) -> list[str]:
        """As it is recorded: one text per parameter."""
        texts = [n if d is None else f"{n}={d}" for n, d in self.plain]
        texts += ["*"] * (self.rest or bool(self.named))
        texts += [n if d is None else f"{n}={d}" for n, d in self.named]
        return texts + ["**"] * self.named_rest

    def misfit(self, call: Call, known: list[str]) -> str | None:
        """Why a call, made for a known signature, does not fit, if so."""
        names = {n for n, _ in (*self.plain, *self.named)}
        before = [text.partition("=")[0] for text in known[: call.positional]]
        for place, ((now, _), then) in enumerate(zip(self.plain, before, strict=False)):
            if now != then and then != "*":
                return f"argument {place + 1} is {now}, and was {then}"
        if call.positional > len(self.plain) and not self.rest:
            return f"{call.positional} arguments, and it takes {len(self.plain)}"
        if unknown := [k for k in call.keywords if k not in names and not self.named_rest]:
            return f"it does not know {', '.join(unknown)}"
        given = {n for n, _ in self.plain[: call.positional]} | set(call.keywords)
        missing = [n for n, d in (*self.plain, *self.named) if d is None and n not in given]
        return f"it wants {', '.join(missing)}" if missing and not call.open else None


class Tree:
    """The files of one ComfyUI."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019  # lives as long as the script
    def module(self, name: str) -> dict[str, ast.AST] | None:
        """Top-level names of a module, wherever in its conditions they stand."""
        path = self.folder.joinpath(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                body = ast.parse(file.read_text(encoding="utf-8")).body
                names = {}
                for node in body:
                    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                        names |= self.module(self._imported(node, "*", name).removesuffix(".*")) or {}
                return names | dict(_names(body))
        return {} if path.is_dir() else None

    def package(self, module: str) -> str:
        """The package that relative imports of a module start from."""
        is_package = (self.folder.joinpath(*module.split(".")) / "__init__.py").is_file()
        return module if is_package else module.rpartition(".")[0]

    def find(self, dotted: str, seen: frozenset[str] = frozenset()) -> tuple[str, ast.AST | None] | None:
        """(module, definition) of a name; (module, None) for a module or what cannot be followed; None where
        it is gone."""
        parts = dotted.split(".")
        size = next((n for n in range(len(parts), 0, -1) if self.module(".".join(parts[:n])) is not None), 0)
        if not size:
            return None
        module, rest = ".".join(parts[:size]), parts[size:]
        if not rest:
            return module, None
        node = self.module(module).get(rest[0])
        if node is None or dotted in seen:
            return None
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            target = self._imported(node, rest[0], module)
            if target.split(".")[0] not in HOST:
                return module, None  # a library's
            return self.find(".".join([target, *rest[1:]]), seen | {dotted})
        for name in rest[1:]:
            if not isinstance(node, ast.ClassDef):
                return module, None  # an object's attribute
            members = self.members(module, node)
            if members is None:
                return module, None
            if name not in members:
                return None
            module, node = members[name]
        return module, node

    def _imported(self, node: ast.Import | ast.ImportFrom, name: str, module: str) -> str:
        if isinstance(node, ast.Import):
            return next(a.name for a in node.names if (a.asname or a.name.split(".")[0]) == name)
        package = self.package(module).split(".")
        before = package[: len(package) - node.level + 1] if node.level else []
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        return ".".join([*before, *([node.module] if node.module else []), original])

    @functools.cache  # noqa: B019
    def members(self, module: str, owner: ast.ClassDef) -> dict[str, tuple[str, ast.AST]] | None:
        """A class's own and inherited members; None if a library's class is among its bases, which may have
        anything."""
        found: dict[str, tuple[str, ast.AST]] = {}
        for base in reversed(owner.bases):
            place, node = self.find(f"{module}.{ast.unparse(base)}") or (module, None)
            if isinstance(node, ast.ClassDef):
                inherited = self.members(place, node)
                if inherited is None:
                    return None
                found |= inherited
            elif ast.unparse(base) not in ("ABC", "object"):
                return None
        for child in ast.walk(owner):
            if isinstance(child, (ast.Assign, ast.AnnAssign)):
                for target in child.targets if isinstance(child, ast.Assign) else [child.target]:
                    if isinstance(target, ast.Attribute):
                        found[target.attr] = (module, child)
        return found | {name: (module, node) for name, node in _names(owner.body)}

    def signature(self, module: str, node: ast.AST | None) -> Signature | None:
        """How it is called; None where that cannot be read."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return _signature(node)
        if isinstance(node, ast.ClassDef):
            made = (self.members(module, node) or {}).get("__init__")
            if made and isinstance(made[1], ast.FunctionDef):
                return _signature(made[1])
            fields = [
                (n, "..." if v.value else None) for n, v in _names(node.body) if isinstance(v, ast.AnnAssign)
            ]
            if fields and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                return Signature(tuple(fields), (), False, False)
        return None


def _names(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (
                    alias.asname
                    or (alias.name.split(".")[0] if isinstance(node, ast.Import) else alias.name),
                    node,
                )
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name):
                        yield name.id, node
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            inner = [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            for handler in getattr(node, "handlers", []):
                inner += handler.body
            yield from _names(inner)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + [ast.unparse(d) for d in arguments.defaults]
    pairs = [(a.arg, d) for a, d in zip(plain, defaults, strict=True)]
    if pairs and pairs[0][0] in ("self", "cls"):
        pairs = pairs[1:]
    named = [
        (a.arg, None if d is None else ast.unparse(d))
        for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return Signature(tuple(pairs), tuple(named), bool(arguments.vararg), bool(arguments.kwarg))


# -- comparing --


def resolved(uses: dict[str, Use], tree: Tree) -> dict[str, Use]:
    """Uses with methods named by the class of ComfyUI's that has them."""
    result = {name: use for name, use in uses.items() if not name.startswith("*.")}
    for name, use in uses.items():
        if name.startswith("*."):
            for owner in HANDED_TO_US:
                found = tree.find(f"{owner}{name[1:]}")
                if found and isinstance(found[1], ast.FunctionDef) and f"{owner}{name[1:]}" not in result:
                    # Whose method is called cannot be told, so only the signature counts.
                    result[f"{owner}{name[1:]}"] = Use(use.places)
    return result


def record(tree: Tree, uses: dict[str, Use]) -> dict[str, list[str] | None]:
    """name -> parameters in a tree; None for what cannot be called, no entry for what is not there."""
    known = {}
    for name in sorted(uses):
        if (found := tree.find(name)) is not None:
            signature = tree.signature(*found)
            known[name] = signature and signature.listed()
    return known


def _holds(judgement: str | None, argument: str, root: Path) -> bool:
    """Whether somebody has judged an argument, and what was said of our code is still so."""
    if judgement is None or not judgement.startswith("passed in "):
        return judgement is not None
    file = root / judgement.removeprefix("passed in ").partition(":")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(
        (isinstance(node, ast.keyword) and node.arg == argument)
        or (isinstance(node, ast.Constant) and node.value == argument)
        for node in ast.walk(tree)
    )


def differences(
    tree: Tree, uses: dict[str, Use], known: dict, reviewed: dict, root: Path = ROOT
) -> list[str]:
    """Sentences about what a tree has changed and nobody has looked at. ``root``: where our code is."""
    said = []
    for name, use in sorted(uses.items()):
        if name not in known:
            continue  # the pinned version has no such name: our code asks before it uses it
        place, judged = f" ({use.places[0]})", {**reviewed.get("*", {}), **reviewed.get(name, {})}
        found = tree.find(name)
        if found is None:
            said += [] if "gone" in judged else [f"{name} is gone{place}"]
            continue
        signature, before = tree.signature(*found), known[name]
        if signature is None or before is None:
            if (signature is None) != (before is None) and "kind" not in judged:
                said.append(f"{name} is of another kind: its arguments could be read on one side only{place}")
            continue
        for call in use.calls:
            if why := signature.misfit(call, before):
                said.append(f"{name}: a call does not fit, {why} ({call.place})")
        now = signature.listed()
        for text in (*(t for t in now if t not in before), *(t for t in before if t not in now)):
            argument = text.partition("=")[0]
            if not _holds(judged.get(argument), argument, root):
                said.append(f"{name}: {'new' if text in now else 'no longer'}: {text}{place}")
    return said


def main() -> int:
    """Exit status 1 if something has changed that nobody has looked at."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="folder with ComfyUI's main.py")
    parser.add_argument("--record", action="store_true", help="write its signatures as the known ones")
    options = parser.parse_args()
    tree, uses = Tree(options.comfyui), our_uses()
    if options.record:
        text = json.dumps(record(tree, resolved(uses, tree)), indent=1) + "\n"
        KNOWN.write_text(text, encoding="utf-8")
        return 0
    known = json.loads(KNOWN.read_text(encoding="utf-8"))
    for name in known:  # methods of the pinned version that another may have lost
        owner, _, method = name.rpartition(".")
        if owner in HANDED_TO_US and f"*.{method}" in uses:
            uses.setdefault(name, Use(uses[f"*.{method}"].places))
    said = differences(tree, resolved(uses, tree), known, json.loads(REVIEWED.read_text(encoding="utf-8")))
    print("\n".join([*said, f"{len(known)} names of ComfyUI looked at, {len(said)} changes to look into"]))
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
