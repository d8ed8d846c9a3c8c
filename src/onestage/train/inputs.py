"""Which pictures train a detector, which ones measure it, and by what names it calls its classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onestage.data import Dataset, list_splits, load_dataset
from onestage.errors import ConfigError, DataError, explain
from onestage.model.detector import Detector
from onestage.train.config import TrainConfig
from onestage.zoo import numbered_classes

HELD_OUT = 0.1
"""The part of the training pictures that measures the training where the data set has no validation split."""


def read_data(
    model: Detector, data: str | Path | Dataset, config: TrainConfig, format: str | None = None
) -> tuple[Dataset, Dataset]:
    """Training and validation pictures, labelled by the model's classes where these have names of their own.

    Raises DataError where they cannot be read, none are to train on, or their classes are unknown to the model.
    """
    if isinstance(data, Dataset):
        return _hold_out(data, config)
    splits = list_splits(data, format)
    classes = model.config.classes if _named(model) else None
    first = next((s for s in ("train", "trainval") if s in splits), None)
    if first is None and splits:
        raise DataError(explain("no split of this data set is there to train on", where=data, got=", ".join(splits)))
    train_set = load_dataset(data, format, split=first, classes=classes, on_bad=config.on_bad)
    if first == "train" and "val" in splits:
        return train_set, load_dataset(data, format, split="val", classes=train_set.classes, on_bad=config.on_bad)
    return _hold_out(train_set, config)


def _hold_out(data: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset]:
    """A tenth is held out to measure; a single picture must do for both."""
    return data.hold_out(HELD_OUT, config.seed) if len(data) > 1 else (data, data)


def adopt_classes(model: Detector, data: Dataset) -> None:
    """Give a model that was made for a number of classes their names and ids; one with names gets the ids.

    ConfigError where the data's classes are not the model's.
    """
    if len(data.classes) != len(model.config.classes) or (_named(model) and data.classes != model.config.classes):
        raise ConfigError(
            explain(
                "model and data differ in their classes",
                where=data.root,
                got=f"{len(data.classes)} in the data: {', '.join(data.classes[:10])}",
                expected=f"the model's {len(model.config.classes)}: {', '.join(model.config.classes[:10])}",
                fix="onestage.create(NAME, classes=[...]) with the data's classes, in their order",
            )
        )
    model.config = replace(model.config, classes=data.classes, category_ids=data.category_ids)


def _named(model: Detector) -> bool:
    return model.config.classes != numbered_classes(len(model.config.classes))
