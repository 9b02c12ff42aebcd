"""Context windows: long clips with every sampler."""
