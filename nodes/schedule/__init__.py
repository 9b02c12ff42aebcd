"""Prompts and numbers that change over the frames."""
