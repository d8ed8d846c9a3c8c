"""A backbone without batch norm: convolutions with bias, as deployed networks have them once their norms are folded in.

Shape letters: B images, C_i channels of layer i, H_i and W_i of its map. The config describes layer by layer, so it can say any
chain of convolutions with residual additions: MobileNet v1 and v2 of any width, with SSD's extra levels behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

from timm.layers.create_conv2d import create_conv2d
from torch import Tensor, nn

from onestage.errors import require
from onestage.model.features import Features

IMAGE = -1
"""As the source of a layer: the images themselves."""


@dataclass(frozen=True)
class FoldedLayer:
    """A convolution with bias, padded as TensorFlow's SAME: what is missing at the far side, one pixel more than at the near.

    channels: of its output. source: index of the layer whose output it reads, or IMAGE. depthwise: every channel by itself.
    relu6: whether ReLU6 follows. add: index of a layer whose output is then added (MobileNetV2, section 3.3).
    """

    channels: int
    source: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    relu6: bool = True
    add: int | None = None


@dataclass(frozen=True)
class FoldedBackbone:
    """The layers, in the order they are computed, and which of their outputs are the feature maps, fine to coarse."""

    layers: tuple[FoldedLayer, ...]
    maps: tuple[int, ...]

    def __post_init__(self) -> None:
        numbered = list(enumerate(self.layers))
        sides = [side for layer in self.layers for side in (layer.channels, layer.kernel, layer.stride)]
        require(bool(sides) and min(sides) >= 1, "layers have channels, a kernel and a stride of at least 1", got=self.layers)
        earlier = all(IMAGE <= layer.source < i and (layer.add is None or 0 <= layer.add < i) for i, layer in numbered)
        require(earlier, "a layer reads and adds the outputs of layers before it", got=self.layers)
        same = all(not layer.depthwise or layer.channels == self.inputs(i) for i, layer in numbered)
        require(same, "a depthwise layer has as many channels as its source", got=self.layers)
        fits = all(layer.add is None or layer.channels == self.layers[layer.add].channels for layer in self.layers)
        require(fits, "a layer adds an output of as many channels as its own", got=self.layers)
        require(bool(self.maps) and all(0 <= i < len(numbered) for i in self.maps), "maps are layers", got=self.maps)

    def inputs(self, index: int) -> int:
        """How many channels a layer reads."""
        source = self.layers[index].source
        return 3 if source == IMAGE else self.layers[source].channels

    def build(self) -> Features:
        return _Folded(self)


class _Folded(Features):
    def __init__(self, config: FoldedBackbone) -> None:
        super().__init__()
        self.config = config
        self.channels = tuple(config.layers[i].channels for i in config.maps)
        self.layers = nn.ModuleList(_conv(layer, config.inputs(i)) for i, layer in enumerate(config.layers))
        sources = {layer.source for i, layer in enumerate(config.layers) if layer.source != i - 1}
        added = {layer.add for layer in config.layers if layer.add is not None}
        self.kept = sources | added | set(config.maps)  # read again later; the rest is let go, so that memory stays free

    def forward(self, images: Tensor) -> list[Tensor]:
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
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu" if layer.relu6 else "linear")  # no norm keeps the variance
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.ReLU6(inplace=True)) if layer.relu6 else conv
