"""Decoding: what odd but valid pictures become, what is refused and how, and that nothing takes long or much memory."""

import io
import os
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onestage.errors import ConfigError, DataError
from onestage.images import ImageLimits, decode_image, image_size, to_tensor

ORIENTATION = 0x0112
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LOSSLESS = ("PNG", "BMP", "TIFF")


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(height: int = 60, width: int = 80) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def rows(tensor: torch.Tensor) -> list[list[tuple[int, ...]]]:
    """(3, H, W) as rows of colours, to compare with literals."""
    return [[tuple(colour) for colour in row] for row in tensor.permute(1, 2, 0).tolist()]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG made by hand. pixels: already compressed. colour: 0 grey, 2 RGB, 3 palette."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(length: int) -> bytes:
    """That many zero bytes, compressed, without holding them."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(length >> 20)) + packer.flush()


def refusal(source: str | Path | bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(DataError) as caught:
        decode_image(source, limits or ImageLimits())
    return str(caught.value)


# ---- odd but valid, to the pixel


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_gives_the_pixels_that_went_in(format: str) -> None:
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    decoded = decode_image(encode(image, format))
    assert decoded.dtype == torch.uint8 and decoded.shape == (3, 16, 32)
    tolerance = 0 if format in (*LOSSLESS, "GIF") else 4
    for column, colour in ((4, RED), (28, BLUE)):
        assert np.abs(decoded[:, 8, column].numpy().astype(int) - colour).max() <= tolerance


def test_noise_comes_back_exactly_from_lossless_formats() -> None:
    image = noise()
    for data in (*(encode(image, f) for f in LOSSLESS), encode(image, "WEBP", lossless=True)):
        assert np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), np.asarray(image))


def test_the_format_is_told_by_content_and_the_path_may_be_text_or_path(tmp_path: Path) -> None:
    wrong = tmp_path / "picture.jpg"
    wrong.write_bytes(encode(noise(), "PNG"))
    assert torch.equal(decode_image(wrong), decode_image(str(wrong)))
    assert image_size(wrong) == (60, 80)


def test_the_result_is_writable_and_its_memory_is_channels_last() -> None:
    decoded = decode_image(encode(noise(), "PNG"))
    assert decoded.permute(1, 2, 0).is_contiguous()
    decoded.zero_()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    height, width = size
    assert decode_image(encode(Image.new("RGB", (width, height), GREEN), "PNG")).shape == (3, *size)


def test_one_bit_grey_and_palette() -> None:
    one_bit = Image.new("1", (2, 1))
    one_bit.putpixel((1, 0), 1)
    assert rows(decode_image(encode(one_bit, "PNG"))) == [[(0, 0, 0), WHITE]]
    assert rows(decode_image(encode(Image.new("L", (1, 1), 77), "PNG"))) == [[(77, 77, 77)]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    for format in ("PNG", "BMP", "TIFF", "GIF"):
        assert rows(decode_image(encode(palette, format))) == [[RED, BLUE]]


def test_transparent_parts_show_mid_grey() -> None:
    grey = (128, 128, 128)
    rgba = Image.new("RGBA", (3, 1), (*RED, 255))
    rgba.putpixel((1, 0), (*RED, 0))
    rgba.putpixel((2, 0), (*WHITE, 128))
    for data in (encode(rgba, "PNG"), encode(rgba, "TIFF"), encode(rgba, "WEBP", lossless=True, exact=True)):
        assert rows(decode_image(data)) == [[RED, grey, (192, 192, 192)]]
    assert rows(decode_image(encode(Image.new("LA", (1, 1), (255, 0)), "PNG"))) == [[grey]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        assert rows(decode_image(encode(palette, format, transparency=0))) == [[grey, BLUE]]
    keyed = Image.new("RGB", (2, 1), RED)
    keyed.putpixel((1, 0), GREEN)
    assert rows(decode_image(encode(keyed, "PNG", transparency=RED))) == [[grey, GREEN]]


def test_sixteen_bits_keep_the_high_byte() -> None:
    values = np.array([[0, 255, 256, 0x1234, 65535]], dtype=np.uint16)
    expected = [(0, 0, 0), (0, 0, 0), (1, 1, 1), (0x12,) * 3, WHITE]
    for format in ("PNG", "TIFF"):
        assert rows(decode_image(encode(Image.fromarray(values), format))) == [expected]
    assert rows(to_tensor(values)) == [expected]
    line = b"\0" + struct.pack(">6H", 0x1200, 0x34FF, 0xFFFF, 0, 0x00FF, 0x0100)
    assert rows(decode_image(png(2, 1, zlib.compress(line), bits=16))) == [[(0x12, 0x34, 0xFF), (0, 0, 1)]]


def tiff(pixels: bytes, width: int, tags: dict[int, int]) -> bytes:
    """A little-endian TIFF of one row, made by hand: for the kinds that Pillow reads but does not write."""
    tags = {256: width, 257: 1, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(pixels)} | tags
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_twelve_bits_are_scaled_to_the_full_range() -> None:
    assert rows(decode_image(tiff(bytes([0xFF, 0xF8, 0x01]), 2, {258: 12}))) == [[WHITE, (128, 128, 128)]]


def test_floats_and_wide_integers_are_scaled_by_their_range() -> None:
    def floats(*values: float) -> bytes:
        return encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")

    assert rows(decode_image(floats(0.0, 0.5, 1.0))) == [[(0, 0, 0), (128, 128, 128), WHITE]]
    assert rows(decode_image(floats(0.0, 99.6, 255.0))) == [[(0, 0, 0), (100, 100, 100), WHITE]]
    assert rows(decode_image(floats(0.0, 32768.0, 65535.0))) == [[(0, 0, 0), (128, 128, 128), WHITE]]
    wide = Image.fromarray(np.array([[0, 300, 65535]], dtype=np.int32))
    assert wide.mode == "I" and rows(decode_image(encode(wide, "TIFF"))) == [[(0, 0, 0), (1, 1, 1), WHITE]]
    for bad in (floats(-1.0, 2.5), floats(0.0, 1e6), floats(0.0, float("nan")), floats(float("inf"))):
        assert "normalisation" in refusal(bad)


def test_cmyk_is_converted_and_a_jpeg_is_taken_as_inverted() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert rows(decode_image(encode(cmyk, "TIFF")))[8][8] == RED
    data = encode(cmyk, "JPEG", quality=100)  # Pillow writes the inverted values and the Adobe marker
    assert b"Adobe" in data and np.abs(np.subtract(rows(decode_image(data))[8][8], RED)).max() <= 4
    # The same stored numbers (255, 0, 0, 255) with the marker that says YCCK: Y 255, Cb 0, Cr 0 are the RGB (76, 255, 28) by
    # JFIF's equations, which is the complement of the ink; inverted once more, with no black, it is (179, 0, 227).
    ycck = bytearray(data)
    ycck[data.index(b"Adobe") + 11] = 2
    assert np.abs(np.subtract(rows(decode_image(bytes(ycck)))[8][8], (179, 0, 227))).max() <= 4


def test_progressive_bad_profile_and_trailing_bytes_do_not_matter() -> None:
    image = Image.new("RGB", (16, 16), GREEN)
    plain = decode_image(encode(image, "JPEG"))
    assert torch.equal(decode_image(encode(image, "JPEG", progressive=True)), plain)
    assert torch.equal(decode_image(encode(image, "JPEG", icc_profile=b"no profile at all")), plain)
    for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        data = encode(image, format)
        # ... not even if they look like many scans
        assert torch.equal(decode_image(data + b"\xff\xda\x00\x02" * 200), decode_image(data))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert rows(decode_image(data))[0][0] == RED


# ---- EXIF orientation


def oriented(format: str, orientation: int) -> bytes:
    """A picture whose upright form has red, green, blue and white quarters, stored the way ``orientation`` says."""
    upright = Image.new("RGB", (48, 32), RED)
    for colour, corner in ((GREEN, (24, 0)), (BLUE, (0, 16)), (WHITE, (24, 16))):
        upright.paste(colour, (*corner, corner[0] + 24, corner[1] + 16))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose: 2 is ROTATE_90, which 6 (ROTATE_270) undoes
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossless = {"lossless": True} if format == "WEBP" else {}
    return encode(stored, format, exif=exif, **lossless)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(format: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(oriented(format, orientation))
    decoded = decode_image(path)
    assert decoded.shape == (3, 32, 48) and image_size(path) == (32, 48)
    for (y, x), colour in {(8, 12): RED, (8, 36): GREEN, (24, 12): BLUE, (24, 36): WHITE}.items():
        assert np.abs(decoded[:, y, x].numpy().astype(int) - colour).max() <= 4
    with Image.open(path) as lazy:
        assert torch.equal(to_tensor(lazy), decoded)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"", b"nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_corrupt_exif_counts_as_upright(exif: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(Image.new("RGB", (48, 32), RED), "JPEG", exif=exif))
    assert decode_image(path).shape == (3, 32, 48) and image_size(path) == (32, 48)


# ---- not pictures, and broken ones

NOT_PICTURES = {
    "one byte": b"\xff",
    "zeros": bytes(5000),
    "random": np.random.default_rng(1).bytes(5000),
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "PDF": b"%PDF-1.7\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "PSD": b"8BPS\0\x01" + bytes(100),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "ZIP": b"PK\x03\x04" + bytes(100),
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(100),
    "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0.",
}


@pytest.mark.parametrize("kind", NOT_PICTURES)
def test_what_is_no_picture_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(NOT_PICTURES[kind])
    message = refusal(path)
    assert "not a picture of a known format" in message and str(path) in message and "JPEG, PNG, WebP" in message
    with pytest.raises(DataError, match=r"picture\.jpg"):
        image_size(path)


def test_a_picture_of_another_format_is_named_by_it(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(NOT_PICTURES["HEIC"])
    message = refusal(tmp_path / "picture.jpg")
    assert "got:      a HEIC picture\n" in message and "convert it to JPEG or PNG" in message
    for kind in ("PSD", "PDF", "HTML"):
        assert kind in refusal(NOT_PICTURES[kind]).split("got:")[1].splitlines()[0]


def test_a_git_lfs_pointer_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    message = refusal(path)
    assert "git-lfs pointer" in message and "git lfs pull" in message and str(path) in message


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "absent.jpg" in refusal(tmp_path / "absent.jpg")
    assert "not a file" in refusal(tmp_path)
    assert "cannot be read" in refusal("x" * 5000)
    assert "null byte" in refusal("nul\0byte.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a file" in refusal(tmp_path / "pipe.jpg")  # reading it would wait for ever
    (tmp_path / "empty.jpg").touch()
    assert "empty" in refusal(tmp_path / "empty.jpg") and "empty" in refusal(b"")
    with pytest.raises(DataError, match=r"absent\.jpg"):
        image_size(tmp_path / "absent.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
def test_a_cut_picture_is_an_error(format: str, percent: int) -> None:
    data = encode(noise(), format)
    assert "where:    a picture in memory" in refusal(data[: len(data) * percent // 100])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_jpeg_without_its_end_or_of_its_first_marker_only() -> None:
    data = encode(noise(), "JPEG")
    assert data.endswith(b"\xff\xd9") and "cut off" in refusal(data[:-2])
    assert "not a picture" in refusal(data[:2])
    assert "cut off" in refusal(data[:3])


def test_png_checksums_and_missing_parts() -> None:
    good = encode(noise(), "PNG")
    decode_image(good)
    at = good.index(b"IDAT")
    length = struct.unpack(">I", good[at - 4 : at])[0]
    end = at + 4 + length
    bad_sum = good[:end] + bytes([good[end] ^ 1]) + good[end + 1 :]
    assert "wrong checksum in the IDAT chunk" in refusal(bad_sum)
    flipped = good[: at + 500] + bytes([good[at + 500] ^ 16]) + good[at + 501 :]
    assert "wrong checksum" in refusal(flipped)
    assert "ends before its IEND" in refusal(good[: good.index(b"IEND") - 4])
    assert "broken" in refusal(good[: at - 4] + good[end + 4 :])  # no IDAT


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_tiff_whose_pages_form_a_loop_ends() -> None:
    data = bytearray(tiff(b"\x05\x06", 2, {258: 8}))
    data[-4:] = struct.pack("<I", struct.unpack("<I", data[4:8])[0])  # the next page is this page
    assert rows(decode_image(bytes(data))) == [[(5, 5, 5), (6, 6, 6)]]


# ---- bombs


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_scans(count: int, side: int = 1500) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are ``count``."""
    data = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - data.count(b"\xff\xda")) + data[-2:]


def webp_of_claimed_size(side: int) -> bytes:
    canvas = bytes(4) + 2 * (side - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas


def gif_of_claimed_size(side: int) -> bytes:
    """One frame of that size, to be disposed of by filling it with the background, so that a decoder wants to allocate it."""
    screen = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6)
    return screen + b"!\xf9\x04\x09\0\0\0\0," + struct.pack("<HHHH", 0, 0, side, side) + b"\0\x02\x02\x44\x01\0;"


def bmp_of_claimed_size(side: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, side, side, 1, 24) + bytes(24)


DOT = zlib.compress(bytes(4))
BOMBS = {
    "30,000^2 one-bit PNG": lambda: png(30_000, 30_000, zeros(30_000 * 3751), bits=1, colour=0),
    "12,000^2 RGB PNG": lambda: png(12_000, 12_000, zeros(12_000 * 36_001)),
    "PNG header of 65,535^2": lambda: png(65_535, 65_535, b""),
    "PNG header of 2^31": lambda: png(2**31, 2**31, b""),
    "JPEG header of 65,535^2": lambda: jpeg_of_claimed_size(65_535, 65_535),
    "TIFF header of 2^31": lambda: tiff(b"\0", 2**31, {257: 2**31, 258: 8}),
    "BMP header of 2^30": lambda: bmp_of_claimed_size(2**30),
    "WebP header of 16,383^2": lambda: webp_of_claimed_size(16_383),
    "WebP header of 12,000^2": lambda: webp_of_claimed_size(12_000),
    "GIF of 13,000^2": lambda: gif_of_claimed_size(13_000),
    "zTXt of 200 MB": lambda: png(1, 1, DOT, extra=chunk(b"zTXt", b"a\0\0" + zeros(200 << 20))),
    "iCCP of 200 MB": lambda: png(1, 1, DOT, extra=chunk(b"iCCP", b"a\0\0" + zeros(200 << 20))),
    "2,010 scans": lambda: jpeg_of_scans(2010),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_fast_and_small(kind: str) -> None:
    data = BOMBS[kind]()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refusal(data)
    assert time.process_time() - start < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_long_animation_costs_one_frame() -> None:
    frames = [Image.new("L", (64, 64), i % 251) for i in range(3000)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    start = time.process_time()
    assert decode_image(data).shape == (3, 64, 64)
    assert time.process_time() - start < 0.5


def test_scans_are_counted_in_the_picture_alone() -> None:
    assert decode_image(jpeg_of_scans(100, side=32)).shape == (3, 32, 32)
    assert "more than 100" in refusal(jpeg_of_scans(101, side=32))
    fake = b"\xff\xe5" + struct.pack(">H", 2 + 800) + b"\xff\xda\0\x04" * 200  # inside a segment of some application
    data = encode(noise(), "JPEG")
    assert torch.equal(decode_image(data[:2] + fake + data[2:]), decode_image(data))


def test_large_pictures_get_fewer_scans() -> None:
    assert "at most 20 " in refusal(jpeg_of_scans(21, side=100), ImageLimits(max_pixels=10_000))


def test_limits_are_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encode(noise(60, 80), "PNG"))
    length = path.stat().st_size
    decode_image(path, ImageLimits(max_bytes=length, max_side=80, max_pixels=4800))
    assert f"{length:,} bytes" in refusal(path, ImageLimits(max_bytes=length - 1))
    assert "60 x 80" in refusal(path, ImageLimits(max_side=79))
    assert "at most 4,799 pixels" in refusal(path, ImageLimits(max_pixels=4799))
    with pytest.raises(DataError, match="60 x 80"):
        image_size(path, ImageLimits(max_side=79))


# ---- pictures in memory


def test_to_tensor_agrees_over_all_forms() -> None:
    image = noise()
    array = np.asarray(image)
    expected = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for form in (
        image,
        array,
        expected,
        array / 255,
        array / np.float32(255),
        array.astype(np.uint16) * 257,
        array[:, ::-1][:, ::-1],
    ):
        assert torch.equal(to_tensor(form), expected)
    assert torch.equal(to_tensor(expected.double() / 255), expected)
    assert torch.equal(to_tensor(expected.bfloat16()), expected)
    assert to_tensor(expected) is expected
    grey = array[..., 0]
    assert torch.equal(to_tensor(grey), to_tensor(Image.fromarray(grey)))
    assert torch.equal(to_tensor(grey)[2], torch.from_numpy(grey.copy()))


@pytest.mark.filterwarnings("error")
def test_read_only_and_reversed_arrays_are_fine() -> None:
    array = np.asarray(noise()).copy()
    array.flags.writeable = False
    to_tensor(array).zero_()
    assert array.any()
    assert torch.equal(to_tensor(array[..., ::-1]), to_tensor(array).flip(0))


@pytest.mark.parametrize(
    ("thing", "word"),
    [
        (np.zeros((4, 4, 5), dtype=np.uint8), r"\(4, 4, 5\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"\(3, 8, 8\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"\(0, 8, 3\)"),
        (np.zeros((8, 8), dtype=bool), "bool"),
        (np.zeros((8, 8), dtype=complex), "complex"),
        (np.full((8, 8, 3), -2.1), "normalisation"),
        (np.full((8, 8, 3), np.nan), "normalisation"),
        (torch.zeros(2, 3, 8, 8), "batch"),
        (torch.zeros(8, 8, 3), r"\(8, 8, 3\)"),
        (torch.zeros(3, 0, 8), r"\(3, 0, 8\)"),
        (torch.full((3, 8, 8), 2.0).neg(), "normalisation"),
        ("picture.jpg", "decode_image"),
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_to_tensor_says_what_it_cannot_use(thing: object, word: str) -> None:
    with pytest.raises(DataError, match=word) as caught:
        to_tensor(thing, where="picture 3 of the list")
    assert "picture 3 of the list" in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_pictures_in_bgr_order() -> None:
    array = np.asarray(noise()).copy()
    expected = to_tensor(array)
    for form in (
        array[..., ::-1],
        array[..., ::-1].copy(),
        array[..., ::-1] / 255,
        expected.flip(0),
        expected.flip(0).double(),
    ):
        assert torch.equal(to_tensor(form, channels="bgr"), expected)
    assert torch.equal(to_tensor(array[..., 0], channels="bgr"), to_tensor(array[..., 0]))
    before = array.copy()
    to_tensor(array, channels="bgr").zero_()
    assert np.array_equal(array, before)


def test_the_fourth_channel_of_an_array_is_its_alpha() -> None:
    rgba = np.array([[[255, 0, 10, 255], [255, 0, 0, 0], [255, 255, 255, 128]]], dtype=np.uint8)
    expected = [[(255, 0, 10), (128, 128, 128), (192, 192, 192)]]
    assert rows(to_tensor(rgba)) == rows(to_tensor(rgba / 255)) == rows(to_tensor(Image.fromarray(rgba))) == expected
    assert rows(to_tensor(rgba[..., [2, 1, 0, 3]], channels="bgr")) == expected


@pytest.mark.parametrize("thing", ["picture.jpg", Path("picture.jpg"), noise()], ids=["text", "path", "PIL"])
def test_what_tells_its_order_of_colours_cannot_be_bgr(thing: object) -> None:
    with pytest.raises(DataError, match="only an array or a tensor can be in BGR order") as caught:
        to_tensor(thing, channels="bgr", where="picture 3 of the list")
    assert caught.value.where == "picture 3 of the list" and caught.value.got == f"a {type(thing).__name__}"


def test_an_unknown_order_of_colours_is_refused() -> None:
    with pytest.raises(ConfigError, match="'rgb' or 'bgr'"):
        to_tensor(noise(), channels="gbr")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_broken_pil_picture_is_a_data_error() -> None:
    lazy = Image.open(io.BytesIO(encode(noise(), "JPEG")[:-500]))
    with pytest.raises(DataError, match="cut off"):
        to_tensor(lazy)


# ---- real ones


def test_real_pictures_and_their_sizes(shared_data: Path) -> None:
    paths = sorted((shared_data / "coco_tiny" / "train2017").glob("*.jpg"))[:10] + sorted((shared_data / "photos").glob("*.*g"))
    assert len(paths) > 10
    for path in paths:
        decoded = decode_image(path)
        assert image_size(path) == tuple(decoded.shape[1:])
        with Image.open(path) as image:
            assert np.array_equal(decoded.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB"))) or image.mode == "RGBA"
