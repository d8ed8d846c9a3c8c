"""What takes outcomes: a killed run that goes on writes the bytes of an uninterrupted one."""

from pathlib import Path

import pytest
import torch

from onestage.data.predictions import FORMATS, Format, PredictionWriter
from onestage.errors import DataError, WriteError
from onestage.files import PART
from onestage.predict.pictures import PictureFile
from onestage.predict.pipeline import Outcome
from onestage.predict.sinks import Results, closing
from onestage.structures import Detections


def outcome(number: int, count: int) -> Outcome:
    """A picture with so many detections; an error if there are fewer than none."""
    picture = PictureFile(Path(f"{number}.jpg"), number, f"{number}.jpg")
    if count < 0:
        return Outcome(picture, DataError("no picture"))
    corners = torch.arange(4 * count).reshape(count, 4).float()
    labels = torch.arange(count) % 2
    found = Detections(
        boxes=corners,
        scores=torch.linspace(0.9, 0.1, count),
        labels=labels,
        class_names=tuple(("cat", "dog")[label] for label in labels),
        category_ids=tuple(labels.tolist()),
        size=(100, 200),
        image_id=number,
        path=str(picture.path),
    )
    return Outcome(picture, found)


OUTCOMES = [outcome(number, count) for number, count in enumerate((0, 2, -1, 1, 0, 3))]


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_of_a_sink_is_that_of_the_writer(format: Format, tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "writer", format) as writer:
        for row in OUTCOMES:
            if isinstance(row.found, Detections):
                writer.add(row.found)
    sink = Results(tmp_path / "sink", format)
    for row in OUTCOMES:
        sink.add(row)
    assert not sink.path.exists()
    sink.finish()
    assert sink.path.read_bytes() == (tmp_path / "writer").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sink", "writer"]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_sink_goes_on_from_each_state_with_the_same_bytes(format: Format, finished: bool, tmp_path: Path) -> None:
    clean = Results(tmp_path / "clean", format)
    for row in OUTCOMES:
        clean.add(row)
    clean.finish()
    for done in range(len(OUTCOMES) + 1):
        path = tmp_path / f"{done}"
        killed = Results(path, format)
        with closing([killed]):
            for row in OUTCOMES[:done]:
                killed.add(row)
            state = killed.sync()
            for row in OUTCOMES[done : done + 2]:  # written, and not in the state
                killed.add(row)
            if finished:
                killed.finish()
        again = Results(path, format)
        again.go_on(state)
        for row in OUTCOMES[done:]:
            again.add(row)
        again.finish()
        assert path.read_bytes() == clean.path.read_bytes(), done
        assert not path.with_name(path.name + PART).exists()


def test_what_is_gone_cannot_be_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "a.csv.part").write_bytes(b"cut")
    for sink in (Results(tmp_path / "a.csv", "csv"), Results(tmp_path / "b.csv", "csv")):
        with pytest.raises(WriteError, match="not there any more"):
            sink.go_on({"bytes": 100})


def test_a_new_run_begins_anew_and_leaves_the_earlier_file_until_its_end(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"earlier")
    (tmp_path / "p.csv.part").write_bytes(b"killed")
    sink = Results(tmp_path / "p.csv", "csv")
    sink.add(OUTCOMES[1])
    sink.sync()
    assert sink.path.read_bytes() == b"earlier"
    sink.finish()
    assert sink.path.read_bytes().startswith(b"image,label") and len(list(tmp_path.iterdir())) == 1
