"""The converter for ComfyUI's page: which nodes of a graph it has rules for, and the converted graph.

A graph comes in a request and goes back in its answer; no file is read or written.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from aiohttp import web

from ..graphs import GraphError
from ..graphs.convert import convert, foreign_types
from ..graphs.document import all_types
from ..graphs.offered import OFFERED, PACKS, offers_in
from ..motion_core.files.words import shown

logger = logging.getLogger("animatediff_flipbook")

CONVERT = "/animatediff_flipbook/convert"
CONVERTIBLE = "/animatediff_flipbook/convertible"
MAX_BYTES = 32 * 1024 * 1024
"""A graph of 5,000 nodes is about 5 MB."""

TOO_LARGE = (
    f"This graph is larger than {MAX_BYTES // 1024**2} MB, more than nodes and links take. Convert its file "
    "with `python -m animatediff_flipbook.graphs convert FILE`, or take pictures that it embeds out of it."
)
NO_JSON = "A graph comes as JSON, in ComfyUI's format of workflows or of prompts; this is none: "
NO_NUMBER = "This graph holds a number that JSON does not know, NaN or infinity. Give its widget a number."
TOO_DEEP = "This is no graph: its lists and objects are nested too deeply."
FAILED = (
    "The converter stopped at something in this graph that it does not expect, and changed nothing. "
    "ComfyUI's log says where; please report it together with the graph."
)


def add_routes(routes: web.RouteTableDef) -> None:
    """Let a server answer; a second copy of the pack in one server adds nothing.

    ``POST CONVERT[?also=OFFER..]``: a graph -> ``{"graph", "report": {"count", "items"}, "text", "offers"}``;
    ``offers`` are ``{"name", "pack", "count"}`` of packs whose nodes may be converted, too, if asked for.
    ``POST CONVERTIBLE``: ``{"types": [..]}`` -> the same, with those that the converter has a rule for, and
    the offers (``also``) that some of them need.
    Both answer ``{"error": sentence}`` with 400, 413 or 500 if they cannot.
    """
    # One path entered twice would keep the whole server from starting.
    if not any(getattr(route, "path", None) == CONVERT for route in routes):
        routes.post(CONVERT)(convert_graph)
        routes.post(CONVERTIBLE)(choose_types)


async def convert_graph(request: web.Request) -> web.Response:
    """Convert the graph of a request."""
    also = request.query.getall("also", [])
    return await _respond(request, lambda document: _converted(document, also))


async def choose_types(request: web.Request) -> web.Response:
    """Of the node types in a request, those that can be converted."""
    return await _respond(request, _chosen)


async def _respond(request: web.Request, answer: Callable[[object], dict]) -> web.Response:
    try:
        # A limit of our own, be the server's above or below it.
        body = await request.clone(client_max_size=MAX_BYTES).read()
    except web.HTTPRequestEntityTooLarge:
        return _refusal(413, TOO_LARGE)
    try:
        # Seconds for a large graph: in a thread, so that the server goes on answering.
        text = await asyncio.to_thread(lambda: _written(answer(_read(body))))
    except GraphError as error:
        return _refusal(400, str(error))
    except RecursionError:
        return _refusal(400, TOO_DEEP)
    except Exception:
        logger.exception("AnimateDiff Flipbook: a graph could not be converted")
        return _refusal(500, FAILED)
    return web.Response(text=text, content_type="application/json")


def _refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)


def _read(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError as error:
        raise GraphError(f"{NO_JSON}{error}.") from error


def _written(answer: dict) -> str:
    try:
        return json.dumps(answer, allow_nan=False)
    except ValueError as error:
        raise GraphError(NO_NUMBER) from error  # which no browser could read


def _converted(document: object, also: list[str]) -> dict:
    if unknown := set(also) - set(OFFERED):
        raise GraphError(f"There is no offer {shown(min(unknown), 40)!r}; there is {', '.join(OFFERED)}.")
    conversion = convert(document, also=also)
    report = conversion.report
    left = offers_in(all_types(conversion.graph))
    return {
        "graph": conversion.graph,
        "report": json.loads(report.as_json()),
        "text": report.as_text(),
        "offers": [
            {"name": name, "pack": PACKS[name], "count": count}
            for name, count in left.items()
            if name not in also
        ],
    }


def _chosen(question: object) -> dict:
    types = question.get("types") if isinstance(question, dict) else None
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise GraphError('Expected {"types": [..]} with names of node types.')
    nodes = {"nodes": [{"id": number, "type": name} for number, name in enumerate(types)], "links": []}
    # Nobody is asked about a graph that has nothing to do with AnimateDiff.
    also = list(offers_in(types)) if foreign_types(nodes) else []
    return {"types": sorted(foreign_types(nodes, also)), "also": also}
