"""Batch norm cannot average one value. Which failure is that one is found by looking at the layers, not at the words."""

from pathlib import Path

import pytest
import torch
from torch import nn

from onestage.errors import ConfigError
from onestage.training.loop import train
from onestage.training.step import _starves_batch_norm
from small_runs import CONFIG, detector, pictures


@pytest.mark.parametrize(("batch", "side", "expected"), [(1, 1, True), (2, 1, False), (1, 2, False)])
def test_one_value_per_channel_starves_it(batch: int, side: int, expected: bool) -> None:
    layer = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    assert _starves_batch_norm(layer, torch.rand(batch, 3, side, side)) is expected
    assert not _starves_batch_norm(layer.eval(), torch.rand(1, 3, 1, 1))  # it has averages already
    assert not layer[1]._forward_pre_hooks


def test_an_error_of_the_network_that_is_not_batch_norm_s_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its words."""
    model = detector()

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("Expected more than 1 value per channel when training")

    monkeypatch.setattr(model.head, "forward", fail)
    with pytest.raises(ValueError, match="Expected more than 1 value") as caught:
        train(model, pictures(4), out=tmp_path / "run", config=CONFIG)
    assert not isinstance(caught.value, ConfigError)
