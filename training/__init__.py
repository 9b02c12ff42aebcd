"""Headless training of domain adapter, motion module and MotionLoRA."""
