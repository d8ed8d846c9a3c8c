"""What must hold for every picture, every region and every augmentation."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from onestage.data.transforms import Augment, Region, TrainTransform, View, draw_region, stretch
from onestage.structures import Sample

sides = st.integers(1, 90)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)
augments = st.builds(
    Augment,
    photometric=st.sampled_from([0.0, 1.0, 2.0]),
    zoom_out=st.sampled_from([1.0, 1.5, 4.0]),
    zoom_out_p=st.sampled_from([0.5, 1.0]),
    iou_crop=st.sampled_from([0.0, 1.0]),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    flip_vertical=st.sampled_from([0.0, 0.5, 1.0]),
    min_size=st.sampled_from([0.0, 1.0, 3.0]),
)


def unit_boxes(count: int, seed: int) -> torch.Tensor:
    """(count, 4) boxes in 0..1 of positive size."""
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(1).values
    corners[:, 1] = corners[:, 1].maximum(corners[:, 0] + 0.01).clamp(max=1)
    corners[:, 0] = corners[:, 0].minimum(corners[:, 1] - 0.01)
    return corners.flatten(1)


def make_sample(size: tuple[int, int], count: int, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    boxes = unit_boxes(count, seed) * torch.tensor([size[1], size[0], size[1], size[0]])
    ignore = torch.rand(count, generator=generator) < 0.2
    return Sample(image, boxes, torch.arange(count), ignore, seed, f"{seed}.png")


@settings(max_examples=100, deadline=None)
@given(size=sizes, fit=sizes, count=st.integers(0, 8), augment=augments, seed=seeds)
def test_pictures_have_the_asked_size_and_boxes_lie_inside(
    size: tuple[int, int], fit: tuple[int, int], count: int, augment: Augment, seed: int
) -> None:
    sample = make_sample(size, count, seed)
    image, targets, meta = TrainTransform(stretch(fit), augment)(sample, torch.Generator().manual_seed(seed))
    assert image.shape == (3, *fit) and image.dtype == torch.uint8 and meta.input == fit
    x1, y1, x2, y2 = targets.boxes.unbind(1)
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= fit[1])).all()
    assert ((y1 >= 0) & (y1 < y2) & (y2 <= fit[0])).all()
    assert ((targets.boxes[:, 2:] - targets.boxes[:, :2]) >= augment.min_size).all()
    assert targets.ignore.equal(sample.ignore[targets.labels])  # labels number the objects here


@settings(max_examples=50, deadline=None)
@given(size=sizes, fit=sizes, count=st.integers(0, 8), seed=seeds)
def test_no_augmentation_is_the_plain_resize_to_the_bit(
    size: tuple[int, int], fit: tuple[int, int], count: int, seed: int
) -> None:
    assume(fit != (1, 1))  # which torch cannot do
    sample = make_sample(size, count, seed)
    transform = TrainTransform(stretch(fit), Augment(min_size=0.0))
    image, targets, meta = transform(sample, torch.Generator().manual_seed(seed))
    assert image.equal(tv.resize(sample.image, list(fit), antialias=True))
    assert meta.original == size
    torch.testing.assert_close(targets.boxes, meta.apply(sample.boxes), rtol=1e-5, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(size=sizes, count=st.integers(1, 8), seed=seeds, across=st.booleans(), down=st.booleans())
def test_mirrored_twice_is_the_picture_itself(size: tuple[int, int], count: int, seed: int, across: bool, down: bool) -> None:
    sample = make_sample(size, count, seed)
    view = View.of(Region(0, 0, size[1], size[0], across, down), size, stretch(size))
    once = view.pixels(sample.image, (0, 0, 0), lambda part: part)
    assert view.pixels(once, (0, 0, 0), lambda part: part).equal(sample.image)
    torch.testing.assert_close(view.boxes(view.boxes(sample.boxes)), sample.boxes, rtol=1e-5, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(40, 160), st.integers(40, 160)),
    fit=st.tuples(st.integers(40, 160), st.integers(40, 160)),
    augment=augments,
    seed=seeds,
)
def test_the_box_of_a_painted_rectangle_follows_its_pixels(
    size: tuple[int, int], fit: tuple[int, int], augment: Augment, seed: int
) -> None:
    box = (unit_boxes(1, seed) * torch.tensor([size[1], size[0], size[1], size[0]])).round()
    x1, y1, x2, y2 = (int(v) for v in box[0].tolist())
    assume(x2 - x1 >= 4 and y2 - y1 >= 4)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[1, y1:y2, x1:x2] = 255

    view = View.of(draw_region(size, box, augment, generator=torch.Generator().manual_seed(seed)), size, stretch(fit))
    expected = view.boxes(box)[0]
    assume(float((expected[2:] - expected[:2]).min()) >= 4)
    painted = view.pixels(image, (0, 0, 0), lambda part: part)[1] > 127
    rows, columns = painted.any(1).nonzero().flatten(), painted.any(0).nonzero().flatten()
    found = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01)
