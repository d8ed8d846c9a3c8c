"""What a search tries: a table of settings, each with the values that it may have. The first value is what the rules decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from onestage.training.config import Setting
from onestage.training.rules import TOGETHER

if TYPE_CHECKING:
    from optuna import Trial

BY_RULE = "rule"
"""The value that leaves a setting to the rules of ``onestage train``."""
LEARNING_RATE = (0.25, 4.0)
"""Bounds of the learning rate, as parts of the one that the rules decide. It is drawn on a logarithmic scale."""
SCALES: tuple[float, ...] = (1.0, 0.8, 1.25)
"""Sides of the input, as parts of those that the rules decide."""
BATCHES: tuple[float, ...] = (1.0, 0.5, 2.0)
"""Batch sizes, as parts of the one that the rules decide. The learning rate follows by its rule."""
CHANGES: Mapping[str, tuple[str, ...]] = {"scale_jitter": (BY_RULE, "0", "0.5"), "mosaic": (BY_RULE, "0.3")}
"""Parts of the augmentation."""
AUGMENTS = (BY_RULE, "light", "ssd")
BACKBONE_RATES = (BY_RULE, "0.3", "0.1")
"""Of the learning rate of the backbone, where it starts from trained weights."""

Value = str | float
"""Of a setting in a trial."""


@dataclass(frozen=True)
class Proposal:
    """What one trial changes; all else is by rule.

    model: the model and its backbone; "rule" is what the rules choose. scale: of the sides of the input. batch, lr: as parts of
    what the rules decide. settings: of the training, as they are given to ``onestage train``.
    """

    model: str = BY_RULE
    scale: float = 1.0
    batch: float = 1.0
    lr: float = 1.0
    settings: Mapping[str, Setting] | None = None

    @property
    def given(self) -> dict[str, Setting]:
        """The settings of the training that it names."""
        return dict(self.settings or {})


@dataclass(frozen=True)
class Space:
    """The values among which a search chooses. A field with one value is not searched.

    models: "rule", and other candidates by name. trained: whether the training starts from trained weights, so that the
    backbone may learn more slowly. given: settings that the user has decided.
    """

    models: tuple[str, ...] = (BY_RULE,)
    scales: tuple[float, ...] = SCALES
    trained: bool = False
    given: tuple[str, ...] = ()

    @property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """What is chosen from a list: the values of each, the first by rule."""
        every: dict[str, tuple[Value, ...]] = {
            "model": self.models, "size": self.scales, "batch_size": BATCHES, "augment": AUGMENTS, **CHANGES,
            "backbone_lr": BACKBONE_RATES if self.trained else (BY_RULE,),
        }  # fmt: skip
        return {name: values for name, values in every.items() if len(values) > 1 and not self._is_given(name)}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that is searched."""
        return (*self.choices, *(() if self._is_given("lr") else ("lr",)))

    def _is_given(self, name: str) -> bool:
        """Whether the user has decided a setting, or one that it belongs to."""
        if name in CHANGES:
            name = "augment_with"
        owners = {owner for owner, owned in TOGETHER.items() if name in owned}
        return name in self.given or bool(owners & {*self.given})

    @property
    def first(self) -> dict[str, Value]:
        """The values by rule: the first trial, so that no search ends with less than the rules give."""
        return {**{name: values[0] for name, values in self.choices.items()}, **({"lr": 1.0} if "lr" in self.names else {})}

    def ask(self, trial: Trial) -> Proposal:
        """The values that Optuna suggests for a trial."""
        values = {name: cast(Value, trial.suggest_categorical(name, list(each))) for name, each in self.choices.items()}
        if "lr" in self.names:
            values["lr"] = trial.suggest_float("lr", *LEARNING_RATE, log=True)
        return proposal(values)


def proposal(values: Mapping[str, Value]) -> Proposal:
    """What a trial with these values changes. Values that are missing are by rule."""
    settings: dict[str, Setting] = {}
    changes = tuple(f"{name}={values[name]}" for name in CHANGES if values.get(name, BY_RULE) != BY_RULE)
    if values.get("augment", BY_RULE) != BY_RULE:
        settings["augment"] = str(values["augment"])
    if changes:
        settings["augment_with"] = changes
    if values.get("backbone_lr", BY_RULE) != BY_RULE:
        settings["backbone_lr"] = float(values["backbone_lr"])
    scale, batch, lr = (float(values.get(name, 1.0)) for name in ("size", "batch_size", "lr"))
    return Proposal(str(values.get("model", BY_RULE)), scale, batch, lr, settings)


def told(values: Mapping[str, Value], first: Mapping[str, Value]) -> str:
    """The values that are not by rule, for people: "lr x1.7, augment light"."""
    said = [f"{name} {_text(name, value)}" for name, value in values.items() if value != first.get(name)]
    return ", ".join(said) or "all by rule"


def _text(name: str, value: Value) -> str:
    return f"x{value:.3g}" if isinstance(value, float) else str(value)


def parted(begun: Space, here: Space) -> list[str]:
    """What a search that has begun chooses from and what the rules of this machine would choose from, where they differ: a line
    for each setting, for people.
    """
    searched, ruled = begun.choices, here.choices
    names = [name for name in {**searched, **ruled} if searched.get(name) != ruled.get(name)]
    values = [(name, _values(searched.get(name)), _values(ruled.get(name))) for name in names]
    return [f"{name}: {begins} in the search, {rules} by the rules here" for name, begins, rules in values]


def _values(values: Sequence[Value] | None) -> str:
    if values is None:
        return "not searched"
    return ", ".join(f"{value:g}" if isinstance(value, float) else value for value in values)


def scaled(size: Sequence[int], scale: float) -> tuple[int, int]:
    """(height, width) of an input, scaled, in multiples of 32 pixels; at least 64."""
    height, width = (max(64, 32 * round(side * scale / 32)) for side in size)
    return height, width
