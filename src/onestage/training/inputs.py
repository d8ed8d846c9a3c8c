"""The pictures that train a detector, the pictures that measure it, and the names of its classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onestage.data import Dataset
from onestage.data.dataset import owner_of
from onestage.data.labels import MODEL, differ
from onestage.data.problems import refuse_problems
from onestage.data.reader import OpenData, open_data
from onestage.data.table import OnBad
from onestage.data.tallies import never_taught
from onestage.errors import ConfigError, DataError, counted, first_ten, warn_outside
from onestage.model.detector import Detector
from onestage.predict.predictor import Looker, Predictor
from onestage.processes import Launch
from onestage.training import clock
from onestage.training.checkpoint import CheckpointStore
from onestage.training.config import TrainConfig
from onestage.training.folder import Plan, fingerprint
from onestage.training.inventory import GoneError, Inventory
from onestage.weights.tensor_file import is_numbered

HELD_OUT = 0.1
"""The part of the training pictures that measures the training if the data set has no validation split."""
_CHANGED = "the data set has changed since this run began, so most of these pictures may have been trained on"


@dataclass(frozen=True)
class TrainData:
    """The pictures of a run. They are read once.

    path: where they were read, absolute, and format: its format, if the user named it; both None for a data set that was made
    in Python. seconds: the work until they were read, which counts towards the minutes of a training. gone: the names of those
    with which the run began and that are not there any more.
    """

    train: Dataset
    val: Dataset
    path: str | None = None
    format: str | None = None
    seconds: float = 0.0
    gone: tuple[str, ...] = ()


def read_data(
    data: str | Path | Dataset,
    config: TrainConfig,
    *,
    format: str | None = None,
    classes: tuple[str, ...] | None = None,
    begun: Inventory | None = None,
) -> TrainData:
    """Read the training and validation pictures of a data set, or divide one that is already read.

    classes: the names that labels stand for; the data's names if left out. begun: the pictures of the run that goes on. Raise
    DataError if the data cannot be read, has nothing to train on, or has some classes that are not among ``classes``;
    ConfigError if it has none of them.
    """
    began = clock.now()
    if isinstance(data, Dataset):
        parts = _hold_out(data, config)
        _check_teaches(parts[0])
        return TrainData(*parts, seconds=clock.now() - began)
    opened = open_data(data, format)
    train_set, val_set, gone = _parts(opened, config, classes, begun)
    if Launch.from_environment().is_main:
        warn_outside(_doubts(opened, (train_set, val_set)))
    _check_teaches(train_set)
    return TrainData(train_set, val_set, str(Path(data).resolve()), format, clock.now() - began, gone)


def _parts(
    data: OpenData, config: TrainConfig, classes: tuple[str, ...] | None, begun: Inventory | None
) -> tuple[Dataset, Dataset, tuple[str, ...]]:
    """The pictures to learn from, those to measure on, and the names of those that are gone since a run has ``begun``."""
    train_set, val_set = _read(data, config, classes)
    if begun is not None:
        return begun.divide(train_set, val_set)
    if val_set is None:
        train_set, val_set = _hold_out(train_set, config)
    return train_set, val_set, ()


def _doubts(opened: OpenData, parts: tuple[Dataset, Dataset]) -> list[str]:
    """What a user should know about the files of a data set before they are trained on."""
    notes = dict.fromkeys(str(note) for data in parts for note in data.notes)
    lost = [f"{note}; see: {parts[0].doctor}" for note in (*opened.unread, *opened.unlabelled)]
    others = [str(problem) for problem in (*opened.absent, *opened.passed_over, *opened.undivided)]
    measured = {*parts[1].paths} if parts[1].split == "val" else set()
    both = measured and {path for path in parts[0].paths if path in measured}
    seen = [f"{counted(len(both), 'picture')} in both train and val, so AP tells nothing of other pictures"] if both else []
    if parts[0] is parts[1]:
        seen = ["the only picture is learned from and measured on, so AP tells nothing of other pictures"]
    return [*notes, *lost, *others, *seen, *(never_taught(*parts) if parts[1].split == "val" else ())]


def _check_teaches(data: Dataset) -> None:
    """Raise DataError if no training picture has an object. It lists what was left out, which may be why."""
    if not data.is_empty:
        return
    lost = [str(problem) for problem in data.problems]
    got = "\n" + first_ten(lost) if lost else f"none in {counted(len(data), 'picture')}"
    fix = "correct what was left out" if lost else "label objects in more pictures"
    what = "no training picture has an object, so there is nothing to learn"
    raise DataError(what, where=data.root, got=got, fix=f"{fix}; see: {data.doctor}")


def _read(data: OpenData, config: TrainConfig, classes: tuple[str, ...] | None) -> tuple[Dataset, Dataset | None]:
    """The training pictures, and those of the validation split if there is one."""
    for split in ("train", "val"):
        if split in data.missing:
            raise data.missing[split]
    first = next((split for split in ("train", "trainval") if split in data.splits), None)
    if first is None and data.splits:
        fix = "call the training pictures train, or name their folder alone"
        raise DataError("no split of this data set is there to train on", where=data.path, got=", ".join(data.splits), fix=fix)
    splits = [first, "val"] if first == "train" and "val" in data.splits else [first]
    if config.on_bad != "skip":
        refuse_problems(data, splits, names=classes, share=config.bad_share)
    train_set = _load(data, first, config, classes, owner=MODEL)
    if len(splits) > 1:
        return train_set, _load(data, "val", config, train_set.classes, owner=owner_of(train_set))
    return train_set, None


def _load(data: OpenData, split: str | None, config: TrainConfig, classes: tuple[str, ...] | None, *, owner: str) -> Dataset:
    """The pictures of a split. Objects of classes that ``owner`` does not have are left out only if all that is bad is."""
    if config.on_bad == "limit" and classes is not None and (error := data.other_classes(split, classes, owner=owner)):
        raise error
    return data.load(split, classes=classes, owner=owner, on_bad=config.on_bad_picture)


def _hold_out(data: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset]:
    """A tenth is held out to measure. A single picture is used for both."""
    return data.hold_out(HELD_OUT, config.seed) if len(data) > 1 else (data, data)


def held_out(
    model: Detector | Looker, run: str | Path, data: str | Path, *, on_bad: OnBad, format: str | None = None
) -> tuple[Dataset | None, str | None]:
    """The pictures of a data set that the run in a folder held out, and a note for the user.

    There are no such pictures if the run was trained on other data, or if the data has a split to measure on. There are none
    either, and a note says so, if the run held nothing out or if the data has changed since.
    """
    try:
        plan = Plan.load(run)
    except ConfigError:
        return None, None
    if plan.data is None or Path(plan.data) != Path(data).resolve():
        return None, None
    opened = open_data(data, format or plan.format)
    if {"val", "test"} & {*opened.splits}:
        return None, None
    begun, config = Inventory.load(Path(run)), replace(plan.train, on_bad=on_bad, bad_limit=None)
    try:
        train_set, rest, gone = _parts(opened, config, named_classes(model), begun)
    except GoneError:
        return None, _CHANGED
    same = CheckpointStore(run).noted("data") in (None, fingerprint(train_set))
    if not same and (begun is None or not gone or begun.changes(train_set)):
        return None, _CHANGED
    unseen = {*rest.paths}
    unseen.difference_update(train_set.paths)
    if not unseen:
        return None, f"the run trained on {counted(len(rest), 'picture')} of these, all there are"
    return rest, None


def adopt_classes(model: Detector, data: Dataset) -> None:
    """Give a model that was made for a number of classes their names and ids. A model with names gets the ids.

    Raise ConfigError if the data's classes are not the model's.
    """
    if len(data.classes) != len(model.config.classes) or named_classes(model) not in (None, data.classes):
        fix = "onestage.create(NAME, classes=[...]) with the data's classes, in their order"
        raise differ(data.root, data.classes, model.config.classes, fix=fix)
    model.config = replace(model.config, classes=data.classes, category_ids=data.category_ids)


def named_classes(model: Detector | Looker) -> tuple[str, ...] | None:
    """The model's class names; None if it was made for a number of classes and still waits for their names."""
    waits = isinstance(model, Detector | Predictor) and is_numbered(model.config)
    return None if waits else model.classes
