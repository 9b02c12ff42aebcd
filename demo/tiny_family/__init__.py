"""The tiny family as a ComfyUI custom pack: no node, only a model shape that the ordinary loaders then know.

Linked into ComfyUI's `custom_nodes` by the demo and the tests, never by users of AnimateDiff Flipbook.
"""

from .model import register

NODE_CLASS_MAPPINGS: dict[str, type] = {}

register()
