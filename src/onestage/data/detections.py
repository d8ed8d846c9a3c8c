"""Anybody's detections: from a file of any program to a ``Detections`` for each picture of a data set.

| kind     | what it looks like                                                                                           |
|----------|--------------------------------------------------------------------------------------------------------------|
| coco     | a JSON list of entries with image_id, category_id, bbox and score; or such entries, one in each line         |
| coco set | a COCO data set in JSON whose annotations have a score                                                       |
| jsonl    | a JSON object for each picture, with a list of detections, as ``onestage predict --format jsonl`` writes it  |
| csv      | a header with the columns of labels and one for the score                                                    |
| batch    | a folder of Parquet files with a row for each picture, as ``onestage batch`` writes it                       |
| text     | lines of a name and five numbers; a file for each class (VOC) or for each picture (YOLO), or a folder of them |

The content tells the kind, never the name of the file. Policy:
- What cannot be used is a fault: a picture or a class that the data set does not have, a box that is not four finite numbers or
  has a negative size, a score outside 0-1. Faults are an error that counts them by kind, or they are left out and counted.
  If nothing is left, it is an error in any case.
- A box of zero size is kept, and matches nothing; boxes may leave their pictures, and are not cut. So AP is what other programs
  make of the same file.
- Detections of equal score keep the order of the file.

Shape letters: N rows of the file, D detections of one picture, P pictures.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from onestage.data import detections_json, detections_text
from onestage.data.batch_folder import is_batch
from onestage.data.dataset import Dataset, Problem
from onestage.data.detections_batch import read_batch
from onestage.data.detections_form import Columns, understood
from onestage.data.detections_names import NONE, ClassNames, PictureNames
from onestage.data.detections_rows import Faults, Rows
from onestage.data.files import is_folder, is_regular, open_text
from onestage.data.table import OnBad
from onestage.data.text import is_number, listed, quoted
from onestage.errors import DataError, absent, counted, first_ten, printable, shortened
from onestage.structures import Detections

SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt"})
"""Of files that hold detections, or nothing that is read as a model."""

KINDS = (
    "COCO results (JSON), JSON lines or CSV as onestage predict writes them, or text files as VOC's devkit or YOLO write them"
)
"""For messages."""

FARTHEST = 1e9
"""Pixels from the corner of the picture. The areas of farther boxes are no numbers any more."""

_READERS = {"coco": detections_json.read_list, "coco set": detections_json.read_set, "jsonl": detections_json.read_lines}
COMPRESSED = "a compressed file"
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
"""How files of gzip, zip, bzip2, xz, zstd and 7-Zip begin."""
NONE_FITS = "no detection of this file can be used"
_CLASS_FILE = re.compile(r"^comp\d+_(?:det|cls)_[^_]+_")
_MODELS = ("best.safetensors", "last.safetensors", "config.json", "checkpoints")
"""What lies in the folder of a run."""


def holds_detections(path: Path) -> bool:
    """Whether a file or a folder is to be read as detections: it looks like some, or it is a text that can be nothing else."""
    if is_folder(path):
        if is_batch(path):
            return True
        return not any((path / name).exists() for name in _MODELS) and bool(detections_text.texts_in(path))
    return is_regular(path) and (path.suffix.lower() in SUFFIXES or _kind(path) is not None)


def _kind(file: Path) -> str | None:
    """The kind of a file, as its content tells; None if it is none."""
    with file.open("rb") as stream:
        start = stream.read(8)
    if b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):  # a model, a picture
        return None
    if kind := detections_json.kind_of(file):
        return kind
    return "csv" if detections_text.is_csv(file) else "text" if detections_text.is_text(file) else None


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """Detections for each of P pictures, in the order of the data set. left_out: what could not be used, counted by reason.
    notes: how something unclear was understood, and what is missing.
    """

    detections: list[Detections] = field(repr=False)
    left_out: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()


def read_detections(path: str | Path, dataset: Dataset, *, on_bad: OnBad = "stop") -> list[Detections]:
    """The detections in a file, or a folder of texts, for each of the P pictures of a data set, in its order.

    on_bad: "stop" raises a DataError that counts what cannot be used; "skip" leaves it out. Raise DataError if the file cannot
    be read, or if nothing in it fits the data set.
    """
    return open_detections(path).on(dataset, on_bad=on_bad).detections


def open_detections(path: str | Path) -> OpenDetections:
    """Read a file, or a folder of texts, of any kind. Raise DataError if it cannot be read or is none of the kinds."""
    path = Path(path)
    if is_batch(path):
        return OpenDetections(read_batch(path))
    if is_folder(path):
        if texts := detections_text.texts_in(path):
            return OpenDetections(detections_text.read_texts(texts, path))
        raise DataError("there are no detections in this folder", where=path, expected=KINDS, fix="name a file of detections")
    if not is_regular(path):
        raise DataError(absent(path), where=path, expected=KINDS, fix="correct the path of the detections")
    with open_text(path):
        kind = _kind(path)  # which would not say that this is a pointer of git-lfs
    if kind in _READERS:
        return OpenDetections(_READERS[kind](path))
    if kind == "csv" or (kind is None and path.suffix.lower() in (".csv", ".tsv")):
        return OpenDetections(detections_text.read_csv(path))
    if kind == "text":
        return OpenDetections(detections_text.read_texts([path], path))
    what, got = "these are no detections in a form that is read", _seen(path)
    fix = "unpack it first" if got == COMPRESSED else "name a file of detections"
    raise DataError(what, where=path, got=got, expected=KINDS, fix=fix)


def _seen(file: Path) -> str | None:
    """What a file is instead of detections, if its first bytes tell."""
    with file.open("rb") as stream:
        start = stream.read(8)
    if not start:
        return "an empty file"
    return COMPRESSED if start.startswith(_PACKED) else None


@dataclass(frozen=True, eq=False)
class OpenDetections:
    """Detections that are read, and belong to no data set yet."""

    rows: Rows

    def lacks(self, dataset: Dataset) -> int:
        """How many of the pictures that the file names the data set does not have."""
        return self._meant(dataset).pictures.count(NONE)

    def on(self, dataset: Dataset, *, on_bad: OnBad = "stop") -> FoundObjects:
        """The detections for each picture of a data set. Arguments and errors: see ``read_detections``."""
        meant = self._meant(dataset)
        sizes = torch.tensor([size or (0, 0) for size in dataset.sizes], dtype=torch.int64).reshape(-1, 2)
        read = understood(self.rows, meant.picture, sizes)
        faults = Faults(self.rows.file, self.rows.faults.count.copy(), dict(self.rows.faults.first))
        good = _good(self.rows, meant, read, faults)
        if faults.count and (on_bad == "stop" or not good.any()):
            raise self._refusal(faults, dataset, left=int(good.sum()))
        detections = _by_picture(dataset, meant, read, good)
        return FoundObjects(detections, faults.problems(), tuple(self._notes(dataset, meant, read)))

    def _meant(self, dataset: Dataset) -> _Meant:
        """The pictures and classes that the file names. In VOC's files for each class the columns stand the other way round."""
        rows = self.rows
        names, classes = PictureNames(dataset, rows.file), ClassNames(dataset)
        pictures = names.rows(rows.named_pictures())
        if rows.kind == "text" and len(rows):
            others = names.rows(rows.classes)
            if _share(others) > _share(pictures):
                stems = (_CLASS_FILE.sub("", str(stem)) for stem in rows.pictures)
                return _Meant(others, _looked_up(others, rows.label), _looked_up(classes.labels(stems), rows.picture))
        labels = classes.labels(rows.named_classes())
        return _Meant(pictures, _looked_up(pictures, rows.picture), _looked_up(labels, rows.label))

    def _refusal(self, faults: Faults, dataset: Dataset, *, left: int) -> DataError:
        """The error for rows that cannot be used. left: how many can."""
        total = faults.count.total()
        what = f"{total:,} of {counted(total + left, 'detection')} cannot be used" if left else NONE_FITS
        fixes = [*faults.fixes()[:3], *(['leave them out: on_bad="skip"'] if left else [])]
        return DataError(
            what,
            where=self.rows.file,
            got="\n" + first_ten(faults.lines()),
            expected=f"detections in {counted(len(dataset), 'picture')} of {dataset.root}, such as {_examples(dataset)}",
            fix="; or ".join(fixes) or None,
        )

    def _notes(self, dataset: Dataset, meant: _Meant, read: Columns) -> list[Problem]:
        """How the file was understood, and which pictures it says nothing of."""
        notes = list(read.notes)
        numbered = any(isinstance(reference, int) or is_number(reference) for reference in self.rows.named_classes())
        if numbered and dataset.format in ("voc", "csv"):
            taken = listed(f"{number} {name}" for number, name in zip(dataset.category_ids, dataset.classes, strict=True))
            notes.append(f"the numbers of classes are taken for: {taken}")
        if without := len(dataset) - len({*meant.pictures} - {NONE}):
            notes.append(f"{counted(without, 'picture')} of {len(dataset):,} without detections")
        return [Problem(self.rows.file.name, note) for note in notes]


class _Meant(NamedTuple):
    """What the rows of a file mean in a data set. pictures: the row of each picture that is named, or NONE. picture, label
    (N,) int64: of each row of the file, or NONE.
    """

    pictures: list[int]
    picture: NDArray[np.int64]
    label: NDArray[np.int64]


def _share(rows: list[int]) -> float:
    return sum(row != NONE for row in rows) / max(1, len(rows))


def _looked_up(meant: list[int], number: array[int]) -> NDArray[np.int64]:
    """(N,): for each row, what its reference means. number (N,): the numbers of references."""
    return np.asarray(meant, dtype=np.int64)[np.asarray(number)] if len(number) else np.zeros(0, dtype=np.int64)


def _good(rows: Rows, meant: _Meant, read: Columns, faults: Faults) -> NDArray[np.bool_]:
    """(N,): whether a row can be used. Count the others by their first fault."""
    boxes, scores = read.boxes, read.scores
    checks = {
        "a picture that the data set does not have": (
            meant.picture == NONE,
            "name the data set or the split of these detections",
        ),
        "a class that the data set does not have": (meant.label == NONE, "write the names or the category ids of the data set"),
        "a box that is not finite, or far outside every picture": (~(np.abs(boxes) <= FARTHEST).all(axis=1), None),
        "a box of negative size": ((boxes[:, 2:] < boxes[:, :2]).any(axis=1), None),
        "a score that is not finite": (~np.isfinite(scores), None),
        "a score outside 0-1": (
            (scores < 0) | (scores > 1),
            "write scores from 0 to 1; 1 / (1 + exp(-x)) makes one of any number",
        ),
    }
    good = np.ones(len(rows), dtype=bool)
    for what, (bad, fix) in checks.items():
        found = np.flatnonzero(bad & good)
        if len(found):
            first = int(found[0])
            numbers = ", ".join(f"{number:.6g}" for number in boxes[first].tolist())
            got = f"box {numbers}, score {scores[first]:g}"
            faults.add(rows.place(first), what, got=got, fix=fix, count=len(found))
            good[found] = False
    return good


def _by_picture(dataset: Dataset, meant: _Meant, read: Columns, good: NDArray[np.bool_]) -> list[Detections]:
    """The good rows as a Detections for each picture, best first."""
    kept = np.flatnonzero(good)
    kept = kept[np.lexsort((-read.scores[kept], meant.picture[kept]))]
    boxes = torch.from_numpy(read.boxes[kept].astype(np.float32))
    scores, labels = torch.from_numpy(read.scores[kept].astype(np.float32)), torch.from_numpy(meant.label[kept])
    ends = np.searchsorted(meant.picture[kept], np.arange(len(dataset) + 1))
    found = []
    for row, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        numbers = labels[start:end].tolist()
        found.append(
            Detections(
                boxes=boxes[start:end],
                scores=scores[start:end],
                labels=labels[start:end],
                class_names=tuple(dataset.classes[number] for number in numbers),
                category_ids=tuple(dataset.category_ids[number] for number in numbers),
                size=dataset.sizes[row] or (0, 0),
                image_id=dataset.image_ids[row],
                path=dataset.paths[row],
            )
        )
    return found


def _examples(dataset: Dataset) -> str:
    """The first pictures of a data set, for a message."""
    pairs = list(zip(dataset.image_ids, dataset.paths, strict=True))[:2]
    return ", ".join(f"{quoted(image_id)} ({shortened(printable(Path(path).name), 40)})" for image_id, path in pairs)
