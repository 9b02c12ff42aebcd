"""One training run, from its first step to the exported file."""
