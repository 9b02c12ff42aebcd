"""Folders that the set-up works in."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".flipbook"
VENV = ROOT / ".venv"
# Every package with its version and the hashes of its files, for all systems; made by locks/make.py.
LOCKS = ROOT / "locks"
PACK_FOLDER = "animatediff-flipbook"  # the pack's name in custom_nodes, whatever the clone is called
