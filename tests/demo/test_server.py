"""The life of the server process, with a stand-in for main.py that starts at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from animatediff_flipbook.demo.server import ComfyServer, PromptError

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import argparse, json, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--crash", action="store_true")
options, rest = parser.parse_known_args()
print("arguments", json.dumps(rest), flush=True)
if options.crash:
    sys.exit("a reason to stop")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        node = self.path.rsplit("/", 1)[-1]
        self.answer(200, {node: {}} if node == "KSampler" else {})
    def do_POST(self):
        problem = {"message": "Value not in list", "details": "ckpt_name: 'x'"}
        error = {"errors": [problem], "class_type": "Loader"}
        self.answer(400, {"error": {"message": "Prompt failed"}, "node_errors": {"4": error}})
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
HTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path):
    comfyui = tmp_path / "my ComfyUI"
    comfyui.mkdir()
    (comfyui / "main.py").write_text(STAND_IN)
    (tmp_path / "base" / "custom_nodes" / "a pack").mkdir(parents=True)
    return ComfyServer(comfyui, tmp_path / "base")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that has ended but was not waited for is no longer alive either.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_starts_and_always_ends(server):
    with pytest.raises(KeyError), server:
        pid = server.pid
        assert is_alive(pid)
        assert server.get("/object_info/KSampler") == {"KSampler": {}}
        raise KeyError
    assert not is_alive(pid)
    assert server.pid is None
    server.stop()  # a second time does nothing
    assert '"--whitelist-custom-nodes", "a pack"' in server.log_text()
    assert "--cpu" in server.log_text()


def test_a_missing_node_and_a_crash_are_told_with_the_log(server):
    server.wait_for = ("KSampler", "FlipbookApplyMotionModule")
    with pytest.raises(RuntimeError, match="without the node FlipbookApplyMotionModule"):
        server.start()
    assert server.pid is None
    server.extra_args = ("--crash",)
    with pytest.raises(RuntimeError, match="(?s)stopped while starting.*a reason to stop"):
        server.start()


def test_a_refused_prompt_names_node_and_input(server):
    with (
        server,
        pytest.raises(PromptError, match=r"node 4 \(Loader\): Value not in list ckpt_name: 'x'") as stop,
    ):
        server.submit({"4": {"class_type": "Loader", "inputs": {}}})
    assert stop.value.kind == "rejected"
    assert "4" in stop.value.details["node_errors"]


def test_a_folder_without_main_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no main.py"):
        ComfyServer(tmp_path, tmp_path / "base")


@pytest.mark.skipif(os.name == "nt", reason="asks /proc and signals about processes")
def test_ends_when_its_parent_is_killed(server, tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "demo")!r})
from server import ComfyServer
server = ComfyServer({str(server.comfyui)!r}, {str(server.base_directory)!r}).start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid, end = int(done.stdout), time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(pid)
