"""The written rules that decide how to train, wherever the user leaves it open. docs/training.md has them as a table.

Every rule is a function of numbers: of the data, of the machine and of the model. What it decides is kept with its reason in
the plan of the run, so a run that goes on decides nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onestage.data import Dataset
from onestage.model.config import DetectorConfig
from onestage.training.config import LENGTHS, Setting, TrainConfig, make_config, option
from onestage.training.recipes import EVERY, Recipe, recipe_for

PICTURES_SEEN = 12_000
"""Pictures that a training from fresh weights sees at least, each as often as it comes."""
EPOCHS = (12, 200)
"""The fewest and the most epochs."""
BATCHES = (16, 8)
"""Batch sizes, the best first."""
ENOUGH_STEPS = 1_000
"""Optimiser steps of a training. With fewer, smaller batches teach more."""
MEASURING = 0.1
"""The largest part of the time for measuring on the validation pictures, where one epoch has more."""
FORWARD = 1 / 3
"""Of the time that a picture takes in training: the forward pass, which is all that measuring needs."""
TOGETHER = {"optimizer": ("lr", "weight_decay", "momentum"), "augment": ("augment_with",), "schedule": ("milestones",)}
"""Settings that are of no use without another one: if the user gives that one, a recipe's values for them are left out."""


@dataclass(frozen=True)
class Decision:
    """One setting that the rules decided. option: what changes it, as it is typed; empty for what follows from others."""

    setting: str
    value: str
    reason: str
    option: str = ""


@dataclass(frozen=True)
class Chosen:
    """The settings of a run, and how those that were left open were decided."""

    train: TrainConfig
    decisions: tuple[Decision, ...] = ()


def decide(model: DetectorConfig, data: Dataset, *, measured: Dataset, given: Mapping[str, Setting]) -> Chosen:
    """Decide all settings that are not ``given`` for training a detector on ``data``.

    measured: the pictures that measure it. Raise ConfigError if a given value is not possible.
    """
    recipe = recipe_for(model)
    decided = {name: value for name, value in {**EVERY, **recipe.settings}.items() if _is_open(name, given)}
    decisions = list[Decision]()
    for name, value, reason in _ruled(len(data), len(measured), given):
        decided[name] = value
        decisions.append(Decision(name, f"{value:g}" if isinstance(value, float) else str(value), reason, option(name)))
    settings = {**decided, **given}
    if recipe.lr is not None and _is_open("lr", given):
        settings["lr"] = recipe.lr * (make_config(settings).batch_size / 32) ** 0.5
    if "augment_with" in decided and "augment_with" in given:
        settings["augment_with"] = (*_words(decided["augment_with"]), *_words(given["augment_with"]))
    return Chosen(make_config(settings), (*decisions, *_of_recipe(recipe, settings, given)))


def _words(value: Setting) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, tuple) else ()


def _is_open(name: str, given: Mapping[str, Setting]) -> bool:
    """Whether a setting is left to the recipe: neither it nor one that it belongs to is given."""
    return name == "augment_with" or (name not in given and not any(name in TOGETHER.get(other, ()) for other in given))


def _ruled(count: int, measured: int, given: Mapping[str, Setting]) -> Iterator[tuple[str, Setting, str]]:
    """Each setting that follows from the numbers of pictures: its name, its value and the reason."""
    epochs = min(max(-(-PICTURES_SEEN // count), EPOCHS[0]), EPOCHS[1])
    if "epochs" in given:
        epochs = int(given["epochs"])  # type: ignore[arg-type]
    elif not any(name in given for name in LENGTHS):
        yield "epochs", epochs, f"{count:,} pictures, each seen {epochs} times, make {count * epochs:,}"
    if "batch_size" not in given:
        least = int(given.get("accumulate", 1))  # type: ignore[arg-type]
        batch = next((size for size in BATCHES if count * epochs >= ENOUGH_STEPS * size), BATCHES[-1])
        yield "batch_size", max(batch, least), f"{count * epochs // batch:,} steps: more of them than of pictures in each"
    if "evaluate_every" not in given:
        every = max(1, round(measured * FORWARD / (MEASURING * count)))
        if every > 1:
            yield "evaluate_every", min(every, epochs), f"to measure {measured} pictures more often would take long"


def _of_recipe(recipe: Recipe, settings: Mapping[str, Setting], given: Mapping[str, Setting]) -> Iterator[Decision]:
    """The recipe of the family, as one decision."""
    names = [name for name in ("lr", *EVERY, *recipe.settings) if name in settings and name not in given]
    if names:
        values = ", ".join(f"{name} {_text(settings[name])}" for name in dict.fromkeys(names))
        yield Decision("recipe", values, f"of {recipe.family}", ", ".join(option(name) for name in dict.fromkeys(names)))


def _text(value: Setting) -> str:
    return " ".join(_words(value)) if isinstance(value, tuple) else f"{value:.3g}" if isinstance(value, float) else str(value)
