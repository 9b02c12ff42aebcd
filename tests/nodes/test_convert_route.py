"""The routes to the converter, in an aiohttp application such as ComfyUI's."""

import asyncio
import json
import threading

import pytest
from aiohttp import ClientSession, web
from animatediff_flipbook.graphs.convert import Conversion
from animatediff_flipbook.graphs.report import Report
from animatediff_flipbook.nodes import convert_route
from animatediff_flipbook.nodes.convert_route import CONVERT, CONVERTIBLE, MAX_BYTES
from animatediff_flipbook.tests.browser.incumbent_graph import OLD_TYPES, old_graph


async def started(client_max_size: int) -> tuple[web.AppRunner, str]:
    """An application with our routes, entered as ComfyUI enters those of all packs. Its address."""
    app, routes = web.Application(client_max_size=client_max_size), web.RouteTableDef()
    convert_route.add_routes(routes)
    convert_route.add_routes(routes)  # a second copy of the pack
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


def send(path: str, *bodies: bytes, client_max_size: int = 1024) -> list[tuple[int, dict]]:
    """POST to an application whose own limit is small; (status, JSON) of each answer."""

    async def talk() -> list[tuple[int, dict]]:
        runner, url = await started(client_max_size)
        try:
            async with ClientSession() as session:
                answers = []
                for body in bodies:
                    async with session.post(url + path, data=body) as answer:
                        answers.append((answer.status, json.loads(await answer.text())))
                return answers
        finally:
            await runner.cleanup()

    return asyncio.run(talk())


def test_a_graph_comes_back_converted_with_a_report():
    ((status, answer),) = send(CONVERT, json.dumps(old_graph()).encode())
    assert status == 200
    types = {node["type"] for node in answer["graph"]["nodes"]}
    assert not types & OLD_TYPES
    assert {"FlipbookLoadMotionModule", "FlipbookApplyMotionModule", "FlipbookContextWindows"} <= types
    assert {item["node_type"] for item in answer["report"]["items"]} == OLD_TYPES
    assert answer["report"]["count"] == len(OLD_TYPES)
    assert all(name in answer["text"] for name in OLD_TYPES)


def test_types_that_can_be_converted_are_chosen():
    asked = ["KSampler", "ADE_EmptyLatentImageLarge", "AnimateDiffSampler", "NobodyKnowsThisNode"]
    ((status, answer),) = send(CONVERTIBLE, json.dumps({"types": asked}).encode())
    assert status == 200
    assert answer == {"types": ["ADE_EmptyLatentImageLarge", "AnimateDiffSampler"], "also": []}


def test_packs_that_may_stay_are_asked_for_only_together_with_others():
    asked = [["BatchPromptSchedule", "KSampler"], ["BatchPromptSchedule", "ADE_EmptyLatentImageLarge"]]
    answers = send(CONVERTIBLE, *(json.dumps({"types": types}).encode() for types in asked))
    assert [answer for _, answer in answers] == [
        {"types": [], "also": []},
        {"types": sorted(asked[1]), "also": ["fizznodes"]},
    ]


def test_what_may_be_converted_too_is_offered_and_done_when_asked():
    graph = old_graph()
    text = ['"0": "a cat"', 16, "", "", 0, 0, 0, 0]
    schedule = {"id": 99, "type": "BatchPromptSchedule", "widgets_values": text, "inputs": [], "outputs": []}
    graph["nodes"].append({**schedule, "pos": [0, 0], "properties": {}})
    graph["last_node_id"] = 99
    body = json.dumps(graph).encode()
    ((_, first),) = send(CONVERT, body)
    assert first["offers"] == [{"name": "fizznodes", "pack": "FizzNodes", "count": 1}]
    assert "BatchPromptSchedule" in {node["type"] for node in first["graph"]["nodes"]}
    ((_, second),) = send(f"{CONVERT}?also=fizznodes", body)
    assert second["offers"] == []
    assert "FlipbookPromptSchedule" in {node["type"] for node in second["graph"]["nodes"]}
    ((status, third),) = send(f"{CONVERT}?also=nothing%20such", body)
    assert status == 400 and "nothing such" in third["error"] and "fizznodes" in third["error"]


@pytest.mark.parametrize(
    "path, body, sentence",
    [
        (CONVERT, b"", "this is none"),
        (CONVERT, b"{", "this is none"),
        (CONVERT, b"\xff\xfe\x00", "this is none"),
        (CONVERT, b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (CONVERT, b"[]", "graph"),
        (CONVERT, b"17", "graph"),
        (CONVERTIBLE, b"{}", "names of node types"),
        (CONVERTIBLE, b'{"types": [1]}', "names of node types"),
        (CONVERTIBLE, b"[]", "names of node types"),
    ],
)
def test_what_is_no_graph_is_refused_with_a_sentence(path, body, sentence):
    ((status, answer),) = send(path, body)
    assert status == 400
    assert sentence in answer["error"] and answer["error"].endswith(".")


def test_numbers_that_no_browser_reads_are_refused():
    graph = old_graph()
    graph["nodes"][0]["widgets_values"] = [float("nan")]
    ((status, answer),) = send(CONVERT, json.dumps(graph).encode())
    assert status in (200, 400)
    assert status == 400 or "NaN" not in json.dumps(answer)
    graph["extra"] = {"size": float("inf")}
    ((status, answer),) = send(CONVERT, json.dumps(graph).encode())
    assert status == 400 and "number" in answer["error"]


def test_size_has_a_limit_of_our_own():
    """Neither the server's, which may be far above, nor below it."""
    large = b" " * MAX_BYTES
    for limit in (1024, 4 * MAX_BYTES):
        (exact, above) = send(CONVERT, large, large + b" ", client_max_size=limit)
        assert exact[0] == 400
        assert above[0] == 413 and "32 MB" in above[1]["error"]


def test_a_fault_of_the_converter_is_told(monkeypatch, caplog):
    def fail(document, also):
        raise KeyError("a fault of ours")

    monkeypatch.setattr(convert_route, "convert", fail)
    ((status, answer),) = send(CONVERT, b"{}")
    assert status == 500 and "changed nothing" in answer["error"]
    assert "a fault of ours" not in answer["error"] and "a fault of ours" in caplog.text


def test_the_server_answers_others_meanwhile(monkeypatch):
    go_on = threading.Event()

    def wait(document, also):
        assert go_on.wait(20), "the server stood still"
        return Conversion({}, Report())

    monkeypatch.setattr(convert_route, "convert", wait)

    async def talk() -> int:
        runner, url = await started(1024)
        try:
            async with ClientSession() as session:
                first = asyncio.ensure_future(session.post(url + CONVERT, data=b"{}"))
                await asyncio.sleep(0.1)
                async with session.post(url + CONVERTIBLE, data=b'{"types": []}') as second:
                    assert second.status == 200
                go_on.set()
                return (await first).status
        finally:
            await runner.cleanup()

    assert asyncio.run(talk()) == 200
