"""Many pictures through a predictor: an outcome for each, in order, whatever happens to one of them."""

import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import onestage
from onestage.errors import DataError, LostError
from onestage.images import decode_image
from onestage.model.detector import Detector
from onestage.predict import copies, pipeline
from onestage.predict.copies import Annotated
from onestage.predict.pictures import PictureFile, name_pictures
from onestage.predict.pipeline import Selection, predict_files
from onestage.predict.predictor import Predictor
from onestage.structures import Detections


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    return onestage.create("tinyssd", 3, size=(64, 64)).eval()


@pytest.fixture
def files(tmp_path: Path) -> list[PictureFile]:
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((40, 50, 3), 30 * number, np.uint8)).save(path)
    return name_pictures(paths)


@pytest.fixture
def annotated(tmp_path: Path) -> Annotated:
    return Annotated(tmp_path / "seen")


def test_every_picture_has_an_outcome_in_order(model: Detector, files: list[PictureFile], annotated: Annotated) -> None:
    files[3].path.write_bytes(b"no picture")
    outcomes = list(predict_files(Predictor.of(model), files, pieces=[annotated], batch_size=2))
    assert [outcome.picture for outcome in outcomes] == files
    wrong = outcomes.pop(3).found
    assert isinstance(wrong, DataError) and wrong.where == str(files[3].path)
    for picture, found in outcomes:
        assert isinstance(found, Detections)
        (expected,) = model.predict(picture.path)
        torch.testing.assert_close(found.scores, expected.scores)
        assert len(found) > 0
        assert (found.path, found.image_id) == (str(picture.path), picture.image_id)
        assert decode_image(annotated.folder / picture.name).shape == (3, 40, 50)
    assert not (annotated.folder / files[3].name).exists()


def test_outcomes_hold_no_pixels(model: Detector, files: list[PictureFile]) -> None:
    """A million of them may be kept. They find their picture again to draw it."""
    (_, found), *_ = predict_files(Predictor.of(model), files[:1])
    assert isinstance(found, Detections) and found.source is not None
    assert not any(isinstance(part, torch.Tensor) for part in [*found.source.args, *found.source.keywords.values()])
    assert found.draw().size == (50, 40)


def test_a_selection_keeps_classes_and_the_best(model: Detector, files: list[PictureFile]) -> None:
    (_, everything), *_ = predict_files(Predictor.of(model), files[:1], selection=Selection(score=0.0))
    (_, chosen), *_ = predict_files(Predictor.of(model), files[:1], selection=Selection(score=0.0, labels=(1,), top=2))
    assert isinstance(everything, Detections) and isinstance(chosen, Detections)
    expected = everything.select(everything.labels == 1).select(slice(2))
    assert chosen.boxes.equal(expected.boxes) and len(chosen) == 2


def test_an_error_while_a_copy_is_saved_is_not_lost(
    model: Detector, files: list[PictureFile], annotated: Annotated, monkeypatch
) -> None:
    monkeypatch.setattr(copies, "save_picture", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        list(predict_files(Predictor.of(model), files, pieces=[annotated], batch_size=2))


def test_no_pictures_are_no_outcomes(model: Detector) -> None:
    assert list(predict_files(Predictor.of(model), [])) == []


def test_a_full_disk_leaves_no_half_copy(model: Detector, files: list[PictureFile], annotated: Annotated) -> None:
    """A copy that does not fit is an error and leaves nothing; Pillow alone would stop in the middle without a word."""
    annotated.folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError):
            list(predict_files(Predictor.of(model), files[:1], pieces=[annotated], selection=Selection(score=0.0)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(annotated.folder.iterdir()) == []


def test_a_disk_that_does_not_answer_while_headers_are_read_ends_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "decoding_cost", lambda path: time.sleep(30))
    picture = PictureFile(tmp_path / "a.png", "a.png")
    began = time.monotonic()
    with pytest.raises(LostError, match=r"a\.png"):
        list(pipeline.predict_files(None, [picture], timeout=0.2))
    assert time.monotonic() - began < 25  # it did not wait for the disk
