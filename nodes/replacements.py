"""Nodes of other packs that ComfyUI itself may replace by one of ours or its own, where they are missing."""

from __future__ import annotations

from ..graphs.rules import ONE_TO_ONE
from . import compat


async def register_replacements() -> None:
    """Offer ComfyUI the rules that hold for a node by itself and pass on everything that it was given.

    ComfyUI does not say what it leaves out, and its prompt route fails on a node that lacks an input of the
    rule. So only nodes whose widgets all have a place and that need nothing else; the others are for the
    converter.
    """
    for old_id, rule in ONE_TO_ONE.items():
        if set(rule.inputs.values()) == set(rule.old_widgets):
            inputs = [{"new_id": new, "old_id": old} for new, old in rule.inputs.items()]
            inputs += [{"new_id": new, "set_value": value} for new, value in rule.values.items()]
            await compat.register_replacement(old_id, rule.new_id, list(rule.old_widgets), inputs)
