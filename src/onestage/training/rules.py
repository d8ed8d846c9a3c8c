"""The written rules that decide how to train, wherever the user leaves it open. docs/training.md has them as a table.

Every rule is a function of numbers: of the data, of the machine and of the model. What it decides is kept with its reason in
the plan of the run, so a run that goes on decides nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from onestage.data import Dataset
from onestage.errors import counted
from onestage.model.cost import cost_of
from onestage.model.detector import Detector
from onestage.training.batch_norm import learns_batch_norm
from onestage.training.config import LENGTHS, Setting, TrainConfig, make_config, typed
from onestage.training.machine import Machine, kernels_of
from onestage.training.recipes import EVERY, Recipe, recipe_for

PICTURES_SEEN = 12_000
"""Pictures that a training from fresh weights sees in all, each as often as it comes."""
EPOCHS = (12, 200)
"""The fewest and the most epochs."""
BATCHES = (16, 8)
"""Batch sizes, the best first."""
ENOUGH_STEPS = 1_000
"""Optimiser steps of a training. With fewer, smaller batches teach more."""
FEW_PASSES, MANY_PASSES = 20, 60
"""With fewer passes over the data than the first, the network has no time to learn from zoomed pictures; with fewer than the
second, none to learn from SSD's strong zoom and crops.
"""
ZOOM = ("scale_jitter=0.3",)
"""Between the two: a mild zoom, without which the network learns the pictures by heart. It stays to the end."""
LOOKED_AT = 200
"""Pictures whose header is read where the annotations do not state the sizes."""
CACHE_SHARE, CACHE_MOST = 0.25, 4.0
"""Decoded pictures stay in memory if they take no more than this part of the free memory, and no more gigabytes."""
MEASURING = 0.1
"""The largest part of the time for measuring on the validation pictures."""
TRAINING = 0.85
"""The part of a number of minutes that is left for training beside measuring and saving."""
FORWARD = 1 / 3
"""The part of the time of a training step that is its forward pass, which is all that measuring needs."""
ENOUGH_FOR_STATISTICS = 16
"""Pictures over which batch norm takes good statistics: with 16, ResNet-50 errs as rarely as with 32, with 8 by 1.2 % more of
the pictures (Wu and He, Group Normalization, arXiv 1803.08494, table 2).
"""
TOGETHER = {
    "optimizer": ("lr", "weight_decay", "momentum"),
    "augment": ("augment_with", "clean"),
    "schedule": ("milestones",),
}
"""Settings that belong to another one: if the user gives that one, the values of a recipe for them are left out."""


BEFORE_DATA: Mapping[str, Setting] = {"on_bad": "limit"}
"""What a new run has in any case, unless it is given. The data is read by it, before the other rules can decide."""


ANCHORS = "anchors"
"""What the decision to fit the anchors is about."""


@dataclass(frozen=True)
class Decision:
    """One setting that the rules decided. option: what gives it this value, as it is typed; empty if nothing does."""

    setting: str
    value: str
    reason: str
    option: str = ""


@dataclass(frozen=True)
class Chosen:
    """The settings of a run, how those that were left open were decided, and the machine by which."""

    train: TrainConfig
    decisions: tuple[Decision, ...] = ()
    machine: Machine | None = None


@dataclass(frozen=True)
class Facts:
    """What the rules know. pictures: to learn from. measured: to measure on. seen: pictures that the time is enough for; None
    if no time was set, or if it follows from the cost of the model. machine: None where it was not measured. decoded: gigabytes
    of the pictures to learn from, decoded; None if their sizes are not known.
    """

    pictures: int
    measured: int
    seen: int | None = None
    machine: Machine | None = None
    decoded: float | None = None

    @classmethod
    def of(cls, train: Dataset, val: Dataset, *, machine: Machine | None, seen: int | None = None) -> Facts:
        """The facts of the pictures to learn from and to measure on, and of a machine."""
        return cls(len(train), len(val), seen, machine, decoded_gigabytes(train))


def expected_pictures(model: Detector, machine: Machine | None, minutes: Setting) -> int | None:
    """The pictures that a training of so many minutes should see, by the cost of the model and the speed of the machine; None
    if no minutes are set, or if the machine was not measured.
    """
    if machine is None or not (time := _number(minutes)):
        return None
    return max(1, int(60 * time * TRAINING * machine.rate(kernels_of(model), cost_of(model.config).multiply_adds)))


def decoded_gigabytes(data: Dataset) -> float | None:
    """Of the pixels of all pictures. Headers of some say the sizes that annotations do not; None if no size is known."""
    step = 1 if None not in data.sizes else max(1, len(data) // LOOKED_AT)
    sizes = [size for index in range(0, len(data), step) if (size := data.size_of(index)) is not None]
    return 3e-9 * sum(map(math.prod, sizes)) / len(sizes) * len(data) if sizes else None


def before_data(given: Mapping[str, Setting]) -> TrainConfig:
    """The settings that hold while the data is read. Raise ConfigError if a given value is not possible."""
    return make_config({**BEFORE_DATA, **given})


def decide(model: Detector, facts: Facts, *, given: Mapping[str, Setting]) -> Chosen:
    """Decide all settings that are not ``given`` for the training of a detector.

    Raise ConfigError if a given value is not possible.
    """
    recipe = recipe_for(model.config)
    settings = {name: value for name, value in {**BEFORE_DATA, **EVERY, **recipe.settings}.items() if _is_open(name, given)}
    ruled = [rule for rule in _ruled(model, facts, given) if _is_open(rule.setting, given)]
    settings |= {**{rule.setting: rule.value for rule in ruled}, **given}
    if recipe.lr is not None and _is_open("lr", given):
        settings["lr"] = round(recipe.lr * (make_config(settings).batch_size / 32) ** 0.5, 6)
    usual = (recipe.settings, {rule.setting: rule.value for rule in ruled}) if _is_open("augment_with", given) else ()
    settings["augment_with"] = tuple(word for part in (*usual, given) for word in _words(part.get("augment_with", ())))
    told = [_decision(rule) for rule in ruled if rule.reason]
    return Chosen(make_config(settings), (*told, *_of_recipe(recipe, settings, given)), facts.machine)


class Rule(NamedTuple):
    """A setting that follows from numbers. reason: empty where the value is the usual one, which need not be told."""

    setting: str
    value: Setting
    reason: str


def _ruled(model: Detector, facts: Facts, given: Mapping[str, Setting]) -> Iterator[Rule]:
    """Each setting that follows from the numbers of pictures and from the machine."""
    count = facts.pictures
    epochs = int(_number(given.get("epochs")) or min(max(-(-PICTURES_SEEN // count), EPOCHS[0]), EPOCHS[1]))
    if not any(name in given for name in LENGTHS):
        yield Rule("epochs", epochs, f"{counted(count, 'picture')}, seen {counted(epochs * count, 'time')} in all")
    seen = facts.seen or expected_pictures(model, facts.machine, given.get("minutes")) or epochs * count
    by_pictures = [*_by_pictures_seen(count, seen, given, processes=1 if facts.machine is None else facts.machine.processes)]
    yield from by_pictures
    batch = int(_number(given.get("batch_size")) or _number({r.setting: r.value for r in by_pictures}["batch_size"]) or 1)
    if "minutes" not in given and "evaluate_steps" not in given:
        every = min(max(1, round(facts.measured * FORWARD / (MEASURING * count))), epochs)
        yield Rule("evaluate_every", every, f"to measure {counted(facts.measured, 'picture')} takes long" if every > 1 else "")
    if facts.machine is not None:
        yield from _of_machine(model, facts.machine, given)
        yield from _of_batch_norm(model, given, batch=batch, processes=facts.machine.processes)
    yield from _cache(facts)


def _by_pictures_seen(count: int, seen: int, given: Mapping[str, Setting], *, processes: int) -> Iterator[Rule]:
    """What depends on how many pictures are seen in all, each as often as it comes. count: of them are different. processes:
    that share each batch.
    """
    steps = int(_number(given.get("steps")) or 0)  # so many, whatever the batch
    batch = BATCHES[0] if steps else next((size for size in BATCHES if seen >= ENOUGH_STEPS * size), BATCHES[-1])
    batch = max(batch, int(_number(given.get("accumulate")) or 1))
    reason = f"makes {counted(seen // batch, 'step')}; fewer of them teach less" if batch < BATCHES[0] else ""
    if batch % processes:
        batch, reason = -(-batch // processes) * processes, f"each of {processes} processes takes as many of them"
    yield Rule("batch_size", batch, reason)
    seen = steps * int(_number(given.get("batch_size")) or batch) if steps else seen
    passes = seen / count
    if passes < MANY_PASSES:
        yield Rule(
            "augment", "light", f"{passes:.3g} {'pass' if passes == 1 else 'passes'}: too few for SSD's strong zoom and crops"
        )
        if passes >= FEW_PASSES and "scale_jitter" not in _changed(given):
            yield Rule("augment_with", ZOOM, "a mild zoom, or so many passes are learned by heart")


def _of_batch_norm(model: Detector, given: Mapping[str, Setting], *, batch: int, processes: int) -> Iterator[Rule]:
    """One set of statistics for all processes, if each by itself sees few pictures at once."""
    alone = batch // processes // int(_number(given.get("accumulate")) or 1)
    if processes > 1 and alone < ENOUGH_FOR_STATISTICS and learns_batch_norm(model) and not given.get("compile"):
        reason = f"each of {processes} processes sees {counted(alone, 'picture')} at once: too few for batch norm's statistics"
        yield Rule("shared_batch_norm", True, reason)


def _of_machine(model: Detector, machine: Machine, given: Mapping[str, Setting]) -> Iterator[Rule]:
    """How to compute here. On a GPU, ``precision`` is auto, which knows it."""
    times = machine.times(model)
    if given.get("compile"):
        times = replace(times, mixed=None)
    if given.get("precision") == "fp32":
        times = replace(times, bf16=None, mixed=None)
    on_cpu = machine.device == "cpu"
    if on_cpu and times.precision == "bf16":
        yield Rule("precision", "bf16", f"{times.gain:.1f} times as fast as fp32 here")
    if on_cpu and times.fp32_depthwise and given.get("precision", times.precision) == "bf16":
        yield Rule("fp32_depthwise", True, "depthwise convolutions are slower in bf16 here")
    slower = f"channels first are {times.fp32 / times.contiguous:.1f} times as fast here"
    yield Rule("channels_last", times.channels_last, "" if times.channels_last else slower)


def _cache(facts: Facts) -> Iterator[Rule]:
    """Memory for the decoded pictures, if all of them fit into a modest part of what is free."""
    if facts.machine is None or facts.machine.memory is None or not facts.decoded:
        return
    free = facts.machine.memory
    if facts.decoded <= min(CACHE_SHARE * free, CACHE_MOST):
        size = math.ceil(100 * facts.decoded) / 100
        yield Rule("cache", size, f"GB for all decoded pictures, of {free:.3g} that are free")


def _number(value: Setting) -> float | None:
    return value if isinstance(value, int | float) else None


def _words(value: Setting) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, tuple) else ()


def _changed(given: Mapping[str, Setting]) -> set[str]:
    """The parts of the augmentation that the user changes."""
    return {word.partition("=")[0] for word in _words(given.get("augment_with", ()))}


def _is_open(name: str, given: Mapping[str, Setting]) -> bool:
    """Whether a setting is left to the rules: neither it nor one that it belongs to is given. Changes to the augmentation are
    joined with those that are given.
    """
    taken = name in given and name != "augment_with"
    return not taken and not any(name in TOGETHER.get(other, ()) for other in given)


def _decision(rule: Rule) -> Decision:
    """What a rule decided, for people."""
    return Decision(rule.setting, _text(rule.value), rule.reason, " ".join(typed(rule.setting, rule.value)))


def _of_recipe(recipe: Recipe, settings: Mapping[str, Setting], given: Mapping[str, Setting]) -> Iterator[Decision]:
    """The recipe of the family, as one decision."""
    asked = dict.fromkeys(("lr", *EVERY, *recipe.settings))
    names = [name for name in asked if name in settings and name not in given]
    if names:
        values = ", ".join(f"{name} {_text(settings[name])}" for name in names)
        options = [text for name in names for text in typed(name, settings[name])]
        rate = "" if recipe.lr is None or "lr" not in names else f"; lr is {make_config(settings).lr_rule(recipe.lr)}"
        yield Decision("recipe", values, f"suits {recipe.family}{rate}", " ".join(options))


def _text(value: Setting) -> str:
    return " ".join(_words(value)) if isinstance(value, tuple) else f"{value:.3g}" if isinstance(value, float) else str(value)
