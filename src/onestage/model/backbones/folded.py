"""A backbone without batch norm: convolutions with bias, as in deployed networks after their norms are folded in.

Shape letters: B images, H and W of the input, C_i channels and H_i x W_i cells of the map of layer i. The config describes
every layer, so it can describe any chain of convolutions with residual additions: MobileNet v1 and v2 of any width, with SSD's
extra levels behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from timm.layers.create_conv2d import create_conv2d
from torch import Tensor, nn

from onestage.errors import require
from onestage.model.codec import Part
from onestage.model.features import Features
from onestage.model.limits import MANY_LAYERS, MANY_LEVELS, Channels, Index, Window

IMAGE = -1
"""As the source of a layer: the images."""


@dataclass(frozen=True)
class FoldedLayer(Part):
    """A convolution with bias and the padding that TensorFlow calls SAME: if its amount is odd, the far side gets one pixel
    more.

    channels: of the output. source: index of the layer whose output it reads, or IMAGE. depthwise: each channel is convolved
    alone. relu6: whether ReLU6 follows. add: index of a layer whose output is added at the end (MobileNetV2, section 3.3).
    """

    channels: Channels
    source: Index
    kernel: Window = 1
    stride: Window = 1
    depthwise: bool = False
    relu6: bool = True
    add: Index | None = None


@dataclass(frozen=True)
class FoldedBackbone(Part):
    """The layers in the order in which they are computed, and which of their outputs are the feature maps, fine to coarse."""

    layers: Annotated[tuple[FoldedLayer, ...], MANY_LAYERS]
    maps: Annotated[tuple[Index, ...], MANY_LEVELS]

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = range(len(self.layers))
        require(bool(self.layers), "there is at least one layer", got=self.layers)
        for rule, holds in _RULES.items():
            require(all(holds(self, number) for number in numbers), rule, got=self.layers)
        require(bool(self.maps) and all(i in numbers for i in self.maps), "maps are layers", got=self.maps)

    def inputs(self, index: int) -> int:
        """The number of channels that a layer reads."""
        source = self.layers[index].source
        return 3 if source == IMAGE else self.layers[source].channels

    def build(self) -> Features:
        """The network with fresh weights."""
        return _Folded(self)


def _in_order(config: FoldedBackbone, number: int) -> bool:
    layer = config.layers[number]
    return IMAGE <= layer.source < number and (layer.add is None or 0 <= layer.add < number)


def _suits_source(config: FoldedBackbone, number: int) -> bool:
    layer = config.layers[number]
    return not layer.depthwise or layer.channels == config.inputs(number)


def _suits_added(config: FoldedBackbone, number: int) -> bool:
    layer = config.layers[number]
    return layer.add is None or layer.channels == config.layers[layer.add].channels


_RULES = {
    "a layer reads and adds the outputs of layers before it": _in_order,
    "a depthwise layer has as many channels as its source": _suits_source,
    "a layer has as many channels as the output that it adds": _suits_added,
}


class _Folded(Features):
    def __init__(self, config: FoldedBackbone) -> None:
        super().__init__()
        self.config = config
        self.channels = tuple(config.layers[i].channels for i in config.maps)
        self.layers = nn.ModuleList(_conv(layer, config.inputs(i)) for i, layer in enumerate(config.layers))
        sources = {layer.source for i, layer in enumerate(config.layers) if layer.source != i - 1}
        added = {layer.add for layer in config.layers if layer.add is not None}
        self.kept = sources | added | set(config.maps)  # read again later; other outputs are dropped, which saves memory

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> a list of (B, C_i, H_i, W_i), one per layer i that gives a map."""
        kept = {IMAGE: images}
        latest = images
        for i, (layer, module) in enumerate(zip(self.config.layers, self.layers, strict=True)):
            latest = module(latest if layer.source == i - 1 else kept[layer.source])
            if layer.add is not None:
                latest = latest + kept[layer.add]
            if i in self.kept:
                kept[i] = latest
        return [kept[i] for i in self.config.maps]


def _conv(layer: FoldedLayer, inputs: int) -> nn.Module:
    options = {"stride": layer.stride, "depthwise": layer.depthwise, "bias": True, "padding": "same"}
    conv: nn.Conv2d = create_conv2d(inputs, layer.channels, layer.kernel, **options)
    nn.init.kaiming_normal_(
        conv.weight, nonlinearity="relu" if layer.relu6 else "linear"
    )  # there is no norm to keep the variance
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.ReLU6(inplace=True)) if layer.relu6 else conv
