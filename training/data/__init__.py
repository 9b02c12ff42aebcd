"""From videos on disk to batches of latents."""
