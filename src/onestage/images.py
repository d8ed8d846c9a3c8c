"""The only file that decodes pictures. The result is always RGB, uint8, (3, H, W).

Shape letters: H, W height and width of the picture. Sizes are (height, width).

The table lists what is read, and the result. A picture that is broken, cut off or beyond ``ImageLimits`` raises a DataError
that names the file.

| the picture                        | the result                                                                         |
|------------------------------------|------------------------------------------------------------------------------------|
| format                             | JPEG, PNG, WebP, BMP, TIFF or GIF by its content, whatever the name of the file    |
| EXIF orientation 2..8              | applied: the picture is as a viewer shows it; any other value counts as 1          |
| grey, 1-bit, palette, CMYK, YCCK   | converted; a JPEG's CMYK is inverted, as Adobe writes it; ICC profiles are ignored |
| 16-bit integers                    | the high byte, v >> 8, whatever range the picture makes use of; 12-bit: v >> 4     |
| 32-bit integers                    | up to 255: v; up to 65535: v >> 8; beyond or negative: an error                    |
| floats                             | up to 1: 255 v, rounded; then as 32-bit integers; not a number: an error           |
| transparency                       | over mid-grey, on which dark and light objects both stay visible                   |
| animation, several pages           | the first                                                                          |
| bytes after the end of the picture | ignored                                                                            |

Annotations of every format refer to the picture after its EXIF orientation is applied.

Pillow alone decodes: it survives mutated files that crash or stall other decoders. There is one exception, if it is asked for:
torchvision decodes an upright JPEG in colour whose header Pillow has read, twice as fast. Where it refuses one, Pillow judges.
One that is cut off never gets there: torchvision's libjpeg prints a remark for each. It still does for damage within a scan, so
the loader of a training drops what a library prints.
The tensor is a channels-last view of
rows of colours: to make it contiguous would take 0.3 ms for 640 x 480, and to resize it then 1.0 ms instead of 0.4.

A picture is converted in strips of rows, straight into the result (3 bytes per pixel). In addition there are only
Pillow's picture (at most 4 bytes per pixel) and the memory of its decoder: ``decoding_cost`` gives the sum for a file.
"""

import io
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from onestage.errors import ConfigError, DataError, absent
from onestage.parts import Part, located
from onestage.pixels import BEHIND_TRANSPARENCY as BEHIND_TRANSPARENCY
from onestage.pixels import TURNS, UNREAD, array_pixels, over_grey, span_of, tensor_pixels, to_uint8, unusable

Stored = str | Path | Part
"""Where a picture is stored: the path of a file or of a member of a tar, or a place in a file."""
Picture = str | Path | Image.Image | NDArray[np.generic] | Tensor
"""A picture that a user gives: a file's path, a PIL picture, an array (H, W) or (H, W, 3), a tensor (3, H, W)."""
REDUCTIONS = (1, 2, 4, 8)
"""A JPEG can be decoded at these parts of its sides, from fewer of its numbers (DCT scaling); other formats as they are."""
Channels = Literal["rgb", "bgr"]
"""The order of the colours of a picture in memory."""

# Pillow's readers are named one by one: Image.open would try about forty more, and its pixel limit is a global variable.
_FORMATS: dict[type[ImageFile], re.Pattern[bytes]] = {
    JpegImageFile: re.compile(rb"\xff\xd8\xff"),
    PngImageFile: re.compile(rb"\x89PNG\r\n\x1a\n"),
    WebPImageFile: re.compile(rb"RIFF....WEBP", re.DOTALL),
    BmpImageFile: re.compile(rb"BM"),
    TiffImageFile: re.compile(rb"II[*+]\0|MM\0[*+]"),
    GifImageFile: re.compile(rb"GIF8[79]a"),
}
_GIT_LFS = b"version https://git-lfs.github.com/spec"

# A JPEG marker: not a stuffed zero byte, fill byte, TEM or restart marker, which occur inside the data of a scan or alone.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"

_LAST_ROW_FIRST, _ROWS_TO_COLUMNS = (3, 4, 6, 7), (5, 6, 7, 8)
"""The turns that put the last stored row first, and those that make columns of the stored rows."""

_IN_MEMORY = "a picture in memory"
_REPLACE = "replace the picture, or leave it out"

_PIXELS_AT_ONCE = 1 << 20
"""The pixels of a strip. Most pictures are one strip."""
_MOST_READS, _MOST_PARTS, _LONGEST_HEADER = 20_000, 50_000, 8_000_000
"""Reads of Pillow for a header (two to four for each part of it), parts of a whole file, bytes before the pixels of a JPEG."""
_LARGEST_TILE = 2048
"""The longest side of a tile, in a TIFF that is not larger itself."""


@dataclass(frozen=True)
class ImageLimits:
    """The largest cost of a picture. All limits are checked before a pixel is decoded.

    max_bytes: of the file. max_side, max_pixels: of the decoded picture. max_scans: of a progressive JPEG, each of which passes
    over all pixels again (a usual one has ten); above a fifth of max_pixels fewer are allowed, to bound the time.
    """

    max_bytes: int = 100_000_000
    max_side: int = 20_000
    max_pixels: int = 120_000_000
    max_scans: int = 100


class _Counted:
    """A file whose header has not too many parts: Pillow takes time for each, and copies a JPEG's EXIF data again each time."""

    reads, most_bytes, in_header, length = 0, sys.maxsize, True, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file does. Raise ValueError if a header takes too many reads or bytes."""
        self.reads += 1
        if self.in_header and (self.reads > _MOST_READS or self.tell() > self.most_bytes):  # type: ignore[attr-defined]
            raise ValueError("the header has too many parts")
        return super().read(size)  # type: ignore[misc]


class _Bytes(_Counted, io.BytesIO): ...


class _File(_Counted, io.BufferedReader): ...


def decode_image(
    source: Stored | bytes, limits: ImageLimits = ImageLimits(), *, reduction: int = 1, fast: bool = False
) -> Tensor:
    """The picture in a file (a path) or in memory (bytes) as (3, H, W) uint8 RGB, channels-last in memory.

    reduction: one of ``read_header(source).reductions``; the sides of a JPEG are divided by it and rounded up. fast: let
    torchvision decode a common JPEG. The pixels may then differ by a grey level, if its libjpeg is another one than Pillow's.

    It needs at most ``decoding_cost(source)`` of memory. Raise DataError, which names the file, for anything that is not a
    whole picture within ``limits``.
    """
    where = _IN_MEMORY if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else picture_bytes(source, limits)
    with _naming(where):
        _check_length(len(data), where, limits)
        with _open(_Bytes(data), where, limits) as image:
            if isinstance(image, JpegImageFile):
                most = min(limits.max_scans, 20 * limits.max_pixels // (image.width * image.height))
                is_whole = _check_scans(data, where, most)
                if is_whole and fast and reduction == 1 and (pixels := _by_torchvision(image, data)) is not None:
                    return pixels
                if reduction > 1:
                    image.draft(None, (image.width // reduction, image.height // reduction))
            elif isinstance(image, PngImageFile):
                _check_png(data)
            return _channels_first(_pixels(image, where))


def _by_torchvision(image: JpegImageFile, data: bytes) -> Tensor | None:
    """A JPEG as (3, H, W) uint8 RGB, channels-last in memory; None if it is grey, CMYK or turned, or torchvision refuses it."""
    if image.mode != "RGB" or _orientation(image) in TURNS:
        return None
    try:
        from torchvision.io import ImageReadMode  # here, because it takes as long to import as torch

        # not decode_jpeg: from 0.29 on it warns that a later version leaves decoding to another package
        decode = torch.ops.image.decode_jpeg
        pixels: Tensor = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB.value, False)
    except (ImportError, AttributeError, RuntimeError):  # there is no such decoder, or it refuses the picture
        return None
    return pixels if pixels.shape == (3, image.height, image.width) else None


def picture_bytes(path: Stored, limits: ImageLimits = ImageLimits()) -> bytes:
    """The content of a picture's file, for ``decode_image``. At most ``limits.max_bytes`` are ever read, even if it grows.

    Raise DataError, which names the file, if it cannot be read, is no regular file, is empty or is too large.
    """
    with _naming(str(path)), _regular_file(path, limits) as file:
        data = file.read(limits.max_bytes + 1)
        _check_length(len(data), str(path), limits)
        return data


@contextmanager
def _header(path: Stored, limits: ImageLimits) -> Iterator[tuple[ImageFile, int]]:
    """The picture in a file, of which only the header is read, and its bytes. Errors inside are those of ``decode_image``."""
    with _naming(str(path)), _regular_file(path, limits) as file, _open(file, str(path), limits) as image:
        yield image, file.length


def image_size(path: Stored, limits: ImageLimits = ImageLimits()) -> tuple[int, int]:
    """(height, width) that ``decode_image`` would give, from the file's header alone. Raise DataError as it does."""
    return read_header(path, limits).size


class Header(NamedTuple):
    """What the header of a picture's file tells. size: (height, width). cost: of ``decoding_cost``. reductions: by which
    ``decode_image`` can divide its sides.
    """

    size: tuple[int, int]
    cost: int
    reductions: tuple[int, ...]


def read_header(path: Stored, limits: ImageLimits = ImageLimits()) -> Header:
    """Size and cost of the picture in a file. Raise DataError as ``decode_image`` does."""
    with _header(path, limits) as (image, length):
        size = image.size if _orientation(image) in _ROWS_TO_COLUMNS else (image.height, image.width)
        most = min(size) if isinstance(image, JpegImageFile) else 1
        return Header(size, _cost(image, length), tuple(reduction for reduction in REDUCTIONS if reduction <= most))


def is_turned(path: Stored, limits: ImageLimits = ImageLimits()) -> bool:
    """Whether the EXIF orientation of a picture swaps its width and height. Raise DataError as ``image_size`` does."""
    with _header(path, limits) as (image, _):
        return _orientation(image) in _ROWS_TO_COLUMNS


def decoding_cost(path: Stored, limits: ImageLimits = ImageLimits()) -> int:
    """Bytes of memory that ``decode_image`` takes for this file at most, from its header alone. Raise DataError as it does.

    They are the bytes of the file, some for each pixel and up to 21 MB (TIFF: 54 MB). For each pixel Pillow has 4 or less, the
    result has 3, and decoders have more: 10 in all for a JPEG in colour (CMYK: 12), 12 for a TIFF, 20 for a WebP.
    """
    return read_header(path, limits).cost


def _cost(image: ImageFile, length: int) -> int:
    stored = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(image.mode, 4)
    each, more = stored + 3, 4_000_000
    if isinstance(image, JpegImageFile):
        each = stored + max(3, 2 * len(image.getbands()))  # 2 bytes for each coefficient, if it is progressive
    elif isinstance(image, WebPImageFile):
        each = 20  # libwebp has two canvases and one picture, Python a copy
    elif isinstance(image, TiffImageFile):  # of four channels of 16 bits
        each, more = stored + 8, more + 8 * _LARGEST_TILE**2
    pixels = image.width * image.height
    return length + each * pixels + 16 * min(pixels, _PIXELS_AT_ONCE) + more


def to_tensor(image: object, *, channels: Channels = "rgb", where: str = _IN_MEMORY) -> Tensor:
    """A picture that is already in memory as (3, H, W) uint8 RGB, by the rules above.

    image: a PIL picture, which is turned by its EXIF orientation; a numpy array (H, W), (H, W, 3) or, with alpha, (H, W, 4);
    or a tensor (3, H, W). A uint8 tensor in RGB is returned as it is, and other results may share its memory too.
    channels: the order of the colours in an array or a tensor; "bgr" is the order of OpenCV. Raise DataError naming ``where``.
    """
    if channels not in ("rgb", "bgr"):
        raise ConfigError("unknown order of the colours", where="channels", got=repr(channels), expected="'rgb' or 'bgr'")
    if isinstance(image, Tensor):
        pixels = tensor_pixels(image, where)
        return pixels.flip(0) if channels == "bgr" else pixels
    if isinstance(image, np.ndarray):
        return _channels_first(array_pixels(image, where, reverse=channels == "bgr"))
    if channels == "bgr":
        got, fix = f"a {type(image).__name__}", "leave channels out: the colours of a file or a PIL picture are known"
        raise DataError("only an array or a tensor can be in BGR order", where=where, got=got, fix=fix)
    if isinstance(image, Image.Image):
        with _naming(where):
            return _channels_first(_pixels(image, where))
    raise unusable(where, f"a {type(image).__name__}", "read a file with onestage.images.decode_image(path)")


@contextmanager
def _regular_file(path: Stored, limits: ImageLimits) -> Iterator[_File | _Bytes]:
    """The open file, or part. Raise DataError unless it is a regular file within the limit: a pipe could go on for ever."""
    if isinstance(path, Part):
        _check_length(path.length, str(path), limits)
        with _Bytes(path.read(limits.max_bytes + 1)) as part:
            part.length = len(part.getbuffer())
            _check_length(part.length, str(path), limits)
            yield part
        return
    try:
        found = Path(path).stat()
    except NotADirectoryError:  # a file in place of a folder: it may be a tar
        with _regular_file(located(path), limits) as part:
            yield part
        return
    if not stat.S_ISREG(found.st_mode):
        raise DataError.no_file(path, "a picture file", code="not_a_file")
    _check_length(found.st_size, str(path), limits)
    with _File(io.FileIO(os.fspath(path), opener=_open_at_once)) as file:
        file.length = found.st_size
        yield file


def _open_at_once(path: str, flags: int) -> int:
    """Open a file. A pipe that has taken its place is not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_length(length: int, where: str, limits: ImageLimits) -> None:
    if length == 0:
        raise DataError("this picture is empty", where=where, got="0 bytes", fix=_REPLACE, code="empty")
    if length > limits.max_bytes:
        got, expected = f"{length:,} bytes", f"at most {limits.max_bytes:,}"
        fix = "store it smaller or compressed, or raise ImageLimits.max_bytes"
        what = "this picture's file is too large"
        raise DataError(what, where=where, got=got, expected=expected, fix=fix, code="too_large")


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Turn every error inside this block into a DataError that names the picture."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Pillow raises a dozen types on broken files, from struct.error to MemoryError
        from_system = isinstance(error, OSError) and error.errno is not None  # Pillow's OSErrors have no number
        what = absent(where, "this picture file cannot be read") if from_system else "this picture is broken or cut off"
        fix = "check the path and its permissions" if from_system else _REPLACE
        code = "missing" if isinstance(error, FileNotFoundError) else "unreadable" if from_system else "broken"
        raise DataError(what, where=where, got=f"{type(error).__name__}: {error}", fix=fix, code=code) from error


def _open(file: _Bytes | _File, where: str, limits: ImageLimits) -> ImageFile:
    """The picture's header, read by the plugin that its first bytes call for, its size within the limits."""
    head = file.read(64)
    file.seek(0)
    plugin = next((p for p, signature in _FORMATS.items() if signature.match(head)), None)
    if plugin is None:
        if head.startswith(_GIT_LFS):
            fix = "fetch the real files with: git lfs pull"
            raise DataError("this is a git-lfs pointer, not the picture itself", where=where, fix=fix, code="git_lfs")
        known = next((kind for kind, signature in UNREAD.items() if signature.match(head)), None)
        got, fix = known or f"a file that begins with {head[:16]!r}", "convert it to JPEG or PNG, upright, or leave it out"
        expected = "JPEG, PNG, WebP, BMP, TIFF or GIF, whatever the name says"
        what = "this is not a picture of a known format"
        raise DataError(what, where=where, got=got, expected=expected, fix=fix, code="not_a_picture")
    file.most_bytes = _LONGEST_HEADER if plugin is JpegImageFile else sys.maxsize
    image = plugin(file)
    file.in_header = False
    width, height = image.size
    if min(width, height) < 1 or max(width, height) > limits.max_side or width * height > limits.max_pixels:
        got = f"{height} x {width} (height x width)"
        expected = f"sides from 1 to {limits.max_side}, at most {limits.max_pixels:,} pixels in all"
        fix = "shrink or tile it, or raise ImageLimits.max_side and max_pixels"
        what = "this picture has too many pixels"
        raise DataError(what, where=where, got=got, expected=expected, fix=fix, code="too_large")
    if isinstance(image, TiffImageFile):
        _check_tiles(image)
    return image


def _check_tiles(image: TiffImageFile) -> None:
    """Raise ValueError if a tile is much larger than the picture: it would be decoded whole."""
    tags = ExifTags.Base.TileWidth, ExifTags.Base.TileLength
    for side, tile in zip(image.size, (image.tag_v2.get(tag, 0) for tag in tags), strict=True):
        if not isinstance(tile, int) or tile > max(_LARGEST_TILE, side + 16):
            raise ValueError(f"a tile of {tile} pixels in a picture of {side}")


def _check_scans(data: bytes, where: str, most: int) -> bool:
    """Whether a JPEG has its end marker. Raise DataError if it has more than ``most`` scans. Go from marker to marker, as a
    decoder does.
    """
    scans, parts, position = 0, 0, 2
    while (marker := _JPEG_MARKER.search(data, position)) and marker[1] != _END_OF_IMAGE:
        scans, parts = scans + (marker[1] == _START_OF_SCAN), parts + 1
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length
        if scans > most:
            got, expected = f"more than {most}", f"at most {most} for its size"
            what = "this JPEG has too many scans"
            raise DataError(what, where=where, got=got, expected=expected, fix=_REPLACE, code="too_large")
        _check_parts(parts)
    return marker is not None


def _check_png(data: bytes) -> None:
    """Raise ValueError if there are too many chunks, or if a checksum is wrong or the end is missing: after the start of
    the pixels, Pillow ignores both.
    """
    view, start, kind, parts = memoryview(data), 8, b"", 0
    while kind != b"IEND":
        parts += 1
        _check_parts(parts)
        if len(data) < start + 8:
            raise ValueError("the file ends before its IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if len(data) < end + 4:
            raise ValueError("the file ends in the middle of a chunk")
        if int.from_bytes(view[end : end + 4], "big") != zlib.crc32(view[start + 4 : end]):
            raise ValueError(f"wrong checksum in the {kind.decode('latin-1')} chunk")
        start = end + 4


def _check_parts(parts: int) -> None:
    if parts > _MOST_PARTS:
        raise ValueError(f"more than {_MOST_PARTS:,} parts")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8, that is still to be applied: Pillow itself turns a TIFF, both its size and its pixels."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        found = exif.get(ExifTags.Base.Orientation)
    except Exception:  # corrupt EXIF data are no reason to refuse good pixels
        return 1
    return found if found in TURNS else 1


def _pixels(image: Image.Image, where: str) -> NDArray[np.uint8]:
    """The first frame, upright, as (H, W, 3) uint8 RGB in new memory."""
    turn = _orientation(image)  # before loading, which may find other EXIF data that image_size() does not see
    twelve_bits = isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.BitsPerSample) == (12,)
    image.load()
    width, height = image.size
    pixels = np.empty((width, height, 3) if turn in _ROWS_TO_COLUMNS else (height, width, 3), np.uint8)
    convert = _conversion(image, where, twelve_bits=twelve_bits)
    for start, stop, strip in _strips(image):
        upright = strip.transpose(TURNS[turn]) if turn in TURNS else strip
        rows = slice(height - stop, height - start) if turn in _LAST_ROW_FIRST else slice(start, stop)
        (pixels[:, rows] if turn in _ROWS_TO_COLUMNS else pixels[rows])[...] = convert(upright)
    return pixels


def _strips(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    """The loaded picture as strips of whole rows: first row, last row + 1, and the strip."""
    step = max(1, _PIXELS_AT_ONCE // image.width)
    for start in range(0, image.height, step):
        stop = min(start + step, image.height)
        yield start, stop, image if stop - start == image.height else image.crop((0, start, image.width, stop))


def _conversion(image: Image.Image, where: str, *, twelve_bits: bool) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """The function from a strip of the picture, (H, W) of its mode, to (H, W, 3) uint8 RGB, or to (H, W, 1) if it is grey."""
    if image.mode.startswith("I;16"):  # convert("RGB") would clip these and those below to 255, not scale them
        return lambda strip: to_uint8(np.asarray(strip) << (4 if twelve_bits else 0), where)[..., None]
    if image.mode in ("I", "F"):
        span = span_of(np.asarray(strip) for _, _, strip in _strips(image))
        return lambda strip: to_uint8(np.asarray(strip), where, span)[..., None]
    if image.has_transparency_data:
        return lambda strip: np.asarray(over_grey(strip.convert("RGBA")))
    return lambda strip: np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) -> (3, H, W) on the same memory, unless torch cannot use it (read-only, or with negative strides)."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)
