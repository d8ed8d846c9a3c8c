"""From pictures of any size to the network's input, and exactly back.

Shape letters: B images, H and W of a picture, h and w of the input. Pictures are RGB uint8 (3, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from onestage.errors import require
from onestage.structures import ImageMeta, Size


@dataclass(frozen=True)
class Preprocess:
    """Stretch the picture to ``size`` (height, width), as SSD does, then (x / 255 - mean) / std per channel.

    antialias: Pillow's filter, computed on uint8 (within one grey level of Pillow's own); False is plain bilinear
    interpolation in float, with which torchvision's published SSD weights were trained and tested.
    """

    size: Size
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    antialias: bool = True

    def __post_init__(self) -> None:
        require(min(self.size) >= 1, "the input has at least one pixel", got=self.size)
        require(min(self.std) > 0, "std is above 0: pixels are divided by it", got=self.std)

    def place(self, original: Size) -> ImageMeta:
        """Where a picture of that (height, width) lies in the input."""
        return ImageMeta.stretched(original, self.size)

    def resize(self, image: Tensor) -> tuple[Tensor, ImageMeta]:
        """(3, H, W) uint8 -> (3, h, w) in 0..255, uint8 (float32 without antialias), and where the picture now lies."""
        meta = self.place((image.shape[1], image.shape[2]))
        if meta.original == self.size:
            return image, meta
        if self.antialias:
            return tv.resize(image, list(self.size), antialias=True), meta
        smooth = F.interpolate(image[None].float(), self.size, mode="bilinear", align_corners=False, antialias=False)
        return smooth[0], meta

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) in 0..255, uint8 or float -> float32 as the network wants it, channels last in memory."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1) * 255
        scale = 1 / (torch.tensor(self.std, device=images.device).view(3, 1, 1) * 255)
        return ((images.float() - mean) * scale).contiguous(memory_format=torch.channels_last)

    def __call__(self, images: Sequence[Tensor], *, device: torch.device | None = None) -> tuple[Tensor, tuple[ImageMeta, ...]]:
        """B pictures of any size -> (B, 3, h, w) normalised, on ``device`` (else the pictures' own), and one meta each."""
        resized, metas = zip(*(self.resize(image) for image in images), strict=True)
        pixels = torch.stack(resized).to(device, non_blocking=True)  # before they become floats, four times as large
        return self.normalize(pixels), metas
