"""The one exception of this package."""


class GraphError(ValueError):
    """A document is no graph that can be read; the message is a sentence for the user."""
