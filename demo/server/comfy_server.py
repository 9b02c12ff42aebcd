"""The server as a process, and one method for each thing that is asked of it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .answers import History, OutputFile, PromptError, node_error, rejection

HTTP_TIMEOUT = 30.0  # seconds; ComfyUI answers every plain request at once
# A CPU thread that waits sleeps instead of spinning: beside other busy processes, spinning threads bring each
# other to a standstill.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
# Runs main.py as `python main.py` would, and ends with us: when we die, however suddenly, the pipe on its
# standard input closes. (os.read and not sys.stdin, whose lock would disturb the interpreter's own end.)
LAUNCH = """
import os, runpy, sys, threading
def end_with_parent():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LOG_TAIL = 40  # lines of the server's log that an error message quotes


@dataclass
class ComfyServer:
    """ComfyUI's `main.py`, headless, on a free port of this machine; use it as a context manager.

        base = prepare_base(folder, {"animatediff-flipbook": root}, {"checkpoints": [file]})
        with ComfyServer(comfyui, base, wait_for=("FlipbookApplyMotionModule",)) as server:
            history = server.run(prompt)
            data = server.view(history.files[0])

    Only the packs in the base directory's `custom_nodes` are loaded; API nodes that call out are off.
    """

    comfyui: Path
    """Folder with ComfyUI's main.py."""
    base_directory: Path
    """Models, custom_nodes, input, output, temp and user data (see `prepare_base`)."""
    wait_for: Sequence[str] = ("KSampler",)
    """Node ids that must be registered before the server counts as started."""
    cpu: bool = True
    """Run on the CPU; False lets ComfyUI pick its device."""
    extra_args: Sequence[str] = ()
    """More options for main.py, such as "--force-fp16"."""
    log: Path | None = None
    """File for the server's output, replaced at each start; default `base_directory/server.log`."""
    python: str = sys.executable
    """Interpreter with ComfyUI's requirements."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Additions to the process's environment, such as {"OMP_NUM_THREADS": "1"}."""
    start_timeout: float = 600.0
    """Seconds to wait for the start; seconds on an idle machine, minutes on a busy one."""

    port: int = field(default=0, init=False)
    _process: subprocess.Popen | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.comfyui = Path(self.comfyui).resolve()
        self.base_directory = Path(self.base_directory).resolve()
        self.log = Path(self.log) if self.log else self.base_directory / "server.log"
        if not (self.comfyui / "main.py").is_file():
            raise FileNotFoundError(f"{self.comfyui} holds no main.py: that is not a ComfyUI folder.")

    # -- life --

    @property
    def url(self) -> str:
        """Address of the running server, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it does not run."""
        return self._process.pid if self._process else None

    def command(self) -> list[str]:
        """The command line: this machine only, no database file, no packs but the linked ones."""
        custom_nodes = self.base_directory / "custom_nodes"
        packs = sorted(p.name for p in custom_nodes.iterdir()) if custom_nodes.is_dir() else []
        command = [self.python, "-u", "-c", LAUNCH, str(self.comfyui / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.base_directory)]
        command += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", *(["--whitelist-custom-nodes", *packs] if packs else [])]
        command += ["--cpu"] if self.cpu else []
        return [*command, *self.extra_args]

    def start(self) -> ComfyServer:
        """Start the process and wait until every node of `wait_for` is registered.

        Raises RuntimeError (with the end of the log) if the server stops, lacks a node or takes too long.
        """
        if self._process:
            raise RuntimeError(f"this server already runs at {self.url}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**PATIENT_THREADS, **os.environ, **self.environment, "PYTHONIOENCODING": "utf-8"}
        with open(self.log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.comfyui,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C reaches us first, and stop() ends the server with its children.
                start_new_session=os.name != "nt",
            )
        atexit.register(self.stop)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the process: politely, after 10 seconds by force. Does nothing if it is not running."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        if os.name != "nt":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever the server itself had started
        process.wait()
        process.stdin.close()

    def __enter__(self) -> ComfyServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        """Poll /object_info: the server answers it only after every pack has been imported."""
        end = time.monotonic() + self.start_timeout
        for node in self.wait_for:
            while True:
                if self._process.poll() is not None:
                    raise RuntimeError(f"ComfyUI stopped while starting.\n{self.log_tail()}")
                try:
                    known = self.get(f"/object_info/{urllib.parse.quote(node)}")
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    known = None
                if known:
                    break
                if known is not None:
                    raise RuntimeError(f"ComfyUI started without the node {node}.\n{self.log_tail()}")
                if time.monotonic() > end:
                    raise RuntimeError(
                        f"ComfyUI did not start within {self.start_timeout:.0f} s.\n{self.log_tail()}"
                    )
                time.sleep(0.2)

    def log_text(self) -> str:
        """Everything the server has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""

    def log_tail(self) -> str:
        """The last lines of the log, with its place."""
        lines = self.log_text().splitlines()[-LOG_TAIL:]
        return "\n".join([f"The end of {self.log}:", *(f"  {line}" for line in lines)])

    # -- plain requests --

    def request(self, path: str, body: object = None, method: str | None = None) -> bytes:
        """One HTTP request; `body` is sent as JSON. Raises urllib.error.HTTPError on a refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        # No proxy: the server is on this machine, whatever HTTP_PROXY says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=HTTP_TIMEOUT) as answer:
            return answer.read()

    def get(self, path: str) -> dict | list:
        """GET, read as JSON."""
        return json.loads(self.request(path))

    def post(self, path: str, body: object) -> dict:
        """POST JSON; returns the answer as JSON, {} if it is empty."""
        return json.loads(self.request(path, body, "POST") or b"{}")

    def submit(self, prompt: dict, client_id: str = "") -> str:
        """Queue an API-format prompt and return its id. Raises PromptError("rejected") with node errors."""
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": client_id or uuid.uuid4().hex})
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                details = json.loads(text)
            except json.JSONDecodeError:
                details = {"error": {"message": text}}
            raise PromptError("rejected", rejection(details), details) from error
        return answer["prompt_id"]

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the prompt that runs now, or only `prompt_id` if that is the one running."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self, unload_models: bool = True, free_memory: bool = True) -> None:
        """Ask for memory back; the server does it once its current prompt has ended."""
        self.post("/free", {"unload_models": unload_models, "free_memory": free_memory})

    def view(self, filename: str | OutputFile, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a saved file: an `OutputFile` of a history, or its three parts."""
        if isinstance(filename, OutputFile):
            filename, subfolder, type = filename.filename, filename.subfolder, filename.type
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self.request(f"/view?{query}")

    # -- a whole run --

    def run(
        self,
        prompt: dict,
        timeout: float = 300.0,
        on_event: Callable[[str, dict], None] | None = None,
    ) -> History:
        """Queue an API-format prompt, follow it over the websocket and return what it left behind.

        timeout: seconds for the whole run; past them the prompt is interrupted.
        on_event: called with (type, data) of every message of this prompt; it may call `interrupt()`.
        Raises PromptError: rejected, error (with the node's own message), interrupted, timeout or lost.
        """
        return asyncio.run(self._run(prompt, timeout, on_event))

    async def _run(
        self, prompt: dict, timeout: float, on_event: Callable[[str, dict], None] | None
    ) -> History:
        import aiohttp  # here, so that this file imports with the standard library alone

        client_id, events = uuid.uuid4().hex, []
        start = time.monotonic()
        # A preview can be larger than aiohttp's 4 MB limit per message.
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client_id}", max_msg_size=0) as socket_,
        ):
            prompt_id = self.submit(prompt, client_id)
            try:
                await asyncio.wait_for(self._follow(socket_, prompt_id, events, on_event), timeout)
            except asyncio.TimeoutError as error:
                self.interrupt(prompt_id)
                raise PromptError("timeout", f"the prompt did not end within {timeout:.0f} s") from error
        seconds = time.monotonic() - start
        for kind, data in events:
            if kind == "execution_error":
                raise PromptError("error", node_error(data), data)
            if kind == "execution_interrupted":
                raise PromptError("interrupted", f"interrupted in node {data.get('node_type')}", data)
        return self.history(prompt_id, events, seconds)

    async def _follow(
        self,
        messages: object,
        prompt_id: str,
        events: list[tuple[str, dict]],
        on_event: Callable[[str, dict], None] | None,
    ) -> None:
        """Collect the messages of one prompt until its end."""
        async for message in messages:
            if not isinstance(message.data, str):
                continue  # a preview picture
            content = json.loads(message.data)
            kind, data = content.get("type"), content.get("data") or {}
            if data.get("prompt_id") != prompt_id:
                continue
            events.append((kind, data))
            if on_event:
                on_event(kind, data)
            # The last message of every run, failed ones too; /history is complete by then.
            if kind == "executing" and data.get("node") is None:
                return
        raise PromptError("lost", f"the server closed the connection.\n{self.log_tail()}")

    def history(
        self, prompt_id: str, events: Sequence[tuple[str, dict]] = (), seconds: float = 0.0
    ) -> History:
        """What /history holds of a finished prompt. Raises KeyError if it has not ended."""
        entry = self.get(f"/history/{prompt_id}")[prompt_id]
        outputs = entry.get("outputs", {})
        files = tuple(self._files(outputs))
        status = entry["status"]["status_str"]
        return History(prompt_id, status, outputs, files, tuple(events), seconds)

    def _files(self, outputs: dict[str, dict]) -> Iterable[OutputFile]:
        for node_id, shown in outputs.items():
            for values in shown.values():
                for value in values if isinstance(values, list) else ():
                    if isinstance(value, dict) and "filename" in value:
                        name, sub = value["filename"], value.get("subfolder", "")
                        kind = value.get("type", "output")
                        yield OutputFile(node_id, name, sub, kind, self.base_directory / kind / sub / name)
