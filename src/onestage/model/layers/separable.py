"""The convolutions that EfficientDet's neck and head are made of.

Shape letters: B images, C input and O output channels, H and W of a map. Sources: EfficientDet, arXiv 1911.09070, section 3.3;
its code, google/automl, efficientdet/tf2/efficientdet_keras.py and hparams_config.py.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Activation = Literal["silu", "relu6"]


def activation(kind: Activation) -> nn.Module:
    """SiLU (the paper's swish), or ReLU6 in the lite variants, which are made for small processors."""
    return {"silu": nn.SiLU, "relu6": nn.ReLU6}[kind](inplace=True)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with EfficientDet's epsilon (hparams_config.py: 1e-3). Its momentum there is 0.01, made for hundreds of epochs
    of COCO; with it the running averages, which begin at a variance of 1, spoil every measurement of the first 300 steps.
    """
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


class SeparableConv(nn.Module):
    """3x3 for each channel by itself, then 1x1 over all of them: (B, C, H, W) -> (B, O, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = conv1x1(inputs, outputs, bias=bias)
        _keep_variance(self.depthwise)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.pointwise(self.depthwise(maps))
        return result


def conv1x1(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    """A 1x1 convolution that starts with no bias."""
    conv = nn.Conv2d(inputs, outputs, 1, bias=bias)
    _keep_variance(conv)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _keep_variance(conv: nn.Conv2d) -> None:
    """Weights of variance 1 / fan-in, as EfficientDet's code draws them."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
