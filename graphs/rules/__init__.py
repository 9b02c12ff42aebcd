"""Which node of which pack becomes what: literal tables, one file per pack."""

from ..old import Old
from . import artventurex, evolved_nodes
from .one_to_one import ONE_TO_ONE

OLD_NODES: dict[str, Old] = {**evolved_nodes.NODES, **artventurex.NODES}
"""Every node that a rule reads."""

__all__ = ["OLD_NODES", "ONE_TO_ONE"]
