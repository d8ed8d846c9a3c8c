"""The views of an analysis only read it: terminal, page, tables and the drawn pictures."""

import csv
import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from metric_cases import found, known
from onestage.analysis import Analysis, AnalysisSettings, analyse
from onestage.analysis.files import NAMES, save_analysis
from onestage.analysis.page import STYLE, sections
from onestage.analysis.reach import Overlaps
from onestage.analysis.suspects import DETECTION, LABEL, suspect_pictures
from onestage.analysis.terminal import analysis_table
from onestage.analysis.worst import FALSE, HIT, MISSED, Outcome, draw_outcome, outcome_of, worst_pictures
from onestage.metrics.page import HEAD
from onestage.metrics.report import measure
from onestage.structures import Detections, Truth
from web_pages import Structure

CAT, DOG, FAR = (40, 40, 160, 200), (300, 100, 420, 220), (500, 300, 600, 400)
EVIL = "<script>alert('x')</script>"
CLASSES = ("cat", EVIL)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Detections, Truth]]:
    """A hit, a duplicate, a wrong class, a false alarm and a missed object, in two pictures; one more cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = {
        1: ([(0, 0.9, *CAT), (0, 0.8, *CAT), (0, 0.7, *DOG)], [(0, *CAT), (1, *DOG)]),
        2: ([(1, 0.6, *FAR)], [(1, *DOG), (0, *CAT)]),
        3: ([], [(1, *DOG)]),
    }
    result = []
    for number, (detections, objects) in rows.items():
        path = folder / f"{number}.png"
        if number < 3:
            Image.new("RGB", (640, 480), (128, 128, 128)).save(path)
        result.append((replace(found(number, detections), path=str(path)), replace(known(number, objects), path=str(path))))
    return result


@pytest.fixture(scope="module")
def analysis(pairs: list[tuple[Detections, Truth]]) -> Analysis:
    settings = AnalysisSettings(draws=20, score=0.5, sure=0.55, calibrate="temperature")
    truths = [truth for _, truth in pairs]
    bright = {truth.image_id: [100.0] * len(truth.boxes) for truth in truths}
    overlaps = {t.image_id: Overlaps(np.full((len(t.boxes), 2), 0.4), np.ones(len(t.boxes), bool)) for t in truths}
    overlaps[1].iou[:] = [[0.1, 0.8], [0.6, 0.2]]
    return analyse([one for one, _ in pairs], truths, CLASSES, settings=settings, brightness=bright, overlaps=overlaps)


def shown(analysis: Analysis, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(analysis_table(analysis))
    return console.export_text()


def test_the_terminal_says_what_costs_most_and_which_score_to_use(analysis: Analysis) -> None:
    text = shown(analysis)
    assert re.search(r"^AP +0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) +95 % of 20 draws$", text, re.M)
    assert re.search(r"^Best score +0\.\d{3} for the best F1: precision ", text, re.M)
    assert re.search(r"^oLRP +0\.\d{3}: loose boxes ", text, re.M)
    rows = [line.split() for line in text.splitlines()]
    costs = [float(row[-1]) for row in rows if row and row[0] in ("Cls", "Miss", "Bkg")]
    assert len(costs) == 3 and costs == sorted(costs, reverse=True)
    assert all(len(line) <= 60 for line in shown(analysis, 60).splitlines())


def test_an_empty_analysis_has_views_too() -> None:
    assert shown(Analysis(("cat",))).strip() == ""
    assert sections(Analysis(("cat",))) == []
    empty = analyse([], [], [], settings=AnalysisSettings(draws=0))
    assert "no score gives the best F1" in shown(empty) and sections(empty)


def test_the_page_stands_alone_and_can_be_read_by_a_screen_reader(
    analysis: Analysis, pairs: list[tuple[Detections, Truth]], tmp_path: Path
) -> None:
    report = measure([one for one, _ in pairs], [truth for _, truth in pairs], CLASSES, model=EVIL)
    drawn = {"pictures": [*worst_pictures(analysis, pairs)], "suspects": [*suspect_pictures(analysis, pairs)]}
    parts = sections(analysis, advice=["Label more.", EVIL], **drawn)
    page = report.save(tmp_path, sections=parts, style=STYLE).read_text()
    structure = Structure(page)
    assert structure.open == [] and structure.faults == []
    assert structure.captions == page.count("<table>") > 5
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:image/|#)', page)
    order = ["What to do next", "What goes wrong", "Which score to deploy with", "The worst pictures", "COCO: average"]
    places = [page.index(f'">{name}', page.index("<section")) for name in order]
    assert places == sorted(places)
    suspects = ["overlooked: no label, detected as", "swapped: labelled as"]
    assert page.count("data:image/jpeg;base64,") == 2 + len(drawn["suspects"])  # the third picture cannot be read
    assert all(words in page for words in suspects)
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_the_page_says_how_objects_are_measured_and_what_anchors_reach(analysis: Analysis) -> None:
    bodies = {section.title: text_of(section.body) for section in sections(analysis)}
    found, reached = bodies["Which objects are found"], bodies["Which objects anchors reach"]
    assert "Brightness: the mean luma" in found and "rather dark" in found
    assert "Anchors reach 40 % of 5 objects" in reached
    assert "Of 4 missed objects, 3 are among those that no anchor reaches (75 %; of all objects 60 %)" in reached
    assert "cat 2 1 50 % 1 1 1 1" in reached and "level 1 5 1 20 %" in reached


def text_of(html: str) -> str:
    """What a reader sees, with single blanks."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def test_the_page_doubts_places_of_labels_only_by_a_detector_that_places_well(analysis: Analysis) -> None:
    labels, olrp = analysis.labels, analysis.olrp
    assert labels is not None and olrp is not None

    def said(loc: float, placed: int) -> bool:
        counts = {**labels.counts, "badly placed": placed}
        mean = replace(olrp, mean=replace(olrp.mean, loc=loc))
        section = next(
            s for s in sections(replace(analysis, labels=replace(labels, counts=counts), olrp=mean)) if "Labels" in s[0]
        )
        return f"places its hits loosely (mean of 1 - IoU {loc:.3f})" in str(section[1])

    assert [said(0.2, 3), said(0.1, 3), said(0.2, 0)] == [True, False, False]


def test_the_matrix_stands_in_a_table_too(analysis: Analysis) -> None:
    body = next(section.body for section in sections(analysis) if section.title == "Which class is taken for which")
    table = body[body.index("<details>") : body.index("</details>")]
    assert analysis.confusion
    assert [int(cell) for cell in re.findall(r"<td>(\d+)</td>", table)] == analysis.confusion.matrix.flatten().tolist()


def test_the_colours_of_texts_can_be_read_on_light_and_dark_screens() -> None:
    """A contrast of 4.5 at least, as WCAG 2.1 has it, on the page, in a note, and in the darkest cell of a matrix."""
    schemes = [dict(re.findall(r"--(\w+): #(\w+)", block)) for block in re.findall(r":root \{(.*?)\}", HEAD)]
    assert len(schemes) == 2
    for scheme in schemes:
        colours = {name: hex_colour(code) for name, code in scheme.items()}
        grounds = [colours["paper"], colours["note"]]
        pairs = [(colours[text], ground) for text in ("ink", "faint", "blue") for ground in grounds]
        pairs.append((colours["ink"], 0.58 * colours["blue"] + 0.42 * colours["paper"]))
        assert min(contrast(*pair) for pair in pairs) >= 4.5


def hex_colour(code: str) -> np.ndarray:
    code = "".join(letter * (6 // len(code)) for letter in code) if len(code) == 3 else code
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (one, other)]
    dark, light = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (light + 0.05) / (dark + 0.05)


def test_suspects_are_drawn_reason_after_reason_within_a_budget(
    analysis: Analysis, pairs: list[tuple[Detections, Truth]]
) -> None:
    drawn = [*suspect_pictures(analysis, pairs)]
    assert [one.words.partition(":")[0] for one in drawn] == ["overlooked", "swapped"]
    assert [one.caption for one in drawn] == ["2.png", "1.png"]
    with Image.open(io.BytesIO(drawn[1].jpeg)) as picture:
        assert max(picture.size) == 300
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    near = [int((abs(colours - stroke.colour).max(1) < 60).sum()) for stroke in (LABEL, DETECTION)]
    assert min(near) > 50  # one of each, though JPEG blurs them
    assert len([*suspect_pictures(analysis, pairs, budget=len(drawn[0].jpeg))]) == 1
    assert len([*suspect_pictures(analysis, pairs, most=0)]) == 0
    assert [*suspect_pictures(analysis, [])] == []


def test_outcomes_follow_the_letters_and_the_score(analysis: Analysis, pairs: list[tuple[Detections, Truth]]) -> None:
    assert analysis.errors
    first = analysis.errors.pictures[0]
    assert (first.found, first.true) == ("TDC", "tf")
    assert outcome_of(first, pairs[0][0], 0.5) == Outcome([0], [1, 2], [1])
    assert outcome_of(first, pairs[0][0], 0.75) == Outcome([0], [1], [1])
    assert outcome_of(first, pairs[0][0], 0.95) == Outcome([], [], [0, 1])
    assert outcome_of(replace(first, found="tdc", true="ii"), pairs[0][0], 0.5) == Outcome([], [], [])


def test_lines_differ_in_colour_and_style(pairs: list[tuple[Detections, Truth]]) -> None:
    detections, truth = pairs[0]
    drawn = draw_outcome(detections, truth, Outcome([0], [2], []), names=["", ""])
    assert drawn.size == (480, 360)
    left = {stroke: [drawn.getpixel((x, y)) for y in range(90, 150)] for stroke, x in ((HIT, 30), (FALSE, 225))}
    assert all(pixel == HIT.colour for pixel in left[HIT])
    assert 0 < sum(pixel == FALSE.colour for pixel in left[FALSE]) < 60
    assert len({HIT.colour, MISSED.colour, FALSE.colour}) == len({HIT.dash, MISSED.dash, FALSE.dash}) == 3


def test_the_worst_pictures_keep_to_their_budget(analysis: Analysis, pairs: list[tuple[Detections, Truth]]) -> None:
    drawn = [*worst_pictures(analysis, pairs)]
    assert [one.caption for one in drawn] == ["2.png", "1.png"]
    assert drawn[0].words.startswith("0 of 2 objects found, 1 false alarm; it costs 0.")
    assert drawn[1].words.startswith("1 of 2 objects found, 2 false alarms; it costs 0.")
    assert len([*worst_pictures(analysis, pairs, budget=len(drawn[0].jpeg))]) == 1
    assert len([*worst_pictures(analysis, pairs, most=1)]) == 1
    assert [*worst_pictures(analysis, [])] == []


def test_the_files_have_a_row_for_each_detection_object_and_picture(
    analysis: Analysis, pairs: list[tuple[Detections, Truth]], tmp_path: Path
) -> None:
    save_analysis(analysis, pairs, tmp_path / "new")
    text, errors, pictures = ((tmp_path / "new" / name).read_text(encoding="utf-8") for name in NAMES if name != "errors.png")
    with Image.open(tmp_path / "new" / "errors.png") as chart:
        assert chart.width > chart.height > 300
    assert Analysis.from_json(text).to_json() == analysis.to_json()
    rows = list(csv.DictReader(io.StringIO(errors)))
    assert [(row["what"], row["row"], row["letter"], row["object"]) for row in rows[:5]] == [
        ("detection", "0", "T", "0"),
        ("detection", "1", "D", ""),
        ("detection", "2", "C", "1"),
        ("object", "0", "t", ""),
        ("object", "1", "f", ""),
    ]
    assert (rows[0]["score"], rows[0]["xmax"], rows[4]["class"], rows[4]["score"]) == ("0.9", "160.0", EVIL, "")
    table = list(csv.DictReader(io.StringIO(pictures)))
    assert [Path(row["image"]).name for row in table] == [f"{loss.image_id}.png" for loss in analysis.losses or ()]
    costs = [float(row["AP_lost"]) for row in table]
    assert costs == sorted(costs, reverse=True)


def test_a_name_that_a_spreadsheet_would_compute_stays_text(tmp_path: Path) -> None:
    pair = found(1, [(0, 0.9, *CAT)]), replace(known(1, [(0, *CAT)]), path="=1+1.jpg")
    save_analysis(analyse([pair[0]], [pair[1]], ["@cat"], settings=AnalysisSettings(draws=0)), [pair], tmp_path)
    assert (tmp_path / "errors.csv").read_text().splitlines()[1].startswith("'=1+1.jpg,detection,0,T,'@cat,0.9,")


@pytest.mark.slow
def test_the_page_of_5000_pictures_and_80_classes_stays_below_10_megabytes(tmp_path: Path) -> None:
    """With the worst that JPEG can meet: noise."""
    path = tmp_path / "noise.png"
    Image.effect_noise((640, 480), 80).convert("RGB").save(path)
    names = [f"class {k}" for k in range(80)]
    detections = [
        replace(found(i, [(k % 80, 0.5 + k / 300, k, k, 100 + k, 90 + 2 * k) for k in range(i, i + 20)]), path=str(path))
        for i in (n % 80 for n in range(80))
    ]
    detections = [replace(detections[i % 80], image_id=i) for i in range(5000)]
    objects = [[((i + k) % 80, k, k, 100 + k, 100 + k) for k in range(8)] for i in range(80)]
    truths = [replace(known(i, objects[i % 80]), path=str(path)) for i in range(5000)]
    bright = {truth.image_id: [100.0] * 8 for truth in truths}
    overlaps = {truth.image_id: Overlaps(np.full((8, 6), 0.4), np.ones(8, bool)) for truth in truths}
    settings = AnalysisSettings(draws=0, sure=0.5)
    analysis = analyse(detections, truths, names, settings=settings, brightness=bright, overlaps=overlaps)
    report = measure(detections, truths, names)
    examples = {f"example {i}": Image.effect_noise((1280, 480), 80) for i in range(12)}
    pairs = [*zip(detections, truths, strict=True)]
    worst, suspects = [*worst_pictures(analysis, pairs)], [*suspect_pictures(analysis, pairs)]
    assert worst and suspects
    parts = sections(analysis, pictures=worst, suspects=suspects)
    page = report.save(tmp_path / "report", examples=examples, sections=parts, style=STYLE)
    assert page.stat().st_size < 10_000_000
