"""Which node of which pack becomes what: literal tables, one file per pack."""

from .one_to_one import ONE_TO_ONE

__all__ = ["ONE_TO_ONE"]
