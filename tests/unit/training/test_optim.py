"""The learning rate of every step, and which parameters are held small."""

import math
from itertools import pairwise

import pytest
import torch

from onestage.errors import ConfigError
from onestage.training.config import TrainConfig
from onestage.training.optim import FLOOR, learning_rate, make_optimizer
from small_runs import detector

CONFIG = TrainConfig(lr=0.1, warmup=10)


def rates(config: TrainConfig, steps: int) -> list[float]:
    return [learning_rate(step, steps, config) for step in range(steps)]


def test_warm_up_is_a_straight_line_to_the_peak() -> None:
    values = rates(CONFIG, 200)
    assert values[:11] == pytest.approx([0.1 * k / 11 for k in range(1, 12)])
    assert max(values) == values[10] == 0.1


def test_the_cosine_falls_to_a_hundredth() -> None:
    values = rates(CONFIG, 210)
    assert values[10 + 100] == pytest.approx(0.1 * (1 + FLOOR) / 2)  # half way
    assert values[10 + 50] == pytest.approx(0.1 * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi / 4)) / 2))
    assert all(a > b for a, b in pairwise(values[10:]))
    assert 0.1 * FLOOR < values[-1] < 0.1 * FLOOR * 1.01
    assert learning_rate(210, 210, CONFIG) == pytest.approx(0.1 * FLOOR)


def test_steps_fall_tenfold_at_each_milestone() -> None:
    values = rates(TrainConfig(lr=1.0, warmup=0, schedule="steps", milestones=(0.5, 0.75)), 100)
    assert values[:50] == [1.0] * 50
    assert values[50:75] == pytest.approx([0.1] * 25)
    assert values[75:] == pytest.approx([0.01] * 25)


def test_warm_up_takes_a_tenth_of_a_short_training_at_most() -> None:
    assert rates(CONFIG, 20)[2] == 0.1
    assert rates(CONFIG, 5)[0] == 0.1
    assert rates(CONFIG, 1) == [0.1]


def test_the_usual_rate_follows_the_batch() -> None:
    assert TrainConfig(optimizer="sgd", batch_size=64).peak_lr == pytest.approx(
        2 * TrainConfig(optimizer="sgd", batch_size=32).peak_lr
    )
    assert TrainConfig(batch_size=64).peak_lr == pytest.approx(2**0.5 * TrainConfig(batch_size=32).peak_lr)
    assert TrainConfig(lr=0.3, batch_size=64).peak_lr == 0.3
    assert TrainConfig(weight_decay=0.0).decay == 0 < TrainConfig().decay


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_only_convolutions_decay(name: str, kind: type[torch.optim.Optimizer]) -> None:
    model = detector("ssd300_vgg16")
    frozen = model.head.cls[0]
    frozen.requires_grad_(False)
    optimizer = make_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.01, momentum=0.8))
    assert type(optimizer) is kind
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    names = {id(p): key for key, p in model.named_parameters()}
    first, second = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert first | second == {key for key, p in model.named_parameters() if p.requires_grad}
    assert "backbone.scale" in second and all(key.endswith("bias") or key == "backbone.scale" for key in second)
    assert all(key.endswith("weight") for key in first)
    assert not any(p is q for q in frozen.parameters() for group in optimizer.param_groups for p in group["params"])
    assert decayed.get("momentum", decayed.get("betas", (None,))[0]) == 0.8


def test_batch_norm_does_not_decay() -> None:
    model = detector()
    _, others = make_optimizer(model, TrainConfig()).param_groups
    norms = [p for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()]
    assert norms and all(any(p is q for q in others["params"]) for p in norms)


WRONG = [
    {"epochs": 0}, {"batch_size": 0}, {"accumulate": 0}, {"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}, {"lr": "0.1"},
    {"momentum": 1.0}, {"weight_decay": -0.1}, {"clip_norm": -1.0}, {"accumulate": 17},
    {"milestones": (0.5, 0.75)}, {"milestones": (0.9, 0.5), "schedule": "steps"},
    {"milestones": (0.5, 1.0), "schedule": "steps"},
    {"warmup": -1}, {"checkpoint_minutes": -1.0}, {"workers": -1}, {"seed": -1}, {"epochs": 2.5}, {"evaluate_every": -1},
    {"optimizer": "adam"}, {"schedule": "linear"}, {"precision": "fp16"}, {"augment": "strong"}, {"on_bad": "ignore"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_no_setting_is_accepted_and_ignored(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)  # type: ignore[arg-type]
