"""The autoencoder that is trained: TAESD, narrower; and how its weights go into wider networks and back."""

from __future__ import annotations

import comfy.taesd.taesd as taesd
import torch
from torch import nn


class NarrowVae(nn.Module):
    """TAESD with its own width at each resolution; key names and order of layers are TAESD's."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c, d = widths
        conv, block = taesd.conv, taesd.Block

        def blocks(width: int) -> list[nn.Module]:
            return [block(width, width) for _ in range(3)]

        def half(wide: int, narrow: int) -> list[nn.Module]:
            return [conv(wide, narrow, stride=2, bias=False), *blocks(narrow)]

        def double(narrow: int, wide: int) -> list[nn.Module]:
            return [*blocks(narrow), nn.Upsample(scale_factor=2), conv(narrow, wide, bias=False)]

        self.taesd_encoder = nn.Sequential(
            conv(3, a), block(a, a), *half(a, b), *half(b, c), *half(c, d), conv(d, 4)
        )
        self.taesd_decoder = nn.Sequential(
            taesd.Clamp(),
            conv(4, d),
            nn.ReLU(),
            *double(d, c),
            *double(c, b),
            *double(b, a),
            block(a, a),
            conv(a, 3),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self._begin_as_pooling()

    def _begin_as_pooling(self) -> None:
        """Let three channels carry colour through both networks from the start: the encoder pools, the
        decoder interpolates. Training then only adds detail, for which a few minutes suffice."""
        binomial = torch.tensor([1.0, 2.0, 1.0])
        binomial = torch.outer(binomial, binomial) / 16
        centre = torch.zeros(3, 3)
        centre[1, 1] = 1.0
        # luminance and two colour differences, scaled to about unit variance over the world
        mix = torch.tensor([[1.6, 1.8, 1.4], [5.0, -5.0, 0.0], [2.5, 2.5, -5.0]])

        def carry(layer: nn.Conv2d, kernel: torch.Tensor, matrix: torch.Tensor) -> None:
            rows, columns = matrix.shape
            layer.weight[:rows] = 0.0
            layer.weight[:rows, :columns] = matrix[:, :, None, None] * kernel

        eye = torch.eye(3)
        encoder = [layer for layer in self.taesd_encoder if isinstance(layer, nn.Conv2d)]
        decoder = [layer for layer in self.taesd_decoder if isinstance(layer, nn.Conv2d)]
        carry(encoder[0], centre, eye)
        for layer in encoder[1:-1]:
            carry(layer, binomial, eye)
        encoder[-1].weight[3:] *= 0.5
        carry(encoder[-1], centre, mix)
        encoder[-1].bias[:3] = -0.5 * mix.sum(1)
        carry(decoder[0], centre, torch.linalg.inv(mix))
        decoder[0].bias[:3] = 0.5
        for layer in decoder[1:-1]:
            carry(layer, binomial, eye)
        decoder[-1].weight *= 0.1
        carry(decoder[-1], centre, eye)
        for module in self.modules():
            if isinstance(module, taesd.Block):  # residual branches begin small and leave colour alone
                module.conv[-1].weight *= 0.2
                module.conv[-1].weight[:3] = 0.0


def grown(old: dict[str, torch.Tensor], fresh: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The fresh wider network with the old one in its corner: the same function, and room to learn more.

    The old channels do not listen to the new ones yet (zeros); the new ones listen to all.
    """
    result = {key: value.clone() for key, value in fresh.items()}
    for key, value in result.items():
        corner = tuple(slice(size) for size in old[key].shape)
        value[: old[key].shape[0]] = 0.0
        value[corner] = old[key]
    return result


def narrowed(wide: dict[str, torch.Tensor], shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `widen` undoes: the corner of each weight without the zeros around it."""
    corners = {}
    for key, value in shapes.items():
        outside, inside = wide[key].float(), tuple(slice(size) for size in value.shape)
        corners[key] = outside[inside].clone()
    return corners


def widen(narrow: dict[str, torch.Tensor], wide: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Set the narrow network's weights into a corner of the wide one's shapes, among zeros: same function."""
    result = {}
    for key, value in wide.items():
        if key not in narrow:
            result[key] = value.clone()
            continue
        result[key] = torch.zeros_like(value)
        result[key][tuple(slice(size) for size in narrow[key].shape)] = narrow[key]
    return result
