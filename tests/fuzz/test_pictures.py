"""Pictures of every format, broken in every way: each is read, or refused by name, in little time."""

import io
import warnings
from functools import cache
from random import Random

import pytest
import torch
from PIL import Image

from fuzz.harness import fuzz, mutated
from onestage.images import ImageLimits, decode_image, decoding_cost, image_size

FORMATS = {
    "JPEG": [
        {"quality": 60},
        {"progressive": True},
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ],
    "PNG": [{}, {"interlace": 1}, {"transparency": (1, 2, 3)}],
    "WEBP": [{"quality": 50}, {"lossless": True}],
    "BMP": [{}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_adobe_deflate"}],
    "GIF": [{}, {"comment": b"a comment"}],
}
MODES = {"JPEG": ("RGB", "L", "CMYK"), "WEBP": ("RGB", "RGBA"), "GIF": ("P", "L")}
ANY_MODE = ("RGB", "RGBA", "L", "P", "1", "I;16")
TOKENS = (
    b"\xff\xda",
    b"\xff\xc4",
    b"\xff\xd9",
    b"IDAT",
    b"tRNS",
    b"ANIM",
    b"ALPH",
    b"!\xf9\x04",
    b"\x2c",
    bytes(4),
    b"\xff" * 4,
)
LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)


@cache
def picture(mode: str, width: int, height: int) -> Image.Image:
    noise = Image.effect_noise((width, height), 60)
    return noise.convert("RGB").convert("CMYK") if mode == "CMYK" else noise.convert(mode)


@cache
def whole(format: str, mode: str, options: int, size: tuple[int, int]) -> bytes:
    """A picture as a file; without its options if they do not suit its mode.

    Pillow 12.3 may crash when it writes a TIFF compressed as JPEG in another mode than those of JPEG.
    """
    file, chosen = io.BytesIO(), FORMATS[format][options]
    chosen = {} if format == "TIFF" and chosen.get("compression") == "jpeg" and mode not in MODES["JPEG"] else chosen
    try:
        picture(mode, *size).save(file, format, **chosen)
    except (OSError, ValueError, TypeError, RuntimeError):
        file = io.BytesIO()
        picture("L", *size).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_broken_pictures(format, tmp_path):
    path = tmp_path / "picture"

    def attempt(random: Random) -> str:
        mode = random.choice(MODES.get(format, ANY_MODE))
        size = random.choice(((1, 1), (7, 5), (33, 47), (200, 90)))
        data = mutated(random, whole(format, mode, random.randrange(len(FORMATS[format])), size), tokens=TOKENS)
        path.write_bytes(data)
        found = decode_image(path, LIMITS)
        assert found.dtype == torch.uint8 and found.ndim == 3 and found.shape[0] == 3
        assert image_size(path, LIMITS) == tuple(found.shape[1:])
        assert decoding_cost(path, LIMITS) > found.numel()
        return mode

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's words about broken tags
        fuzz(f"{format} pictures", attempt)
