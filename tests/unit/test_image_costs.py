"""What a picture's file may command: memory for each pixel, bytes that are read, and parts of its header."""

import io
import itertools
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onestage import images
from onestage.data.check import _look
from onestage.data.memory import PictureMemory
from onestage.errors import DataError
from onestage.images import ImageLimits, decode_image, decoding_cost, image_size, picture_bytes

ORIENTATION = 0x0112
KINDS = {
    "RGB.png": ("RGB", {}),
    "RGBA.png": ("RGBA", {}),
    "LA.png": ("LA", {}),
    "P.png": ("P", {"transparency": 3}),
    "1.png": ("1", {}),
    "I;16.png": ("I;16", {}),
    "F.tif": ("F", {"compression": "tiff_lzw"}),
    "turned.jpg": ("RGB", {}),
    "CMYK.jpg": ("CMYK", {"progressive": True}),
    "RGBA.webp": ("RGBA", {"lossless": True, "method": 0}),
    "P.gif": ("P", {"transparency": 3}),
}

MEASURE = """
import json, os, resource, sys
from onestage.images import decode_image, decoding_cost

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

for path in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:  # a process for each picture: the peak of a process never falls
        before = peak()
        decode_image(path)
        os.write(write, json.dumps([path, peak() - before, decoding_cost(path)]).encode())
        os._exit(0)
    os.wait()
    print(os.read(read, 1000).decode())
"""


def write(path: Path, side: tuple[int, int], *, noise: bool = False) -> Path:
    """A picture (height, width) of the kind that the name says."""
    mode, options = KINDS[path.name]
    height, width = side
    if noise:
        bands = len(Image.new(mode, (1, 1)).getbands())
        values = (
            np.random.default_rng(0).integers(0, 200, (height, width, bands), dtype=np.uint8).squeeze(2 if bands == 1 else ())
        )
        image = (
            Image.fromarray(values).convert(mode)
            if bands in (1, 3)
            else Image.frombytes(mode, (width, height), values.tobytes())
        )
    else:
        image = Image.new(mode, (width, height), 3 if Image.new(mode, (1, 1)).getbands() in (("P",), ("1",)) else None or 0)
    if path.name.startswith("turned"):
        options = {"exif": (exif := Image.Exif())}
        exif[ORIENTATION] = 6
    image.save(path, **options)
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process for each picture")
def test_decoding_takes_no_more_memory_than_told(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / name, (4000, 4000))) for name in KINDS]
    run = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == len(paths)
    assert [(path, used, told) for path, used, told in rows if used > told] == []


@pytest.mark.parametrize(
    ("name", "per_pixel"),
    [("RGB.png", 7), ("RGBA.png", 7), ("P.gif", 4), ("1.png", 4), ("I;16.png", 5), ("turned.jpg", 10), ("CMYK.jpg", 12)],
)
def test_the_memory_is_told_from_the_header_alone(name: str, per_pixel: int, tmp_path: Path) -> None:
    path = write(tmp_path / name, (300, 500), noise=True)
    for length in (path.stat().st_size, path.stat().st_size // 2):
        os.truncate(path, length)
        assert decoding_cost(path) == length + 150_000 * (per_pixel + 16) + 4_000_000
    with pytest.raises(DataError, match="300 x 500"):
        decoding_cost(path, ImageLimits(max_pixels=149_999))


@pytest.mark.parametrize("name", KINDS)
def test_strips_give_the_same_pixels_as_the_whole_picture(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / name, (23, 17), noise=True)
    with Image.open(path) as stored:
        stored.load()
    expected = decode_image(path)
    turned = {}
    for rows, turn in itertools.product((1, 4, 22, 23), range(1, 9)):
        monkeypatch.setattr(images, "_PIXELS_AT_ONCE", rows * 17)
        assert torch.equal(decode_image(path), expected)
        stored.info["exif"] = _exif(turn)
        turned.setdefault(turn, []).append(images.to_tensor(stored))
    assert all(torch.equal(first, other) for first, *others in turned.values() for other in others)
    upright = turned[1][0]
    assert torch.equal(turned[6][0], upright.rot90(-1, (1, 2))) and torch.equal(turned[8][0], upright.rot90(1, (1, 2)))
    assert torch.equal(turned[3][0], upright.flip(1, 2)) and torch.equal(turned[2][0], upright.flip(2))
    assert torch.equal(turned[4][0], upright.flip(1)) and torch.equal(turned[5][0], upright.mT)
    assert torch.equal(turned[7][0], upright.mT.flip(1, 2))


def _exif(turn: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return exif.tobytes()


def test_one_number_that_is_none_in_the_last_strip_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_PIXELS_AT_ONCE", 8)
    values = np.full((9, 4), 0.5, np.float32)
    assert int(images.to_tensor(Image.fromarray(values)).max()) == 128
    values[8, 3] = 200.0  # the range of the whole picture decides, not that of a strip
    assert images.to_tensor(Image.fromarray(values))[0, 0, 0] == 0
    values[8, 3] = np.nan
    with pytest.raises(DataError, match="normalisation"):
        images.to_tensor(Image.fromarray(values))


# ---- files that are no usual files


def lie_about(monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    """Let every path have the size and kind of another file: as if it had changed after it was looked at."""
    honest = other.stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: honest)


@pytest.mark.parametrize("read", [decode_image, image_size, picture_bytes, decoding_cost])
def test_what_is_too_large_or_endless_is_not_read(read, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # without blocks on the disk
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, word in (
        (large, "too large"),
        (tmp_path / "pipe.jpg", "not a file"),
        (tmp_path, "not a file"),
        ("/dev/zero", "not a file"),
    ):
        with pytest.raises(DataError, match=word) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [decode_image, picture_bytes])
def test_a_file_that_grows_while_it_is_read_is_cut_off(read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = write(tmp_path / "RGB.png", (8, 8))
    grown = tmp_path / "grown.png"
    with grown.open("wb") as file:
        file.truncate(1 << 40)
    lie_about(monkeypatch, small)
    with pytest.raises(DataError, match="too large"):
        read(grown, ImageLimits(max_bytes=1_000_000))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [decode_image, image_size, picture_bytes])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = write(tmp_path / "RGB.png", (8, 8))
    os.mkfifo(tmp_path / "pipe.png")
    lie_about(monkeypatch, small)
    with pytest.raises(DataError):
        read(tmp_path / "pipe.png")


def test_the_doctor_reads_no_more_than_the_limit_either(tmp_path: Path) -> None:
    large, memory = tmp_path / "large.jpg", PictureMemory(2**31)
    with large.open("wb") as file:
        file.truncate(1 << 40)
    assert "too large" in str(_look(large, None, memory=memory, fast=False).error)
    assert "cannot be read" in str(_look(tmp_path / "absent.jpg", None, memory=memory, fast=False).error)


# ---- headers of many parts


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(*, header: bytes = b"", end: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = file.getvalue()
    return data[:2] + header + data[2:-2] + end + data[-2:]


def png(*, before: bytes = b"", after: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    part = chunk(b"abCd", b"")
    pixels = chunk(b"IDAT", zlib.compress(bytes(4)))
    return b"\x89PNG\r\n\x1a\n" + header + part * len(before) + pixels + part * len(after) + chunk(b"IEND", b"")


def gif(comments: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + bytes(6)
    return screen + b"!\xfe\x01a\0" * comments + b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0;"


def tiff(*, tile: int, side: int = 16) -> bytes:
    """A compressed TIFF of one tile, all black."""
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(tile)) for _ in range(tile)) + packer.flush()
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


MANY_PARTS = {
    "EXIF in 500,000 parts": lambda: jpeg(header=segment(0xE1, b"Exif\0\0a") * 500_000),
    "EXIF in 1,400 large parts": lambda: jpeg(header=segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 1400),
    "a JPEG of 2,000,000 segments": lambda: jpeg(header=segment(0xE5, b"") * 2_000_000),
    "10,000,000 markers behind the scan": lambda: jpeg(end=b"\xff\xe5\0\2" * 10_000_000),
    "a PNG of 1,000,000 chunks": lambda: png(before=bytes(1_000_000)),
    "1,000,000 chunks behind the pixels": lambda: png(after=bytes(1_000_000)),
    "a GIF of 3,000,000 comments": lambda: gif(3_000_000),
    "a tile of 20,000^2 in a TIFF of 16^2": lambda: tiff(tile=20_000),
}


@pytest.mark.parametrize("kind", MANY_PARTS)
def test_files_of_too_many_or_too_large_parts_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(MANY_PARTS[kind]())
    for read in (lambda: decode_image(path), lambda: decode_image(path.read_bytes())):
        with pytest.raises(DataError, match=r"too many parts|more than 50,000 parts|a tile of 20000 pixels"):
            read()
    if "behind" not in kind:
        with pytest.raises(DataError, match=r"too many parts|a tile"):
            image_size(path)


def test_as_many_parts_as_real_files_have_are_fine() -> None:
    data = jpeg(
        header=segment(0xE1, b"Exif\0\0" + bytes(100)) + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(60_000)) * 40
    )
    assert decode_image(data).shape == (3, 16, 16)
    assert decode_image(png(before=bytes(1000), after=bytes(10_000))).shape == (3, 1, 1)
    assert decode_image(gif(1000)).shape == (3, 1, 1)
    assert decode_image(tiff(tile=256)).shape == (3, 16, 16)
    assert decode_image(tiff(tile=2096, side=2090)).shape == (3, 2090, 2090)
