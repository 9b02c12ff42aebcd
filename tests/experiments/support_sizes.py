"""The smallest sizes at which everything of the experiments is trained."""

STAGE = {"steps": 2, "batch": 2, "rank": 2, "lr": 1e-2, "ema": 0.0, "shift": 1.0, "held": 1, "clips": 6}
SIZES = {
    "base": {"seed": 1, "steps": 2, "tuning_steps": 1, "batch": 2, "lr": 1e-3, "tuning_lr": 1e-3},
    "data": {"clips": 4},
    "adapter": STAGE,
    "module": STAGE,
    "lora": STAGE,
}
