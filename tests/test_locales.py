"""The pack's words in ComfyUI's locale files: every text of the nodes and the page, in every language.

A text that was changed or added has no translation in words/LANG.json any more, which is named here:
words/write_locales.py puts its place there and writes the locale files anew.
"""

import json
import re
from collections import Counter

import folder_paths
import pytest
from animatediff_flipbook.nodes import NODES
from animatediff_flipbook.nodes.paths import register_folders
from animatediff_flipbook.words import catalogue

LANGUAGES = ("zh", "zh-TW", "ja", "ko", "fr", "de", "es")
OWN = "animateDiffFlipbook"
"""Texts of main.json that our own scripts fill in; the others are messages of the page, with its signs."""


@pytest.fixture(scope="module")
def english():
    with pytest.MonkeyPatch.context() as patch:
        known = dict(folder_paths.folder_names_and_paths)
        patch.setattr(folder_paths, "folder_names_and_paths", known)
        register_folders()
        return catalogue.english(NODES)


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


def locale(language):
    """A language's files, as ComfyUI's server reads them."""
    folder = catalogue.LOCALES / language
    return {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in catalogue.FILES}


def pairs(english, language):
    """``(place, English text, text)`` of all texts that a language has."""
    texts = catalogue.flat(locale(language))
    return [(place, text, texts[place]) for place, text in catalogue.flat(english).items() if place in texts]


def test_english_is_the_schemas(english):
    assert locale("en") == english, "words/write_locales.py writes locales/ anew"


def test_every_text_is_translated_from_todays_english(english, language):
    """The work that is to be done is the assertion's message."""
    words = catalogue.completed(english, catalogue.read(language))
    missing = [text for text, translation in words.items() if not translation.strip()]
    assert not missing


def test_locale_files_are_made_of_the_catalogue(english, language):
    assert locale(language) == catalogue.translated(english, catalogue.read(language))


def test_catalogue_holds_nothing_else(english, language):
    words = catalogue.read(language)
    assert list(words) == list(catalogue.completed(english, words))


def test_every_language_has_the_keys_of_the_schemas(english, language):
    assert list(catalogue.flat(locale(language))) == list(catalogue.flat(english))


def test_the_page_takes_no_sign_for_its_own(english):
    """Older pages compile a tooltip as a message, where these signs mean something; newer ones do not, so
    that they cannot be escaped either."""
    for language in ("en", *LANGUAGES):
        for place, text in catalogue.flat(locale(language)).items():
            if OWN not in place:
                assert not set(text) & set("{}@|"), (language, place, text)


FACT = re.compile(r"\{\w+\}|(?:\w+[/_.])+\w+|\d+(?:\.\d+)?", re.ASCII)
"""What stays as it is outside of backquotes: numbers, files and folders, options, placeholders."""
COUNTED = {"1", "2", "3", "4"}
"""Some languages count in figures where English has words: once, two, a third, quarter turns."""


def parts(text):
    """A text's ``(plain, quoted)`` parts; quoted in backquotes are names and examples."""
    pieces = text.split("`")
    return pieces[::2], pieces[1::2]


def names(english, language):
    """Names of inputs and outputs with what the language makes of them, here and there differently."""
    theirs, found = locale(language)["nodeDefs"], {}
    for node, words in english["nodeDefs"].items():
        for group in ("inputs", "outputs"):
            for key, part in words[group].items():
                found.setdefault(part["name"], set()).add(theirs[node][group][key]["name"])
    return found


def facts(text, names):
    """What a translation must keep."""
    plain, quoted = parts(text)
    found = [fact for part in plain for fact in FACT.findall(part) if fact not in names]
    return [*found, *(part for part in quoted if re.search("[:=]", part))]


def test_facts_survive(english, language):
    ours = names(english, language)
    for place, text, translation in pairs(english, language):
        if place[-1] != "name":
            wanted, there = Counter(facts(text, ours)), Counter(facts(translation, ours))
            assert not wanted - there, (place, text, translation)
            assert set(there - wanted) <= COUNTED, (place, text, translation)


def test_inputs_are_called_by_their_names(english, language):
    """Where an English text names an input or output, the translation has that one's translated name."""
    ours = names(english, language)
    for place, text, translation in pairs(english, language):
        if place[-1] == "name":
            continue
        (plain, quoted), (_, theirs) = parts(text), parts(translation)
        assert len(theirs) == len(quoted), (place, translation)
        for said in quoted:
            if re.fullmatch(r"\w+", said):
                assert ours[said] & set(theirs), (place, said, ours[said], translation)
        for said in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", " ".join(plain)):
            if said in ours:
                assert any(one in translation for one in ours[said]), (place, said, translation)


def test_nodes_are_called_by_their_names(english, language):
    """Where an English text names one of our nodes, the translation has that node's translated name."""
    theirs = locale(language)["nodeDefs"]
    names = {node["display_name"]: theirs[key]["display_name"] for key, node in english["nodeDefs"].items()}
    longest_first = sorted(names, key=len, reverse=True)
    named = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")
    for place, text, translation in pairs(english, language):
        for name in named.findall(text):
            assert names[name] in translation, (place, name, translation)


def test_names_differ(language):
    """Nodes from each other, and on a node its inputs and its outputs."""
    nodes = locale(language)["nodeDefs"]
    groups = [
        nodes.values(),
        *(node[key].values() for node in nodes.values() for key in ("inputs", "outputs")),
    ]
    for group in groups:
        names = [one.get("display_name") or one["name"] for one in group]
        assert len(set(names)) == len(names), names
