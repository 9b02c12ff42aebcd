"""What the pack adds to the start of a server, and which packages it brings in.

    python tests/benchmarks/import_time.py [--repeats 5]

Each repeat is a fresh process in which ComfyUI with its own nodes is already loaded; then ComfyUI's loader
loads the pack. Prints the processor time of the fastest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

PROBE = """
import asyncio, sys, time
sys.path.insert(0, sys.argv.pop(1))
import utils.extra_config
from comfy.cli_args import args
args.cpu = True
import execution, server, nodes
asyncio.run(nodes.init_builtin_extra_nodes())
pack = sys.argv.pop(1)
before = set(sys.modules)
start = time.process_time()
assert asyncio.run(nodes.load_custom_node(pack))
seconds = time.process_time() - start
packages = {name.split(".")[0] for name in set(sys.modules) - before}
print("\\n", seconds, *sorted(name for name in packages if not name.startswith("/")), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    comfyui = os.environ.get("COMFYUI_PATH") or str(ROOT / ".flipbook" / "comfyui-0.3.75")
    runs = []
    for _ in range(repeats):
        command = [sys.executable, "-P", "-c", PROBE, comfyui, str(ROOT)]
        last = subprocess.run(command, check=True, capture_output=True, text=True, cwd=comfyui).stdout.split(
            "\n"
        )
        seconds, *packages = next(line for line in reversed(last) if line.strip()).split()
        runs.append((float(seconds), packages))
    seconds, packages = min(runs)
    print(f"pack import: {seconds:.3f} s, new top-level modules: {', '.join(packages) or 'none'}")


if __name__ == "__main__":
    main()
