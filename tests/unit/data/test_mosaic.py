"""Four pictures in one input; the clean last part of a training; classes shown equally often."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import assert_same, eleven_pictures, ids, spoil
from onestage.data.balance import repeat_factors
from onestage.data.dataset import Dataset
from onestage.data.loader import Feed, Shard, TrainLoader
from onestage.data.mosaic import PICTURES, VISIBLE, Mosaic
from onestage.data.order import Order
from onestage.data.transforms import Augment, TrainTransform, place_region, stretch
from onestage.errors import ConfigError, DataError
from onestage.model.preprocess import Preprocess
from onestage.structures import Sample

AUGMENT = Augment(photometric=1.0, flip=0.5, flip_vertical=0.5, mosaic=0.7, scale_jitter=0.5)
TRANSFORM = TrainTransform(stretch((20, 24)), AUGMENT)
PLACES = {
    "stretch": stretch((40, 50)),
    "letterbox": Preprocess((48, 40), mode="letterbox").place,
    "shortest_edge": Preprocess((40, 60), mode="shortest_edge").place,
}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return eleven_pictures(tmp_path)


def flat(size: tuple[int, int], value: int, boxes: list[list[float]], ignore: list[bool] | None = None) -> Sample:
    """A picture of one grey, and objects; each label is the value of the picture."""
    labels = torch.full((len(boxes),), value)
    flags = torch.tensor(ignore or [False] * len(boxes), dtype=torch.bool)
    pixels = torch.full((3, *size), value, dtype=torch.uint8)
    return Sample(pixels, torch.tensor(boxes).reshape(-1, 4), labels, flags, value, f"{value}.png")


def composed(transform: TrainTransform, samples: list[Sample], seed: int) -> Mosaic:
    mosaic = Mosaic(transform, first=0, among=9, generator=torch.Generator().manual_seed(seed))
    for number, sample in enumerate(samples):
        mosaic.add(sample, torch.Generator().manual_seed(seed + number))
    return mosaic


@settings(max_examples=40, deadline=None)
@given(
    place=st.sampled_from(sorted(PLACES)),
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=PICTURES, max_size=PICTURES),
    jitter=st.sampled_from([0.0, 0.5, 0.9]),
    seed=st.integers(0, 2**31),
)
def test_boxes_lie_on_the_pixels_of_their_picture(place, sizes, jitter, seed) -> None:
    """Each picture is of one grey and has one object as large as itself: so a box covers that grey, and nothing else."""
    transform = TrainTransform(PLACES[place], replace(AUGMENT, photometric=0.0, scale_jitter=jitter), fill=(200, 200, 200))
    samples = [flat(size, 10 * i + 10, [[0, 0, size[1], size[0]]]) for i, size in enumerate(sizes)]
    image, targets, meta = composed(transform, samples, seed).prepared()
    assert image.shape == (3, *PLACES[place](sizes[0]).input) == (3, *meta.input) and image.dtype == torch.uint8
    assert meta.original == meta.input and meta.path == "10.png"
    for box, label in zip(targets.boxes, targets.labels, strict=True):
        x1, y1, x2, y2 = box.tolist()
        assert 0 <= x1 < x2 <= meta.input[1] and 0 <= y1 < y2 <= meta.input[0]
        assert (image[:, round(y1) : round(y2), round(x1) : round(x2)] == label).all()
        assert (image == label).sum() == 3 * (round(y2) - round(y1)) * (round(x2) - round(x1))


def test_objects_of_which_a_fifth_is_visible_stay_and_ignored_ones_always() -> None:
    """Against a slow count: each object is a block of pixels of one value, whose visible part is counted."""
    transform = TrainTransform(stretch((60, 60)), Augment(mosaic=1.0))
    kept = dropped = 0
    for seed in range(25):
        boxes = torch.tensor([[10.0 * x, 10.0 * y, 10.0 * x + 9, 10.0 * y + 9] for y in range(6) for x in range(6)])
        ignore = torch.arange(36) % 5 == 0
        pixels = torch.zeros(3, 60, 60, dtype=torch.uint8)
        for number, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
            pixels[:, y1:y2, x1:x2] = number + 1
        sample = Sample(pixels, boxes, torch.arange(36), ignore, "a", "a.png")
        mosaic = Mosaic(transform, first=0, among=1, generator=torch.Generator().manual_seed(seed))
        for cell in range(PICTURES):
            seen = mosaic.add(sample, torch.Generator().manual_seed(100 * seed + cell))
            (top, left), (height, width) = mosaic._cell(cell)
            part = mosaic._canvas[0, top : top + height, left : left + width]
            shares = torch.tensor([float((part == n + 1).sum()) / 81 for n in range(36)])
            expected = torch.where(ignore, shares > 0, shares >= VISIBLE).nonzero()[:, 0]
            assert sorted(seen.labels.tolist()) == expected.tolist()
            assert seen.ignore.equal(ignore[seen.labels])
            kept, dropped = kept + len(expected), dropped + int(((shares > 0) & (shares < VISIBLE)).sum())
    assert kept > 500 and dropped > 20


def test_scale_jitter_shows_pictures_within_its_bounds() -> None:
    transform = TrainTransform(stretch((100, 100)), Augment(scale_jitter=0.5))
    sample = flat((100, 100), 7, [[45, 45, 55, 55]])
    drawn = [transform(sample, torch.Generator().manual_seed(seed))[1].boxes for seed in range(200)]
    sides = torch.cat([boxes[:, 2] - boxes[:, 0] for boxes in drawn])
    assert 4.9 < sides.min() < 5.5 and 13.5 < sides.max() < 15.2
    assert len(sides) > 150


@pytest.mark.parametrize("region", [(5, 9), (30, 40), (31, 3)])
def test_a_region_lies_inside_its_picture_or_holds_it(region: tuple[int, int]) -> None:
    for seed in range(50):
        found = place_region((20, 30), region, torch.Generator().manual_seed(seed))
        left, top, right, bottom = found.box
        assert (found.height, found.width) == region
        assert (left >= 0 and right <= 30) or (left <= 0 and right >= 30)
        assert (top >= 0 and bottom <= 20) or (top <= 0 and bottom >= 20)


def test_mosaics_have_the_same_bits_for_any_workers_and_after_a_resume(dataset: Dataset) -> None:
    whole = list(TrainLoader(dataset, TRANSFORM, batch_size=2, feed=Feed(0.9)).epoch(1, clean_from=4))
    for workers in (1, 2):
        loader = TrainLoader(dataset, TRANSFORM, batch_size=2, feed=Feed(0.9), workers=workers)
        assert_same(list(loader.epoch(1, clean_from=4)), whole)
    assert_same(list(loader.epoch(1, start=3, clean_from=4)), whole[3:])
    shares = [list(TrainLoader(dataset, TRANSFORM, batch_size=2, feed=Feed(0.9), shard=Shard(r, 2)).epoch(1)) for r in (0, 1)]
    images = [torch.cat(parts) for parts in zip(*([b.images for b in share] for share in shares), strict=True)]
    assert all(a.equal(b.images) for a, b in zip(images[:4], whole[:4], strict=True))


def test_the_clean_part_has_the_bits_of_the_plain_transform(dataset: Dataset) -> None:
    plain = list(TrainLoader(dataset, replace(TRANSFORM, augment=AUGMENT.clean), batch_size=2).epoch(2))
    assert AUGMENT.clean == replace(AUGMENT, mosaic=0.0, scale_jitter=0.0)
    loader = TrainLoader(dataset, TRANSFORM, batch_size=2)
    for first in (0, 3, 5):
        batches = list(loader.epoch(2, clean_from=first))
        assert_same(batches[first:], plain[first:])
        assert all(not a.images.equal(b.images) for a, b in zip(batches[:first], plain, strict=False))


def test_a_picture_that_is_in_no_mosaic_is_as_without_mosaics(dataset: Dataset) -> None:
    augment = Augment.ssd()
    (plain,) = TrainLoader(dataset, TrainTransform(stretch((20, 24)), augment), batch_size=11).epoch(0)
    (mixed,) = TrainLoader(dataset, TrainTransform(stretch((20, 24)), replace(augment, mosaic=0.5)), batch_size=11).epoch(0)
    same = [a.equal(b) for a, b in zip(plain.images, mixed.images, strict=True)]
    assert 2 <= sum(same) <= 9 and ids(plain) == ids(mixed)


def test_an_unreadable_picture_in_a_mosaic_is_replaced_or_named(dataset: Dataset) -> None:
    always = replace(TRANSFORM, augment=replace(AUGMENT, mosaic=1.0))
    loader = TrainLoader(dataset, always, batch_size=11, on_bad="skip")
    next(loader.epoch(0))
    assert not loader.skipped
    spoil(dataset, 4)  # in the middle of the training
    (batch,) = loader.epoch(0)
    assert len(batch.images) == 11 and [*loader.skipped] == [dataset.paths[4]]
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            list(TrainLoader(dataset, always, batch_size=11, workers=workers).epoch(0))
        assert caught.value.where == dataset.paths[4]


def test_balance_repeats_the_pictures_of_rare_classes(dataset: Dataset) -> None:
    """Of 11 pictures, 4 have objects of class 0 that count, and so on; the rest are ignored or have none."""
    data = replace(dataset, ignore=torch.zeros(20, dtype=torch.bool), labels=torch.tensor([0] * 18 + [1, 2]))
    factors = repeat_factors(data, 0.5)
    expected = [1.0] * 11
    expected[10] = (0.5 / (1 / 11)) ** 0.5  # which alone has the classes 1 and 2
    assert factors.tolist() == pytest.approx(expected)
    assert repeat_factors(data, 0.0).tolist() == [1.0] * 11
    assert repeat_factors(replace(data, ignore=~data.ignore), 1.0).tolist() == [1.0] * 11
    orders = [Order(11, 0, factors).epoch(e).tolist() for e in range(300)]
    assert all(len(order) == 11 for order in orders)
    total = sum(order.count(10) for order in orders) / 300
    assert total == pytest.approx(11 * expected[10] / sum(expected), rel=0.1)


def test_a_repeated_picture_is_drawn_again(dataset: Dataset) -> None:
    few = dataset.subset([0, 3])  # picture 3 has no object
    plain = replace(TRANSFORM, augment=AUGMENT.clean)
    rare = replace(few, labels=torch.zeros(2, dtype=torch.int64))
    loader = TrainLoader(rare, plain, batch_size=2, feed=Feed(1.0))
    pairs = [batch for e in range(30) for batch in loader.epoch(e) if ids(batch) == [100, 100]]
    assert pairs and all(not batch.images[0].equal(batch.images[1]) for batch in pairs)


@pytest.mark.parametrize("change", [{"mosaic": 1.1}, {"scale_jitter": 0.95}, {"scale_jitter": -0.1}])
def test_impossible_strengths_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Augment(**change)
