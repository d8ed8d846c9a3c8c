"""The rules by which a training is decided: each with invented numbers."""

from dataclasses import replace
from pathlib import Path

import pytest

from onestage.data import load_dataset
from onestage.errors import ConfigError
from onestage.model.cost import cost_of
from onestage.training import folder as run_folder
from onestage.training import loop
from onestage.training import machine as machines
from onestage.training.config import RULED, TrainConfig
from onestage.training.folder import Plan
from onestage.training.machine import DENSE_WORK, DEPTHWISE_WORK, Machine, StepTimes
from onestage.training.recipes import EVERY, RECIPES, recipe_for
from onestage.training.rules import BEFORE_DATA, Facts, decide, decoded_gigabytes, expected_pictures
from onestage.zoo.table import recipe
from small_runs import PLAIN, detector, pictures, write_pictures

MIXED = StepTimes(20.0, 25.0, 20.0, mixed=10.0)
EVEN, FAST = StepTimes(20.0, 20.0, 20.0), StepTimes(20.0, 8.0, 20.0)


def machine(times: StepTimes = EVEN, device: str = "cpu") -> Machine:
    return Machine(device, cores=2, share=1.0, dense=times, depthwise=times)


def with_memory(gigabytes: float) -> Machine:
    return replace(machine(), memory=gigabytes)


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
        (Facts(50_000, 100), {"epochs": 12, "batch_size": 16, "augment": "light"}),
        (Facts(100, 200), {"evaluate_every": 7}),
        (Facts(1000, 10, seen=5000), {"batch_size": 8, "augment": "light", "augment_with": ()}),
        (Facts(1000, 10, seen=20_000), {"batch_size": 16, "augment": "light", "augment_with": ("scale_jitter=0.3",)}),
        (Facts(300, 10, seen=20_000), {"batch_size": 16, "augment": "ssd", "augment_with": ()}),
        (Facts(10, 1, machine=machine()), {"precision": "auto"}),
        (Facts(10, 1, machine=machine(FAST)), {"precision": "bf16", "channels_last": True}),
        (Facts(10, 1, machine=machine(StepTimes(20.0, 20.0, 9.0))), {"channels_last": False}),
        (Facts(10, 1, machine=machine(FAST, "cuda")), {"precision": "auto"}),
        (Facts(10, 1, machine=machine(FAST)), {"fp32_depthwise": False}),
        (Facts(10, 1, machine=machine(MIXED)), {"precision": "bf16", "fp32_depthwise": True}),
        (Facts(10, 1, machine=machine(MIXED, "cuda")), {"precision": "auto", "fp32_depthwise": False}),
        (Facts(10, 1, machine=with_memory(8.0), decoded=1.999), {"cache": 2.0}),
        (Facts(10, 1, machine=with_memory(8.0), decoded=2.1), {"cache": 0.0}),
        (Facts(10, 1, machine=with_memory(80.0), decoded=4.1), {"cache": 0.0}),
        (Facts(10, 1, decoded=0.1), {"cache": 0.0}),
        (Facts(205, 87, machine=replace(machine(), processes=3)), {"batch_size": 9}),
    ],
)
def test_what_follows_from_numbers(facts: Facts, expected: dict[str, object]) -> None:
    config = decided(facts)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(("milliseconds", "batch_size", "augment"), [(2000.0, 8, "light"), (2.0, 16, "ssd")])
def test_minutes_tell_how_many_pictures_a_named_model_sees(milliseconds: float, batch_size: int, augment: str) -> None:
    """By its multiply-adds and the speed of the machine, which differ by kind of convolution."""
    slow, facts = StepTimes(milliseconds, None, milliseconds), Facts(500, 10)
    found = decided(replace(facts, machine=machine(slow)), minutes=10.0)
    assert (found.batch_size, found.augment, found.minutes) == (batch_size, augment, 10.0)
    mixed = replace(machine(slow), depthwise=EVEN)
    tiny, config = detector(), detector().config
    seen = expected_pictures(tiny, mixed, 10.0)
    assert seen == pytest.approx(510 * 1e12 * DENSE_WORK / milliseconds / cost_of(config).multiply_adds, abs=1)
    assert expected_pictures(tiny, None, 10.0) is None and expected_pictures(tiny, mixed, None) is None
    assert mixed.rate("depthwise", 10**9) == pytest.approx(1.2e12 * DEPTHWISE_WORK / 20 / 1e9)


def test_help_says_of_every_setting_that_rules_decide_it() -> None:
    usual, ruled = vars(TrainConfig()), set(EVERY).union(BEFORE_DATA, *(found.settings for found in RECIPES))
    together = Facts(10, 1, machine=replace(machine(), processes=2))
    for facts in (Facts(1000, 2000, 100, with_memory(80.0), 0.1), Facts(10, 1, machine=machine(MIXED)), together):
        ruled |= {name for name, value in vars(decided(facts)).items() if value != usual[name]}
    assert ruled <= {*RULED} <= {*usual}


def test_what_is_given_stays_and_is_not_told() -> None:
    given = {"epochs": 3, "batch_size": 5, "precision": "fp32", "warmup": 7, "augment_with": ("flip=0.1",)}
    chosen = decide(detector(), Facts(10, 1, machine=machine(FAST)), given=given)
    assert {name: getattr(chosen.train, name) for name in given} == given
    assert not {decision.setting for decision in chosen.decisions} & given.keys()
    assert decide(detector(), Facts(10, 1), given={"minutes": 3.0}).train.epochs == 100  # the clock has the say


@pytest.mark.parametrize("given", [{"precision": "fp32"}, {"compile": True}, {"precision": "auto"}], ids=str)
def test_what_is_given_forbids_depthwise_convolutions_in_fp32(given: dict[str, object]) -> None:
    config = decided(Facts(10, 1, machine=machine(MIXED)), **given)
    assert not config.fp32_depthwise and config.precision != "bf16"


def test_an_augmentation_that_is_given_gets_no_zoom() -> None:
    facts = Facts(1000, 10, seen=20_000)
    assert decided(facts, augment="light").augment_with == ()
    assert decided(facts, augment_with=("flip=0.1",)).augment_with == ("scale_jitter=0.3", "flip=0.1")
    assert decided(facts, augment="none", augment_with=("flip=0.1",)).augment_with == ("flip=0.1",)
    for given in ({"augment": "ssd"}, {"augment_with": ("scale_jitter=0.5",)}):
        chosen = decide(detector(), facts, given=given)
        assert chosen.train.augment_with == given.get("augment_with", ())
        assert not {"augment_with", *given} & {decision.setting for decision in chosen.decisions}


@pytest.mark.parametrize(
    ("changes", "processes", "given", "shared"),
    [
        ({}, 1, {}, False),
        ({}, 2, {}, True),
        ({}, 2, {"batch_size": 32}, False),
        ({}, 2, {"batch_size": 32, "accumulate": 2}, True),
        ({}, 2, {"compile": True}, False),
        ({}, 2, {"shared_batch_norm": False}, False),
        (PLAIN, 2, {}, False),
    ],
)
def test_processes_that_see_few_pictures_share_batch_norm(
    changes: dict[str, object], processes: int, given: dict[str, object], shared: bool
) -> None:
    facts = Facts(205, 87, machine=replace(machine(), processes=processes))
    chosen = decide(detector(changes=changes), facts, given=given)
    told = [decision.reason for decision in chosen.decisions if decision.setting == "shared_batch_norm"]
    assert chosen.train.shared_batch_norm is shared and len(told) == shared, told


def test_steps_that_are_given_need_no_smaller_batch() -> None:
    assert decided(Facts(20, 5), steps=100).batch_size == 16
    assert decided(Facts(1000, 5), steps=100).augment == "light"


def test_the_memory_of_decoded_pictures(tmp_path: Path) -> None:
    data = load_dataset(write_pictures(tmp_path), split="train")
    assert decoded_gigabytes(data) == pytest.approx(12 * 3 * 64 * 64 / 1e9)
    assert decoded_gigabytes(replace(data, sizes=(None,) * 12)) == pytest.approx(12 * 3 * 64 * 64 / 1e9)


def test_a_learning_rate_follows_the_batch_and_leaves_with_the_optimiser() -> None:
    small, large = decided(Facts(20, 5), batch_size=8), decided(Facts(20, 5), batch_size=32)
    assert large.lr == pytest.approx(2 * (small.lr or 0), rel=1e-3)
    reasons = [one.reason for one in decide(detector(), Facts(20, 5), given={"batch_size": 8}).decisions]
    assert any("lr is 0.003 for 32 pictures per step, times the square root of 8/32" in reason for reason in reasons)
    assert decided(Facts(20, 5), optimizer="sgd").lr is None


def test_a_wrong_value_that_is_given_is_an_error() -> None:
    with pytest.raises(ConfigError, match="number out of its range"):
        decided(Facts(20, 5), epochs=0)


def test_what_python_gives_holds_and_rules_decide_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "measure_machine", lambda device: machine())
    monkeypatch.setattr(run_folder, "plot_training_curves", lambda *_: None)
    given, out = {"steps": 2, "workers": 0, "seed": 3, "lr": None, "device": "cpu"}, tmp_path / "run"
    loop.train(detector(), pictures(8), out=out, config=given)
    plan = Plan.load(out)
    assert (plan.train.steps, plan.train.seed) == (2, 3) and plan.train.ema == EVERY["ema"] and plan.decisions
    assert not loop.train(detector(), pictures(8), out=out, config=given, resume=True).interrupted
    with pytest.raises(ConfigError, match="other settings make another run"):
        loop.train(detector(), pictures(8), out=out, config={"seed": 4}, resume=True)
    with pytest.raises(ConfigError, match=r"no setting 'minuts' \(did you mean 'minutes'\?\)"):
        loop.train(detector(), pictures(8), out=out, config={"minuts": 1})
    with pytest.raises(ConfigError, match="a dict of some of its fields"):
        loop.train(detector(), pictures(8), out=out, config=["minutes"])  # type: ignore[arg-type]
