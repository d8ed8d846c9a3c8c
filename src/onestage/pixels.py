"""What the numbers of a picture become: 0..255 in RGB, by the rows of the table of ``images`` for integers, floats and
transparency.

Shape letters: H, W height and width of the picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from onestage.errors import DataError

BEHIND_TRANSPARENCY = (128, 128, 128)
"""The colour behind transparent parts of a picture."""
UNREAD = {
    "a HEIC picture": re.compile(rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL),
    "an AVIF picture": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "a JPEG XL picture": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    "a JPEG 2000 picture": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "a PSD picture": re.compile(rb"8BPS"),
    "a PDF document": re.compile(rb"%PDF-"),
    "a page of HTML": re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE),
}
"""What a file that is not read may be instead, by how it begins."""

# EXIF 2.3, tag 0x0112: what has to be done to the stored rows to see the picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def tensor_pixels(image: Tensor, where: str) -> Tensor:
    """(3, H, W) numbers of any type -> (3, H, W) uint8, in the same order of colours."""
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        fix = "tensor.permute(2, 0, 1)" if image.ndim == 3 and image.shape[2] == 3 else "give each picture of a batch by itself"
        raise unusable(where, f"a tensor of shape {tuple(image.shape)}", fix)
    if image.dtype == torch.uint8:
        return image
    values = image.detach().cpu()
    return torch.from_numpy(to_uint8((values.float() if values.is_floating_point() else values).numpy(), where))


def array_pixels(image: NDArray[np.number], where: str, *, reverse: bool) -> NDArray[np.uint8]:
    """(H, W), (H, W, 3) or (H, W, 4) numbers of any type -> (H, W, 3) uint8 RGB. ``reverse``: the colours come in BGR order."""
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)) or image.size == 0:
        last = "put the colours last: array.transpose(1, 2, 0)"
        fix = "give each picture of a batch by itself: list(array)" if image.ndim == 4 else last
        raise unusable(where, f"an array of shape {image.shape}", fix)
    values = to_uint8(image, where)
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=-1)
    order = [2, 1, 0, 3] if reverse else [0, 1, 2, 3]
    if values.shape[2] == 4:
        return np.array(over_grey(Image.fromarray(np.ascontiguousarray(values[..., order]))))
    return values[..., ::-1] if reverse else values


def over_grey(layer: Image.Image) -> Image.Image:
    """An RGBA picture as RGB, over ``BEHIND_TRANSPARENCY``."""
    picture = Image.new("RGB", layer.size, BEHIND_TRANSPARENCY)
    picture.paste(layer, mask=layer)
    return picture


def span_of(parts: Iterable[NDArray[np.number]]) -> tuple[np.number, np.number]:
    """The least and the largest number of all parts of a picture; both NaN if one of them is not a number."""
    ends = [(part.min(), part.max()) for part in parts]
    return np.min(ends), np.max(ends)


def to_uint8(values: NDArray[np.number], where: str, span: tuple[np.number, np.number] | None = None) -> NDArray[np.uint8]:
    """Numbers of any size as 0..255, by the table of ``images``. Raise DataError if the table has no row for them.

    span: the least and the largest number of the picture that the values are a part of; by default they are all of it.
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if values.dtype.kind not in "uif":
        raise unusable(where, f"values of type {values.dtype}", "convert them to uint8")
    if values.dtype == np.uint16:
        return (values.astype(np.uint16, copy=False) >> 8).astype(np.uint8)
    low, high = span_of([values]) if span is None else span
    if not (low >= 0 and high <= 65535):  # in this form it holds for NaN too
        fix = "undo the normalisation: 0 is black, and 1, 255 or 65535 is white"
        raise unusable(where, f"values from {low} to {high}", fix)
    if high > 255:
        return np.floor_divide(values, 256).astype(np.uint8)
    return np.rint(values * 255 if values.dtype.kind == "f" and high <= 1 else values).astype(np.uint8)


def unusable(where: str, got: str, fix: str) -> DataError:
    """The error of something that is no picture, or has numbers that no row of the table allows."""
    expected = "a PIL picture, an array (H, W, 3), (H, W, 4) or (H, W), or a tensor (3, H, W)"
    return DataError("this cannot be used as a picture", where=where, got=got, expected=expected, fix=fix)
