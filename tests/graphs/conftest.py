"""The tests' own helpers are importable, whatever the import mode."""

import importlib.util
import sys
from pathlib import Path

if "support_graphs" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "support_graphs", Path(__file__).parent / "support_graphs.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["support_graphs"] = module
    spec.loader.exec_module(module)
