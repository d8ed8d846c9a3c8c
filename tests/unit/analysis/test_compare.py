"""Whether one detector is better than another: the figures, the words, the page and the files."""

import csv
import io
import re
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest
from PIL import Image

from metric_cases import found, known
from onestage.analysis.compare import Comparison, Difference, compare
from onestage.analysis.compare_files import NAMES, save_comparison
from onestage.analysis.compare_page import comparison_page
from onestage.analysis.compare_pictures import draw_differing
from onestage.analysis.compare_wording import first_sentence, more_sentences
from onestage.errors import ConfigError, DataError
from onestage.structures import Detections, Truth
from web_pages import Structure

BOX, BESIDE = (100, 100, 200, 200), (300, 300, 400, 400)
EVIL = "<script>alert('x')</script>"
CLASSES = ("cat", EVIL)


def pictures(count: int, hit: int, *, label: int = 0, first: int = 0) -> tuple[list[Detections], list[Truth]]:
    """So many pictures with an object each; of every five the first ``hit`` are found, and the others have a false alarm."""
    ids = range(first, first + count)
    detections = [found(i, [(label, 0.9, *(BOX if i % 5 < hit else BESIDE))]) for i in ids]
    return detections, [known(i, [(label, *BOX)]) for i in ids]


def compared(good: int = 4, bad: int = 2, *, count: int = 60, draws: int = 100) -> Comparison:
    truths = pictures(count, 0)[1]
    systems = {"bad": pictures(count, bad)[0], "good": pictures(count, good)[0], "again": pictures(count, bad)[0]}
    return compare(systems, truths, CLASSES, data="cats", draws=draws)


def test_two_detectors_are_told_apart_or_not() -> None:
    result = compared()
    better, same = result.pairings
    assert [(one.first, one.second) for one in result.pairings] == [("bad", "good"), ("bad", "again")]
    figures = {row.name: row for row in better.figures}
    assert [*figures] == ["AP", "AP50", "AP75", "AP small", "AP medium", "AP large"]
    assert figures["AP"].told_apart and figures["AP"].difference.low > 0 and better.per_class[0].told_apart
    assert (figures["AP"].pictures, figures["AP small"].pictures) == (60, 0)
    assert isnan(better.per_class[1].first) and not better.per_class[1].told_apart
    assert not any(row.told_apart for row in same.figures)
    assert {row.image_id for row in result.differing(1)} == {i for i in range(60) if i % 5 in (2, 3)}
    assert result.differing(2) == []
    first = result.pictures[2]
    assert (first.errors(0), first.errors(1), first.objects) == (2, 0, 1) and first.counts[0].lost > first.counts[1].lost == 0
    with pytest.raises(ConfigError, match="two detectors or more"):
        compare({"good": pictures(5, 5)[0]}, pictures(5, 5)[1], CLASSES)


def test_a_comparison_goes_to_json_and_back() -> None:
    result = compared()
    assert Comparison.from_json(result.to_json()).to_json() == result.to_json()
    with pytest.raises(DataError, match="comparison"):
        Comparison.from_json("{")
    with pytest.raises(DataError):
        Comparison.from_json("{}")


def test_few_pictures_of_a_class_tell_nothing() -> None:
    detections, truths = pictures(20, 5)
    dog = known(20, [(1, *BOX)])
    second = [*detections, found(20, [(1, 0.9, *BOX)])]
    (pairing,) = compare({"a": [*detections, found(20)], "b": second}, [*truths, dog], CLASSES, draws=50).pairings
    row = pairing.per_class[1]
    assert isnan(row.difference.low) and row.difference.value == pytest.approx(1) and row.pictures == 1 and not row.told_apart
    (pairing,) = compare({"a": pictures(5, 0)[0], "b": pictures(5, 5)[0]}, pictures(5, 5)[1], CLASSES, draws=50).pairings
    assert pairing.per_class[0].difference.low == pytest.approx(1) and not pairing.per_class[0].told_apart


def test_the_first_sentence_says_which_is_better_and_by_how_much_or_that_it_cannot_be_told() -> None:
    better, same = compared().pairings
    assert re.fullmatch(
        r"good is better than bad: AP 0\.\d{3} against 0\.\d{3}\. That is 0\.\d{3} more; "
        r"with other pictures of this kind it would be 0\.\d{3} to 0\.\d{3} \(95 % interval\)\.",
        first_sentence(better),
    )
    assert first_sentence(same).startswith("bad and again are equally good: AP is 0.")
    close = first_sentence(compared(3, 2, count=10).pairings[0])
    assert (
        close.startswith("bad and good cannot be told apart by these pictures: AP is 0.") and "anything from 0.000 to" in close
    )
    worse = compared(2, 4).pairings[0]
    assert first_sentence(worse).startswith("bad is better than good: AP 0.") and "it would be 0." in first_sentence(worse)
    assert first_sentence(compared(5, 0, count=5).pairings[0]) == (
        "bad and good cannot be told apart: only 5 pictures of these have objects."
    )
    nothing = compare({"a": [found(1)], "b": [found(1)]}, [known(1)], CLASSES, draws=10).pairings[0]
    assert first_sentence(nothing) == "Nothing tells a from b: in these pictures there is no object to find."


def test_more_sentences_name_classes_errors_and_how_many_pictures_would_tell() -> None:
    told = more_sentences(compared(), 1)
    assert told[0] == "good is better at cat (+0.473 AP)."
    assert told[1].startswith("They differ most in errors of the type ")
    assert told[2] == (
        "At the score of its best F1, bad (0.900) finds 24 of 60 objects, with 36 false alarms; "
        "good (0.900) finds 48 of 60 objects, with 12 false alarms."
    )
    assert more_sentences(compared(), 2)[-1].startswith("What they find is the same")
    close = compared(3, 2, count=10)
    assert not close.pairings[0].figures[0].told_apart
    assert re.fullmatch(
        r"If the difference is real, about \d+ pictures of this kind would show it; these are 10\.",
        more_sentences(close, 1)[-1],
    )


def test_an_interval_that_is_shown_as_0_holds_0() -> None:
    row = compared().pairings[0].figures[0]
    assert isinstance(row, Difference)
    assert not replace(row, difference=replace(row.difference, low=0.0004)).told_apart
    assert replace(row, difference=replace(row.difference, low=0.0005)).told_apart


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[Detections]], list[Truth]]:
    """Three pictures, the last one of which cannot be read, and two detectors. The second finds more in the first picture and
    in the last one, and less in the second."""
    folder = tmp_path_factory.mktemp("pictures")
    hits = [found(i, [(0, 0.9, *BOX)]) for i in (1, 2, 3)]
    none = [found(i, [(0, 0.9, *BESIDE)]) for i in (1, 2, 3)]
    truths = [replace(known(i, [(0, *BOX)]), path=str(folder / f"{i}.png")) for i in (1, 2, 3)]
    for truth in truths[:2]:
        Image.new("RGB", (640, 480), (90, 90, 90)).save(truth.path)
    return {EVIL: [none[0], hits[1], none[2]], "=b": [hits[0], none[1], hits[2]]}, truths


def test_the_page_shows_the_pictures_side_by_side(
    shown: tuple[dict[str, list[Detections]], list[Truth]], tmp_path: Path
) -> None:
    systems, truths = shown
    result = compare(systems, truths, CLASSES, data="cats", draws=20)
    drawn = draw_differing(result, systems, truths)
    assert [[(pair.better, pair.caption) for pair in pairs] for pairs in drawn] == [[("=b", "1.png"), (EVIL, "2.png")]]
    first = drawn[0][0]
    assert (first.first.words, first.second.words) == (
        "0 of 1 object found, 1 false alarm",
        "1 of 1 object found, 0 false alarms",
    )
    assert [len(pairs) for pairs in draw_differing(result, systems, truths, budget=100)] == [0]
    page = comparison_page(result, drawn, remarks=["One remark."])
    structure = Structure(page)
    assert structure.open == [] and structure.faults == []
    assert structure.captions == page.count("<table>") == 4
    assert "<script" not in page and "&lt;script&gt;" in page and "<p>One remark.</p>" in page
    assert not re.search(r'(?:src|href)="(?!data:image/|#)', page)
    assert page.count("data:image/jpeg;base64,") == 4 and "prefers-color-scheme: dark" in page
    assert page.index('<p class="lead">') < page.index("<nav") < page.index("In short")


def test_three_detectors_have_sections_for_each_pair() -> None:
    page = comparison_page(compared())
    assert page.count('<p class="lead">') == 2
    assert all(f"Each class: {name} against bad</h2>" in page for name in ("good", "again"))
    assert "good makes fewer errors in 24 pictures, bad in 0, and both make the same number in 36." in page


def test_the_files_of_a_comparison(shown: tuple[dict[str, list[Detections]], list[Truth]], tmp_path: Path) -> None:
    systems, truths = shown
    result = compare(systems, truths, CLASSES, draws=20)
    page = save_comparison(result, tmp_path / "new", paths={truth.image_id: truth.path for truth in truths})
    assert page.name == NAMES[0] and {file.name for file in page.parent.iterdir()} == {*NAMES}
    assert Comparison.from_json((page.parent / NAMES[1]).read_text(encoding="utf-8")).to_json() == result.to_json()
    rows = list(csv.reader(io.StringIO((page.parent / NAMES[2]).read_text(encoding="utf-8"))))
    assert rows[0][:2] == ["image", "objects"] and rows[0][6:] == [
        "'=b: found",
        "'=b: false alarms",
        "'=b: errors",
        "'=b: AP lost",
    ]
    assert [Path(row[0]).name for row in rows[1:]] == ["1.png", "2.png", "3.png"] and rows[1][2:5] == ["0", "1", "2"]


@pytest.mark.slow
def test_the_page_of_5000_pictures_and_80_classes_stays_below_10_megabytes(tmp_path: Path) -> None:
    """With three detectors, and the worst that JPEG can meet: noise."""
    path = tmp_path / "noise.png"
    Image.effect_noise((640, 480), 80).convert("RGB").save(path)
    names = [f"class {k}" for k in range(80)]
    objects = [[((i + k) % 80, k, k, 100 + k, 100 + k) for k in range(8)] for i in range(80)]
    truths = [replace(known(i, objects[i % 80]), path=str(path)) for i in range(5000)]
    systems = {}
    for shift in (0, 10, 20):
        rows = [[(k % 80, 0.5 + k / 300, k + shift, k, 100 + k, 90 + k) for k in range(i, i + 20)] for i in range(80)]
        kinds = [found(0, row[: 20 - i % 7 * shift // 10]) for i, row in enumerate(rows)]
        systems[f"detector {shift}"] = [replace(kinds[i % 80], image_id=i) for i in range(5000)]
    result = compare(systems, truths, names, draws=10)
    page = comparison_page(result, draw_differing(result, systems, truths))
    assert page.count("image/jpeg") >= 8 and len(page) < 10_000_000
