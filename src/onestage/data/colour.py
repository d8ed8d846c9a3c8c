"""SSD's photometric distortion as one affine map of colour.

Brightness, contrast and saturation are affine in RGB, and so is a rotation of hue about the grey axis. So the whole chain is
one 3x3 matrix and an offset per picture, applied in one pass. On a 300x300 picture it takes 0.9 ms on average; torchvision's
chain takes 3.8 ms, most of it for HSV. Two things differ from torchvision: values are cut to 0..255 once, at the end, and a
turn of hue keeps the luminance of a colour, not its largest channel.

Shape letters: H, W height and width of the picture.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Probability and ranges of the SSD authors' training script (distort_param in ssd_pascal.py), as torchvision's
# RandomPhotometricDistort has them: a factor of 1 +- range, and for hue a part of a full turn.
_P = 0.5
_BRIGHTNESS = 0.125
_CONTRAST = 0.5
_SATURATION = 0.5
_HUE = 0.05

_GREY = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float32, device="cpu")
"""Luminance of R, G, B: torchvision's rgb_to_grayscale (ITU-R BT.601)."""

# The two chroma axes I and Q of the NTSC colour space (BT.601 luminance), in which hue is an angle.
_TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float32, device="cpu"
)
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


class Colours(NamedTuple):
    """A change of a picture's colours: three factors (1 changes nothing), and hue as a part of a full turn."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_first: bool = True


def distort_colours(image: Tensor, strength: float, *, shuffle_channels: float, generator: torch.Generator) -> Tensor:
    """(3, H, W) uint8 -> (3, H, W) uint8 with brightness, contrast, saturation and hue changed, each with probability 0.5.

    strength multiplies the ranges; shuffle_channels is the probability of a random order of the channels. If both are 0,
    returns the given picture and draws no random number.
    """
    if strength > 0:
        image = recolour(image, draw_colours(strength, generator=generator))
    if shuffle_channels > 0 and float(torch.rand((), generator=generator)) < shuffle_channels:
        image = image[torch.randperm(3, generator=generator)]
    return image


def draw_colours(strength: float, *, generator: torch.Generator) -> Colours:
    """Random changes of colour in SSD's ranges times ``strength``. Contrast comes before or after saturation and hue."""
    chosen = (torch.rand(5, generator=generator) < _P).tolist()
    drawn = ((torch.rand(4, generator=generator) * 2 - 1) * strength).tolist()
    brightness, contrast, saturation, hue = (value if use else 0.0 for value, use in zip(drawn, chosen, strict=False))
    return Colours(
        brightness=1 + _BRIGHTNESS * brightness,
        contrast=1 + _CONTRAST * contrast,
        saturation=1 + _SATURATION * saturation,
        hue=_HUE * hue,
        contrast_first=chosen[4],
    )


def recolour(image: Tensor, colours: Colours) -> Tensor:
    """(3, H, W) uint8 -> (3, H, W) uint8: brightness, contrast, saturation, hue, in this order unless contrast comes last.

    The sums are written out: the last bit of a matrix product may depend on the number of threads.
    """
    planes = image.to(torch.float32, memory_format=torch.contiguous_format)
    matrix, offset = colour_map(colours, mean_colour(planes))
    columns = matrix.T[:, :, None, None]
    result = columns[0] * planes[0]
    result += columns[1] * planes[1]
    result += columns[2] * planes[2]
    result += (offset + 0.5)[:, None, None]  # the half rounds, for the conversion cuts off
    return result.clamp_(0, 255).to(torch.uint8)


def mean_colour(planes: Tensor) -> Tensor:
    """(3, H, W) whole numbers in 0..255 as float32 -> (3,) float32.

    A row's sum is exact in float32, the sum of rows in float64: the same to the bit for any number of threads.
    """
    return (planes.sum(2).double().sum(1) / planes[0].numel()).float()


def colour_map(colours: Colours, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The whole chain as matrix (3, 3) and offset (3,), float32, for a picture with the mean colour ``mean`` (3,)."""
    matrix, offset = torch.eye(3) * colours.brightness, torch.zeros(3)
    if colours.contrast_first:
        matrix, offset = _contrast(matrix, offset, mean, colours.contrast)
    chroma = _hue(colours.hue) @ _saturation(colours.saturation)
    matrix, offset = chroma @ matrix, chroma @ offset
    if not colours.contrast_first:
        matrix, offset = _contrast(matrix, offset, mean, colours.contrast)
    return matrix, offset


def _contrast(matrix: Tensor, offset: Tensor, mean: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """The map followed by a stretch of contrast about the picture's mean luminance."""
    centre = _GREY @ (matrix @ mean + offset)
    return matrix * factor, offset * factor + centre * (1 - factor)


def _saturation(factor: float) -> Tensor:
    """(3, 3): away from grey (factor > 1) or towards it."""
    return torch.eye(3) * factor + _GREY.expand(3, 3) * (1 - factor)


def _hue(turn: float) -> Tensor:
    """(3, 3): every hue moved by a part of a full turn, in the direction of torchvision's adjust_hue (red to yellow)."""
    sine, cosine = math.sin(-2 * math.pi * turn), math.cos(2 * math.pi * turn)
    rotation = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    return _FROM_YIQ @ rotation @ _TO_YIQ
