"""Many pictures through a predictor: an outcome for each, in order, whatever happens to one of them."""

import gc
import resource
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import onestage
from onestage.errors import ConfigError, DataError, LostError
from onestage.images import decode_image
from onestage.model.detector import Detector
from onestage.predict import copies, pipeline
from onestage.predict.copies import Annotated
from onestage.predict.pictures import PictureFile, name_pictures
from onestage.predict.pipeline import Outcome, Resources, Selection, in_batches
from onestage.predict.predictor import Predictor
from onestage.structures import Detections


def predict_files(*given: Any, **options: Any) -> Iterator[Outcome]:
    """The outcomes one by one."""
    for batch in in_batches(*given, **options):
        yield from batch


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
        list(predict_files(None, [picture], resources=Resources(timeout=0.2)))
    assert time.monotonic() - began < 25  # it did not wait for the disk


class Slow:
    """A looker that notes how many batches and pictures are in it, and takes longer for some batches than for others."""

    def __init__(self, model: Detector) -> None:
        self.inner, self.lock, self.inside, self.most = Predictor.of(model), threading.Lock(), 0, 0
        self.sizes: list[int] = []

    def predict(self, images: list[torch.Tensor], **options: object) -> list[Detections]:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.sizes.append(len(images))
            number = len(self.sizes)
        time.sleep(0.03 if number % 3 == 1 else 0.0)
        found = self.inner.predict(images, **options) if images else []
        with self.lock:
            self.inside -= 1
        return found


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_neither_the_order_nor_a_bit(
    model: Detector, files: list[PictureFile], annotated: Annotated, workers: int
) -> None:
    files[2].path.write_bytes(b"no picture")
    looker = Slow(model)
    means = Resources(workers=workers)
    outcomes = list(predict_files(looker, files, pieces=[annotated], batch_size=2, resources=means))
    assert [outcome.picture for outcome in outcomes] == files
    assert looker.most <= workers and sorted(looker.sizes) == [1, 1, 2, 2]
    for start in (0, 2, 4, 6):
        pictures = [picture for picture in files[start : start + 2] if picture is not files[2]]
        expected = Predictor.of(model).predict([decode_image(picture.path) for picture in pictures])
        found = [outcome.found for outcome in outcomes if outcome.picture in pictures]
        for one, other in zip(found, expected, strict=True):
            assert isinstance(one, Detections)
            assert one.boxes.equal(other.boxes) and one.scores.equal(other.scores) and one.labels.equal(other.labels)
    copied = {path.name: path.read_bytes() for path in annotated.folder.iterdir()}
    assert len(copied) == 6


def test_the_pictures_in_memory_are_bounded(model: Detector, files: list[PictureFile], monkeypatch) -> None:
    """All of them are decoded and not yet done with; one that is larger than the limit is alone."""
    held, most, lock, cost = [0], [0], threading.Lock(), pipeline.decoding_cost(files[0].path)
    decode = pipeline.decode_image

    def counted(path: Path) -> torch.Tensor:
        image = decode(path)
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        weakref.finalize(image, freed)
        return image

    def freed() -> None:
        with lock:
            held[0] -= 1

    monkeypatch.setattr(pipeline, "decode_image", counted)
    for fit in (0.5, 2, 5):
        most[0] = 0
        means = Resources(workers=3, gigabytes=fit * cost / 1e9 + 1e-9)
        outcomes = predict_files(Predictor.of(model), files * 4, batch_size=2, resources=means)
        assert all(isinstance(found, Detections) for _, found in outcomes)
        gc.collect()
        assert 1 <= most[0] <= max(1, int(fit)) and held[0] == 0


def test_who_goes_on_after_a_batch_gets_the_same_numbers(model: Detector, files: list[PictureFile]) -> None:
    """Also where the memory, not the number, ends a batch."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)).save(files[3].path)
    costs = [pipeline.decoding_cost(picture.path) for picture in files]
    means = Resources(gigabytes=(costs[3] + costs[0] + 1) / 1e9)
    looker = Predictor.of(model)
    whole = list(in_batches(looker, files, batch_size=3, resources=means))
    assert len({len(batch) for batch in whole}) > 1
    done = 0
    for number, batch in enumerate(whole):
        rest = list(in_batches(looker, files[done:], batch_size=3, resources=means))
        assert [len(one) for one in rest] == [len(one) for one in whole[number:]]
        for (picture, found), (other, expected) in zip(rest[0], batch, strict=True):
            assert picture == other and isinstance(found, Detections) and isinstance(expected, Detections)
            assert found.boxes.equal(expected.boxes) and found.scores.equal(expected.scores)
        done += len(batch)


def test_an_early_end_leaves_no_thread(model: Detector, files: list[PictureFile]) -> None:
    before = set(threading.enumerate())
    outcomes = predict_files(Predictor.of(model), files * 5, batch_size=1, resources=Resources(workers=2))
    next(outcomes)
    outcomes.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": 65}, {"workers": 1.5}, {"gigabytes": 0}])
def test_impossible_resources(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Resources(**wrong)  # type: ignore[arg-type]
