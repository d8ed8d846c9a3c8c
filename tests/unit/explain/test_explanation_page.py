"""The page and the pictures show what the explanation holds."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onestage.draw import colour_of
from onestage.explain import Explanation, explain_sample, save_explanation
from onestage.explain.page import figures_of, level_rows, percent
from onestage.explain.pictures import level_picture, nms_picture, objects_picture
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
    matched = {int(n) for n in seen.matches[level.rows].tolist() if n >= 0}
    middle = image[:, panel : 2 * panel]
    for number in range(2):
        assert (near(middle, colour_of(number)) > 20) == (number in matched)
    left, top = (seen.anchors[level.rows][int(seen.class_loss[level.rows].argmax())].view(2, 2).mean(0) / 64 * 540).tolist()
    head, gap = image.shape[0] - 540, (image.shape[1] - 3 * 540) / 2
    hot = image[head + int(top), int(2 * (540 + gap) + left)]
    assert hot.max() > 120 or near(image[head + int(top) - 8 : head + int(top) + 8, -540:], (79, 216, 255)) > 0


def test_a_level_without_matches_or_loss_is_drawn_too(seen):
    lonely = replace(seen, matches=torch.full_like(seen.matches, -1), class_loss=torch.zeros_like(seen.class_loss))
    for level in seen.levels[-2:]:
        assert pixels(level_picture(lonely, level)).std() > 5


def test_objects_and_nms_show_the_boxes(seen):
    label = int(seen.targets.labels[0])
    assert near(pixels(objects_picture(seen)), colour_of(label)) > 100
    assert (pixels(nms_picture(seen)) != pixels(nms_picture(replace(seen, before=seen.after)))).any()


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


def test_the_tables_last_row_is_the_sum(seen):
    *rows, total = level_rows(seen)
    assert len(rows) == len(seen.levels)
    assert total[4] == f"{len(seen.anchors):,}" and total[5] == str(int(seen.positive.sum())) and total[6] == "100.0 %"
    assert sum(int(row[4].replace(",", "")) for row in rows) == len(seen.anchors)


@pytest.mark.parametrize(("share", "text"), [(0.0, "0 %"), (0.0002, "< 0.1 %"), (0.25, "25.0 %"), (1.0, "100.0 %")])
def test_percents_do_not_round_something_to_nothing(share, text):
    assert percent(share) == text


def test_a_picture_without_objects_has_a_page(tmp_path: Path):
    empty = next(s for s in (pictures(12)[i] for i in range(12)) if len(s.boxes) == 0)
    text = save_explanation(explain_sample(detector().eval(), empty), tmp_path).read_text()
    assert "no objects: every anchor learns background" in text
