"""Write locales/ from the node classes, the page's scripts and the catalogues in words/.

    python words/write_locales.py --comfyui DIR             write locales/ anew; status 1 if words are missing
    python words/write_locales.py --comfyui DIR --add LANG  begin a catalogue for another language

After a text was changed: run it, translate what it names (the entries of words/LANG.json that are empty), run
it again. Runs as a process of its own because it imports ComfyUI, with its demands on `sys.path`.
"""

import argparse
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "demo")]
import catalogue  # noqa: E402
from bootstrap import PACK, enter  # noqa: E402


def write(language: str, tree: dict) -> None:
    """One language's files."""
    for name, words in tree.items():
        file = catalogue.LOCALES / language / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(catalogue.rendered(words), "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="folder with ComfyUI's main.py")
    parser.add_argument("--add", metavar="LANG", default=[], nargs="+", help="languages to begin")
    options = parser.parse_args()
    enter(options.comfyui)
    importlib.import_module(f"{PACK}.nodes.paths").register_folders()
    english = catalogue.english(importlib.import_module(f"{PACK}.nodes").NODES)
    write("en", english)
    missing = 0
    for language in {*catalogue.languages(), *options.add}:
        words = catalogue.completed(english, catalogue.read(language))
        (catalogue.WORDS / f"{language}.json").write_text(catalogue.rendered(words), "utf-8")
        write(language, catalogue.translated(english, words))
        empty = [text for text, translation in words.items() if not translation]
        missing += len(empty)
        for text in empty:
            print(f"{language}: to be translated: {text}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
