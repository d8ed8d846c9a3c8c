"""The page and the pictures show what the explanation holds."""

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from onestage.draw import colour_of
from onestage.explain import Explanation, explain_sample, save_explanation
from onestage.explain.page import figures_of, level_rows, nms_words, percent
from onestage.explain.pictures import draw_loss, draw_matches, level_picture, nms_picture, objects_picture
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.output.suppress import NMS, DIoUNMS, HardNMS, LinearSoftNMS, SoftNMS
from small_runs import detector, pictures


@pytest.fixture(scope="module")
def seen() -> Explanation:
    sample = next(s for s in (pictures(12)[i] for i in range(12)) if len(s.boxes) == 2)
    return explain_sample(detector().eval(), sample, score=0.25)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def near(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have nearly that colour."""
    return int((np.abs(image - np.array(colour)).max(axis=2) < 40).sum())


def test_a_level_shows_grid_matches_and_loss_side_by_side(seen):
    level = max(seen.levels, key=seen.matched)
    image = pixels(level_picture(seen, level))
    panel = image.shape[1] // 3
    assert abs(image.shape[1] - 3 * 540) < 60 and 540 < image.shape[0] < 620
    middle = image[:, panel : 2 * panel]
    assert all(near(middle, colour_of(number)) > 20 for number in range(2))
    left, top = (seen.anchors[level.rows][int(seen.class_loss[level.rows].argmax())].view(2, 2).mean(0) / 64 * 540).tolist()
    head, gap = image.shape[0] - 540, (image.shape[1] - 3 * 540) / 2
    hot = image[head + int(top), int(2 * (540 + gap) + left)]
    assert hot.max() > 120 or near(image[head + int(top) - 8 : head + int(top) + 8, -540:], (79, 216, 255)) > 0


def test_the_anchors_that_learn_an_object_have_its_colour(seen):
    level = max(seen.levels, key=seen.matched)
    axes = Figure().add_subplot()
    draw_matches(axes, seen, level)
    dots = [c for c in axes.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    drawn = {tuple((c.get_facecolor()[0, :3] * 255).round().astype(int)): len(c.get_offsets()) for c in dots}
    numbers, counts = seen.matches[level.rows][seen.matches[level.rows] >= 0].unique(return_counts=True)
    assert drawn == {colour_of(n): count for n, count in zip(numbers.tolist(), counts.tolist(), strict=True)} != {}
    assert [text.get_text() for text in axes.texts] == ["1", "2"]


def test_a_level_without_matches_or_loss_is_drawn_too(seen):
    lonely = replace(seen, matches=torch.full_like(seen.matches, -1), class_loss=torch.zeros_like(seen.class_loss))
    for level in seen.levels[-2:]:
        assert pixels(level_picture(lonely, level)).std() > 5


def test_objects_and_nms_show_the_boxes(seen):
    one_class = replace(seen, targets=replace(seen.targets, labels=torch.zeros(2, dtype=torch.int64)))
    for number in range(2):  # a colour for each object, also of one class
        assert near(pixels(objects_picture(one_class)), colour_of(number)) > 100
    assert (pixels(nms_picture(seen)) != pixels(nms_picture(replace(seen, before=seen.after)))).any()


@pytest.mark.usefixtures("small_panels")
def test_the_folder_holds_a_page_that_needs_nothing_else(seen, tmp_path):
    foreign = replace(seen, source="a/<script>x.jpg", guessed=True)
    page = save_explanation(foreign, tmp_path / "new" / "folder")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;x.jpg" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert text.count("data:image/jpeg;base64,") == len(seen.levels) + 2
    assert "stand in for" in text
    names = {f"map-{level.number}.jpg" for level in seen.levels} | {"objects.jpg", "nms.jpg", "index.html", "figures.json"}
    assert {path.name for path in page.parent.iterdir()} == names
    for path in page.parent.glob("*.jpg"):
        Image.open(path).load()
    assert json.loads((page.parent / "figures.json").read_text()) == json.loads(json.dumps(figures_of(foreign)))


@pytest.mark.usefixtures("small_panels")
def test_objects_are_linked_by_number_and_colour(seen, tmp_path):
    text = save_explanation(seen, tmp_path).read_text(encoding="utf-8")
    rows = re.findall(r'<tr><td><i style="background: (#\w{6})"></i>(\d+)</td><td>(\w+)</td>', text)
    expected = [("#{:02x}{:02x}{:02x}".format(*colour_of(o.number - 1)), str(o.number), o.name) for o in seen.objects()]
    assert rows == expected and len(rows) == 2
    assert [o["number"] for o in figures_of(seen)["objects"]] == [1, 2]


def test_the_dashed_boxes_have_the_objects_colours(seen):
    lonely = replace(seen, matches=torch.full_like(seen.matches, -1))  # no anchors in these colours
    image = pixels(level_picture(lonely, seen.levels[-1]))
    panel = image.shape[1] // 3
    for number in range(2):
        assert near(image[:, panel : 2 * panel], colour_of(number)) > 50


def test_many_crosses_are_smaller_and_fainter(seen):
    level = seen.levels[0]
    drawn = {}
    for count in (100, 250):
        losses = torch.zeros_like(seen.class_loss)
        losses[level.rows][:count] = 1.0
        nothing = torch.full_like(seen.matches, -1)
        one = replace(seen, matches=nothing, class_loss=losses, mining=MultiBoxLoss(min_negatives=count))
        assert int(one.hard[level.rows].sum()) == count
        axes = Figure().add_subplot()
        draw_loss(axes, one, level)
        drawn[count] = next(c for c in axes.collections if isinstance(c, PathCollection) and len(c.get_offsets()) == count)
    few, many = drawn.values()
    assert many.get_sizes()[0] == pytest.approx(0.8 * few.get_sizes()[0])
    assert many.get_alpha() < few.get_alpha() == 1.0


@pytest.mark.parametrize(
    ("nms", "says"),
    [
        (HardNMS(0.4), "put aside those of its class whose IoU with it is above 0.4 ("),
        (DIoUNMS(0.4), "put aside those of its class whose DIoU with it is above 0.4 ("),
        (
            SoftNMS(0.7),
            "lost score to the better ones of its class, and those below 0.25 are gone: it is multiplied by exp(−IoU² / 0.7)",
        ),
        (LinearSoftNMS(0.2), "multiplied by 1 − IoU for each of them with an IoU above 0.2 ("),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_words_are_those_of_the_kind_of_nms(seen, nms, says):
    other = replace(seen, postprocess=replace(seen.postprocess, nms=nms))
    assert says in nms_words(other) and "of its class" in nms_words(other)
    anywhere = replace(other, postprocess=replace(other.postprocess, class_agnostic=True))
    assert "of any class" in nms_words(anywhere)


def test_every_kind_of_nms_has_its_words():
    tested = {HardNMS, DIoUNMS, SoftNMS, LinearSoftNMS}
    assert set(get_args(NMS)) == tested


def test_the_tables_last_row_is_the_sum(seen):
    *rows, total = level_rows(seen)
    assert len(rows) == len(seen.levels)
    assert total[4] == f"{len(seen.anchors):,}" and total[5] == str(int(seen.positive.sum())) and total[6] == "100.0 %"
    assert sum(int(row[4].replace(",", "")) for row in rows) == len(seen.anchors)


@pytest.mark.parametrize(("share", "text"), [(0.0, "0 %"), (0.0002, "< 0.1 %"), (0.25, "25.0 %"), (1.0, "100.0 %")])
def test_percents_do_not_round_something_to_nothing(share, text):
    assert percent(share) == text


@pytest.mark.usefixtures("small_panels")
def test_a_loss_that_is_no_number_is_null_in_the_figures(seen, tmp_path):
    save_explanation(replace(seen, losses={"cls": math.nan, "box": 0.5}), tmp_path)
    loss = json.loads((tmp_path / "figures.json").read_text(), parse_constant=pytest.fail)["loss"]
    assert (loss["cls"], loss["box"]) == (None, 0.5)


@pytest.mark.usefixtures("small_panels")
def test_a_picture_without_objects_has_a_page(tmp_path: Path):
    empty = next(s for s in (pictures(12)[i] for i in range(12)) if len(s.boxes) == 0)
    text = save_explanation(explain_sample(detector().eval(), empty), tmp_path).read_text()
    assert "no objects: every anchor learns background" in text
