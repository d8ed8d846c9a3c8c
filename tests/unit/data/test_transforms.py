"""Augmentation against torchvision's reference: the laws of its random numbers, and its pixels at full resolution."""

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from onestage.data.transforms import Augment, EvalTransform, Region, TrainTransform, View, draw_region, stretch
from onestage.errors import ConfigError
from onestage.structures import ImageMeta, Sample

SIZE = (120, 160)
BOXES = torch.tensor([[10.0, 20.0, 40.0, 60.0], [70.0, 30.0, 150.0, 110.0], [100.0, 5.0, 120.0, 20.0]])
FILL = (124, 116, 104)


def smooth_picture(size: tuple[int, int] = SIZE) -> torch.Tensor:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 255
    return tv.resize(coarse, list(size), antialias=True)[0].to(torch.uint8)


def sample(boxes: torch.Tensor = BOXES, ignore: list[bool] | None = None) -> Sample:
    flags = torch.tensor(ignore or [False] * len(boxes), dtype=torch.bool)
    return Sample(smooth_picture(), boxes, torch.arange(len(boxes)), flags, image_id=7, path="a.png")


def regions(augment: Augment, count: int, boxes: torch.Tensor = BOXES) -> torch.Tensor:
    """(count, 4) left, top, width, height of drawn regions."""
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_region(SIZE, boxes, augment, generator=generator) for _ in range(count)]
    return torch.tensor([[r.left, r.top, r.width, r.height] for r in drawn], dtype=torch.float64)


def assert_same_law(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Mean and spread of every column agree within four standard errors."""
    error = ((ours.var(0) / len(ours)) + (theirs.var(0) / len(theirs))).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4 * error).all()
    assert ((ours.std(0) / theirs.std(0)).log().abs() < 0.15).all()


def test_zoom_out_follows_the_law_of_torchvision() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = v2.RandomZoomOut(side_range=(1.0, 4.0), p=1.0)
        canvas = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=SIZE)
        theirs = []
        for _ in range(1500):
            left, top, right, bottom = reference.make_params([canvas])["padding"]
            theirs.append([-left, -top, SIZE[1] + left + right, SIZE[0] + top + bottom])
    ours = regions(Augment(zoom_out=4.0, zoom_out_p=1.0), 1500)
    assert_same_law(ours, torch.tensor(theirs, dtype=torch.float64))


def test_iou_crop_follows_the_law_of_torchvision() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = v2.RandomIoUCrop()
        canvas = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=SIZE)
        drawn = [reference.make_params([canvas]) for _ in range(250)]
    whole = {"left": 0, "top": 0, "width": SIZE[1], "height": SIZE[0]}
    rows = [[(p or whole)[name] for name in ("left", "top", "width", "height")] for p in drawn]
    ours = regions(Augment(iou_crop=1.0), 2000)
    assert_same_law(ours, torch.tensor(rows, dtype=torch.float64))
    share_whole = (ours[:, 2:] == torch.tensor([160.0, 120.0])).all(1).double().mean()
    assert abs(share_whole - sum(not p for p in drawn) / 250) < 0.08


def test_every_crop_holds_the_centre_of_an_object_and_is_not_too_narrow() -> None:
    for left, top, width, height in regions(Augment(iou_crop=1.0), 300).tolist():
        centres = (BOXES[:, :2] + BOXES[:, 2:]) / 2
        low, high = torch.tensor([left, top]), torch.tensor([left + width, top + height])
        assert ((centres > low) & (centres < high)).all(1).any()
        assert 0.5 <= width / height <= 2 or (width, height) == (160, 120)


def test_a_picture_without_objects_is_never_cropped() -> None:
    drawn = regions(Augment(iou_crop=1.0), 50, boxes=torch.zeros(0, 4))
    assert drawn.unique(dim=0).tolist() == [[0.0, 0.0, 160.0, 120.0]]


@pytest.mark.parametrize(
    "region",
    [
        Region(-80, -40, 400, 300),
        Region(-80, -40, 400, 300, mirrored=True),
        Region(30, 20, 100, 80, upside_down=True),
        Region(-50, 10, 120, 100, mirrored=True, upside_down=True),
        Region(100, -60, 130, 150),
    ],
)
def test_the_pixels_are_those_of_torchvisions_pipeline_at_full_resolution(region: Region) -> None:
    """Pad by so much that every region is inside, crop, mirror, resize: what the one-pass rendering must look like."""
    image = smooth_picture()
    reference = tv.pad(image, [400, 400, 400, 400], fill=list(FILL))
    reference = tv.crop(reference, region.top + 400, region.left + 400, region.height, region.width)
    reference = tv.horizontal_flip(reference) if region.mirrored else reference
    reference = tv.vertical_flip(reference) if region.upside_down else reference
    reference = tv.resize(reference, [90, 90], antialias=True).int()

    view = View.of(region, SIZE, stretch((90, 90)))
    ours = view.pixels(image, FILL, lambda part: part).int()
    # The picture's edge falls on whole pixels of the input here, so it may stand up to half a pixel from the reference's.
    difference = (ours - reference).abs().amax(0)
    assert difference.double().mean() < 3
    assert (difference <= 12).double().mean() > 0.93


def test_preset_names_mean_what_they_say() -> None:
    assert Augment.none() == Augment()
    assert Augment.ssd().zoom_out == 4.0 and Augment.ssd().iou_crop == 1.0
    light = Augment.light()
    assert (light.zoom_out, light.iou_crop) == (1.0, 0.0) and light.photometric > 0 and light.flip == 0.5


@pytest.mark.parametrize(
    ("field", "value"), [("flip", 1.2), ("photometric", 3.0), ("zoom_out", 0.5), ("min_size", -1.0), ("iou_crop", float("nan"))]
)
def test_an_impossible_value_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        Augment(**{field: value})


def test_the_same_generator_state_gives_the_same_picture_and_the_global_one_is_not_used() -> None:
    transform = TrainTransform(stretch((64, 64)), Augment.ssd())
    before = torch.get_rng_state()
    first, targets, _ = transform(sample(), torch.Generator().manual_seed(5))
    again, same, _ = transform(sample(), torch.Generator().manual_seed(5))
    other, _, _ = transform(sample(), torch.Generator().manual_seed(6))
    assert first.equal(again) and targets.boxes.equal(same.boxes)
    assert not first.equal(other)
    assert torch.get_rng_state().equal(before)


def test_what_is_outside_the_picture_is_the_fill_colour_whatever_happens_to_the_colours() -> None:
    transform = TrainTransform(stretch((60, 80)), Augment(photometric=2.0, zoom_out=4.0, zoom_out_p=1.0), fill=(1, 2, 3))
    image, _, _ = transform(sample(), torch.Generator().manual_seed(0))
    assert (image == torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1)).all(0).double().mean() > 0.5


def test_an_object_whose_centre_is_cut_off_goes_but_an_ignored_one_stays() -> None:
    transform = TrainTransform(stretch((100, 100)))
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 100.0], [60.0, 60.0, 90.0, 90.0]])
    region = Region(55, 55, 50, 50)
    view = View.of(region, SIZE, stretch((100, 100)))
    targets = transform._targets(sample(boxes, ignore=[False, True, False]), view)
    assert targets.labels.tolist() == [1, 2] and targets.ignore.tolist() == [True, False]
    assert targets.boxes.tolist() == [[0.0, 0.0, 90.0, 90.0], [10.0, 10.0, 70.0, 70.0]]


def test_objects_that_have_become_too_small_go() -> None:
    boxes = torch.tensor([[0.0, 0.0, 16.0, 12.0], [0.0, 0.0, 160.0, 120.0]])
    for min_size, left in [(0.0, [0, 1]), (1.0, [0, 1]), (1.1, [1])]:
        transform = TrainTransform(stretch((10, 10)), Augment(min_size=min_size))
        _, targets, _ = transform(sample(boxes), torch.Generator())
        assert targets.labels.tolist() == left


def test_the_meta_tells_which_picture_it_was() -> None:
    _, _, meta = TrainTransform(stretch((50, 60)), Augment.ssd())(sample(), torch.Generator().manual_seed(1))
    assert (meta.image_id, meta.path, meta.input) == (7, "a.png", (50, 60))


def letterbox(size: tuple[int, int]) -> ImageMeta:
    """A place as a model with letterboxing gives it: into 100x100, centred."""
    scale = min(100 / size[0], 100 / size[1])
    height, width = round(size[0] * scale), round(size[1] * scale)
    return ImageMeta(size, (100, 100), (scale, scale), ((100 - height) // 2, (100 - width) // 2))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_letterbox_keeps_its_padding_on_both_sides(mirrored: bool) -> None:
    image = torch.full((3, 100, 200), 200, dtype=torch.uint8)
    image[:, :, :50] = 50
    view = View.of(Region(0, 0, 200, 100, mirrored=mirrored), (100, 200), letterbox)
    pixels = view.pixels(image, (0, 0, 0), lambda part: part)[0]
    rows = pixels.amax(1)
    assert (rows[:25] == 0).all() and (rows[25:75] > 0).all() and (rows[75:] == 0).all()
    boxes = view.boxes(torch.tensor([[0.0, 0.0, 50.0, 100.0]]))
    assert boxes.tolist() == [[75.0, 25.0, 100.0, 75.0] if mirrored else [0.0, 25.0, 25.0, 75.0]]
    x1, y1, x2, y2 = (int(v) for v in boxes[0].tolist())
    assert (pixels[y1:y2, x1 + 1 : x2 - 1] == 50).all()


def test_evaluation_leaves_picture_and_boxes_to_the_models_resize() -> None:
    def resize(image: torch.Tensor) -> tuple[torch.Tensor, ImageMeta]:
        return tv.resize(image, [60, 40], antialias=True), ImageMeta(SIZE, (60, 40), (0.5, 0.25), (0, 0))

    image, targets, meta = EvalTransform(resize)(sample(), torch.Generator())
    assert image.equal(tv.resize(smooth_picture(), [60, 40], antialias=True))
    assert targets.boxes[0].tolist() == [2.5, 10.0, 10.0, 30.0]
    assert (meta.image_id, meta.path) == (7, "a.png")
