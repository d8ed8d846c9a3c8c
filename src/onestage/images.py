"""The only file that decodes pictures. The result is always RGB, uint8, (3, H, W).

Shape letters: H, W height and width of the picture.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from onestage.errors import DataError, explain


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may cost, before it is decoded."""

    max_bytes: int = 200_000_000
    max_side: int = 20_000
    max_pixels: int = 100_000_000
    max_scans: int = 100


def decode_image(source: str | Path | bytes, limits: ImageLimits = ImageLimits()) -> Tensor:
    """The picture in a file or in memory as (3, H, W) uint8 RGB, its EXIF orientation applied. DataError names the file."""
    where = "bytes in memory" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return to_tensor(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:
        raise DataError(explain("this picture cannot be read", where=where, got=error)) from error


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the picture with its EXIF orientation applied, from the header alone. DataError names the file."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:
        raise DataError(explain("this picture cannot be read", where=path, got=error)) from error


def to_tensor(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """A picture in any of the usual forms as (3, H, W) uint8 RGB."""
    if isinstance(image, Tensor):
        return image
    pixels = np.array(image.convert("RGB") if isinstance(image, Image.Image) else image)
    return torch.from_numpy(pixels).permute(2, 0, 1)
