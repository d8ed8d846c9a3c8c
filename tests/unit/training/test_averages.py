"""Averages of the weights: what they are, where they are kept, and that a run which was interrupted has the same ones."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import onestage
from onestage.evaluation import evaluate
from onestage.files import BEST, LAST
from onestage.training import folder as run_folder
from onestage.training import loop
from onestage.training.checkpoint import CheckpointStore
from onestage.training.loop import Training, resume, train
from onestage.training.state import LEARNING
from onestage.weights.detector_file import load_detector
from small_runs import (
    CONFIG,
    PLAIN,
    ask_to_stop,
    before_step,
    detector,
    metrics,
    run,
    same_bits,
    start,
    together,
    wait_for_step,
    weights,
    write_pictures,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("no_curves")

EMA = replace(CONFIG, ema=0.6)
"""Steps 1 to 4 have the decays 0, 0.37, 0.52 and 0.6: some rise, some are at the limit."""


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "plot_training_curves", lambda *_: None)
        run(data, out, EMA)
    return out


def averaged(history: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """The average after these weights, tensor by tensor, in double precision."""
    average = {name: tensor.double() for name, tensor in history[0].items()}
    for step, tensors in enumerate(history[1:], 2):
        d = min(decay, 1 - step ** (-2 / 3))
        average = {name: d * average[name] + (1 - d) * tensor.double() for name, tensor in tensors.items()}
    return average


def test_the_files_and_the_detector_hold_the_averages(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to a slow reference; batch norm's averages are averaged too, and what counts is copied."""
    history: list[dict[str, Tensor]] = []
    inner = loop.take_step

    def kept(*arguments: Any) -> Any:
        taken = inner(*arguments)
        history.append({name: tensor.clone() for name, tensor in arguments[0].model.state_dict().items()})
        return taken

    monkeypatch.setattr(loop, "take_step", kept)
    model = detector()
    train(model, data, out=tmp_path / "run", config=replace(EMA, epochs=2))
    assert len(history) == 6
    expected, raw, saved = averaged(history, 0.6), history[-1], weights(tmp_path / "run")
    assert any("running_mean" in name for name in saved)
    for name, tensor in saved.items():
        assert model.state_dict()[name].equal(tensor)
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], atol=1e-6, rtol=1e-6)
            assert not tensor.equal(raw[name])
        else:
            assert tensor.equal(raw[name])
    checkpoint, _ = CheckpointStore(tmp_path / "run").latest()
    assert checkpoint is not None
    assert all(checkpoint.extra[LEARNING][name].equal(raw[name]) for name in raw)
    assert all(checkpoint.model[name].equal(saved[name]) for name in saved)


def test_what_is_measured_is_the_average(data: Path, finished: Path) -> None:
    for name in (LAST, BEST):
        report = evaluate(load_detector(finished / name), data, split="val", workers=0)
        rows = [row["val/loss"] for row in metrics(finished)]
        assert any(report.losses["total"] == pytest.approx(loss, rel=1e-6) for loss in rows)


@pytest.mark.slow
def test_the_average_changes_nothing_in_what_is_learned(data: Path, finished: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "plain")
    checkpoint, _ = CheckpointStore(finished).latest()
    assert checkpoint is not None
    plain = weights(tmp_path / "plain")
    assert all(checkpoint.extra[LEARNING][name].equal(tensor) for name, tensor in plain.items())
    before, _ = CheckpointStore(tmp_path / "plain").latest()
    assert before is not None and LEARNING not in before.extra


@pytest.mark.parametrize("step", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 6, 9))])
def test_an_interruption_changes_no_bit(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """In mid-epoch; slow: in the first step, at the end of an epoch, in the last step."""
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", before_step(step, ask_to_stop))
        model = detector()
        assert train(model, data, out=tmp_path / "run", config=EMA).interrupted
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in weights(tmp_path / "run").items())
    assert not resume(tmp_path / "run").interrupted
    assert same_bits(finished, tmp_path / "run")
    assert (finished / BEST).read_bytes() == (tmp_path / "run" / BEST).read_bytes()


@pytest.mark.slow
def test_a_kill_changes_no_bit(data: Path, finished: Path, tmp_path: Path) -> None:
    process = start(run, data, tmp_path / "run", replace(EMA, checkpoint_minutes=0.0))
    wait_for_step(tmp_path / "run", 4, process)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resume(tmp_path / "run")
    assert same_bits(finished, tmp_path / "run")


SGD = replace(EMA, optimizer="sgd", lr=0.01, epochs=2, batch_size=8, augment="light", evaluate_every=0)
"""No division by tiny numbers: sums in another order stay within rounding."""


def test_two_processes_have_the_averages_of_one(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", train=8, val=1)
    run(data, tmp_path / "one", SGD, PLAIN)
    with together(run, data, tmp_path / "two", SGD, PLAIN, log=tmp_path / "log"):
        pass
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((one[name] - two[name]).abs().max() for name in one) <= 1e-6
    model = onestage.load(tmp_path / "two" / LAST)
    report = evaluate(model, data, split="val", workers=0)
    assert report.losses["total"] == pytest.approx(metrics(tmp_path / "two")[-1]["val/loss"], rel=1e-5)
