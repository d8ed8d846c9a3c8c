"""model.stream: any iterable of pictures, in order, filled ahead by a thread that ends with it."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import onestage
from onestage.errors import ConfigError, DataError, LostError
from onestage.model.detector import Detector
from onestage.predict.ahead import Ahead
from onestage.predict.predictor import Predictor
from onestage.predict.stream import batched


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    return onestage.create("tinyssd", 3, size=(64, 64)).eval()


def pictures(count: int) -> list[np.ndarray]:
    numbers = np.random.default_rng(0)
    return [numbers.integers(0, 256, (40 + 2 * n, 50, 3), dtype=np.uint8) for n in range(count)]


def until(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true in a while."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def threads() -> int:
    return sum(thread.name == "onestage-ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_a_stream_finds_what_predict_finds(model: Detector, count: int) -> None:
    given = pictures(count)
    found = [*model.stream(iter(given), score=0.05, batch_size=3)]
    expected = [one for start in range(0, count, 3) for one in model.predict(given[start : start + 3], score=0.05)]
    assert len(found) == len(expected) == count
    for one, other, picture in zip(found, expected, given, strict=True):
        assert one.boxes.equal(other.boxes) and one.scores.equal(other.scores) and one.size == picture.shape[:2]
        assert one.source is not None and np.array_equal(one.source().permute(1, 2, 0).numpy(), picture)


def test_a_predictor_streams_too(model: Detector) -> None:
    given = pictures(3)
    (first, *_), (other, *_) = Predictor.of(model).stream(given, score=0.1), model.predict(given, score=0.1)
    assert first.boxes.equal(other.boxes)


def test_frames_that_share_their_memory_are_told_apart(model: Detector) -> None:
    """Readers of films often fill the same array again and again."""
    given = [np.full((40, 50, 3), 30 * n, np.uint8) for n in range(8)]

    def reused() -> Iterator[np.ndarray]:
        frame = np.empty((40, 50, 3), np.uint8)
        for one in given:
            frame[:] = one
            yield frame

    for found, picture in zip(model.stream(reused(), batch_size=2), given, strict=True):
        assert found.source is not None and int(found.source().max()) == int(picture.max())


def test_files_keep_their_names_and_bgr_is_turned(model: Detector, tmp_path: Path) -> None:
    picture = pictures(1)[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    by_name, array = model.stream([tmp_path / "a.png", picture], score=0.1)
    (turned,) = model.stream([picture[:, :, ::-1]], score=0.1, channels="bgr")
    assert (by_name.path, by_name.image_id) == (str(tmp_path / "a.png"), "a.png")
    torch.testing.assert_close(by_name.boxes, array.boxes)
    torch.testing.assert_close(turned.boxes, array.boxes)


def test_it_is_at_most_two_batches_ahead(model: Detector) -> None:
    taken = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(50):
            taken.append(number)
            yield np.zeros((40, 50, 3), np.uint8)

    found = model.stream(frames(), batch_size=3)
    assert taken == []
    for number in range(20):
        next(found)
        assert until(lambda: len(taken) >= number // 3 * 3 + 9)  # it fills up while nobody asks  # noqa: B023
        time.sleep(0.01)
        assert len(taken) == number // 3 * 3 + 9


def test_an_error_comes_after_the_detections_before_it(model: Detector) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from pictures(4)
        raise ZeroDivisionError("the camera fell down")

    found = model.stream(frames(), batch_size=3)
    assert len([next(found) for _ in range(4)]) == 4
    with pytest.raises(ZeroDivisionError, match="fell down"):
        next(found)
    assert until(lambda: threads() == 0)


def test_what_is_no_picture_is_an_error_in_its_place(model: Detector) -> None:
    found = model.stream([pictures(1)[0], "missing.png"], batch_size=1)
    next(found)
    with pytest.raises(DataError, match=r"missing\.png"):
        next(found)


@pytest.mark.parametrize("end", ["close", "drop", "exhaust", "never begun"])
def test_no_thread_is_left(model: Detector, end: str) -> None:
    closed = []

    def frames() -> Iterator[np.ndarray]:
        try:
            for _ in range(12 if end == "exhaust" else 10**9):
                yield np.zeros((40, 50, 3), np.uint8)
        finally:
            closed.append(True)

    found = model.stream(frames(), batch_size=2)
    if end != "never begun":
        next(found)
        assert threads() == 1
    if end == "close":
        found.close()  # type: ignore[attr-defined]
    elif end == "exhaust":
        list(found)
    del found
    gc.collect()
    assert threads() == 0 and (closed or end == "never begun")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("a.png",), "one after the other"), ((7,), "one after the other"), (([],), "batch_size is not understood")],
)
def test_wrong_arguments_are_named_at_once(model: Detector, arguments: tuple[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.stream(*arguments, batch_size=0 if arguments == ([],) else 2)  # type: ignore[arg-type]


def test_what_does_not_answer_is_given_up() -> None:
    stop = threading.Event()

    def stalls() -> Iterator[int]:
        yield 1
        stop.wait(20)

    ahead = Ahead(stalls(), most=2, timeout=0.1)
    assert next(ahead) == 1
    with pytest.raises(LostError, match="does not answer"):
        next(ahead)
    stop.set()
    ahead.close()


def test_the_newest_stay_and_the_dropped_are_counted() -> None:
    going, done = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        going.wait(20)
        yield from range(1, 10)
        done.set()

    with Ahead(items(), most=2, newest=True) as ahead:
        assert next(ahead) == 0
        going.set()
        assert done.wait(20)
        assert ([*ahead], ahead.dropped) == ([8, 9], 7)


def test_heavy_items_wait_alone() -> None:
    taken = []

    def items() -> Iterator[int]:
        for weight in (3, 3, 50, 1):
            taken.append(weight)
            yield weight

    with Ahead(items(), most=10, weight=lambda item: item, limit=5) as ahead:
        assert until(lambda: taken == [3, 3])
        assert next(ahead) == 3
        assert until(lambda: taken == [3, 3, 50])
        assert [*ahead] == [3, 50, 1]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 30), st.integers(1, 7), st.integers(1, 7), st.one_of(st.none(), st.integers(0, 30)))
def test_order_and_number_are_kept(count: int, most: int, size: int, fails: int | None) -> None:
    def items() -> Iterator[int]:
        for number in range(count):
            if number == fails:
                raise KeyError(number)
            yield number

    got: list[int] = []
    error = None
    with Ahead(items(), most=most) as ahead:
        try:
            for batch in batched(ahead, size):
                assert 1 <= len(batch) <= size
                got += batch
        except KeyError as e:
            error = e
    failed = fails is not None and fails < count
    assert got == [*range(fails if failed else count)] and (error is not None) == failed  # type: ignore[arg-type]
