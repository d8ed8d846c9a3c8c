"""From pictures of any size to the network's input, and exactly back.

Shape letters: B images, H and W of a picture, h and w of the input. Pictures are RGB uint8 (3, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from onestage.errors import require
from onestage.model.codec import Part
from onestage.model.limits import Positive, Side
from onestage.structures import ImageMeta, Size

MULTIPLE = 32
"""With "shortest_edge", a batch is padded to multiples of that many pixels (detectron2's and torchvision's size_divisible)."""


@dataclass(frozen=True)
class Preprocess(Part):
    """Bring the picture to the input's size, then (x / 255 - mean) / std per channel.

    mode: "stretch" it to ``size`` (height, width), as SSD does; "letterbox": scale it to the largest size that fits into
    ``size``, in the top left corner, as EfficientDet does; "shortest_edge": scale the shorter side to size[0] pixels, or less,
    so that the longer side does not exceed size[1], and pad the batch to a common size, as RetinaNet does. Padding has the mean
    colour, which is 0 to the network. antialias: Pillow's filter, computed on uint8 (within one grey level of Pillow); False is
    plain bilinear interpolation in float, with which torchvision's published weights were trained and tested.
    """

    size: tuple[Side, Side]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    antialias: bool = True
    mode: Literal["stretch", "letterbox", "shortest_edge"] = "stretch"

    def __post_init__(self) -> None:
        super().__post_init__()
        in_order = self.mode != "shortest_edge" or self.size[0] <= self.size[1]
        require(in_order, 'with "shortest_edge" the size is (shortest, longest) side', got=self.size)

    @property
    def colour(self) -> tuple[float, float, float]:
        """The mean colour, RGB in 0..255. Padding has this colour."""
        red, green, blue = self.mean
        return 255 * red, 255 * green, 255 * blue

    @property
    def largest(self) -> Size:
        """(height, width) of the largest input of a picture that is wider than high."""
        return self.size if self.mode != "shortest_edge" else (_padded(self.size[0]), _padded(self.size[1]))

    def place(self, original: Size) -> ImageMeta:
        """Where a picture of that (height, width) lies in the input, if it is alone in its batch."""
        if self.mode == "stretch":
            return ImageMeta.stretched(original, self.size)
        height, width = original
        if self.mode == "letterbox":
            factor = min(self.size[0] / height, self.size[1] / width)
        else:
            factor = min(self.size[0] / min(original), self.size[1] / max(original))
        inner = (max(1, int(height * factor)), max(1, int(width * factor)))
        whole = self.size if self.mode == "letterbox" else (_padded(inner[0]), _padded(inner[1]))
        return ImageMeta(original, whole, scale=(inner[0] / height, inner[1] / width), pad=(0, 0))

    def resize(self, image: Tensor) -> tuple[Tensor, ImageMeta]:
        """(3, H, W) uint8 -> (3, h, w) in 0..255, uint8 (float32 without antialias), and where the picture now lies."""
        meta = self.place((image.shape[1], image.shape[2]))
        inner = (round(meta.original[0] * meta.scale[0]), round(meta.original[1] * meta.scale[1]))
        if meta.original == inner:
            resized = image if self.antialias else image.float()
        elif self.antialias:
            resized = tv.resize(image, list(inner), antialias=True)
        else:
            resized = F.interpolate(image[None].float(), inner, mode="bilinear", align_corners=False, antialias=False)[0]
        return self._pad(resized, meta.input), meta

    def _pad(self, image: Tensor, size: Size) -> Tensor:
        """The image (3, h, w) in the top left corner of one of that size, the rest in the mean colour."""
        if (image.shape[1], image.shape[2]) == size:
            return image
        colour = torch.tensor(self.colour, dtype=torch.float32, device=image.device).view(3, 1, 1)
        canvas = (colour if image.is_floating_point() else colour.round()).to(image.dtype).repeat(1, *size)
        canvas[:, : image.shape[1], : image.shape[2]] = image
        return canvas

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) in 0..255, uint8 or float -> float32 as the network wants it, channels last in memory."""
        mean = torch.tensor(self.colour, dtype=torch.float32, device=images.device).view(3, 1, 1)
        scale = 1 / (torch.tensor(self.std, dtype=torch.float32, device=images.device).view(3, 1, 1) * 255)
        return ((images.float() - mean) * scale).contiguous(memory_format=torch.channels_last)

    def batch(self, images: Sequence[Tensor]) -> tuple[Tensor, tuple[ImageMeta, ...]]:
        """B pictures (3, H, W) uint8 of any size -> (B, 3, h, w) in 0..255, resized to one size, and a meta for each."""
        resized, metas = zip(*(self.resize(image) for image in images), strict=True)
        common = (max(m.input[0] for m in metas), max(m.input[1] for m in metas))
        pixels = torch.stack([self._pad(image, common) for image in resized])
        return pixels, tuple(replace(meta, input=common) for meta in metas)

    def __call__(self, images: Sequence[Tensor], *, device: torch.device | None = None) -> tuple[Tensor, tuple[ImageMeta, ...]]:
        """B pictures (3, H, W) of any size -> (B, 3, h, w) normalised, on ``device`` (by default theirs), and their metas."""
        pixels, metas = self.batch(images)
        return self.normalize(pixels.to(device, non_blocking=True)), metas  # moved as bytes: floats need four times the memory


def _padded(side: int) -> int:
    return -(-side // MULTIPLE) * MULTIPLE
