"""Drawing: colours, places and order of boxes and labels, and pictures and names of every kind."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch import Tensor

from onestage import boxes as box_ops
from onestage.draw import PALETTE, Stroke, _ink_on, _place, colour_of, draw_boxes, draw_detections, draw_strokes
from onestage.errors import DataError
from onestage.images import to_tensor
from onestage.structures import Detections, Size


def found(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], *, size: Size = (240, 320), name: str = "cell"
) -> Detections:
    count = len(boxes)
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        scores=torch.linspace(0.9, 0.5, count),
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=(name,) * count,
        category_ids=tuple(labels),
        size=size,
    )


def blank(size: Size = (240, 320), value: int = 200) -> Tensor:
    return torch.full((3, *size), value, dtype=torch.uint8)


def test_a_box_is_outlined_in_its_colour_around_its_border() -> None:
    drawn = draw_detections(blank(), found([[100, 80, 200, 160]], [1]))
    assert drawn.mode == "RGB" and drawn.size == (320, 240)
    for point in ((100, 120), (199, 120), (150, 159), (150, 80)):
        assert drawn.getpixel(point) == colour_of(1)
    for point in ((97, 120), (103, 120), (150, 120), (150, 165)):
        assert drawn.getpixel(point) == (200, 200, 200)


def test_lines_at_the_edge_of_the_picture_are_whole() -> None:
    drawn = draw_detections(blank((400, 660)), found([[-50, -50, 900, 900]], [1], size=(400, 660)))  # lines of 2 pixels
    for point in ((0, 200), (1, 200), (658, 200), (659, 200), (300, 398), (300, 399), (640, 0), (640, 1)):
        assert drawn.getpixel(point) == colour_of(1)


def test_the_label_stands_on_a_plate_above_its_box() -> None:
    drawn = to_tensor(draw_detections(blank(), found([[100, 80, 200, 160]], [1]))).permute(1, 2, 0)
    plate = drawn[70:79, 99:140].reshape(-1, 3).tolist()
    assert list(colour_of(1)) in plate and list(_ink_on(colour_of(1))) in plate


def test_the_picture_itself_is_left_as_it_is() -> None:
    tensor = blank()
    image = Image.new("RGB", (320, 240), (200, 200, 200))
    detections = found([[10, 30, 90, 90]], [0])
    assert draw_detections(tensor, detections).tobytes() == draw_detections(image, detections).tobytes()
    assert (tensor == 200).all() and image.getcolors() == [(320 * 240, (200, 200, 200))]


def test_without_detections_nothing_changes() -> None:
    assert torch.equal(to_tensor(draw_detections(blank(), found([], []))), blank())


def test_the_best_lies_on_top() -> None:
    drawn = draw_detections(blank(), found([[100, 80, 200, 160], [100, 80, 200, 160]], [4, 2]))
    assert drawn.getpixel((100, 120)) == colour_of(4)


def test_detections_draw_those_above_a_score() -> None:
    detections = found([[100, 80, 200, 160], [20, 30, 60, 60]], [0, 0])  # scores 0.9 and 0.5
    assert detections.draw(blank(), score=0.6).getpixel((20, 45)) == (200, 200, 200)
    assert detections.draw(blank()).getpixel((20, 45)) == colour_of(0)


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="another size") as caught:
        draw_detections(blank((240, 319)), found([[1, 1, 9, 9]], [0]))
    assert "240 x 319" in str(caught.value) and "240 x 320" in str(caught.value)


def test_ground_truth_is_drawn_with_names_only() -> None:
    boxes, labels = torch.tensor([[100.0, 80, 200, 160]]), torch.tensor([1])
    drawn = draw_boxes(blank(), boxes, labels=labels, names=["cat", "dog"])
    assert drawn.getpixel((100, 120)) == colour_of(1)
    assert drawn.tobytes() != draw_boxes(blank(), boxes, labels=labels, names=["cat", "cow"]).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (3, 4000), (4000, 3), (2000, 3000)])
def test_any_size_of_picture(size: Size) -> None:
    height, width = size
    boxes = [[0, 0, width, height], [width / 2, height / 2, width / 2, height / 2], [-5, -5, width + 9, height / 3]]
    boxes += [[width, height, width, height], [width + 5, -9, width + 9, -5]]  # nothing of them is inside
    drawn = draw_detections(blank(size), found(boxes, [0, 1, 2, 3, 4], size=size))
    assert drawn.size == (width, height)
    assert not torch.equal(to_tensor(drawn), blank(size))


def test_a_label_does_not_hide_a_thumbnail() -> None:
    drawn = to_tensor(draw_detections(blank((32, 32)), found([[4, 12, 28, 30]], [0], size=(32, 32))))
    assert (drawn[:, :8] == 200).all()


def test_lines_and_letters_grow_with_the_picture() -> None:
    def painted(factor: int) -> float:
        """The share of the picture that is painted on."""
        size = (240 * factor, 320 * factor)
        boxes = [[100 * factor, 80 * factor, 200 * factor, 160 * factor]]
        return (to_tensor(draw_detections(blank(size), found(boxes, [0], size=size))) != 200).float().mean().item()

    assert painted(8) == pytest.approx(painted(4), rel=0.15)


@pytest.mark.parametrize(
    "name", ["кошка", "猫", "قطة", "chat éle\u0301gant", "", "two\nlines\tand a tab", "\ud800", "\0", "x" * 5000]
)
def test_any_name_can_be_drawn(name: str) -> None:
    assert draw_detections(blank(), found([[100, 80, 200, 160]], [0], name=name)).getpixel((100, 120)) == colour_of(0)


# ---- colours


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """WCAG 2.1's contrast ratio, 1 to 21."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_every_colour() -> None:
    assert min(contrast(colour, _ink_on(colour)) for colour in PALETTE) > 4.5  # WCAG's level AA


def test_every_colour_shows_on_black_and_on_white() -> None:
    assert min(contrast(colour, (0, 0, 0)) for colour in PALETTE) > 2.5
    assert min(contrast(colour, (255, 255, 255)) for colour in PALETTE) > 1.1  # a light one has its dark rim


def oklab(colours: Sequence[tuple[int, ...]]) -> Tensor:
    """Colours as points whose distance is how different they look (Ottosson 2020)."""
    value = torch.tensor(colours, dtype=torch.float64) / 255
    linear = torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    cones = (linear @ torch.tensor(to_cones, dtype=torch.float64).T) ** (1 / 3)
    return cones @ torch.tensor(to_lab, dtype=torch.float64).T


@pytest.mark.parametrize(("classes", "apart"), [(3, 0.25), (20, 0.13), (40, 0.10), (90, 0.07)])
def test_classes_can_be_told_apart(classes: int, apart: float) -> None:
    assert len(PALETTE) == 90
    assert torch.pdist(oklab(PALETTE[:classes])).min() > apart


def test_colours_are_stable_and_come_round() -> None:
    assert colour_of(0) == (255, 77, 77) and colour_of(90) == colour_of(0)


# ---- where labels go


def test_labels_keep_out_of_each_others_way() -> None:
    same = torch.tensor([[100.0, 80, 200, 160]] * 6)
    plates = _place(same, torch.tensor([[60, 15]] * 6), (320, 240))
    assert box_ops.intersection(plates, plates).fill_diagonal_(0).max() == 0
    assert plates[0].tolist() == [100, 65, 160, 80]  # the best has the usual place


@given(data=st.data(), width=st.integers(60, 400), height=st.integers(20, 400), count=st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_labels_stay_inside_the_picture(data: st.DataObject, width: int, height: int, count: int) -> None:
    def corners(limit: int) -> list[float]:
        return sorted(data.draw(st.lists(st.integers(0, limit), min_size=2, max_size=2)))

    boxes = [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in ((corners(width), corners(height)) for _ in range(count))]
    plates = _place(torch.tensor(boxes).view(-1, 4), torch.tensor([[60, 15]] * count).view(-1, 2), (width, height))
    assert plates.shape == (count, 4)
    assert torch.equal(box_ops.clip(plates, (height, width)), plates)


@pytest.mark.parametrize(("count", "least", "most"), [(1, 1, 1), (20, 20, 20), (300, 20, 60)])
def test_a_crowd_does_not_vanish_under_its_labels(count: int, least: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few boxes all have labels; of many the best have, as far as a sixth of the picture goes."""
    low = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([580.0, 420])
    names = [f"cell {i}" for i in range(count)]
    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, **rest: written.append(text))
    picture = torch.zeros(3, 480, 640, dtype=torch.uint8)
    drawn = draw_boxes(picture, torch.cat([low, low + 50], dim=1), labels=torch.arange(count), names=names)
    assert written == names[: len(written)][::-1]  # the best last, on top of the others
    assert least <= len(written) <= most
    assert to_tensor(drawn).any(0).float().mean() < 0.9


def test_a_dashed_line_has_gaps_and_a_larger_picture_is_made_smaller() -> None:
    stroke = Stroke((255, 0, 0), (4, 4))
    drawn = draw_strokes(blank(), torch.tensor([[100.0, 80, 200, 160]]), strokes=[stroke], captions=[""], side=160)
    assert drawn.size == (160, 120)
    column = [drawn.getpixel((50, y)) for y in range(42, 78)]
    assert column.count(stroke.colour) == pytest.approx(len(column) / 2, abs=4)
    assert draw_strokes(blank(), torch.zeros(0, 4), strokes=[], captions=[], side=999).size == (320, 240)
