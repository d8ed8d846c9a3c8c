"""Small data for trainings, and trainings without their curves."""

from pathlib import Path

import pytest

from onestage.training import folder as run_folder
from small_runs import write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures to train on, 3 to measure: with batches of 4, three steps an epoch."""
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than these trainings. (Fixtures of a module have them: they are made before.)"""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
