"""Decoding, for any picture and any damage: a lossless file gives its pixels back, a damaged one a picture or a DataError."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from onestage.errors import DataError
from onestage.images import decode_image, image_size, to_tensor

SIDES = st.integers(1, 12)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def originals() -> list[bytes]:
    """One small picture in every format, and in the odder forms of some."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encode(image, "JPEG", exif=exif),
        encode(image, "JPEG", progressive=True),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "PNG", exif=exif),
        encode(image.convert("P"), "PNG", transparency=3),
        encode(image, "WEBP", exif=exif),
        encode(image, "WEBP", lossless=True),
        encode(image, "BMP"),
        encode(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
        encode(image, "TIFF", exif=exif),
        encode(image, "TIFF", compression="tiff_lzw"),
        encode(image.convert("F"), "TIFF"),
    ]


ORIGINALS = originals()


@given(pixels=arrays.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3))), format=st.sampled_from(["PNG", "BMP", "TIFF"]))
@settings(max_examples=60, deadline=None)
def test_lossless_files_and_arrays_give_the_same_picture(pixels: np.ndarray, format: str) -> None:
    expected = to_tensor(pixels)
    assert np.array_equal(expected.permute(1, 2, 0).numpy(), pixels)
    assert torch.equal(decode_image(encode(Image.fromarray(pixels), format)), expected)


@given(values=arrays.arrays(np.uint16, st.tuples(SIDES, SIDES)), format=st.sampled_from(["PNG", "TIFF"]))
@settings(max_examples=60, deadline=None)
def test_sixteen_bits_mean_the_same_in_a_file_and_in_memory(values: np.ndarray, format: str) -> None:
    decoded = decode_image(encode(Image.fromarray(values), format))
    assert torch.equal(decoded, to_tensor(values))
    assert np.array_equal(decoded[0].numpy(), values // 256)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_a_damaged_file_is_a_picture_or_a_data_error(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(ORIGINALS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(1, len(damaged))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(damaged)
        try:
            decoded = decode_image(path)
        except DataError as error:
            assert str(path) in str(error)
            return
        assert decoded.dtype == torch.uint8 and decoded.shape[0] == 3
        assert image_size(path) == tuple(decoded.shape[1:])  # what is read of the header alone agrees


@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError):
        decode_image(data)
