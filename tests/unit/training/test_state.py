"""What a checkpoint of another version holds about a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from onestage.errors import WeightsError
from onestage.training import folder as run_folder
from onestage.training.checkpoint import Checkpoint, CheckpointStore
from onestage.training.loop import resume
from onestage.training.run import round_epochs
from onestage.training.state import RunState
from small_runs import CONFIG, run, write_pictures


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of one epoch."""
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    run(write_pictures(tmp_path / "data", train=4, val=1), tmp_path / "run", replace(CONFIG, epochs=1))
    return tmp_path / "run"


def test_a_checkpoint_with_more_than_this_version_knows_goes_on(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latest = CheckpointStore.latest

    def later(self: CheckpointStore) -> tuple[Checkpoint | None, tuple[str, ...]]:
        state, damaged = latest(self)
        assert state is not None
        return replace(state, extra={**state.extra, "of_the_future": 1}), damaged

    monkeypatch.setattr(CheckpointStore, "latest", later)
    assert resume(finished).last.is_file()


def test_a_checkpoint_that_lacks_a_field_is_an_error(finished: Path) -> None:
    state, _ = CheckpointStore(finished).latest()
    assert state is not None
    lacking = replace(state, extra={name: value for name, value in state.extra.items() if name != "sums"})
    with pytest.raises(WeightsError, match="got:      no sums"):
        RunState.of(lacking)


def test_epochs_for_people_are_whole_numbers_or_have_two_digits() -> None:
    assert [str(round_epochs(epochs)) for epochs in (0.0005, 2.9999, 3.0, 0.256, 1)] == ["0", "3", "3", "0.26", "1"]
