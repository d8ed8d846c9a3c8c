"""Parts of the backbone that do not learn, or learn more slowly, and trainings that end when AP rises no more."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onestage.errors import ConfigError
from onestage.model.stages import stages_of
from onestage.training import folder as run_folder
from onestage.training import loop
from onestage.training.config import TrainConfig
from onestage.training.freezing import frozen, training_mode
from onestage.training.loop import resume, train
from onestage.training.optim import lr_scales, make_optimizer
from onestage.training.state import RunState
from small_runs import CONFIG, PLAIN, detector, pictures, run, run_stopped, same_bits, together, weights, write_pictures

pytestmark = pytest.mark.usefixtures("no_curves")

SHORT = replace(CONFIG, epochs=1, evaluate_every=0)


# --- stages ---


def test_stages_of_a_chain_are_its_blocks() -> None:
    model = detector()
    base, *others = stages_of(model)
    assert all(name.startswith("stages.0.") for name in base) and len(base) == 24
    assert [{name.split(".")[1] for name in stage} for stage in others] == [{"1"}, {"2"}, {"3"}]  # the pool has no parameters
    assert sum(map(len, stages_of(model))) == len([*model.backbone.named_parameters()])


def test_stages_follow_the_maps_whatever_is_frozen() -> None:
    first, second = stages_of(detector("ssd300_vgg16"))
    assert "scale" in first and all(name.startswith("fc7") for name in second)
    with pytest.warns(UserWarning, match="the backbone is frozen"):
        model = detector("retinanet", backbone="timm/test_resnet", changes={"backbone.freeze": 2})
    assert [len(stage) for stage in stages_of(model)] == [24, 12, 9]
    assert not model.backbone.body.get_parameter(min(stages_of(model)[0])[5:]).requires_grad


# --- freezing ---


@pytest.mark.parametrize("freeze", [1, "backbone"])
def test_what_is_frozen_keeps_its_bits(data: Path, tmp_path: Path, freeze: Any) -> None:
    """Weights and batch norm's statistics; all else learns. Afterwards nothing is frozen. With averages too."""
    model = detector()
    run_config = replace(SHORT, freeze=freeze, ema=0.5)
    train(model, data, out=tmp_path / "run", config=run_config)
    fresh, trained = detector().state_dict(), weights(tmp_path / "run")
    held = "backbone." if freeze == "backbone" else "backbone.stages.0."
    assert {name for name in fresh if trained[name].equal(fresh[name])} == {name for name in fresh if name.startswith(held)}
    assert all(p.requires_grad for p in model.parameters())
    assert run_folder.Plan.load(tmp_path / "run").train == run_config


@pytest.mark.slow
def test_two_processes_freeze_the_same(tmp_path: Path) -> None:
    """And learn at the same rates: within rounding of one process."""
    sgd = replace(SHORT, optimizer="sgd", lr=0.01, epochs=2, batch_size=8, augment="light", freeze=1, layer_decay=0.5)
    data = write_pictures(tmp_path / "data", train=8, val=1)
    run(data, tmp_path / "one", sgd, PLAIN)
    with together(run, data, tmp_path / "two", sgd, PLAIN, log=tmp_path / "log"):
        pass
    one, two, fresh = weights(tmp_path / "one"), weights(tmp_path / "two"), detector(changes=PLAIN).state_dict()
    assert max((one[name] - two[name]).abs().max() for name in one) <= 1e-6
    held = {name.split(".")[2] for name in fresh if name.startswith("backbone.") and two[name].equal(fresh[name])}
    assert held == {"0", "1", "2"}  # the layers of the first map


@pytest.mark.slow
def test_an_interruption_of_a_frozen_run_changes_no_bit(data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=2, evaluate_every=0, freeze=1, layer_decay=0.5)
    run(data, tmp_path / "whole", config)
    run_stopped(data, tmp_path / "run", config, step=2)
    resume(tmp_path / "run")
    assert same_bits(tmp_path / "whole", tmp_path / "run")


def test_frozen_layers_stay_in_evaluation_mode() -> None:
    model = detector("retinanet", backbone="timm/test_resnet", changes={"backbone.drop_path": 0.5})
    with frozen(model, 1):
        for _ in range(2):
            training_mode(model, 1)
            resting = {name for name, m in model.backbone.named_modules() if not m.training}
            assert "body.layer1" in resting and not any(name.startswith(("body.layer3", "body.layer4")) for name in resting)
            assert model.training and model.head.training
    training_mode(model, 0)
    assert all(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_an_error_leaves_nothing_frozen() -> None:
    model = detector(changes={})
    with pytest.raises(RuntimeError), frozen(model, "backbone"):
        assert not any(p.requires_grad for p in model.backbone.parameters())
        raise RuntimeError
    assert all(p.requires_grad for p in model.parameters())


def test_more_stages_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"of tinyssd has fewer stages\n  where:    freeze\n  got:      5\n  expected: 0 to 4, or"
    ):
        train(detector(), pictures(4), out=tmp_path / "run", config=replace(SHORT, freeze=5))
    assert not (tmp_path / "run").exists()


# --- learning rates of layers ---


def rates(config: TrainConfig, model: nn.Module) -> dict[str, float]:
    """The part of the learning rate of every parameter in the optimiser, by name; batch norm's decay is checked."""
    optimizer = make_optimizer(model, config)
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert (group["weight_decay"] > 0) == (p.ndim > 1)
            found[names[id(p)]] = group.get("lr_scale", 1.0)
    return found


def test_each_stage_learns_more_slowly_than_the_one_behind_it() -> None:
    model = detector()
    found = rates(TrainConfig(layer_decay=0.5, backbone_lr=0.8), model)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, scale in found.items():
        stage = int(name.split(".")[2]) if name.startswith("backbone") else 4
        assert scale == (1.0 if stage == 4 else 0.8 * 0.5 ** (4 - stage)), name


def test_without_such_settings_the_groups_are_the_old_two() -> None:
    model = detector()
    assert lr_scales(model, TrainConfig()) == {}
    assert [*make_optimizer(model, TrainConfig()).param_groups[0]].count("lr_scale") == 0
    assert len(make_optimizer(model, TrainConfig()).param_groups) == 2
    assert len(make_optimizer(model, TrainConfig(backbone_lr=0.1)).param_groups) == 4


def test_a_step_moves_the_backbone_by_its_part(data: Path, tmp_path: Path) -> None:
    """Plain SGD without momentum: the first step is in proportion to the rate."""
    sgd = replace(SHORT, optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=0.01, clip_norm=0.0, warmup=0, batch_size=12)
    moved: dict[float, dict[str, Tensor]] = {}
    for part in (1.0, 0.25):
        result = run(data, tmp_path / f"{part}", replace(sgd, backbone_lr=part))
        before = detector().state_dict()
        moved[part] = {name: tensor - before[name] for name, tensor in weights(result.folder).items()}
        assert run_folder.Plan.load(result.folder).train.backbone_lr == part
    for name, _ in detector().named_parameters():
        factor = 0.25 if name.startswith("backbone") else 1.0
        torch.testing.assert_close(moved[0.25][name], moved[1.0][name] * factor, atol=1e-6, rtol=1e-2)


# --- stopping early ---


@pytest.mark.parametrize(
    ("history", "stale"),
    [
        ([], 0),
        ([0.0, 0.0, 0.0], 0),  # it has not begun to learn
        ([0.0, 0.2, 0.1, 0.2], 2),
        ([0.2, 0.2005, 0.2009], 2),  # smaller rises do not count
        ([0.2, 0.2009, 0.2018], 0),  # but their sum does
        ([0.2, math.nan, None, 0.1], 1),
        ([math.nan] * 5, 0),
        ([0.3, 0.1, 0.2, 0.4], 0),
    ],
)
def test_how_long_ap_has_not_risen(history: list[float | None], stale: int) -> None:
    state = RunState(data="", history=[{"loss": 1.0} if ap is None else {"val/AP": ap} for ap in history])
    assert state.stale == stale


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measurement finds an AP of 0.25."""
    inner = loop.figures_of
    monkeypatch.setattr(loop, "figures_of", lambda report: inner(report) | {"val/AP": 0.25})


@pytest.mark.usefixtures("flat")
def test_it_stops_when_ap_rises_no_more(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, epochs=6, patience=2)
    result = run(data, tmp_path / "run", config)
    said = "stopped early, after 9 steps of 18: the validation AP has not risen by more than 0.001 in 2 measurements\n"
    assert result.stopped_early and not result.interrupted and said in capsys.readouterr().out
    again = resume(tmp_path / "run")
    assert again.stopped_early and not again.interrupted
    out = capsys.readouterr().out
    assert "complete already, after 3 epochs\n" in out and said in out


@pytest.mark.slow
@pytest.mark.usefixtures("flat")
def test_an_interrupted_run_stops_at_the_same_step(data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=6, patience=1)
    run(data, tmp_path / "whole", config)
    run_stopped(data, tmp_path / "run", config, step=5)
    assert resume(tmp_path / "run").stopped_early
    assert same_bits(tmp_path / "whole", tmp_path / "run")


WRONG = [
    {"ema": 1.0}, {"ema": -0.1}, {"freeze": -1}, {"freeze": "neck"}, {"freeze": True}, {"backbone_lr": 0.0}, {"patience": -1},
    {"backbone_lr": 2.0}, {"layer_decay": 0.0}, {"layer_decay": 1.1}, {"patience": 2, "evaluate_every": 0},
    {"freeze": "backbone", "backbone_lr": 0.5}, {"freeze": "backbone", "layer_decay": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_no_setting_is_accepted_and_ignored(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)
