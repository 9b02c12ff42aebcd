"""ComfyUI's own page in a headless browser: open a workflow as a user does, and read its API form.

Why: a workflow file is only right if the real frontend opens it without a complaint, and only the frontend
turns it into the API form that the server takes (a widget such as the seed holds two values in the file and
one in the API form, so every conversion by hand is a guess).
The browser is the system's Chromium; Playwright drives it and downloads nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WINDOW = {"width": 1800, "height": 1000}
LARGE_WINDOW = {"width": 2600, "height": 1300}
"""In smaller ones the canvas draws the texts of our largest graphs as bars."""
TIMEOUT = 180_000.0  # milliseconds; seconds are enough, but not on a machine with other work

_SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the first visit opens the template browser over the canvas
    "Comfy.Minimap.Visible": False,
    "Comfy.VueNodes.Enabled": False,
    # Else a page brings back what was open before, some time after it is ready, and over what we open.
    "Comfy.Workflow.Persist": False,
}
# Newer pages show a spinner until they have opened what they begin with.
_READY = """() => window.app?.extensionManager && window.app?.graph && window.LiteGraph
    && !window.app.extensionManager.spinner"""
_MISSING = """() => [...new Set(window.app.graph._nodes.map(node => node.type)
    .filter(type => !(type in window.LiteGraph.registered_node_types)))]"""
# Newer pages have an overlay where older ones have dialogs.
_ALERTS = """() => [...document.querySelectorAll('.p-toast-message-error, .p-toast-message-warn, .p-dialog, '
    + '[data-testid=error-overlay]')].map(element => element.innerText.trim())"""
# What a run leaves on the nodes it fails in; the first is what draws them red.
_FAULTS = """() => [
    ...window.app.graph._nodes.filter(node => node.has_errors).map(node => `${node.type} is red`),
    ...Object.values(window.app.lastNodeErrors ?? {}).map(error => JSON.stringify(error)),
    ...(window.app.lastExecutionError ? [JSON.stringify(window.app.lastExecutionError)] : []),
]"""
_TEXTS = """() => Object.fromEntries(window.app.graph._nodes.flatMap(
    node => (node.widgets ?? []).filter(widget => widget.name === '$$node-text-preview')
        .map(widget => [node.type, String(widget.value)])))"""
# Elements know their true size; on the canvas a node is drawn as large as its widgets need, whatever it says.
_BOXES = """() => {
    const scale = window.app.canvas.ds.scale, offset = window.app.canvas.ds.offset;
    const canvas = window.app.canvas.canvas.getBoundingClientRect();
    return window.app.graph._nodes.map(node => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        if (element) {
            const box = element.getBoundingClientRect();
            return [node.id, (box.x - canvas.x) / scale - offset[0], (box.y - canvas.y) / scale - offset[1],
                    box.width / scale, box.height / scale];
        }
        const title = window.LiteGraph.NODE_TITLE_HEIGHT, needed = node.computeSize();
        return [node.id, node.pos[0], node.pos[1] - title, node.size[0],
                Math.max(node.size[1], needed[1]) + title];
    });
}"""
_TEMPLATE_CARDS = """() => {
    const cards = [...document.querySelectorAll('[data-testid^=template-workflow-]')];
    cards.at(-1)?.scrollIntoView();
    return cards.map(card => card.dataset.testid);
}"""
_SHOW_CARD = """id => document.querySelector(`[data-testid=${id}]`).scrollIntoView({block: 'center'})"""
_PICTURE_OF_CARD = """id => {
    const picture = document.querySelector(`[data-testid=${id}] img`);
    return picture?.complete && picture.src;
}"""
_SHOW_ALL = """() => {
    const canvas = window.app.canvas, ratio = window.devicePixelRatio;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (const item of [...window.app.graph._nodes, ...window.app.graph._groups]) {
        const [x, y, width, height] = item.getBounding ? item.getBounding() : item.boundingRect;
        left = Math.min(left, x); top = Math.min(top, y);
        right = Math.max(right, x + width); bottom = Math.max(bottom, y + height);
    }
    const [width, height] = [canvas.canvas.width / ratio - 140, canvas.canvas.height / ratio - 190];
    const scale = Math.min(width / (right - left), height / (bottom - top), 1.5);
    canvas.ds.scale = scale;
    canvas.ds.offset = [90 / scale - left, 130 / scale - top];
    canvas.setDirty(true, true);
}"""


def browser_path() -> str | None:
    """The system's Chromium or Chrome: FLIPBOOK_BROWSER, else the first one on the PATH, else None."""
    return os.environ.get("FLIPBOOK_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


class Frontend:
    """The page of a running server; use it as a context manager.

        with Frontend(server.url) as page:
            page.open(workflow)
            prompt = page.api_form()

    Raises ModuleNotFoundError without Playwright and FileNotFoundError without a browser.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.errors: list[str] = []
        """Exceptions of the page's scripts."""

    def __enter__(self) -> Frontend:
        from playwright.sync_api import sync_playwright  # here: the test of the files alone needs no browser

        executable = browser_path()
        if executable is None:
            raise FileNotFoundError(
                f"no browser found; looked for {', '.join(BROWSERS)}. Install Chromium, or name one with "
                "FLIPBOOK_BROWSER."
            )
        for setting, value in _SETTINGS.items():
            self._set(setting, value)
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=executable, args=["--no-sandbox"]
            )
            self.page = self._browser.new_page(viewport=WINDOW)
            self.page.set_default_timeout(TIMEOUT)
            self.page.on("pageerror", lambda error: self.errors.append(str(error)))
            self.page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
            self._load()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_browser"):
            self._browser.close()
        self._playwright.stop()

    def _set(self, setting: str, value: object) -> None:
        body = json.dumps(value).encode()
        urlopen(Request(f"{self.url}/settings/{setting}", body, method="POST"), timeout=30).close()

    def reload(self) -> None:
        """Load the page anew; it lists the server's files once."""
        self._load()
        self.page.wait_for_timeout(3000)  # until it has brought back what was open before
        self.close_dialogs()

    def _load(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_function(_READY)

    def draw_nodes_as_elements(self, yes: bool) -> None:
        """Load the page anew with nodes as its elements ("Nodes 2.0"), or drawn on a canvas."""
        self._set("Comfy.VueNodes.Enabled", yes)
        self.reload()

    def set_language(self, language: str) -> None:
        """Load the page anew in a language of its settings: en, zh, ja, .."""
        self._set("Comfy.Locale", language)
        self.reload()

    def open(self, workflow: dict) -> None:
        """Load a UI-format workflow, as dropping its file on the page does."""
        self.page.evaluate("workflow => window.app.loadGraphData(workflow, true, true)", workflow)
        self.page.wait_for_timeout(500)  # dialogs and toasts come a little later

    def missing_nodes(self) -> list[str]:
        """Node types of the open workflow that neither server nor page know. Core only draws them red."""
        return self.page.evaluate(_MISSING)

    def alerts(self) -> list[str]:
        """Texts of the toasts and dialogs on the page."""
        return self.page.evaluate(_ALERTS)

    def faults(self) -> list[str]:
        """Red nodes of the open workflow, and the errors of its last run."""
        return self.page.evaluate(_FAULTS)

    def missing_models(self, number: int) -> dict[str, str]:
        """``folder/name`` -> where to get it (its /resolve/ or its /blob/ page), of every missing file.

        Older pages have a dialog, whose entries are titled with the address; newer ones a panel with a
        button that copies it. Either list fills while the page looks at the files one by one.

        Args:
            number: of files to wait for; another number is what is there after half a minute.
        """
        dialog = self.page.locator(".comfy-missing-models [title^=http]:not(button)")
        details = self.page.get_by_text("View details")
        dialog.or_(details).first.wait_for()
        if dialog.count():
            self._wait_until(lambda: dialog.count() == number)
            return {
                re.sub(r"\s*/\s*", "/", entry.inner_text()): entry.get_attribute("title")
                for entry in dialog.all()
            }
        details.click()
        rows = self.page.locator("[data-testid=missing-model-importable-rows] > div")
        copiers = rows.get_by_label("Copy URL")
        self._wait_until(lambda: rows.count() == copiers.count() == number)
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        found = {}
        for row in rows.all():
            name, folder = row.inner_text().splitlines()[:2]
            found[f"{folder}/{name}"] = self._copied(row.get_by_label("Copy URL"))
        return found

    def _copied(self, button: Any) -> str:
        """What a button copies. The page writes it some time after the click."""
        before = "nothing copied yet"
        self.page.evaluate("text => navigator.clipboard.writeText(text)", before)
        button.click()
        read = "() => navigator.clipboard.readText()"
        self._wait_until(lambda: self.page.evaluate(read) != before)
        return self.page.evaluate(read)

    def _wait_until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for a condition, not for ever: what the caller then finds says what is wrong."""
        end = time.monotonic() + seconds
        while not holds() and time.monotonic() < end:
            self.page.wait_for_timeout(100)

    def nodes_that_show_pictures(self) -> set[int]:
        """Ids of the nodes on which the last run has left pictures."""
        ids = self.page.evaluate(
            "() => Object.entries(window.app.nodeOutputs).filter(([, shown]) => shown?.images?.length)"
            ".map(([id]) => id)"
        )
        return {int(number) for number in ids}

    def pictures_drawn(self, node_type: str) -> int:
        """How many pictures the first node of a type shows as an element of the page."""
        return self.page.evaluate(
            """type => {
                const node = window.app.graph._nodes.find(node => node.type === type);
                return document.querySelectorAll(`[data-node-id="${node.id}"] img`).length;
            }""",
            node_type,
        )

    def drawn_nodes(self) -> set[int]:
        """Ids of the nodes in view that are elements of the page."""
        self.page.evaluate(_SHOW_ALL)
        self.page.wait_for_timeout(500)
        ids = self.page.evaluate(
            "() => [...document.querySelectorAll('[data-node-id]')].map(element => element.dataset.nodeId)"
        )
        return {int(number) for number in ids}

    def boxes(self) -> dict[int, tuple[float, float, float, float]]:
        """Left, top, width and height of every node as it is drawn, title included."""
        self.page.evaluate(_SHOW_ALL)
        self.page.wait_for_timeout(500)
        return {int(number): tuple(box) for number, *box in self.page.evaluate(_BOXES)}

    def templates(self) -> dict[str, bool]:
        """What the template browser offers of this pack: name of a workflow -> whether its picture is shown.

        It draws cards, and loads pictures, only as they come into view.
        """
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_text(re.compile("^animatediff.flipbook$", re.IGNORECASE)).first.click()
        cards: list[str] = []
        waits = 0
        while waits < 3:  # the last one in view brings more
            self.page.wait_for_timeout(1000)
            last, cards = cards, self.page.evaluate(_TEMPLATE_CARDS)
            waits = waits + 1 if cards and cards == last else 0
        found = {}
        for card in cards:
            self.page.evaluate(_SHOW_CARD, card)
            try:
                picture = self.page.wait_for_function(_PICTURE_OF_CARD, arg=card, timeout=30_000)
                # A picture of the page's own stands in for one that is missing.
                found[card] = "/assets/" not in picture.json_value()
            except PlaywrightTimeout:
                found[card] = False
        self.close_dialogs()
        return {place.removeprefix("template-workflow-"): shown for place, shown in found.items()}

    def close_dialogs(self) -> None:
        """Dismiss what lies over the canvas."""
        self.page.keyboard.press("Escape")
        self.page.wait_for_timeout(300)

    def api_form(self) -> dict[str, dict]:
        """The open workflow as POST /prompt takes it."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def ui_form(self) -> dict[str, Any]:
        """The open workflow as the page would save it."""
        return self.page.evaluate("() => window.app.graph.serialize()")

    def node_texts(self, *awaited: str) -> dict[str, str]:
        """What the server has written on nodes while they ran: node type -> text.

        awaited: node types to wait for, since the text may arrive after the end of the run.
        Raises playwright's TimeoutError if one of them stays without.
        """
        self.page.wait_for_function(f"types => types.every(type => type in ({_TEXTS})())", arg=list(awaited))
        return self.page.evaluate(_TEXTS)

    def set_widget(self, node_type: str, name: str, value: object) -> None:
        """Change a value on every node of a type. Raises playwright's Error if there is none."""
        self.page.evaluate(
            """([type, name, value]) => {
                const nodes = window.app.graph._nodes.filter(node => node.type === type);
                const widgets = nodes.flatMap(node => (node.widgets ?? []).filter(one => one.name === name));
                if (!widgets.length) throw new Error(`no widget ${type}.${name} in this workflow`);
                for (const widget of widgets) widget.value = value;
            }""",
            [node_type, name, value],
        )

    def queue(self) -> None:
        """Press Run. What it returns says nothing; ask the server's /history."""
        self.page.evaluate("async () => { await window.app.queuePrompt(0, 1) }")

    def screenshot(self, path: Path) -> None:
        """A PNG of a large window with the whole graph in view."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.page.set_viewport_size(LARGE_WINDOW)
        self.page.wait_for_timeout(300)
        self.page.evaluate(_SHOW_ALL)
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=str(path))
        self.page.set_viewport_size(WINDOW)
