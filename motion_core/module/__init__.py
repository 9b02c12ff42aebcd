"""The motion module: its shape, its layers, and their place in a UNet."""
