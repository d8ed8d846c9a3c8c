"""``onestage models``: every recipe, for people and for programs."""

import json
from functools import cache

import pytest

from onestage import create
from onestage.cli.main import main
from onestage.model.cost import Cost, cost_of
from onestage.weights.source import WEIGHTS

counted_once = cache(cost_of)


def test_the_table_for_programs_has_the_models_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole zoo is counted in tests/unit/test_docs.py."""
    assert main(["models", "ssd300_vgg", "tiny", "--json", "--classes", "3"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["tinyssd", "ssd300_vgg16"]
    tiny = rows[0]
    assert tiny["parameters"] == sum(p.numel() for p in create("tinyssd", num_classes=3).parameters())
    assert tiny["anchors"] == 5444 and tiny["size"] == [256, 256]
    assert all(row["multiply_adds"] > 1e8 for row in rows)
    (weights,) = rows[1]["weights"]
    assert (weights["tag"], weights["ap"]) == ("coco", 25.1) and weights["recipe"].startswith("https://")


def test_the_table_for_people_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["models", "ssd300", "retinanet_r18", "--classes", "90"]) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.startswith("ssd300_vgg16") and "M" in line and "8,732" in line]
    assert line.split() == ["ssd300_vgg16", "coco", "300x300", "35.64", "M", "34.86", "G", "8,732"]
    assert max(map(len, text.splitlines())) <= 100
    assert "arXiv 1512.02325" in text and "onestage benchmark MODEL; docs/models.md" in text
    (line,) = [line for line in text.splitlines() if line.startswith("  ssd300_vgg16.coco")]
    assert "25.1 AP, BSD-3-Clause" in line and "references/detection#ssd300-vgg16\n" in text


@pytest.mark.parametrize(
    ("width", "gone"), [(88, []), (80, ["weights"]), (60, ["weights", "anchors", "input"])], ids=["all", "most", "least"]
)
def test_a_narrow_terminal_breaks_no_number(
    width: int, gone: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("onestage.model.cost.cost_of", counted_once)
    assert main(["models", "ssd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "https://" not in line) <= width
    titles = ("model", "weights", "input", "parameters", "multiply-adds", "anchors")
    (start,) = [place for place, line in enumerate(lines) if line.startswith("model")]
    assert lines[start].split() == [title for title in titles if title not in gone]
    cells = {"weights": "coco", "input": "320x320", "parameters": "3.30 M", "multiply-adds": "0.56 G", "anchors": "3,234"}
    row = " ".join(("ssdlite320_mobilenet_v3_large", *(cells[title] for title in titles[1:] if title not in gone)))
    assert [" ".join(line.split()) for line in lines[start + 2 :]].count(row) == 1
    assert all(line.startswith("ssd") for line in lines[start + 2 : start + 11]) and not lines[start + 11]


def test_the_whole_list_names_the_weights_in_few_lines_before_the_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("onestage.model.cost.cost_of", lambda config: Cost(1, 2, 3))
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    weights, _, rest = text.partition("\n\n")
    assert weights.startswith("published weights") and "https://" not in text
    assert all(f" {name} {known.ap} " in f" {' '.join(weights.split())} " for name, known in WEIGHTS.items())
    assert weights.count("\n") <= len(WEIGHTS) / 2 + 1
    assert rest.index("published accuracy") < rest.index("\nmodel ")


def test_an_unknown_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "efficentdet"]) == 2
    assert "did you mean 'efficientdet'" in capsys.readouterr().err


def test_one_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "tiny", "--classes", "1"]) == 0
    assert " for 1 class at " in " ".join(capsys.readouterr().out.split())


def test_no_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--classes", "0"]) == 2
    assert "--classes" in capsys.readouterr().err
