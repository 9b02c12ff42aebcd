"""Write tests/data/api/*.json: the published workflows in the API form, exported by ComfyUI's own page.

    python -P tests/browser/export_api.py [--comfyui DIR] [--screenshots DIR] [NAME ...]

Run it after a change of a file in workflows/; a test compares what it wrote with a fresh export. Needs
Playwright and a Chromium (see frontend.py), and no model file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "tests" / "browser")]

from base_directory import prepare_base  # noqa: E402
from frontend import Frontend  # noqa: E402
from server import ComfyServer  # noqa: E402

WORKFLOWS = ROOT / "workflows"
API_FORMS = ROOT / "tests" / "data" / "api"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="stems of workflows/*.json; default all")
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".flipbook" / "comfyui-0.3.75")
    parser.add_argument("--screenshots", type=Path, help="folder for a picture of each graph")
    options = parser.parse_args()
    names = options.names or sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder), {"animatediff-flipbook": ROOT})
        wait_for = ("FlipbookApplyMotionModule",)
        with (
            ComfyServer(options.comfyui, base, wait_for=wait_for) as server,
            Frontend(server.url) as page,
        ):
            for name in names:
                page.open(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")))
                if missing := page.missing_nodes():
                    raise SystemExit(f"{name}: nobody knows the nodes {', '.join(missing)}")
                page.close_dialogs()  # they say that the models are not here
                write_json(API_FORMS / f"{name}.json", page.api_form())
                if options.screenshots:
                    page.screenshot(options.screenshots / f"{name}.png")
                print(API_FORMS / f"{name}.json")


def write_json(path: Path, content: object) -> None:
    """Write indented JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
