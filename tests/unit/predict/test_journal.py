"""A run that is interrupted anywhere goes on to the same bytes; one that is about something else is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from onestage.errors import ConfigError, DataError
from onestage.files import Json
from onestage.predict.failures import Failures
from onestage.predict.journal import FOLDER, SEAL, STATE, About, Journal, _sealed, earlier
from onestage.predict.pictures import PictureFile
from onestage.predict.pipeline import Outcome
from onestage.predict.sinks import Sink

PICTURES = [PictureFile(Path(f"in/{number}.jpg"), f"{number}.jpg") for number in range(9)]
ABOUT = About({"model": "a1", "score": 0.5, "classes": ["ball"]}, PICTURES)


def outcome(picture: PictureFile) -> Outcome:
    return Outcome(picture, DataError("this picture is empty", where=picture.path, got="0 bytes, or so"))


def sinks(out: Path) -> dict[str, Sink]:
    return {"failures": Failures(out / "failures.csv")}


def work(out: Path, *, until: int, resume: bool, noted: tuple[int, ...] = ()) -> None:
    """Do some pictures, note it at some of them, and leave as a killed process does: without a word."""
    journal, found, done = Journal(out, ABOUT), sinks(out), 0
    if resume and earlier(out) is not None:
        journal.compare()
        done = journal.go_on(found).done
    else:
        journal.begin({"runtime": "torch"})
    for number in range(done, until):
        if number in noted:
            journal.note(number, found, {}, now=True)
        found["failures"].add(outcome(PICTURES[number]))
    if until == len(PICTURES):
        found["failures"].finish()
        journal.remove()
    else:
        found["failures"].sync()  # all that it wrote may be on the disk, or nothing of it


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    out = tmp_path / "whole"
    out.mkdir()
    work(out, until=9, resume=False)
    assert [entry.name for entry in out.iterdir()] == ["failures.csv"]
    return (out / "failures.csv").read_bytes()


@pytest.mark.parametrize("noted", [(), (0,), (1, 3), (4,)])
@pytest.mark.parametrize("until", [0, 4, 8])
def test_an_interrupted_run_goes_on_to_the_same_bytes(whole: bytes, tmp_path: Path, noted: tuple[int, ...], until: int) -> None:
    work(tmp_path, until=until, resume=False, noted=noted)
    assert earlier(tmp_path) == {"runtime": "torch"}
    work(tmp_path, until=6, resume=True, noted=(5,))
    work(tmp_path, until=9, resume=True)
    assert (tmp_path / "failures.csv").read_bytes() == whole
    assert earlier(tmp_path) is None and not (tmp_path / FOLDER).exists()


def test_a_file_that_was_finished_before_the_end_goes_on_too(whole: bytes, tmp_path: Path) -> None:
    """As after Ctrl-C, and after a kill between the last two steps of a run."""
    work(tmp_path, until=4, resume=False, noted=(3,))
    (tmp_path / "failures.csv.part").rename(tmp_path / "failures.csv")
    work(tmp_path, until=9, resume=True)
    assert (tmp_path / "failures.csv").read_bytes() == whole


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (About({**ABOUT.settings, "score": 0.4}, PICTURES), "score: 0.5, now 0.4"),
        (About({**ABOUT.settings, "classes": []}, PICTURES), "classes: "),
        (About({**ABOUT.settings, "model": "b2"}, PICTURES), "model: a1, now b2"),
        (About({**ABOUT.settings, "tiles": "auto"}, PICTURES), "tiles: null, now auto"),
        (About(ABOUT.settings, PICTURES[:-1]), "gone: 1, such as in/8.jpg"),
        (About(ABOUT.settings, [*PICTURES, PictureFile(Path("in/z.jpg"), "z.jpg")]), "new: 1, such as in/z.jpg"),
        (About(ABOUT.settings, PICTURES[::-1]), "the order of the pictures"),
        (About(ABOUT.settings, [replace(PICTURES[0], image_id=0), *PICTURES[1:]]), "in/0.jpg"),
    ],
)
def test_a_run_about_something_else_is_refused_and_says_what_changed(about: About, said: str, tmp_path: Path) -> None:
    work(tmp_path, until=4, resume=False, noted=(3,))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as error:
        Journal(tmp_path, about).compare()
    assert said in str(error.value) and "--resume" in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    Journal(tmp_path, ABOUT).compare()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"done": 3}', '{"done": "x", "sinks": {}, "counts": {}}', '{"done": 99}'])
@pytest.mark.parametrize("name", ["run.json", STATE])
def test_damaged_notes_are_an_error(name: str, damage: str, tmp_path: Path) -> None:
    work(tmp_path, until=4, resume=False, noted=(3,))
    (tmp_path / FOLDER / name).write_text(damage)
    with pytest.raises(DataError, match="damaged"):
        earlier(tmp_path)
        Journal(tmp_path, ABOUT).compare()
        Journal(tmp_path, ABOUT).go_on(sinks(tmp_path))


def test_a_point_beyond_the_pictures_or_a_missing_part_is_an_error(tmp_path: Path) -> None:
    work(tmp_path, until=4, resume=False, noted=(3,))
    state = json.loads((tmp_path / FOLDER / STATE).read_text())
    (tmp_path / FOLDER / STATE).write_text(json.dumps(state | {"done": 10}))
    with pytest.raises(DataError, match="damaged"):
        Journal(tmp_path, ABOUT).go_on(sinks(tmp_path))
    (tmp_path / FOLDER / STATE).write_text(json.dumps(state))
    (tmp_path / "failures.csv.part").unlink()
    with pytest.raises(DataError, match="not there any more"):
        Journal(tmp_path, ABOUT).go_on(sinks(tmp_path))


@pytest.mark.parametrize(("name", "was", "now"), [(STATE, '"done": 3', '"done": 2'), ("run.json", '"torch"', '"other"')])
def test_notes_with_another_number_or_word_are_not_believed(name: str, was: str, now: str, tmp_path: Path) -> None:
    work(tmp_path, until=4, resume=False, noted=(3,))
    text = (tmp_path / FOLDER / name).read_text()
    assert was in text
    (tmp_path / FOLDER / name).write_text(text.replace(was, now))
    with pytest.raises(DataError, match="damaged"):
        work(tmp_path, until=9, resume=True)


@pytest.mark.parametrize(
    "change", [{"sinks": {"failures": {}}}, {"counts": []}, {"done": 1e400}, {"sinks": {"failures": {"bytes": 1e400}}}]
)
def test_notes_of_another_version_are_an_error(change: dict[str, Json], tmp_path: Path) -> None:
    """They are whole, and speak of something else."""
    work(tmp_path, until=4, resume=False, noted=(3,))
    state = json.loads((tmp_path / FOLDER / STATE).read_text())
    state.pop(SEAL)
    (tmp_path / FOLDER / STATE).write_text(json.dumps(_sealed(state | change)))
    with pytest.raises(DataError, match="damaged"):
        work(tmp_path, until=9, resume=True)


def test_notes_are_some_seconds_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("onestage.predict.journal.time.monotonic", lambda: now[0])
    journal = Journal(tmp_path, ABOUT)
    journal.begin({})
    written = []
    for number in range(20):
        now[0] = number
        journal.note(number, {}, {})
        state = tmp_path / FOLDER / STATE
        written.append(json.loads(state.read_text())["done"] if state.exists() else None)
    assert written == [None] * 5 + [5] * 5 + [10] * 5 + [15] * 5


def test_a_run_without_failures_leaves_no_list_of_an_earlier_one(tmp_path: Path) -> None:
    for name in ("failures.csv", "failures.csv.part"):
        (tmp_path / name).write_text("image,what,got\n")
    Failures(tmp_path / "failures.csv").finish()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_moved_goes_on(whole: bytes, tmp_path: Path) -> None:
    work(tmp_path / "a", until=4, resume=False, noted=(3,))
    shutil.move(tmp_path / "a", tmp_path / "b")
    work(tmp_path / "b", until=9, resume=True)
    assert (tmp_path / "b" / "failures.csv").read_bytes() == whole
