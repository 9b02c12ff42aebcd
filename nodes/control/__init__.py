"""Nodes for what steers a clip beside text."""
