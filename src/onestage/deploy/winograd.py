"""Winograd's F(4x4, 3x3) inside an exported graph, in operators that every runtime has.

Shape letters: B images, C input and O output channels, H and W of a map, R rows and S columns of tiles, T = R * S. A tile is
4x4 pixels of the output and the 6x6 = 36 pixels of the input that it depends on.

onnxruntime and OpenVINO compute a 3x3 convolution as a plain sum of products. With a quarter of the multiplications the wide
layers of SSD300 and RetinaNet take half to two thirds of the time. The file holds the usual filters: a runtime transforms them
once, when it opens the file.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import SymInt, Tensor, nn

from onestage.model.detector import mirror
from onestage.model.layers.convolution import STORED_PIXELS, Transforms, is_wide, transforms


class GraphConv3x3(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, as one matrix product for each of the 36 points."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """conv: the convolution whose tensors it uses."""
        super().__init__()
        self.conv = conv
        for name, matrix in transforms()._asdict().items():  # made here: what is made while torch traces has no numbers
            self.register_buffer(f"of_{name}", matrix, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        height, width = images.shape[2:]
        if _number(height * width) < STORED_PIXELS:
            plain: Tensor = self.conv(images)
            return plain
        weight, bias = self.conv.weight, self.conv.bias
        outputs, inputs = weight.shape[:2]
        of_input, of_filter, of_output = (self.get_buffer(f"of_{name}") for name in Transforms._fields)
        more = 4 if isinstance(height, int) and isinstance(width, int) else 8  # a free side has at least two tiles
        padded = F.pad(images, (1, more, 1, more)).flatten(0, 1)[:, None]  # the convolution leaves out what fills no tile
        points = F.conv2d(padded, of_input.view(36, 1, 6, 6), stride=4)
        rows, columns = points.shape[2:]
        points = points.view(-1, inputs, 36, rows * columns).permute(2, 1, 0, 3).flatten(2)
        filters = (of_filter @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, outputs, inputs)
        pixels = (of_output @ (filters @ points).view(36, -1)).view(16, outputs, -1, rows, columns)
        maps = F.pixel_shuffle(pixels.permute(2, 1, 0, 3, 4).flatten(1, 2), 4)
        maps = F.pad(maps, (0, width - 4 * columns, 0, height - 4 * rows))  # by less than 0: it cuts free sizes too
        return maps if bias is None else maps + bias.view(-1, 1, 1)


def _number(size: int | SymInt) -> int:
    """A size; of a free one that of the example, which ``node.hint`` holds in all versions of torch from 2.10."""
    hint = size.node.hint if isinstance(size, SymInt) else size
    assert isinstance(hint, int)
    return hint


def by_winograd(network: nn.Module) -> nn.Module:
    """A copy of the network, with the same tensors, in which wide 3x3 convolutions are ``GraphConv3x3``."""
    return mirror(network, instead={part: GraphConv3x3(part) for part in network.modules() if is_wide(part)})
