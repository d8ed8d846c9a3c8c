"""The dataset doctor finds what is wrong, and counts what is there."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

import trees
from layouts import build
from onestage.cli.data import check, render
from onestage.data import load_dataset
from onestage.data.check import Checkup, ClassSummary, SplitSummary, check_dataset
from onestage.data.dataset import NO_VALIDATION
from onestage.errors import ConfigError, DataError


def printed(report: Checkup, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(render(report))
    return console.export_text()


def test_a_sound_set_is_counted(tmp_path: Path) -> None:
    report = check_dataset(trees.coco(tmp_path))
    assert report.problems == () and [note.what for note in report.notes] == [NO_VALIDATION]
    assert report.splits == (SplitSummary("train", 3, 1, 3, 0, 0),)
    assert report.classes == (ClassSummary("cat", 1, 1, (1,)), ClassSummary("dog", 2, 2, (2,)))
    assert (report.small, report.medium, report.large) == (2, 1, 0)
    assert (report.pictures, report.objects, report.decoded) == (3, 3, True)
    assert report.picture_sizes == ((trees.SIZE, 3),) and report.file_kinds == {"png": 3}
    assert report.box_side and report.box_side.minimum == pytest.approx(150**0.5)
    assert report.box_share and report.box_share.maximum == pytest.approx((1750 / 2400) ** 0.5)
    assert report.box_aspect and report.box_aspect.median == pytest.approx(15 / 10)


@pytest.mark.parametrize("name", ["dog", "a name of more characters than have room"])
@pytest.mark.parametrize(("width", "longest"), [(60, None), (80, None), (140, 24)])
def test_the_bars_keep_to_scale_in_the_width_that_is_left(width: int, longest: int | None, name: str, tmp_path: Path) -> None:
    splits = tuple(SplitSummary(split, 10, 0, 150, 0, 0) for split in ("train", "val")[: 1 if width == 60 else 2])
    counts = {name: 200, "cat": 100, "cow": 0}
    classes = tuple(ClassSummary(label, number, number, (number // 2,) * len(splits)) for label, number in counts.items())
    report = replace(check_dataset(trees.coco(tmp_path)), splits=splits, classes=classes, small=300)
    lines = printed(report, width).splitlines()
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    eighths = {line[:3]: sum(" ▏▎▍▌▋▊▉█".find(c) for c in line if c in "▏▎▍▌▋▊▉█") for line in lines}
    most, half = eighths[name[:3]], eighths["cat"]
    assert most >= 8 and abs(most - 2 * half) <= 1 and eighths["cow"] == 0
    assert longest is None or most == 8 * longest


def test_a_truncated_picture_is_found_unless_fast(tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    file = trees.picture(root / "train2017/a.png", shade=9)
    file.write_bytes(file.read_bytes()[:-30])
    (problem,) = check_dataset(root).problems
    assert problem.where == "train2017/a.png" and "picture" in problem.what
    assert check_dataset(root, fast=True).problems == ()
    file.write_bytes(b"GIF?")
    (problem,) = check_dataset(root, fast=True).problems
    assert problem.where == "train2017/a.png"


@pytest.mark.parametrize("fast", [False, True])
def test_a_size_that_contradicts_the_pixels(fast: bool, tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    trees.picture(root / "train2017/b.png", size=(60, 40))
    (problem,) = check_dataset(root, fast=fast).problems
    assert problem.got and problem.got.startswith("40 x 60") and problem.expected == "60 x 40 (width x height)"


def test_the_same_picture_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    for shade, folder in ((0, "train"), (50, "test")):
        for offset, name in enumerate("ab"):
            trees.picture(tmp_path / folder / f"{name}.png", shade=shade + offset)
            trees.write(tmp_path / folder / f"{name}.xml", trees.voc_xml(name, trees.voc_object("dog", (1, 1, 9, 9))))
    assert check_dataset(tmp_path).problems == ()
    trees.picture(tmp_path / "test/a.png", shade=1)  # a copy of train/b.png
    (problem,) = check_dataset(tmp_path).problems
    assert problem.where == "train/b.png"
    assert problem.what == "the same picture as test/a.png is in several splits: test, train"


def test_one_file_in_two_lists_is_a_leak_but_trainval_is_not(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    report = check_dataset(root)
    assert report.problems == () and [split.name for split in report.splits] == ["train", "val"]
    trees.write(root / "ImageSets/Main/val.txt", "a\nc\n")
    (problem,) = check_dataset(root, fast=True).problems
    assert problem.where == "JPEGImages/a.png" and "train, val" in problem.what
    assert check_dataset(root, split="trainval").splits[0].pictures == 3


def test_copies_in_one_split_and_boxes_given_twice_are_notes(tmp_path: Path) -> None:
    content: dict[str, Any] = trees.coco_content()
    content["annotations"].append(content["annotations"][0] | {"id": 9})
    root = trees.coco(tmp_path, content)
    trees.picture(root / "train2017/c.png", shade=0)
    report = check_dataset(root)
    assert report.problems == ()
    assert [(note.where, note.what) for note in report.notes if note.what != NO_VALIDATION] == [
        ("train2017/a.png", "the same picture as train2017/c.png"),
        ("train2017/a.png", "1 box given twice, with the same class"),
    ]


def test_the_command_reports_and_answers_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = trees.csv(tmp_path / "set")
    assert check(root, json=tmp_path / "report.json") == 0
    assert "no problems" in capsys.readouterr().out
    trees.write(root / "label.csv", trees.csv_text() + "a.png,cat,9,9,9,9\n")
    assert check(root, json=tmp_path / "report.json") == 1
    printed = capsys.readouterr().out
    assert "1 problem" in printed and "label.csv:6" in printed
    written = json.loads((tmp_path / "report.json").read_text())
    what = "a box of zero or negative size: x1, y1, x2, y2 = 9, 9, 9, 9"
    assert written["problems"] == [{"where": "label.csv:6", "what": what}]
    with pytest.raises(ConfigError, match="no such folder to write into"):
        check(root, json=tmp_path / "nowhere" / "report.json")
    assert capsys.readouterr().out == ""  # before anything was read


def test_the_rendering_treats_names_as_text_and_counts_what_it_hides(tmp_path: Path) -> None:
    rows = "".join(f"a.png,[bold]class {i:02}[/],1,1,{i + 9},20\n" for i in range(25))
    bad = "".join(f"a.png,x,{i},1,{i},20\n" for i in range(12))
    text = printed(check_dataset(trees.csv(tmp_path, trees.csv_text() + rows + bad)))
    assert "[bold]class 00[/]" in text
    assert "... and 8 more classes with 7 objects; 1 without any" in text  # of cat, dog, x and 25
    assert "12 problems" in text and "... and 2 more" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_set_without_any_object_is_reported(tmp_path: Path) -> None:
    root = trees.yolo(tmp_path)
    for file in root.rglob("labels/train/*.txt"):
        file.write_text("")
    report = check_dataset(root)
    assert report.objects == 0 and report.box_side is None
    assert "without objects" in printed(report)


@pytest.mark.parametrize("name", ["coco", "voc"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_the_size_before_the_exif_rotation_is_told_as_that(name: str, orientation: int, tmp_path: Path) -> None:
    root = trees.WRITERS[name](tmp_path)
    path = next(root.rglob("b.png")) if name == "coco" else root / "JPEGImages/b.png"
    swapped = orientation >= 5
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", trees.SIZE[::-1] if swapped else trees.SIZE).save(path, exif=exif)  # stored 60 x 40, or shown 40 x 60
    report = check_dataset(root, fast=True)
    (problem,) = report.problems
    assert problem.got and problem.got.startswith("40 x 60") and problem.expected == "60 x 40 (width x height)"
    assert ("before its EXIF rotation" in problem.what) == swapped
    data = load_dataset(root)
    with pytest.raises(DataError) as caught:
        data[1]
    assert ("before its EXIF rotation" in caught.value.what) == swapped
    assert caught.value.got == "40 x 60 (width x height) in the picture" and caught.value.expected == "60 x 40 (width x height)"


def test_a_set_without_a_usable_picture_gets_a_report(tmp_path: Path) -> None:
    root = build(tmp_path, "a.json    images\\1\\a.jpg; images\\1\\nowhere.jpg\nimages/A.JPG")
    checkup = check_dataset(root)
    assert checkup.pictures == 0 and len(checkup.problems) == 3  # and that there is nothing to learn
    said = [str(problem) for problem in checkup.problems]
    assert "images/A.JPG" in said[1] and r"'images\1\a.jpg'" in said[1] and "no picture" in said[2]
    assert "3 problems" in printed(checkup)
