"""Training in the graph: nodes over the trainer, whose extras may be missing."""
