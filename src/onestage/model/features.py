"""What backbones and necks build.

Shape letters: B images, C_l channels of level l.
"""

from torch import nn


class Features(nn.Module):
    """A module that gives feature maps, a list of (B, C_l, H_l, W_l), and says how many channels each of them has."""

    channels: tuple[int, ...]
