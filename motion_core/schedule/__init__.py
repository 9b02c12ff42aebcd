"""Schedules: noise over the steps, values and prompts over the frames."""
