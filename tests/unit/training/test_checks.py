"""Losses are looked at every few steps: the bits of a run stay the same, and no checkpoint comes before its steps are sound."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onestage.processes import Distributed
from onestage.training import checks as checking
from onestage.training.checkpoint import CheckpointStore
from onestage.training.checks import Checks, DivergedError, Taken
from onestage.training.loop import Training, resume
from onestage.training.state import RunState
from small_runs import CONFIG, before_step, run, run_stopped, same_bits, weights, write_pictures

pytestmark = pytest.mark.usefixtures("no_curves")

ALONE = Distributed(rank=0, world=1, local_rank=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of 4 pictures an epoch."""
    return write_pictures(tmp_path_factory.mktemp("data"), train=16, val=1)


def taken(step: int, *, loss: float = 1.0, asked: float = 0.0) -> Taken:
    return Taken(step, 1, 0.1, [f"{step}.jpg"], ("cls", "box"), torch.tensor([loss, 2.0, 3.0, asked, 0.0]))


def test_the_first_step_is_looked_at_and_then_every_third() -> None:
    state = RunState(data="")
    checks = Checks(state, ALONE, doctor="onestage data check 'my pictures'", every=3)
    done = []
    for step in range(1, 7):
        checks.add(taken(step))
        state.advance()
        done.append(checks.done)
    assert done == [True, False, True, False, False, True]
    assert state.means == {"cls": 1.0, "box": 2.0}


def test_the_error_names_the_step_that_was_at_fault() -> None:
    checks = Checks(RunState(data=""), ALONE, doctor="onestage data check 'my pictures'", every=7)
    for step in range(1, 4):
        checks.add(taken(step))
    checks.add(taken(4, loss=math.nan))
    checks.add(taken(5, loss=math.inf))
    with pytest.raises(
        DivergedError, match=r"step 4, epoch 1, pictures 4\.jpg\n  got:      cls nan, box 2, gradient norm 3 at"
    ) as caught:
        checks.settle()
    assert str(caught.value.fix).endswith("look at these pictures: onestage data check 'my pictures'")
    assert checks.state.sums == {"cls": 3.0, "box": 6.0}


def test_a_wish_to_stop_is_seen_with_the_losses() -> None:
    checks = Checks(RunState(data=""), ALONE, doctor="onestage data check 'my pictures'", every=2)
    checks.add(taken(1))
    checks.add(taken(3, asked=1.0))
    checks.settle(together=False)
    assert not checks.asked  # the other processes do not know it yet
    checks.add(taken(4))
    assert checks.asked


def test_a_run_has_the_same_bits_however_often_its_losses_are_looked_at(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, epochs=2, evaluate_every=0)
    run(data, tmp_path / "each", config)
    monkeypatch.setitem(checking.EVERY, "cpu", 3)
    run_stopped(data, tmp_path / "third", config, step=3)
    resume(tmp_path / "third")
    assert same_bits(tmp_path / "each", tmp_path / "third")


@pytest.mark.parametrize(("minutes", "last"), [(10.0, 4), (0.0, 5)])
def test_no_checkpoint_holds_a_step_that_is_not_sound(
    minutes: float, last: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(training: Training) -> None:
        with torch.no_grad():
            training.model.head.cls[0].bias[0] = torch.nan

    monkeypatch.setitem(checking.EVERY, "cpu", 10)
    monkeypatch.setattr(Training, "_step", before_step(6, spoil))
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"step 6, epoch 2, pictures .*\.jpg") as caught:
        run(data, out, replace(CONFIG, epochs=2, checkpoint_minutes=minutes))
    assert str(caught.value).count(".jpg") == 4
    state, damaged = CheckpointStore(out).latest()
    assert state is not None and state.step == last and not damaged
    assert all(tensor.isfinite().all() for tensor in weights(out).values())
