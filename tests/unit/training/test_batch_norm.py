"""Batch norm over several processes is that of one with all pictures: forward, backward, running averages, whole trainings."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from onestage.errors import ConfigError
from onestage.model.preprocess import Preprocess
from onestage.processes import init
from onestage.training import folder as run_folder
from onestage.training.batch_norm import BatchNormOverAll, learns_batch_norm
from onestage.training.config import TrainConfig
from onestage.training.loop import Training, train
from small_runs import CONFIG, PLAIN, ask_to_stop, before_step, detector, metrics, together, weights, write_pictures

SHARES = {1: (5,), 2: (3, 2), 3: (1, 1, 3)}
"""The pictures of each process, of five in all."""
LAYERS = {
    "fp64": partial(nn.BatchNorm2d, 4, dtype=torch.float64),
    "without weights": partial(nn.BatchNorm2d, 4, affine=False, dtype=torch.float64),
    "without averages": partial(nn.BatchNorm2d, 4, track_running_stats=False, dtype=torch.float64),
    "cumulative": partial(nn.BatchNorm2d, 4, momentum=None, dtype=torch.float64),
    "fp32": partial(nn.BatchNorm2d, 4),
}


def two_steps(layer: nn.Module, maps: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and averages after two passes over maps (B, C, H, W)."""
    layer.train()
    for _ in range(2):
        layer.zero_grad()
        maps = maps.detach().requires_grad_()
        output = layer(maps)
        (output * upstream).sum().backward()
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": output, "maps": maps.grad, **grads, **dict(layer.named_buffers())}


def case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The layer with drawn weights, its five maps far from 0, and the gradients of its outputs."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    kind = torch.float32 if name == "fp32" else torch.float64
    maps, upstream = torch.randn(5, 4, 3, 2, dtype=kind) * 3 + 20, torch.randn(5, 4, 3, 2, dtype=kind)
    return layer, maps, upstream


def share_of_steps(out: Path) -> None:
    with init("cpu") as group, BatchNormOverAll(group):
        for name in LAYERS:
            layer, maps, upstream = case(name)
            counts = SHARES[group.world]
            first = sum(counts[: group.rank])
            mine = slice(first, first + counts[group.rank])
            torch.save(two_steps(layer, maps[mine], upstream[mine]), out / f"{name} {group.rank}.pt")


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_compute_what_one_does(world: int, tmp_path: Path) -> None:
    with together(share_of_steps, tmp_path, log=tmp_path / "log", world=world):
        pass
    for name in LAYERS:
        expected = two_steps(*case(name))
        parts = [torch.load(tmp_path / f"{name} {rank}.pt") for rank in range(world)]
        tight = {"rtol": 1e-4, "atol": 1e-5} if name == "fp32" else {"rtol": 1e-10, "atol": 1e-10}
        for key, value in expected.items():
            theirs = [part[key] for part in parts]
            if key in ("output", "maps"):
                assert_close(torch.cat(theirs), value, **tight, msg=lambda text, at=(name, key): f"{at}: {text}")
            elif key in ("weight", "bias"):  # what processes add up
                assert_close(torch.stack(theirs).sum(0), value, **tight)
            else:
                for one in theirs:
                    assert_close(one, value, **tight)


def lonely_values(out: Path) -> None:
    """One value per channel in each process is enough; one over all of them would have no variance."""
    with init("cpu") as group:
        layer = nn.BatchNorm2d(2)
        maps = torch.full((1, 2, 1, 1), float(group.rank))
        with pytest.raises(ValueError, match="more than 1 value"):
            layer(maps)
        with BatchNormOverAll(group):
            (out / str(group.rank)).write_text(repr(layer(maps).flatten().tolist()))


def test_one_value_in_each_process_is_enough(tmp_path: Path) -> None:
    with together(lonely_values, tmp_path, log=tmp_path / "log"):
        pass
    first, second = (torch.tensor(eval((tmp_path / str(rank)).read_text())) for rank in range(2))
    assert_close(first, -second)
    assert_close(second, torch.full((2,), 0.25 / (0.25 * (0.25 + 1e-5)) ** 0.5))


LONG = replace(CONFIG, optimizer="sgd", lr=0.01, epochs=10, batch_size=8, augment="light", shared_batch_norm=True)
"""Twenty steps, two an epoch."""
FAMILIES: dict[str, dict[str, Any]] = {"ssd without batch norm": PLAIN, "tinyssd with batch norm": {}}


def run_in_fp64(data: Path, out: Path, config: TrainConfig, changes: dict[str, Any]) -> None:
    """Without measurements. In fp32 rounding grows: with batch norm over few values, one process with another order in memory
    differs by 1e-4 after five steps of the training below.
    """
    normalize = Preprocess.normalize
    with (
        patch.object(Preprocess, "normalize", lambda *given: normalize(*given).double()),
        patch.object(Training, "_is_time_to_validate", lambda _: False),
        patch.object(run_folder, "plot_training_curves"),
    ):
        train(detector(changes=changes).double(), data, out=out, config=config)


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), train=16, val=1)


@pytest.fixture(scope="module")
def alone(sixteen: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a family by one process, made once."""

    @cache
    def made(family: str) -> Path:
        out = tmp_path_factory.mktemp("alone")
        run_in_fp64(sixteen, out, LONG, FAMILIES[family])
        return out

    return made


USUAL = replace(CONFIG, epochs=250, warmup=100, batch_size=8, augment="light", shared_batch_norm=True, evaluate_every=0)
"""The usual optimiser, its rate and its warm-up, in fp32. Two steps are an epoch."""


def first_steps(data: Path, out: Path, count: int, config: TrainConfig, changes: dict[str, Any]) -> None:
    """The first steps of a run in fp32, an even number of them."""
    with (
        patch.object(Training, "_step", before_step(count + 1, ask_to_stop)),
        patch.object(Training, "_is_time_to_validate", lambda _: False),
        patch.object(run_folder, "plot_training_curves"),
    ):
        train(detector(changes=changes), data, out=out, config=config)


def check_steps(data: Path, folder: Path, count: int, *, changes: dict[str, Any], world: int = 2, rel: float) -> None:
    """Raise AssertionError if the losses of the first steps of one process and of several differ by more than that part."""
    first_steps(data, folder / "one", count, USUAL, changes)
    with together(first_steps, data, folder / "more", count, USUAL, changes, log=folder / "log", world=world):
        pass
    ours, theirs = ([row["loss"] for row in metrics(folder / name)] for name in ("one", "more"))
    assert len(ours) == count // 2 and ours[-1] < ours[0]
    assert theirs == pytest.approx(ours, rel=rel)


def test_two_processes_take_the_steps_of_one(sixteen: Path, tmp_path: Path) -> None:
    """Before rounding has grown: with batch norm, in fp32, it does so at the usual learning rate."""
    check_steps(sixteen, tmp_path, 4, changes={}, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_without_batch_norm_the_losses_of_20_steps_are_equal_in_fp32_too(world: int, sixteen: Path, tmp_path: Path) -> None:
    check_steps(sixteen, tmp_path, 20, changes=PLAIN, world=world, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_how_fast_rounding_grows_with_batch_norm_in_fp32(world: int, sixteen: Path, tmp_path: Path) -> None:
    """Print it, for docs/scaling.md: only the first steps are promised."""
    first_steps(sixteen, tmp_path / "one", 20, USUAL, {})
    with together(first_steps, sixteen, tmp_path / "more", 20, USUAL, {}, log=tmp_path / "log", world=world):
        pass
    ours, theirs = ([row["loss"] for row in metrics(tmp_path / name)] for name in ("one", "more"))
    apart = [abs(a - b) / a for a, b in zip(ours, theirs, strict=True)]
    print(f"\n{world} processes, every two steps: {', '.join(f'{part:.1e}' for part in apart)}")
    assert len(apart) == 10 and max(apart[:2]) < 1e-5


CASES = [(world, family) for world in (2, 4) for family in FAMILIES]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "family"), CASES)
def test_the_losses_of_20_steps_are_those_of_one_process(
    world: int, family: str, sixteen: Path, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    with together(run_in_fp64, sixteen, tmp_path, LONG, FAMILIES[family], log=tmp_path / "log", world=world):
        pass
    ours, theirs = metrics(alone(family)), metrics(tmp_path)
    assert ours[-1]["step"] == 20 and ours[-1]["loss"] < 0.8 * ours[0]["loss"]
    assert [row["loss"] for row in theirs] == pytest.approx([row["loss"] for row in ours], rel=1e-6)
    one, several = weights(alone(family)), weights(tmp_path)
    for name, tensor in one.items():
        assert_close(several[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
def test_own_statistics_would_be_noticed(sixteen: Path, alone: Callable[[str], Path], tmp_path: Path) -> None:
    own = replace(LONG, shared_batch_norm=False)
    with together(run_in_fp64, sixteen, tmp_path, own, {}, log=tmp_path / "log"):
        pass
    first, second = metrics(alone("tinyssd with batch norm"))[-1]["loss"], metrics(tmp_path)[-1]["loss"]
    assert abs(first - second) > 1e-3 * first


def test_which_models_learn_batch_norm() -> None:
    assert learns_batch_norm(detector()) and not learns_batch_norm(detector(changes=PLAIN))


@pytest.mark.parametrize("setting", ["shared_batch_norm", "recompute", "shard"])
def test_a_compiled_network_takes_none_of_these(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"a compiled network has no {setting}"):
        TrainConfig(compile=True, **{setting: True})


@pytest.mark.parametrize("changes", [PLAIN, pytest.param({}, marks=pytest.mark.slow)])
def test_processes_with_fewer_pictures_take_as_many_parts(changes: dict[str, Any], tmp_path: Path) -> None:
    """Three pictures make one batch: two for the first process and one for the second, which has to exchange as often."""
    data = write_pictures(tmp_path / "data", train=3, val=1)
    config = replace(USUAL, accumulate=4)
    with together(first_steps, data, tmp_path / "two", 4, config, changes, log=tmp_path / "log"):
        pass
    theirs = [row["loss"] for row in metrics(tmp_path / "two")]
    if changes:  # batch norm sees other parts
        first_steps(data, tmp_path / "one", 4, replace(config, accumulate=1), changes)
        assert theirs == pytest.approx([row["loss"] for row in metrics(tmp_path / "one")], rel=1e-5)
    assert len(theirs) == 4
