"""Which pictures train a detector, which ones measure it, and by what names it calls its classes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from onestage.data import Dataset, list_splits, load_dataset
from onestage.data.labels import differ
from onestage.data.table import OnBad
from onestage.errors import ConfigError, DataError, counted
from onestage.model.detector import Detector
from onestage.training.checkpoint import CheckpointStore
from onestage.training.config import TrainConfig
from onestage.training.run import Plan, fingerprint
from onestage.weights.class_names import numbered_classes

HELD_OUT = 0.1
"""The part of the training pictures that measures the training where the data set has no validation split."""


def read_data(
    model: Detector, data: str | Path | Dataset, config: TrainConfig, format: str | None = None
) -> tuple[Dataset, Dataset]:
    """Training and validation pictures, labelled by the model's classes where these have names of their own.

    Raises DataError where they cannot be read, none are to train on, or some of their classes are unknown to the model, and
    ConfigError where all are.
    """
    if isinstance(data, Dataset):
        return _hold_out(data, config)
    splits = list_splits(data, format)
    classes = model.config.classes if _named(model) else None
    first = next((s for s in ("train", "trainval") if s in splits), None)
    if first is None and splits:
        raise DataError("no split of this data set is there to train on", where=data, got=", ".join(splits))
    train_set = load_dataset(data, format, split=first, classes=classes, on_bad=config.on_bad)
    if first == "train" and "val" in splits:
        return train_set, load_dataset(data, format, split="val", classes=train_set.classes, on_bad=config.on_bad)
    return _hold_out(train_set, config)


def _hold_out(data: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset]:
    """A tenth is held out to measure; a single picture must do for both."""
    return data.hold_out(HELD_OUT, config.seed) if len(data) > 1 else (data, data)


def held_out(model: Detector, run: str | Path, data: str | Path, *, on_bad: OnBad, format: str | None = None) -> Dataset | None:
    """The pictures of a data set without splits that its training, the run in a folder, held out.

    None where the run saw other data, or the data has a split to measure on; and, with a warning, where none were held out
    or the data is not what it was.
    """
    try:
        plan = Plan.load(run)
    except ConfigError:
        return None
    format = format or plan.format
    if plan.data is None or Path(plan.data) != Path(data).resolve() or {"val", "test"} & {*list_splits(data, format)}:
        return None
    train_set, rest = read_data(model, data, replace(plan.train, on_bad=on_bad), format)
    if CheckpointStore(run).noted("data") not in (None, fingerprint(train_set)):
        what = "the data set has changed since this run began, so most of these pictures may have been trained on"
    elif rest is train_set:
        what = f"the run trained on {counted(len(rest), 'picture')} of these, all there are"
    else:
        return rest
    warnings.warn(what, stacklevel=2)
    return None


def adopt_classes(model: Detector, data: Dataset) -> None:
    """Give a model that was made for a number of classes their names and ids; one with names gets the ids.

    ConfigError where the data's classes are not the model's.
    """
    if len(data.classes) != len(model.config.classes) or (_named(model) and data.classes != model.config.classes):
        fix = "onestage.create(NAME, classes=[...]) with the data's classes, in their order"
        raise differ(data.root, data.classes, model.config.classes, fix=fix)
    model.config = replace(model.config, classes=data.classes, category_ids=data.category_ids)


def _named(model: Detector) -> bool:
    return model.config.classes != numbered_classes(len(model.config.classes))
