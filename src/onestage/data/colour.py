"""SSD's photometric distortion as one affine map of colour.

Brightness, contrast and saturation are affine in RGB, and so is a rotation of hue about the grey axis. So the whole chain is
one 3x3 matrix and an offset per picture, applied in one pass: torchvision's chain takes 4 ms on a 300x300 picture, most of it
in the way to HSV and back, this takes 0.6 ms. Two things differ: values are cut to 0..255 once, at the end, and a turn of hue
keeps the luminance of a colour where HSV keeps its largest channel.

Shape letters: H, W height and width of the picture.
"""

import math

import torch
from torch import Tensor

# Probability and ranges of the SSD authors' training script (distort_param in ssd_pascal.py), as torchvision's
# RandomPhotometricDistort has them: a factor of 1 +- range, and for hue a part of a full turn.
_P = 0.5
_BRIGHTNESS = 0.125
_CONTRAST = 0.5
_SATURATION = 0.5
_HUE = 0.05

_GREY = torch.tensor([0.2989, 0.587, 0.114])
"""Luminance of R, G, B: torchvision's rgb_to_grayscale (ITU-R BT.601)."""

# The two chroma axes I and Q of the NTSC colour space (BT.601 luminance), in which hue is an angle.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


def distort_colours(image: Tensor, strength: float, *, shuffle_channels: float, generator: torch.Generator) -> Tensor:
    """(3, H, W) uint8 -> (3, H, W) uint8 with brightness, contrast, saturation and hue changed, each with probability 0.5.

    strength multiplies the ranges; shuffle_channels is the probability of a random order of the channels. With both at 0 the
    picture itself comes back and nothing is drawn.
    """
    if strength > 0:
        matrix, offset = draw_colour_map(mean_colour(image), strength, generator=generator)
        image = apply_colour_map(image, matrix, offset)
    if shuffle_channels > 0 and float(torch.rand((), generator=generator)) < shuffle_channels:
        image = image[torch.randperm(3, generator=generator)]
    return image


def draw_colour_map(mean: Tensor, strength: float, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random colour map for a picture of that mean colour (3,): matrix (3, 3) and offset (3,), both float32.

    As in SSD: brightness, contrast, saturation, hue, where contrast comes last half of the time.
    """
    chosen = (torch.rand(4, generator=generator) < _P).tolist()
    turns = ((torch.rand(4, generator=generator) * 2 - 1) * strength).tolist()
    brightness, contrast, saturation, hue = (turn if use else 0.0 for turn, use in zip(turns, chosen, strict=True))
    contrast_first = float(torch.rand((), generator=generator)) < 0.5

    matrix, offset = torch.eye(3) * (1 + _BRIGHTNESS * brightness), torch.zeros(3)
    factor = 1 + _CONTRAST * contrast
    if contrast_first:
        matrix, offset = _contrast(matrix, offset, mean, factor)
    chroma = _hue(_HUE * hue) @ _saturation(1 + _SATURATION * saturation)
    matrix, offset = chroma @ matrix, chroma @ offset
    if not contrast_first:
        matrix, offset = _contrast(matrix, offset, mean, factor)
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


def mean_colour(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (3,) float32. Summed as integers: the same to the bit for any number of threads."""
    return (image.sum((1, 2)).double() / image[0].numel()).float()


def apply_colour_map(image: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """(3, H, W) uint8, (3, 3), (3,) -> (3, H, W) uint8.

    Written out instead of a matrix product, whose last bit may depend on how many threads share it.
    """
    red, green, blue = image.float().unbind(0)
    columns = matrix.T[:, :, None, None]
    result = columns[0] * red
    result += columns[1] * green
    result += columns[2] * blue
    result += offset[:, None, None]
    return result.clamp_(0, 255).round_().to(torch.uint8)
