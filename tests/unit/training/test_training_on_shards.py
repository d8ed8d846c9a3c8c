"""Trainings on tars and Parquet files: stopped and resumed they end with the bits of an uninterrupted one, also in windows."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from onestage.data import loader
from onestage.data.convert import Target, convert
from onestage.data.order import Order
from onestage.files import LAST
from onestage.training.going_on import NewSettings
from onestage.training.loop import resume
from small_runs import CONFIG, finished, go_on, run, run_stopped, same_bits, send, start, wait_for_step, write_pictures

SHORT = replace(CONFIG, epochs=2)
"""6 steps: step 5 is in the middle of the second epoch."""
SHARD = 0.006
"""Megabytes: some three pictures in each shard."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pictures as files, as tars and as Parquet files."""
    root = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONESTAGE_HOME", str(root / "cache"))
        write_pictures(root / "files")
        for to in ("wds", "parquet"):
            convert(root / "files", root / to, to=to, shard=SHARD)  # type: ignore[arg-type]
            assert len([*(root / to).glob("train-*")]) > 2
        yield root


@pytest.fixture(scope="module")
def whole(files: Path) -> Path:
    """An uninterrupted training on the files."""
    return finished(run(files / "files", files / "whole", SHORT))


@pytest.mark.parametrize(("to", "workers"), [("wds", 2), ("parquet", 0)])
def test_a_resumed_training_on_shards_has_the_bits_of_one_on_files(
    files: Path, whole: Path, tmp_path: Path, to: Target, workers: int
) -> None:
    """The whole set is one window, so it is mixed as files are. Workers read the second half, or this process."""
    run_stopped(files / to, tmp_path / "run", SHORT, step=5)
    again = resume(tmp_path / "run", settings=NewSettings(workers=workers) if workers else NewSettings())
    assert finished(again) and (tmp_path / "run" / LAST).read_bytes() == (whole / LAST).read_bytes()
    assert same_bits(tmp_path / "run", whole)


def test_a_resumed_training_in_windows_has_the_bits_of_an_uninterrupted_one(
    files: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "Order", partial(Order, window=4))
    uninterrupted = finished(run(files / "wds", tmp_path / "uninterrupted", replace(SHORT, workers=2)))
    run_stopped(files / "wds", tmp_path / "run", SHORT, step=5)
    assert finished(go_on(tmp_path / "run")) and same_bits(tmp_path / "run", uninterrupted)
    assert (uninterrupted / LAST).read_bytes() != (whole / LAST).read_bytes()  # windows are another order


@pytest.mark.slow
@pytest.mark.parametrize("to", ["wds", "parquet"])
def test_a_killed_training_on_shards_goes_on_to_the_same_bits(files: Path, whole: Path, tmp_path: Path, to: str) -> None:
    often = replace(SHORT, checkpoint_minutes=0.0)
    process = start(run, files / to, tmp_path / "run", often)
    wait_for_step(tmp_path / "run", 2, process)
    send(signal.SIGKILL, process)
    process.join(60)
    assert finished(go_on(tmp_path / "run")) and same_bits(tmp_path / "run", whole)
