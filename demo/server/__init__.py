"""A real ComfyUI server for the demo and the tests: start it headless, run API-format prompts, read results.

What: `ComfyServer` starts ComfyUI's own `main.py` as a separate process with a base directory of our choosing
(see base_directory.py) and talks to it as a browser does: POST /prompt, the websocket, /history, /view.
Why a process: only the real server shows that the pack loads, registers and runs the way users run it.
The websocket needs aiohttp, which comes with ComfyUI's requirements.
"""

from .answers import History, OutputFile, PromptError
from .comfy_server import ComfyServer

__all__ = ["ComfyServer", "History", "OutputFile", "PromptError"]
