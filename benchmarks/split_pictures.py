"""The pictures of a comparison of trainings: the same for every program, in the form that it reads.

A data set without a split for tests, or for validation, is divided: always in the same way, and for all programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from onestage import boxes as box_ops
from onestage.data import Dataset
from onestage.data.reader import open_data
from onestage.data.writers import Encoded, write_coco, write_yolo
from onestage.images import decode_image
from onestage.structures import Detections

Measured = Literal["val", "test"]
TEST, VAL = 0.2, 0.125
"""The parts that are held out: of all pictures, and of those that are left."""


@dataclass(frozen=True)
class SplitPictures:
    """Pictures to train on, to choose the best model by, and to measure it on.

    ours: what ``onestage train`` is given. yolo: the folder of the same pictures in YOLO form. A picture has its row in the
    split for a name there. measured: the split to measure on.
    """

    train: Dataset
    val: Dataset
    test: Dataset
    ours: Path
    yolo: Path
    split: Measured

    @property
    def measured(self) -> Dataset:
        """The pictures to measure on."""
        return self.test if self.split == "test" else self.val


def split_pictures(data: Path, folder: Path, *, split: Measured = "test") -> SplitPictures:
    """Read a data set of any format, divide it if it is not divided, and write it in YOLO form into ``folder``.

    Annotations that cannot be used are left out, for every program. Raise DataError if the data set cannot be read.
    """
    train, val, test, complete = _divided(data)
    parts = {"train": train, "val": val, "test": test}
    ours, yolo = data, folder / "yolo"
    if not complete:
        ours = folder / "coco"
        for name, part in parts.items():
            write_coco(_encoded(part), ours, classes=part.classes, split=name)  # type: ignore[arg-type]
        opened = open_data(ours)
        parts = {name: opened.load(name, classes=train.classes) for name in parts}
    for name, part in parts.items():
        write_yolo(_encoded(part), yolo, classes=part.classes, split=name)  # type: ignore[arg-type]
    return SplitPictures(**parts, ours=ours, yolo=yolo, split=split)


def _divided(data: Path) -> tuple[Dataset, Dataset, Dataset, bool]:
    """The pictures to train, to validate and to test, and whether the data set itself has these three splits."""
    opened = open_data(data)
    first = next((name for name in ("train", "trainval") if name in opened.splits), None)
    train = opened.load(first, on_bad="skip")
    has_test, has_val = "test" in opened.splits, first == "train" and "val" in opened.splits
    if has_test:
        test = opened.load("test", classes=train.classes, on_bad="skip")
    else:
        train, test = train.hold_out(TEST, 0)
    if has_val:
        val = opened.load("val", classes=train.classes, on_bad="skip")
    else:
        train, val = train.hold_out(VAL, 0)
    return train, val, test, has_test and has_val


def _encoded(dataset: Dataset) -> Iterator[Encoded]:
    """The pictures as they are in their files, numbered by their rows."""
    for row, path in enumerate(dataset.paths):
        truth, size = dataset.truth(row), dataset.sizes[row]
        if size is None:
            height, width = decode_image(path).shape[1:]
            size = height, width
        yield Encoded(
            name=f"{row:06d}{Path(path).suffix.lower()}",
            data=Path(path).read_bytes(),
            size=size,
            image_id=row,
            boxes=tuple(tuple(box) for box in truth.boxes.tolist()),
            labels=tuple(truth.labels.tolist()),
            ignore=tuple((truth.ignore | truth.crowd).tolist()),
        )


@dataclass(frozen=True)
class Found:
    """One detection of another program: the row of its picture, its label, its box (left, top, width, height) and its score."""

    row: int
    label: int
    box: Sequence[float]
    score: float


def detections(found: Iterable[Found], dataset: Dataset) -> list[Detections]:
    """The detections of another program for all pictures, in the order of the data set, best first."""
    by_row: dict[int, list[Found]] = {row: [] for row in range(len(dataset))}
    for one in found:
        by_row[one.row].append(one)
    return [_of_picture(row, sorted(ones, key=lambda one: -one.score), dataset) for row, ones in by_row.items()]


def _of_picture(row: int, found: Sequence[Found], dataset: Dataset) -> Detections:
    boxes = torch.tensor([list(one.box) for one in found], dtype=torch.float32).reshape(-1, 4)
    return Detections(
        boxes=box_ops.from_xywh(boxes),
        scores=torch.tensor([one.score for one in found], dtype=torch.float32),
        labels=torch.tensor([one.label for one in found], dtype=torch.int64),
        class_names=tuple(dataset.classes[one.label] for one in found),
        category_ids=tuple(dataset.category_ids[one.label] for one in found),
        size=dataset.sizes[row] or (1, 1),
        image_id=dataset.image_ids[row],
        path=dataset.paths[row],
    )
