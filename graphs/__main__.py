"""``python -m animatediff_flipbook.graphs``: convert graphs of other AnimateDiff packs to ours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .convert import Conversion, convert, foreign_types
from .errors import GraphError
from .files import ENDINGS, read_file, write_json
from .offered import OFFERED
from .table import as_markdown

CONVERTED, FAILED = 0, 1
SUFFIX = ".flipbook.json"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if all went well, 1 if a file could not be converted, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m animatediff_flipbook.graphs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "convert",
        help="convert a graph, or all graphs of a folder",
        description="Convert a graph (JSON, or a PNG or WEBP picture that holds one), or all of a folder.",
    )
    one.add_argument("old", type=Path, metavar="OLD", help="a file, or a folder")
    one.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="NEW",
        help=f"where to write: a file, or a folder for a folder. Without it: beside OLD, ending in {SUFFIX}",
    )
    one.add_argument("--report", action="store_true", help="say what was changed, and how, and what is lost")
    one.add_argument("--json", action="store_true", help="the report as JSON")
    one.add_argument("--note", action="store_true", help="put the report into the graph, as a note")
    one.add_argument(
        "--also",
        action="append",
        default=[],
        choices=tuple(OFFERED),
        help="convert nodes of this pack, too, though they work with ours as they are",
    )
    one.add_argument("--overwrite", action="store_true", help="replace files that exist, OLD itself included")
    commands.add_parser("table", help="print which node becomes what, as Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.command == "table":
        print(as_markdown(), end="")
        return CONVERTED
    return _convert_all(chosen)


def _convert_all(chosen: argparse.Namespace) -> int:
    old: Path = chosen.old
    if old.is_dir():
        if chosen.output is not None and chosen.output.is_file():
            return _fail(f"{chosen.output} is a file; for a folder of graphs name a folder.")
        files = sorted(
            path
            for path in old.iterdir()
            if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.endswith(SUFFIX)
        )
        if not files:
            return _fail(f"{old} holds no graphs ({', '.join(ENDINGS)}).")
        if chosen.output is not None:
            chosen.output.mkdir(parents=True, exist_ok=True)
        failed = [path for path in files if not _convert_file(chosen, path, chosen.output, in_folder=True)]
        print(f"{len(files) - len(failed)} of {len(files)} files read.", file=sys.stderr)
        return FAILED if failed else CONVERTED
    return CONVERTED if _convert_file(chosen, old, chosen.output) else FAILED


def _convert_file(
    chosen: argparse.Namespace, path: Path, output: Path | None, *, in_folder: bool = False
) -> bool:
    """Convert one file; whether that went well."""
    try:
        document = read_file(path)
        if not foreign_types(document, chosen.also):
            print(f"{path.name}: nothing to convert.", file=sys.stderr)
            return True
        conversion = convert(document, note=chosen.note, also=chosen.also)
    except GraphError as error:
        _fail(f"{path.name}: {error}")
        return False
    if output is None:
        target = path.with_name(path.stem + SUFFIX)
    elif in_folder or output.is_dir():
        target = output / f"{path.stem}.json"
    else:
        target = output
    same = target.exists() and target.samefile(path)
    if target.exists() and not chosen.overwrite:
        what = "is the file itself" if same else "exists"
        _fail(f"{path.name}: {target} {what}; nothing was written. --overwrite replaces it.")
        return False
    try:
        write_json(target, conversion.graph)
    except OSError as error:
        _fail(f"{path.name}: {target} cannot be written: {error.strerror or error}.")
        return False
    _tell(chosen, path, target, conversion)
    return True


def _tell(chosen: argparse.Namespace, path: Path, target: Path, conversion: Conversion) -> None:
    report = conversion.report
    if chosen.json:
        print(report.as_json())
    elif chosen.report:
        print(f"{path.name} -> {target}\n{report.as_text()}", end="")
    else:
        lost = len(report.of_kind("lost"))
        print(f"{path.name} -> {target}: {report.count} nodes, {lost} settings lost.")


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
