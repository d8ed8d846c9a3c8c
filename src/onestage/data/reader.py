"""From a path to a ``Dataset``, whatever the format: recognised by looking, or named."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from onestage.data import coco, csv, voc, yolo
from onestage.data.dataset import Dataset
from onestage.data.files import Sources, split_name, walk
from onestage.data.table import Classes, OnBad, Table, differ
from onestage.errors import ConfigError, DataError, nearest


class Found(Protocol):
    """A data set found on disk, not yet read. ``sources``: what each split consists of, "" standing for all of it."""

    @property
    def sources(self) -> Sources: ...

    def read(self, table: Table, split: str, classes: Sequence[str] | None) -> Classes: ...


class Reader(Protocol):
    """What the module of a format offers. LAYOUT: what such a data set looks like, for messages."""

    LAYOUT: str

    def find(self, root: Path, files: Sequence[Path]) -> Found | None: ...


FORMATS: Mapping[str, Reader] = {"coco": coco, "voc": voc, "yolo": yolo, "csv": csv}


def load_dataset(
    path: str | Path,
    format: str | None = None,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    on_bad: OnBad = "stop",
) -> Dataset:
    """Read the annotations of a data set; its pictures stay on disk.

    path: a folder, or one .json, .csv or .yaml file. format: "coco", "voc", "yolo" or "csv"; recognised if left out.
    split: "train", "val" (or "valid", "validation"), "test" or "trainval"; everything if left out. classes: the names that
    labels 0..K-1 stand for, for example those of a trained model; the data set's own if left out. on_bad: "stop" raises one
    DataError that lists what is wrong; "skip" leaves out what is wrong and keeps the list in ``Dataset.problems``.
    ConfigError where the data set knows none of ``classes``. One that only numbers its classes, 0..K-1, counts them: a warning.
    """
    if on_bad not in ("stop", "skip"):
        raise DataError("what should happen to bad rows?", where="on_bad", got=on_bad, expected="'stop' or 'skip'")
    root, name, found = _recognise(Path(path), format)
    key = _choose(Path(path), split, found.sources)
    table = Table(root)
    labels = found.read(table, key, classes)
    if classes is not None:
        own = labels.own or found.read(Table(root), key, None).names
        _check_classes(Path(path), own, classes, by_name=bool(labels.own))
    existing = [own for own in found.sources if own]
    return table.dataset(name, key or (existing[0] if len(existing) == 1 else None), classes=labels, on_bad=on_bad)


def list_splits(path: str | Path, format: str | None = None) -> tuple[str, ...]:
    """The splits of a data set among train, val, trainval and test; empty if it is not divided."""
    _, _, found = _recognise(Path(path), format)
    return tuple(split for split in found.sources if split)


def _check_classes(path: Path, own: Sequence[str], wanted: Sequence[str], *, by_name: bool) -> None:
    """ConfigError where a data set's own classes have nothing to do with those wanted. That its numbers count these is said."""
    if not own or set(own) & set(wanted):
        return
    if by_name:
        fix = "name them alike, or train a model for the data's; in Python, onestage.create(NAME, classes=[...]) makes one"
        raise differ(path, own, wanted, fix=fix)
    if [*own] != [str(label) for label in range(len(wanted))]:
        raise ConfigError(
            "the data set only numbers its classes, and not as many as the model has",
            where=path,
            got=f"{len(own)}: {', '.join(own[:10])}",
            expected=f"0 to {len(wanted) - 1}, for {', '.join(wanted[:10])}",
            fix="write the names in place of the numbers",
        )
    taken = ", ".join(f"{label} is taken for {name}" for label, name in enumerate(wanted[:10]))
    more = ", and so on" if len(wanted) > 10 else ""
    warnings.warn(f"the data set only numbers its classes: {taken}{more}", stacklevel=2)


def _choose(path: Path, split: str | None, sources: Sources) -> str:
    """The key of ``sources`` that the user's word for a split means."""
    existing = [own for own in sources if own]
    if split is None:
        return ""
    key = split_name(split)
    if key is None or key not in existing:
        expected = f"one of: {', '.join(existing)}" if existing else "no split: this data set is not divided"
        raise DataError(f"there is no split {split!r} in this data set", where=path, expected=expected)
    return key


def _recognise(path: Path, format: str | None) -> tuple[Path, str, Found]:
    """The data set's folder, the name of its format, and where its parts are."""
    if format is not None and format not in FORMATS:
        what = f"unknown format {format!r}{nearest(format, FORMATS)}"
        raise DataError(what, expected=", ".join(FORMATS))
    if not path.exists():
        raise DataError("there is no such file or folder", where=path)
    try:
        root, files = (path, walk(path)) if path.is_dir() else (path.parent, [path])
    except OSError as error:
        raise DataError("this folder cannot be read", where=error.filename, got=error.strerror) from error
    wanted = (format,) if format else tuple(FORMATS)
    found = {name: own for name in wanted if (own := FORMATS[name].find(root, files))}
    if not found:
        layouts = "\n            ".join(FORMATS[name].LAYOUT for name in wanted)
        raise DataError("no labelled pictures were recognised here", where=path, expected=layouts)
    if len(found) > 1:
        fix = f"name one: --format {next(iter(found))}, or name a folder or file further down"
        raise DataError("more than one data set is here", where=path, got=" and ".join(found), fix=fix)
    return root, *next(iter(found.items()))
