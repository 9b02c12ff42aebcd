"""The loop of training that both networks share, by one process or several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
import torch.distributed as distributed
from torch import nn

from .settings import STATE
from .states import read_state, write_state

SAVE_EVERY = 60.0  # seconds


def share_gradients(network: nn.Module, seconds: float) -> float:
    """Average the gradients, and the step's seconds, over the workers; returns the seconds.

    One meeting a step: two processes of one thread each get far more done on a busy machine than two threads
    that wait for each other in every layer.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters] + [torch.tensor([seconds])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, flat[:-1].split(sizes), strict=True):
        parameter.grad.copy_(part.view_as(parameter))
    return float(flat[-1])


class Run:
    """The loop that both networks share: AdamW, a rate that follows the clock, averaged weights, states.

    The clock and not a number of steps ends a stage, because the machine's speed is not known beforehand; the
    time counted is what this process has computed, kept across restarts: on a machine that others use, and
    over a pause, it stands still.
    """

    def __init__(self, name: str, network: nn.Module, minutes: float, rate: float, ema: float) -> None:
        self.path = STATE / f"{name}.safetensors"
        self.name, self.network, self.ema_decay, self.rate = name, network, ema, rate
        self.seconds_allowed = minutes * 60
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=rate, weight_decay=1e-3, betas=(0.9, 0.99)
        )
        self.average = {key: value.detach().clone() for key, value in network.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        found = read_state(self.path)
        if found:
            self._load(*found)

    def _load(self, tensors: dict[str, torch.Tensor], facts: dict) -> None:
        part = {
            kind: {
                key[len(kind) + 1 :]: value for key, value in tensors.items() if key.startswith(kind + ".")
            }
            for kind in ("now", "average", "first", "second")
        }
        self.network.load_state_dict(part["now"])
        self.average = part["average"]
        self.step, self.seconds = facts["step"], facts["seconds"]
        for key, parameter in self.network.named_parameters():
            if key in part["first"]:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": part["first"][key],
                    "exp_avg_sq": part["second"][key],
                }

    def save(self, **facts) -> None:
        """Keep everything that going on needs."""
        tensors = {f"now.{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.items()}
        for key, parameter in self.network.named_parameters():
            state = self.optimizer.state.get(parameter)
            if state:
                tensors |= {f"first.{key}": state["exp_avg"], f"second.{key}": state["exp_avg_sq"]}
        write_state(self.path, tensors, {"step": self.step, "seconds": self.seconds, **facts})

    @property
    def progress(self) -> float:
        """Share of the stage's time that has passed, 0..1."""
        return min(self.seconds / self.seconds_allowed, 1.0)

    def train(self, loss_of_step: Callable[[int], torch.Tensor]) -> None:
        """Run to the end of the stage's time. `loss_of_step(step)` is the loss of one fresh batch."""
        saved, shown, losses = time.monotonic(), 0.0, []
        while self.progress < 1.0:
            began = time.process_time()
            warm = min(1.0, (self.step + 1) / 50)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
            loss = loss_of_step(self.step)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"{self.name}: the loss is {loss.item()} at step {self.step}. Lower the rate."
                )
            loss.backward()
            spent = share_gradients(self.network, time.process_time() - began)
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for key, value in self.network.state_dict().items():
                    self.average[key].lerp_(value, 1 - decay)
            losses.append(loss.item())
            now = time.monotonic()
            self.seconds += spent
            if distributed.get_rank() > 0:
                continue
            if now - shown > 15:
                mean = sum(losses[-50:]) / len(losses[-50:])
                print(
                    f"{self.name} step {self.step} loss {mean:.4f} {self.progress:6.1%} "
                    f"{self.seconds / self.step:.2f} s/step in all",
                    flush=True,
                )
                shown = now
            if now - saved > SAVE_EVERY:
                self.save(done=False)
                saved = now
        if distributed.get_rank() == 0:
            self.save(done=True)

    @property
    def done(self) -> bool:
        """Whether the stage has used its time."""
        return self.progress >= 1.0
