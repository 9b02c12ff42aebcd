"""The stages that make the base of the tiny family; `demo/train_base.py` enters ComfyUI and runs them."""
