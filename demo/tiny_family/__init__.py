"""The tiny family as a ComfyUI custom pack: no node, only model shapes that the ordinary loaders then know.

Linked into ComfyUI's `custom_nodes` by the demo and the tests, never by users of AnimateDiff Flipbook.
"""

from .model import register
from .xl import TinyXL

NODE_CLASS_MAPPINGS: dict[str, type] = {}

register()
register(TinyXL)
