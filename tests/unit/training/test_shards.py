"""FSDP2: weights that are divided among processes learn what whole ones learn, and files do not show it."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

from onestage.training.config import TrainConfig
from onestage.training.loop import Training, resume, train
from small_runs import (
    CONFIG,
    PLAIN,
    ask_to_stop,
    before_step,
    detector,
    metrics,
    run,
    same_bits,
    together,
    weights,
    write_pictures,
)

pytestmark = pytest.mark.usefixtures("no_curves")
LONG = replace(CONFIG, optimizer="sgd", lr=0.01, epochs=10, batch_size=8, augment="light", evaluate_every=0, shard=True)
"""Twenty steps, two an epoch."""


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), train=16, val=3)


def two(data: Path, out: Path, config: TrainConfig, log: Path) -> None:
    with together(run, data, out, config, PLAIN, log=log):
        pass


def test_divided_weights_learn_what_whole_ones_learn(sixteen: Path, tmp_path: Path) -> None:
    """The losses of 20 steps, one process against two with a part each; and a run that goes on, also in one process."""
    run(sixteen, tmp_path / "one", LONG, PLAIN)
    two(sixteen, tmp_path / "two", LONG, tmp_path / "log")
    ours, theirs = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert ours[-1]["step"] == 20 and ours[-1]["loss"] < 0.9 * ours[0]["loss"]
    for row, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(row, rel=1e-4, nan_ok=True)
    one, divided = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == divided.keys()
    for name, tensor in one.items():
        assert_close(divided[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def stopped(data: Path, out: Path, config: TrainConfig) -> None:
    with patch.object(Training, "_step", before_step(3, ask_to_stop)):
        assert train(detector(), data, out=out, config=config).interrupted


def gone_on(out: Path) -> None:
    assert not resume(out).interrupted


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_divided_run_goes_on_with_the_same_bits(optimizer: str, sixteen: Path, tmp_path: Path) -> None:
    """With parts of a step, averages, and gradient checkpointing; and one process takes its checkpoint too."""
    more = {"accumulate": 2, "ema": 0.9, "recompute": True, "shared_batch_norm": True, "fused": True}
    config = replace(LONG, epochs=2, optimizer=optimizer, evaluate_every=1, **more)  # type: ignore[arg-type]
    for folder in ("whole", "stopped"):
        with together(run if folder == "whole" else stopped, sixteen, tmp_path / folder, config, log=tmp_path / "log"):
            pass
    with together(gone_on, tmp_path / "stopped", log=tmp_path / "log"):
        pass
    assert same_bits(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_have_divided(sixteen: Path, tmp_path: Path) -> None:
    config = replace(LONG, epochs=2, optimizer="adamw", lr=1e-4)
    run(sixteen, tmp_path / "one", config)
    with together(stopped, sixteen, tmp_path / "two", replace(config, shared_batch_norm=True), log=tmp_path / "log"):
        pass
    assert not resume(tmp_path / "two").interrupted
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        assert_close(other[name], tensor, rtol=1e-2, atol=1e-3, msg=name)
    assert metrics(tmp_path / "two")[-1]["step"] == 4 and torch.isfinite(torch.tensor(metrics(tmp_path / "two")[-1]["loss"]))
