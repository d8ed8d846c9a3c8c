"""The report and its views: foreign names stay text, NaN becomes null, and the terminal's width is kept."""

import csv
import io
import json
import math
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from metric_cases import found, known
from onestage.metrics.book import BookMetrics
from onestage.metrics.report import Report, measure

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def report() -> Report:
    detections = [found(1, [(2, 0.9, 10, 10, 50, 60), (1, 0.8, 100, 10, 150, 60)]), found(2)]
    truths = [known(1, [(2, 10, 10, 50, 60), (1, 100, 10, 160, 60)]), known(2, [(1, 5, 5, 80, 80)], ignore=[0])]
    return measure(
        detections,
        truths,
        ["_猫", EVIL, "cat [bold]", "$\\frac{$"],
        model="tinyssd",
        data="pets & co",
        losses={"cls": 1.25, "box": math.nan},
        book=BookMetrics(anchors=1000, wrong=3, distance=8.0),
    )


def test_a_report_prints_as_one_short_line(report: Report) -> None:
    assert repr(report) == f"Report(AP {report.coco.AP:.3f}, AP50 {report.coco.AP50:.3f}, 2 pictures, 2 objects)"


def shown(report: Report, width: int, rows: int = 20) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report.table(rows))
    return console.export_text().splitlines()


def test_the_json_holds_every_figure_and_null_for_nan(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert content["coco"].keys() == report.coco.figures.keys()
    assert content["coco"]["AP"] == report.coco.AP == pytest.approx((1 + 0.7) / 2)
    assert content["coco"]["APs"] is None
    assert content["losses"] == {"cls": 1.25, "box": None}
    assert (content["pictures"], content["objects"], content["model"]) == (2, 2, "tinyssd")
    assert (content["class_error"], content["box_mae"]) == (0.003, 0.002)
    assert (content["voc2007"], content["voc2010"]) == (1.0, 1.0)
    assert [row["name"] for row in content["classes"]] == ["cat [bold]", EVIL, "$\\frac{$", "_猫"]  # by AP, absent ones last
    assert content["classes"][2]["AP"] is None


def test_the_csv_holds_a_line_per_class(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    with (tmp_path / "per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row.name for row in report.rows]
    assert (rows[0]["objects"], float(rows[0]["AP"]), rows[3]["AP"]) == ("1", pytest.approx(1), "")


def test_the_page_stands_alone_and_names_are_text(report: Report, tmp_path: Path) -> None:
    caption = 'a"onload="b.jpg\udcff'  # \udcff: how a file name that is no UTF-8 arrives
    page = report.save(tmp_path / "new" / "folder", examples={caption: Image.new("RGBA", (2000, 1000))}).read_text()
    assert page.endswith("</html>\n") and "<script" not in page and "&lt;script&gt;" in page
    assert 'onload="' not in page
    assert "pets &amp; co" in page and "0.850" in page
    assert not re.search(r'(?:src|href)="(?!data:image/|#)', page)
    assert page.count("<svg") == 2 and page.count("data:image/jpeg;base64,") == 1
    assert len(page) < 400_000


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_shows_the_figures_within_its_width(report: Report, width: int) -> None:
    lines = shown(report, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "tinyssd on pets & co" in text and "2 pictures · 2 objects · 2 detections · 4 classes" in text
    assert re.search(r"AP +\.50:\.95 +0\.850 +- +0\.850 +-", text)
    assert re.search(r"cat \S+ +1 +1 +1\.000 +1\.000 +1\.000 +1\.000 +1\.000", text)
    assert "class error 3.00e-03 · box MAE 2.00e-03" in text


def test_markup_and_control_characters_do_not_reach_the_terminal() -> None:
    name = "[red]a\x1b[2Jb\r"
    report = measure([found(1)], [known(1, [(0, 1, 1, 9, 9)])], [name], model=name)
    text = "\n".join(shown(report, 100))
    assert text.count(r"[red]a\x1b[2Jb\r") == 2 and "\x1b" not in text


def test_a_long_list_shows_the_best_and_the_worst() -> None:
    names = [f"class {k:02}" for k in range(30)]
    truth = [known(1, [(k, 10 * k, 0, 10 * k + 100, 100) for k in range(25)])]
    good = [found(1, [(k, 0.9, 10 * k, 0, 10 * k + 100, 100 - k) for k in range(25)])]
    text = "\n".join(shown(measure(good, truth, names), 80, rows=6))
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("class ") and line[6].isdigit()] == [
        *names[:3],
        *names[22:25],
    ]
    assert "... 19 more" in text and "and 5 classes without objects" in text


def test_figures_that_need_logits_are_said_to_be_missing_in_every_view(tmp_path: Path) -> None:
    report = measure([found(1)], [known(1, [(0, 1, 1, 9, 9)])], ["cat"], losses=None, book=None)
    assert report.not_measured == ("losses", "class_error", "box_mae")
    lines = shown(report, 100)
    reason = "not measured: there are boxes, but no logits"
    assert f"Loss          {reason}" in lines and f"Anchors       {reason}" in lines
    page = report.save(tmp_path).read_text()
    assert "<p>Not measured: loss, class error, box MAE (there are boxes, but no logits).</p>" in page
    assert not re.search(r"<span>(loss|class error|box MAE)", page)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert (content["losses"], content["class_error"], content["box_mae"]) == (None, None, None)
    assert content["not_measured"] == ["losses", "class_error", "box_mae"]


def test_an_empty_loss_counts_as_missing_and_the_anchors_are_still_shown() -> None:
    report = measure([found(1)], [known(1)], ["cat"], losses={}, book=BookMetrics(anchors=1000, wrong=3, distance=8.0))
    assert report.not_measured == ("losses",) and report.to_dict()["losses"] is None
    text = "\n".join(shown(report, 100))
    assert "Loss          not measured: " in text and "Anchors       class error 3.00e-03" in text


def test_a_measured_report_misses_nothing(report: Report, tmp_path: Path) -> None:
    assert "ot measured" not in report.save(tmp_path).read_text() + "\n".join(shown(report, 100))
    assert report.to_dict()["not_measured"] == []


def test_the_results_are_data_that_cannot_change(report: Report) -> None:
    with pytest.raises(FrozenInstanceError):
        report.losses = {}  # type: ignore[misc]


def test_without_pictures_the_report_still_shows_and_saves(tmp_path: Path) -> None:
    report = measure([], [], ["cat"])
    assert "0 pictures" in report.save(tmp_path).read_text()
    assert "Evaluation" in "\n".join(shown(report, 80))
    assert json.loads((tmp_path / "metrics.json").read_text())["coco"]["AP"] is None
