"""Threads that do not answer: a warning, an error, and no wait at the end."""

import threading
import warnings
from pathlib import Path

import pytest

from layouts import build
from onestage.data import check, load_dataset, table, threads
from onestage.data.threads import PatientThreads
from onestage.errors import ConfigError, LostError
from onestage.predict import copies, pipeline
from onestage.predict.pictures import name_pictures
from onestage.predict.pipeline import Resources, in_batches
from onestage.predict.predictor import Predictor
from small_runs import detector, write_pictures


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch):
    """Something that a thread waits for in vain, and short ticks."""
    monkeypatch.setattr(threads, "_TICK", 0.05)
    monkeypatch.setattr(threads, "SILENT", 0.1)
    event = threading.Event()
    yield lambda *_, **__: event.wait()
    event.set()


def test_a_silent_thread_gets_a_warning_and_then_an_end(never) -> None:
    with warnings.catch_warnings(record=True) as said, pytest.raises(LostError, match="does not answer"):
        warnings.simplefilter("always")
        with PatientThreads(timeout=0.4, farewell=0.0) as pool:
            pool.result(pool.submit(never), "a.jpg")
    assert ["a.jpg: no word" in str(warning.message) for warning in said] == [True]


def test_results_and_errors_come_back_and_begun_work_is_finished() -> None:
    done = []
    with PatientThreads() as pool:
        assert pool.result(pool.submit(lambda: 3), "a") == 3
        with pytest.raises(KeyError):
            pool.result(pool.submit(lambda: {}["missing"]), "b")
        for number in range(50):
            pool.submit(lambda number=number: done.append(number))
    assert sorted(done) == list(range(50))
    with pytest.raises(ConfigError):
        PatientThreads(timeout=0)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_as_many_threads_work_as_there_is_room_for(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python says so with a RuntimeError where memory or the number of threads is limited."""
    begun: list[threading.Thread] = []
    usual = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if len(begun) == room:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        usual(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    if room == 0:
        with pytest.raises(ConfigError, match="no thread can be started to read pictures"), PatientThreads():
            pass
        return
    with PatientThreads() as pool:
        assert [pool.result(pool.submit(lambda n=n: n), "a") for n in range(9)] == [*range(9)]
    assert len(begun) == room and not any(thread.is_alive() for thread in begun)


@pytest.mark.parametrize(("place", "stuck"), [(pipeline, "decode_image"), (copies, "save_picture")])
def test_predict_does_not_wait_forever(never, place, stuck: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((write_pictures(tmp_path / "data") / "train").iterdir())[:3]
    monkeypatch.setattr(place, stuck, never)
    monkeypatch.setattr(pipeline, "PatientThreads", lambda timeout: PatientThreads(timeout=timeout, farewell=0.0))
    with pytest.raises(LostError, match="does not answer"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pieces = [copies.Annotated(tmp_path / "seen")]
        list(in_batches(Predictor.of(detector().eval()), name_pictures(paths), pieces=pieces, resources=Resources(timeout=0.3)))


def test_the_doctor_does_not_wait_forever(never, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pictures(tmp_path)
    monkeypatch.setattr(check, "decode_image", never)
    with pytest.raises(LostError, match="does not answer"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check.check_dataset(data, timeout=0.3)


@pytest.mark.parametrize("read", [load_dataset, check.check_dataset])
def test_no_reader_waits_forever_for_a_header(never, read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that no annotation states are read from the pictures, before anything else looks at them."""
    root = build(tmp_path, "classes.txt    cat\na.jpg\na.txt")
    monkeypatch.setattr(table, "_size_of", never)
    monkeypatch.setattr(table, "PatientThreads", lambda farewell: PatientThreads(timeout=0.3, farewell=farewell))
    with pytest.raises(LostError, match="does not answer"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(root)
