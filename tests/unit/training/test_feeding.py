"""Trainings with mosaics, a clean last part, balance, a fast decoder and a cache."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onestage.data.loader import TrainLoader
from onestage.errors import DataError, WeightsError
from onestage.training.checkpoint import Checkpoint, CheckpointStore
from onestage.training.loop import Training, resume, train
from onestage.training.monitor import TerminalMonitor
from small_runs import CONFIG, detector, metrics, pictures, run, run_stopped, same_bits, write_pictures

pytestmark = pytest.mark.usefixtures("no_curves")

ALL = replace(
    CONFIG,
    augment="light",
    augment_with=("mosaic=0.7", "scale_jitter=0.5"),
    clean=0.3,
    balance=0.5,
    decoder="fast",
    cache=0.01,
    evaluate_every=0,
)
"""Nine steps, of which the last three are clean."""


def test_a_stopped_run_goes_on_with_the_same_bits_and_the_cache_changes_none(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data")
    run(data, tmp_path / "whole", replace(ALL, cache=0.0))

    run_stopped(data, tmp_path / "stopped", replace(ALL, workers=1), step=5)
    assert not resume(tmp_path / "stopped").interrupted
    assert same_bits(tmp_path / "whole", tmp_path / "stopped")
    assert metrics(tmp_path / "whole")[-1]["step"] == 9


@pytest.mark.slow
def test_a_broken_picture_and_a_full_disk_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In mid-epoch, with averages, mosaics, a cache with room for two pictures, and minutes."""
    data, out, step, save = write_pictures(tmp_path / "data"), tmp_path / "run", Training._step, CheckpointStore.save
    config = replace(ALL, epochs=100, steps=9, minutes=1e4, evaluate_steps=3, ema=0.9, cache=3e-5)
    run(data, tmp_path / "whole", config)
    sound = {path: path.read_bytes() for path in sorted((data / "train").iterdir())[3:6]}

    def breaking(training: Training, batch: Any) -> None:
        for path, content in sound.items() if training.step == 3 else ():
            path.write_bytes(content[:300])
        step(training, batch)

    def full(store: CheckpointStore, checkpoint: Checkpoint, **options: Any) -> Path:
        if checkpoint.step >= 6:
            raise WeightsError("checkpoints cannot be written here", got="No space left on device", fix="make room")
        return save(store, checkpoint, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", breaking)
        with pytest.raises(DataError, match=r"00000[345]\.jpg"):
            run(data, out, config)
    assert f"is saved. Go on once the pictures are mended: onestage train --resume {out}" in capsys.readouterr().out
    for path, content in sound.items():
        path.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", full)
        with pytest.raises(WeightsError, match="No space left"):
            resume(out)
    assert not resume(out).interrupted and same_bits(tmp_path / "whole", out)


def test_the_last_part_of_the_steps_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int | None]] = []
    epoch = TrainLoader.epoch

    def noted(loader: TrainLoader, number: int, *, start: int = 0, clean_from: int | None = None) -> Any:
        told.append((number, clean_from))
        return epoch(loader, number, start=start, clean_from=clean_from)

    monkeypatch.setattr(TrainLoader, "epoch", noted)
    run(write_pictures(tmp_path / "data"), tmp_path / "run", replace(ALL, clean=0.45, cache=0.0))  # 4 of 9 steps
    assert told[:3] == [(0, 5), (1, 2), (2, 0)]


def test_pictures_in_memory_are_taken_as_they_are(tmp_path: Path) -> None:
    assert not train(detector(), pictures(9), out=tmp_path, config=replace(ALL, epochs=1)).interrupted


def test_waiting_is_noted_and_said_if_it_is_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(write_pictures(tmp_path / "data"), tmp_path / "run", replace(CONFIG, epochs=1))
    row = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"waiting": 0.' in row
    capsys.readouterr()
    record = {"epoch": 1, "loss": 1.0, "images_per_s": 5.0, "seconds": 3.0}
    for waiting, said in ((0.04, False), (0.25, True)):
        TerminalMonitor().epoch(record | {"waiting": waiting})
        assert ("25% of the time waiting for pictures" in capsys.readouterr().out) is said
