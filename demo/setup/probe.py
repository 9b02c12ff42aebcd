"""Runs inside an environment: is what its stamps promise really there? Prints JSON: what is broken, by step.

    python -I probe.py '{"distributions": {STEP: [...]}, "modules": {STEP: [...]}, "editable": [...]}'

A distribution counts if its metadata and its top-level Python files exist; torch and friends must import,
which finds a broken binary as well.
"""

import importlib
import importlib.metadata as metadata
import importlib.util
import json
import sys

wanted = json.loads(sys.argv[1])
broken = {}


def look(step, name):
    """Note a distribution that is not whole."""
    try:
        files = metadata.distribution(name).files
    except metadata.PackageNotFoundError:
        files = None
    if files is None or any(
        len(f.parts) <= 2 and f.suffix == ".py" and not f.locate().exists() for f in files
    ):
        broken.setdefault(step, []).append(name)


for step, names in wanted["distributions"].items():
    for name in names:
        look(step, name)
for step, modules in wanted["modules"].items():
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            broken.setdefault(step, []).append(f"{module} ({type(error).__name__}: {error})")
if wanted["editable"]:
    step, name, module, root = wanted["editable"]
    look(step, name)
    spec = importlib.util.find_spec(module)
    if not spec or root not in (spec.submodule_search_locations or ()):
        broken.setdefault(step, []).append(module)
    if step not in broken:
        from pip._vendor.packaging.requirements import Requirement

        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            marker = needed.marker  # some are for older Pythons only
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("train", "dev")):
                look(step, needed.name)
torch = sys.modules.get("torch")
gpu = bool(torch) and (
    torch.cuda.is_available()
    or torch.backends.mps.is_available()
    or (hasattr(torch, "xpu") and torch.xpu.is_available())
)
print(json.dumps({"broken": broken, "gpu": gpu, "python": sys.version_info[:2]}))
