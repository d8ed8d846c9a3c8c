"""The rules by which a training is decided: each with invented numbers."""

import pytest

from onestage.errors import ConfigError
from onestage.training.config import TrainConfig
from onestage.training.machine import Machine, StepTimes
from onestage.training.recipes import RECIPES, recipe_for
from onestage.training.rules import Facts, decide
from onestage.zoo.table import recipe
from small_runs import detector

EVEN, FAST = StepTimes(20.0, 20.0, 20.0), StepTimes(20.0, 8.0, 20.0)


def machine(times: StepTimes = EVEN, device: str = "cpu") -> Machine:
    return Machine(device, cores=2, share=1.0, dense=times, depthwise=times)


def decided(facts: Facts, **given: object) -> TrainConfig:
    return decide(detector(), facts, given=given).train


@pytest.mark.parametrize(
    ("name", "family"),
    [("tinyssd", "TinySSD"), ("ssdlite320_mobilenet_v3_large", "SSDLite"), ("dssd", "DSSD"), ("retinanet_r18_fpn", "RetinaNet"),
     ("efficientdet_d0", "EfficientDet"), ("ssd300_vgg16", "SSD"), ("ssd", "SSD")],
)  # fmt: skip
def test_the_parts_of_a_detector_show_its_family(name: str, family: str) -> None:
    assert recipe_for(recipe(name, ("cat",))).family == f"the {family} family"


def test_every_recipe_has_settings_that_exist() -> None:
    assert all(TrainConfig(**found.settings) for found in RECIPES)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(205, 87), {"epochs": 59, "batch_size": 8, "evaluate_every": 1}),
        (Facts(20, 5), {"epochs": 200, "batch_size": 8}),
        (Facts(50_000, 100), {"epochs": 12, "batch_size": 16, "augment": "ssd"}),
        (Facts(100, 200), {"evaluate_every": 7}),
        (Facts(1000, 10, seen=5000), {"batch_size": 8, "augment": "light"}),
        (Facts(1000, 10, seen=20_000), {"batch_size": 16, "augment": "ssd"}),
        (Facts(10, 1, machine=machine()), {"precision": "auto"}),
        (Facts(10, 1, machine=machine(FAST)), {"precision": "bf16", "channels_last": True}),
        (Facts(10, 1, machine=machine(StepTimes(20.0, 20.0, 9.0))), {"channels_last": False}),
        (Facts(10, 1, machine=machine(FAST, "cuda")), {"precision": "auto"}),
    ],
)
def test_what_follows_from_numbers(facts: Facts, expected: dict[str, object]) -> None:
    config = decided(facts)
    assert {name: getattr(config, name) for name in expected} == expected


def test_what_is_given_stays_and_is_not_told() -> None:
    given = {"epochs": 3, "batch_size": 5, "precision": "fp32", "warmup": 7, "augment_with": ("flip=0.1",)}
    chosen = decide(detector(), Facts(10, 1, machine=machine(FAST)), given=given)
    assert {name: getattr(chosen.train, name) for name in given} == given
    assert not {decision.setting for decision in chosen.decisions} & given.keys()
    assert decide(detector(), Facts(10, 1), given={"minutes": 3.0}).train.epochs == 100  # the clock has the say


def test_a_learning_rate_follows_the_batch_and_leaves_with_the_optimiser() -> None:
    small, large = decided(Facts(20, 5), batch_size=8), decided(Facts(20, 5), batch_size=32)
    assert large.lr == pytest.approx(2 * (small.lr or 0), rel=1e-3)
    assert decided(Facts(20, 5), optimizer="sgd").lr is None


def test_a_wrong_value_that_is_given_is_an_error() -> None:
    with pytest.raises(ConfigError, match="number out of its range"):
        decided(Facts(20, 5), epochs=0)
