"""The convolutions of EfficientDet's neck and head.

Shape letters: B images, C input and O output channels, H and W of a map. Sources: EfficientDet, arXiv 1911.09070, section 3.3;
its code, google/automl, efficientdet/tf2/efficientdet_keras.py and hparams_config.py.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Activation = Literal["silu", "relu6"]


def activation(kind: Activation) -> nn.Module:
    """SiLU, which the paper calls swish. The lite variants, which are made for small processors, have ReLU6."""
    return {"silu": nn.SiLU, "relu6": nn.ReLU6}[kind](inplace=True)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with EfficientDet's epsilon (hparams_config.py: 1e-3). Its momentum there is 0.01, for hundreds of epochs of
    COCO. The running averages start at a variance of 1. With 0.01 they make every measurement in the first 300 steps wrong.
    """
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel alone, then a 1x1 convolution over all of them."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = conv1x1(inputs, outputs, bias=bias)
        _keep_variance(self.depthwise)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        result: Tensor = self.pointwise(self.depthwise(maps))
        return result


def conv1x1(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    """A 1x1 convolution (B, C, H, W) -> (B, O, H, W) whose bias starts at 0."""
    conv = nn.Conv2d(inputs, outputs, 1, bias=bias)
    _keep_variance(conv)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _keep_variance(conv: nn.Conv2d) -> None:
    """Weights of variance 1 / fan-in, as in EfficientDet's code."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
