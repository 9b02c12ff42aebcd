"""Optimizers that keep their state as other packages do, for tests without those packages."""

import torch


class Nested(torch.optim.Optimizer):
    """SGD with momentum, its state in a table within the state and one tensor shared by all weights, as
    bitsandbytes keeps its 8-bit moments."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.map = torch.linspace(-1, 1, 256)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                inner = self.state[p].setdefault("inner", {"moment": torch.zeros_like(p), "map": self.map})
                inner["moment"].mul_(0.9).add_(p.grad)
                p.sub_(group["lr"] * inner["moment"])


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al., 2024): gradients are taken at other weights than are to be used."""

    def __init__(self, params, lr: float, beta: float = 0.7) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0, "train_mode": False})

    @torch.no_grad()
    def _switch(self, mode: bool) -> None:
        for group in self.param_groups:
            weight = 1 - group["beta"] if mode else 1 - 1 / group["beta"]
            for p in group["params"] if group["train_mode"] != mode else ():
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], weight)
            group["train_mode"] = mode

    def train(self) -> None:
        self._switch(True)

    def eval(self) -> None:
        self._switch(False)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("Optimizer was not in train mode when step is called.")
            share = 1 / (group["k"] + 1)
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, share)
                p.add_(p.grad, alpha=group["lr"] * (group["beta"] * (1 - share) - 1))
                z.sub_(p.grad, alpha=group["lr"])
            group["k"] += 1
