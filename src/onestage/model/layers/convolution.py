"""Convolutions on a CPU, where torch's are slow or wrong.

Shape letters: B images, C input and O output channels, G groups of channels, H and W of a map, K x K cells of a filter;
R rows and S columns of tiles, T = R * S. A tile is 4x4 pixels of the output and the 6x6 = 36 pixels of the input that it
depends on.

``Conv3x3`` has a quarter of the multiplications, by Winograd's F(4x4, 3x3). Source: A. Lavin and S. Gray, Fast Algorithms for
Convolutional Neural Networks, 2015, arXiv 1509.09308, section 4.

Input tiles and filters are transformed to 36 points, where a convolution is a product. 36 matrix products sum over the
channels, and the sums are transformed back to 16 pixels. The libraries of GPUs do this; oneDNN, which computes torch's
convolutions on a CPU, does not. Rounding errors are about 1e-5 of the largest value, ten times those of a plain convolution.

No layer stores transformed filters, because weights may change at any time, in training and by hand. Exported files and copies
of a network that only predict do, and for them more layers are faster.

``StridedConv2d`` avoids a fault of torch's bf16 convolutions, which oneDNN computes. If the stride along the width is above 1
and the output has one column, they use memory that was never written (seen with torch 2.15 on AVX-512). The gradient of the
weights is what lay there before; with 128 channels and three rows or more the output and the gradient of the input are wrong
too. Stride 1, 1x1 filters, fp16 and fp32 have no such fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

N = TypeVar("N", bound=nn.Module)

_FLOATS_AT_ONCE = 1 << 21
"""How many numbers a strip of tiles has at its 36 points: 8 MB stay in the processor's cache between the steps."""
_LEAST_PIXELS = 1024
"""The smallest map for which it is faster: on smaller maps the transform of the filters costs more than it saves."""
_LEAST_CHANNELS = 128
"""The fewest input channels for which it is faster: with fewer, moving the tiles costs more than it saves."""
_LEAST_CHANNELS_LEARNING = 64
"""The same if the weights learn: oneDNN computes their gradient slowly if channels lie last in memory."""
STORED_CHANNELS, STORED_FILTERS = 128, 128 * 256
"""The fewest input and output channels, and the fewest filters (C * O), for which transformed filters are stored."""
STORED_PIXELS = 300
"""The smallest map for which stored filters are faster than a plain convolution."""


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 and padding 1, by Winograd's algorithm where that is faster. Its weights are as usual."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        if not self._pays(input):
            return super().forward(input)
        result: Tensor = _Convolution.apply(input, self.weight, self.bias)
        return result

    def _pays(self, images: Tensor) -> bool:
        """Whether it is faster. This depends on the layer and the size of the map, never on the number of images. Compiled and
        exported graphs stay plain.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return False
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        channels = _LEAST_CHANNELS_LEARNING if learns else _LEAST_CHANNELS
        suits = self.in_channels >= channels and self.out_channels >= _LEAST_CHANNELS_LEARNING
        return (
            suits
            and images.shape[2:].numel() >= _LEAST_PIXELS
            and images.device.type == "cpu"
            and images.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )


class _Context(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    saved_tensors: tuple[Tensor, Tensor]
    needs_input_grad: tuple[bool, bool, bool]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, H, W), (O, C, 3, 3) and (O,) -> (B, O, H, W)."""
        ctx.save_for_backward(images, weight)
        return _faster(images, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradient (B, O, H, W) of the output -> those of the input (B, C, H, W), the weights and the bias."""
        images, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        turned = weight.flip(2, 3).transpose(0, 1)  # the gradient of the input is a convolution with the filters turned round
        return (
            _faster(gradient, turned, None) if wanted[0] else None,
            weight_gradient(images, gradient) if wanted[1] else None,
            gradient.sum((0, 2, 3)) if wanted[2] else None,
        )


def _faster(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.shape[1] < _LEAST_CHANNELS:
        return F.conv2d(images, weight, bias, padding=1)
    return convolve(images, weight, bias)


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, C, H, W), (O, C, 3, 3) and (O,) -> (B, O, H, W), channels last in memory. Padding 1, stride 1."""
    return convolve_by(images, transformed(weight), bias)


def transformed(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> the filters at the 36 points, (36, C, O)."""
    outputs, inputs = weight.shape[:2]
    return (transforms().filter @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, outputs, inputs).mT


def convolve_by(images: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, H, W), transformed filters (36, C, O) and (O,) -> (B, O, H, W), channels last in memory."""
    inputs, outputs = filters.shape[1:]
    to = transforms()
    tiles = _input_tiles(images)
    result = torch.empty_like(images[:, :1].expand(-1, outputs, -1, -1), memory_format=torch.channels_last)
    for image, rows in _strips(tiles, max(inputs, outputs)):
        points = _points(to.input, tiles[:, :, image, rows])
        sums = points @ filters
        pixels = (to.output @ sums.view(36, -1)).view(4, 4, -1, tiles.shape[4], outputs)
        strip = pixels.permute(2, 0, 3, 1, 4).reshape(-1, 4 * tiles.shape[4], outputs)
        part = result.permute(0, 2, 3, 1)[image, 4 * rows.start : 4 * rows.stop]
        torch.add(strip[: len(part), : images.shape[3]], 0.0 if bias is None else bias, out=part)
    return result


def is_wide(part: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a plain 3x3 convolution with enough channels for stored filters."""
    if not isinstance(part, nn.Conv2d) or type(part) not in (nn.Conv2d, Conv3x3):
        return False
    usual = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    least, most = sorted((part.in_channels, part.out_channels))
    wide = least >= STORED_CHANNELS and least * most >= STORED_FILTERS
    return wide and part.padding_mode == "zeros" and all(getattr(part, name) == value for name, value in usual.items())


def weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """Inputs (B, C, H, W) and the gradient of the outputs (B, O, H, W) -> the gradient of the weights, (O, C, 3, 3)."""
    inputs, outputs = images.shape[1], gradient.shape[1]
    to = transforms()
    tiles, slopes = _input_tiles(images), _output_tiles(gradient)
    total = images.new_zeros(36, outputs, inputs)
    for image, rows in _strips(tiles, max(inputs, outputs)):
        points = _points(to.input, tiles[:, :, image, rows])
        sums = _points(to.output.T, slopes[:, :, image, rows])
        total.baddbmm_(sums.mT, points)
    return (to.filter.T @ total.view(36, -1)).view(3, 3, outputs, inputs).permute(2, 3, 0, 1)


def _points(matrix: Tensor, tiles: Tensor) -> Tensor:
    """(36, N) and the N pixels of tiles (6, 6, R, S, C) or (4, 4, R, S, C) -> (36, T, C)."""
    return (matrix @ tiles.reshape(matrix.shape[1], -1)).view(36, -1, tiles.shape[-1])


def _input_tiles(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (6, 6, B, R, S, C): a view of overlapping tiles, with zeros around the map."""
    height, width = images.shape[2:]
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1 + -width % 4, 1, 1 + -height % 4))
    return padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)


def _output_tiles(maps: Tensor) -> Tensor:
    """(B, O, H, W) -> (4, 4, B, R, S, O): tiles side by side, with zeros where they reach over the border."""
    height, width = maps.shape[2:]
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 0, -width % 4, 0, -height % 4))
    return padded.unfold(1, 4, 4).unfold(2, 4, 4).permute(4, 5, 0, 1, 2, 3)


def _strips(tiles: Tensor, channels: int) -> Iterator[tuple[int, slice]]:
    """Cut the tiles (.., .., B, R, S, C) into image and rows: as many rows at a time as the cache holds."""
    images, rows, columns = tiles.shape[2:5]
    step = max(1, _FLOATS_AT_ONCE // (36 * columns * channels))
    for image in range(images):
        for row in range(0, rows, step):
            yield image, slice(row, row + step)


class Transforms(NamedTuple):
    """To the 36 points from an input tile (36, 36) and from a filter (36, 9), and from there to 16 pixels (16, 36)."""

    input: Tensor
    filter: Tensor
    output: Tensor


@cache
def transforms() -> Transforms:
    """The Kronecker products of B^T, G and A^T of section 4.3 with themselves: both directions of a picture at once.

    They are constants, made once and never changed: ordinary tensors, also if the first call is in inference mode.
    """
    data = [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    filter = [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
    inverse = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    with torch.inference_mode(False):
        squares = [torch.tensor(m, dtype=torch.float64, device="cpu") for m in (data, filter, inverse)]
        return Transforms(*(torch.kron(m, m).float() for m in squares))


class StridedConv2d(nn.Conv2d):
    """torch's convolution. On the maps of the fault above it takes another way to the same values."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):  # "valid": without zeros around it there is no fault
            return super()._conv_forward(input, weight, bias)
        rows, columns = self.padding
        return strided(input, weight, bias=bias, stride=self.stride, padding=(rows, columns), dilation=self.dilation)


class StridedTransposed(nn.ConvTranspose2d):
    """torch's transposed convolution, whose gradient is a convolution with a stride. It takes another way on such maps."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W'). output_size: as torch takes it."""
        if output_size is not None or not _in_bf16(input) or input.shape[-1] > 1:
            return super().forward(input, output_size)
        return super().forward(F.pad(input, (0, 1)))[..., : -self.stride[1]]  # what belongs to a second column is cut off


def strided(
    images: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, int],
    dilation: tuple[int, ...] = (1, 1),
) -> Tensor:
    """(B, C, H, W), (O, C / G, K, K) and (O,) -> (B, O, H', W'), as ``F.conv2d`` gives it.

    If the output has one column and the fault above can be met, the stride along the width is 1 and further columns are cut
    off.
    """
    groups = images.shape[-3] // weight.shape[1]
    if not (_in_bf16(images) and stride[1] > 1 and _one_column(images, weight, stride[1], padding[1], dilation[1])):
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups)
    return F.conv2d(images, weight, bias, (stride[0], 1), padding, dilation, groups)[..., :1]


def _in_bf16(images: Tensor) -> bool:
    """Whether torch computes in bf16 on a CPU. Exported graphs stay plain: other programs compute them."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return images.device.type == "cpu" and (autocast or images.dtype == torch.bfloat16)


def _one_column(images: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> bool:
    return images.shape[-1] + 2 * padding - dilation * (weight.shape[-1] - 1) <= stride


def mend_strided(network: N) -> N:
    """The network itself. Each plain convolution in it, transposed or not, that has a stride along the width now avoids the
    fault above. Weights, settings and names stay.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.stride[1] > 1 and module.kernel_size[1] > 1:
            module.__class__ = StridedConv2d
        elif type(module) is nn.ConvTranspose2d and module.stride[1] > 1 and module.kernel_size[1] > 1:
            module.__class__ = StridedTransposed
    return network
