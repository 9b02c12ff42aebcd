"""What is trained: the base model as ComfyUI loads it, and what is put into it."""
