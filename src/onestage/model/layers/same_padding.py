"""TensorFlow's "same" padding without a padded copy of the map.

Shape letters: B images, C input and O output channels, H x W cells of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame  # type: ignore[attr-defined]
from torch import Tensor, nn

from onestage.model.layers.convolution import strided


class SameConv2d(Conv2dSame):
    """timm's convolution with TensorFlow's padding. If the amount of padding is odd, the additional row or column is behind
    the map. torch has no such convolution, so timm copies the map into a larger one. EfficientDet-D0 spends a fifteenth of its
    time on these copies.

    A kernel with a row of zeros before it, and one more row of padding on both sides, gives the same output without a copy.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H / stride, W / stride), rounded up."""
        if not self._pays(x):
            result: Tensor = super().forward(x)
            return result
        pads = [_around(n, k, s) for n, k, s in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)]
        (top, bottom), (left, right) = pads
        weight = F.pad(self.weight, (right - left, 0, bottom - top, 0)) if (top, left) != (bottom, right) else self.weight
        return strided(x, weight, bias=self.bias, stride=self.stride, padding=(bottom, right))

    def _pays(self, x: Tensor) -> bool:
        """Whether this way is faster: on a CPU. Compiled and exported graphs stay plain."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return False
        return x.device.type == "cpu" and self.dilation == (1, 1)


def _around(cells: int, kernel: int, stride: int) -> tuple[int, int]:
    """The number of padding cells before and behind a row of a map. The larger half of an odd number is behind."""
    total = max(0, (-(-cells // stride) - 1) * stride + kernel - cells)
    return total // 2, total - total // 2


def spare_copies(body: nn.Module) -> None:
    """Make every ``Conv2dSame`` of a network a ``SameConv2d``. Weights and settings stay; no convolution keeps a state."""
    for module in body.modules():
        if type(module) is Conv2dSame:
            module.__class__ = SameConv2d
