"""JPEGs decoded fast, and no larger than needed; decoded pictures kept in memory."""

import io
import math
import os
import pickle
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from batches import assert_same, eleven_pictures
from onestage.data.cache import PictureCache
from onestage.data.dataset import Dataset
from onestage.data.loader import Feed, TrainLoader
from onestage.data.memory import Share
from onestage.data.remarks import without_remarks
from onestage.data.transforms import Augment, Region, TrainTransform, View, stretch
from onestage.data.undecoded import PictureSource, Undecoded
from onestage.data.workers import Parcel, WorkerPool, Workers
from onestage.errors import ConfigError, DataError
from onestage.images import REDUCTIONS, decode_image, read_header

pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning")  # torchvision.io warns from 0.29 on
AUGMENT = replace(Augment.ssd(), mosaic=0.4, scale_jitter=0.5)
TRANSFORM = TrainTransform(stretch((20, 24)), AUGMENT)


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    noise = torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.numpy()).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """The eleven pictures as JPEGs four times as large."""
    found = eleven_pictures(tmp_path)
    for i, path in enumerate(found.paths):
        Path(path).write_bytes(jpeg(smooth(4 * (30 + i), 160, i)))
    return replace(found, boxes=4 * found.boxes)


def error_of(data: bytes, **options: bool | int) -> str | None:
    try:
        decode_image(data, **options)
    except DataError as error:
        return error.what
    return None


def test_the_fast_decoder_gives_the_same_pixels_and_leaves_odd_files_to_pillow() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image = smooth(45, 67)
    files = [jpeg(image, quality=q, subsampling=s) for q in (60, 95) for s in (0, 2)] + [jpeg(image, progressive=True)]
    files += [jpeg(image.convert("L")), jpeg(image.convert("CMYK")), jpeg(image, exif=turned)]
    for data in files:
        ours, fast = decode_image(data), decode_image(data, fast=True)
        assert ours.shape == fast.shape and ours.stride() == fast.stride()
        assert (ours.int() - fast.int()).abs().max() <= 2  # another libjpeg may round in another way


def test_a_damaged_jpeg_is_judged_as_by_pillow(capfd: pytest.CaptureFixture[str]) -> None:
    """Cut, cut and ended, one byte changed: never a picture where Pillow gives none, nor the other way round."""
    chance = random.Random(0)
    files = [jpeg(smooth(45, 67), quality=90), jpeg(smooth(45, 67), progressive=True)]
    refused = 0
    for number in range(120):
        data = bytearray(files[number % 2])
        place = chance.randrange(2, len(data))
        if number % 3 == 2:
            data[place] = chance.randrange(256)
        else:
            data[place:] = b"\xff\xd9" * (number % 3)
        expected = error_of(bytes(data))
        assert error_of(bytes(data), fast=True) == expected
        refused += expected is not None
    assert 40 < refused < 100
    capfd.readouterr()  # the remarks of libjpeg


def test_nothing_is_printed_of_a_jpeg_that_is_cut_off(capfd: pytest.CaptureFixture[str]) -> None:
    for data in (jpeg(smooth(45, 67)), jpeg(smooth(45, 67), progressive=True)):
        for length in range(len(data) // 3, len(data), 40):
            assert error_of(data[:length], fast=True) is not None
    assert capfd.readouterr() == ("", "")


def test_damage_within_a_scan_prints_nothing_without_workers_either(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(jpeg(smooth(45, 67), quality=90))
    middle = data.index(b"\xff\xda") + 200
    data[middle : middle + 8] = b"\xff\xd3" + bytes(6)  # a restart that nothing announced
    (tmp_path / "a.jpg").write_bytes(data)
    decode_image(tmp_path / "a.jpg", fast=True)
    assert "Corrupt JPEG data" in capfd.readouterr().err
    with without_remarks():
        decode_image(tmp_path / "a.jpg", fast=True)
        print("a word", file=sys.stderr, flush=True)
        os.write(2, b"another\n")
        with without_remarks():
            decode_image(tmp_path / "a.jpg", fast=True)
    assert "Corrupt" not in (said := capfd.readouterr().err) and "another\n" in said


def decoded(data: bytes, share: Share) -> Parcel[bool]:
    return Parcel(None, error_of(data, fast=True) is None)


def test_a_process_that_loads_pictures_prints_nothing_of_damage_within_a_scan(capfd: pytest.CaptureFixture[str]) -> None:
    whole = jpeg(smooth(45, 67), quality=90)
    places = range(len(whole) // 2, len(whole) - 2, 60)
    files = [whole[:place] + whole[place + 20 :] for place in places]
    for data in files:
        error_of(data, fast=True)
    assert "Corrupt JPEG data" in capfd.readouterr().err  # else these are no such files
    pool = WorkerPool(decoded, Workers(1), name=lambda data: "a picture")
    try:
        assert len(list(pool.run(files))) == len(files)
    finally:
        pool.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("turn", [1, 6])
def test_a_reduced_jpeg_has_its_sides_divided(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "a.jpg"
    for number in range(1, 40):
        height, width = number, 1 + 37 * number % 50
        path.write_bytes(jpeg(smooth(height, width), exif=exif))
        sides = (height, width) if turn == 1 else (width, height)
        header = read_header(path)
        assert header.size == sides and header.reductions == tuple(r for r in REDUCTIONS if r <= min(sides))
        for r in header.reductions:
            assert decode_image(path, reduction=r).shape == (3, *(math.ceil(side / r) for side in sides))


def test_other_formats_are_never_reduced(tmp_path: Path) -> None:
    smooth(40, 50).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(jpeg(smooth(40, 50)))
    assert read_header(tmp_path / "a.png").reductions == (1,)
    assert read_header(tmp_path / "b.jpg").reductions == REDUCTIONS
    assert decode_image(tmp_path / "a.png", reduction=4).shape == (3, 40, 50)


sides = st.integers(8, 400)


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(sides, sides), corner=st.tuples(st.floats(-1, 0.9), st.floats(-1, 0.9)), part=st.floats(0.1, 4))
def test_a_view_of_a_reduced_picture_shows_the_same_within_two_input_pixels(
    size: tuple[int, int], corner: tuple[float, float], part: float
) -> None:
    """The picture is a slope across and one down, so that each pixel tells where it is from.

    One pixel comes from a region that begins and ends at whole pixels of the smaller picture, one from that picture's
    last row or column, which may show a part of a pixel only.
    """
    (height, width), fit = size, (20, 24)
    region = Region(int(corner[1] * width), int(corner[0] * height), max(1, int(part * width)), max(1, int(part * height)))
    if min(region.box[2], width) <= max(region.left, 0) or min(region.box[3], height) <= max(region.top, 0):
        return  # which augmentation never draws
    view = View.of(region, size, stretch(fit), REDUCTIONS)
    whole = View.of(region, size, stretch(fit))
    assert view.reduction == max(r for r in REDUCTIONS if r == 1 or (region.height >= 20 * r and region.width >= 24 * r))
    slopes = torch.stack([torch.arange(height)[:, None].expand(size), torch.arange(width).expand(size), torch.zeros(size)])
    reduced = torch.stack([plane_mean(plane.float(), view.reduction) for plane in slopes])
    shades = (reduced / torch.tensor([height, width, 1])[:, None, None] * 255).round().to(torch.uint8)
    full = (slopes / torch.tensor([height, width, 1])[:, None, None] * 255).round().to(torch.uint8)
    a = view.pixels(shades, (255, 255, 255), lambda p: p).float()
    b = whole.pixels(full, (255, 255, 255), lambda p: p).float()
    seen = (a[2] < 128) & (b[2] < 128)
    for axis, (side, target, length) in enumerate(((height, 20, region.height), (width, 24, region.width))):
        assert ((a[axis] - b[axis]).abs()[seen] <= 2 + 255 * 2 * length / target / side).all()
    boxes = torch.tensor([[0.2 * width, 0.2 * height, 0.7 * width, 0.6 * height]])
    assert (view.boxes(boxes) - whole.boxes(boxes)).abs().max() <= 2


def plane_mean(plane: Tensor, step: int) -> Tensor:
    """(H, W) -> the means of squares of ``step`` pixels, as DCT scaling gives them."""
    return torch.nn.functional.avg_pool2d(plane[None, None], step, ceil_mode=True, count_include_pad=False)[0, 0]


def test_large_pictures_are_decoded_small_and_boxes_follow(dataset: Dataset) -> None:
    asked: list[int] = []
    picture = PictureSource(dataset, "fast").open(5, lambda size: None)
    assert isinstance(picture, Undecoded) and picture.size == (140, 160)

    def noted(reduction: int) -> Tensor:
        asked.append(reduction)
        return picture.decode(reduction)

    plain = TrainTransform(stretch((30, 40)), Augment())
    image, targets, meta = plain(replace(picture, decode=noted), torch.Generator())
    expected, others, same = plain(dataset[5], torch.Generator())
    assert asked == [4] and same == meta
    assert (image.float() - expected.float()).abs().mean() < 4
    torch.testing.assert_close(targets.boxes, others.boxes)


@pytest.mark.parametrize("decoder", ["pillow", "fast"])
def test_the_cache_and_the_workers_change_no_bit(dataset: Dataset, decoder: str) -> None:
    Path(dataset.paths[2]).write_bytes(b"not a picture")
    options = {"batch_size": 4, "on_bad": "skip"}
    plain = TrainLoader(dataset, TRANSFORM, feed=Feed(decoder=decoder), **options)
    expected = [list(plain.epoch(e)) for e in (0, 1)]
    if decoder == "pillow":
        assert_same(list(TrainLoader(dataset, TRANSFORM, **options).epoch(0)), expected[0])
    for workers, room in ((0, 1e-3), (2, 1e-3), (0, 1e-4)):
        loader = TrainLoader(dataset, TRANSFORM, workers=workers, feed=Feed(decoder=decoder, cache=room), **options)
        assert_same(list(loader.epoch(0)), expected[0])
        assert_same(list(loader.epoch(1, start=1)), expected[1][1:])
        assert [*loader.skipped] == [dataset.paths[2]]


def test_what_is_kept_is_not_decoded_again(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PictureCache(3 * 160 * 160 * 2, count=11, processes=1)
    source = PictureSource(dataset, cache=cache)
    first = [source.open(i, lambda size: None).image for i in range(11)]
    assert cache.used == sum(3 * 4 * (30 + i) * 160 for i in range(2))  # the third is too large, and so on
    monkeypatch.setattr("onestage.data.undecoded.decode_image", lambda *_, **__: pytest.fail("decoded again"))
    for i in range(2):
        again = source.open(i, lambda size: None).image
        assert again.equal(first[i]) and again.stride() == first[i].stride()


def test_a_killed_process_stops_no_other() -> None:
    """It dies while it reserves room. Then nothing more is kept, what was kept is there, and nobody waits."""
    cache = PictureCache(10_000, count=3, processes=2)
    image = torch.arange(300, dtype=torch.uint8).view(3, 10, 10)
    child = os.fork()
    if child == 0:
        cache.put(0, 1, image)
        cache._reserving.acquire()
        os._exit(9)  # nothing is cleaned up
    os.waitpid(child, 0)
    cache.put(1, 1, image)
    kept = cache.get(0, 1)
    assert kept is not None and kept.equal(image)
    assert cache.get(1, 1) is None and cache.get(0, 2) is None


def test_a_note_that_comes_before_its_pixels_is_not_believed() -> None:
    """Nor one of which only a part is here: some processors show what another process wrote in another order."""
    cache, image = PictureCache(10_000, count=2, processes=2), torch.arange(300, dtype=torch.uint8).view(3, 10, 10)
    cache.put(0, 1, image)
    cache.put(1, 1, image.flip(0))
    pixels, note = cache._pixels(300, 10, 10), cache._notes[1, 0].copy()
    late = pixels.clone()
    pixels[:, 9] = 0
    assert cache.get(1, 1) is None
    pixels.copy_(late)
    for part in (1, 2, 3):  # width, start, checksum
        cache._notes[1, 0, part] = 0
        assert cache.get(1, 1) is None
        cache._notes[1, 0] = note
    kept = cache.get(1, 1)
    assert kept is not None and kept.equal(image.flip(0)) and (1, 1) in cache._whole
    cache._notes[1, 0, 2] = 0  # a third process has kept it too, at another place
    kept = cache.get(1, 1)
    assert kept is not None and kept.equal(image.flip(0))


def test_a_process_that_is_not_forked_has_its_part() -> None:
    cache = PictureCache(10_000, count=3, processes=2)
    make, arguments = cache.__reduce__()
    alone = make(*arguments)
    assert arguments == (5000, 3) and alone.get(2, 8) is None
    assert pickle.dumps(make)


def test_an_impossible_cache_is_refused() -> None:
    with pytest.raises(ConfigError, match="no memory") as caught:
        PictureCache(10**18, count=1, processes=1)
    assert caught.value.fix == "lower cache="
