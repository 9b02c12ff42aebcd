"""Arithmetic on the weights of motion modules: blending, merging and extracting MotionLoRAs."""
