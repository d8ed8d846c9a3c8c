"""A data set in memory. Every reader makes one; everything after the readers uses it. Pictures stay on disk until needed.

Shape letters: N objects in one picture, M objects of the whole set, P pictures, K classes; H, W a picture. Boxes are xyxy
float32 pixels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from onestage.data.columns import Parts, chosen
from onestage.data.text import size_text
from onestage.errors import ConfigError, DataError, OnestageError, PictureError, ProblemsError, command, counted, first_ten
from onestage.images import Stored, decode_image, decoding_cost, image_size, is_turned
from onestage.structures import Sample, Size, Truth, check_labels

_ODD_PATH = re.compile(rf"{re.escape(os.sep)}(\.{{0,2}}({re.escape(os.sep)}|$))")
"""An empty name, or one or two dots, in a path: it is not in its shortest form."""
Fault = Literal["picture", "box"]
"""What can be left out without doubt: a picture that is missing or cannot be read, and a box without area."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data set. where: the file, and the line, object or field in it. what: the fault. got and
    expected: the value that was found, and what is valid; None if ``what`` says enough. fix: what the user can do, or None.
    fault: its kind; None for what may mean that the annotations are misunderstood.
    """

    where: str
    what: str
    got: str | None = None
    expected: str | None = None
    fix: str | None = None
    fault: Fault | None = None

    @classmethod
    def of(cls, where: str, error: OnestageError, *, fault: Fault | None = None) -> Problem:
        """The parts of an error as a problem found at ``where``. fault: its kind, if the class of the error does not tell."""
        got, expected = (None if part is None else str(part) for part in (error.got, error.expected))
        return cls(where, error.what, got, expected, error.fix, "picture" if isinstance(error, PictureError) else fault)

    @classmethod
    def of_whole(cls, where: Path, error: OnestageError) -> Problem:
        """An error about no single annotation as a problem. Its place is the error's, if that has one, or the data set."""
        return cls.of(str(where if error.where is None else error.where), error)

    @property
    def reason(self) -> str:
        """The fault, what was found, what is valid and what to do, in one line."""
        details = {"got": self.got, "expected": self.expected, "fix": self.fix}
        parts = [self.what, *(f"{name}: {detail}" for name, detail in details.items() if detail is not None)]
        return "; ".join(" ".join(part.split()) for part in parts)

    def __str__(self) -> str:
        """The place and the reason, in one line."""
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(torch.utils.data.Dataset[Sample]):
    """P labelled pictures, stored as columns. So a million pictures are cheap to hold, to share with workers and to slice.

    paths, image_ids, sizes: P each; a size is (height, width), or None if it is unknown. offsets (P + 1,) int64: the objects
    of picture i are the rows offsets[i]:offsets[i + 1] of boxes (M, 4), labels (M,) int64 in 0..K-1, ignore (M,) bool
    (difficult objects), crowd (M,) bool (crowd regions) and area (M,) float32. classes and category_ids: the K names, and
    the K ids that the data set has for them. problems: what was wrong and is left out; only reading with on_bad="skip"
    leaves anything out. notes: how something unclear was understood. parts: where the pictures lie inside larger files, if they
    do; their paths then go on behind those of the files. named: the words that name the data set on the command line: its path
    as the user gave it, and perhaps --format; DATA stands for what was made in Python.
    """

    root: Path
    format: str
    split: str | None
    paths: Sequence[str]
    image_ids: Sequence[int | str]
    sizes: Sequence[Size | None]
    offsets: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    crowd: Tensor
    area: Tensor
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    parts: Parts | None = None
    named: tuple[str, ...] = ("DATA",)

    def __post_init__(self) -> None:
        columns = (self.boxes, self.labels, self.ignore, self.crowd, self.area)
        assert len({len(c) for c in columns}) == 1 and int(self.offsets[-1]) == len(self.boxes)
        assert len(self.paths) == len(self.image_ids) == len(self.sizes) == len(self.offsets) - 1
        assert len(self.classes) == len(self.category_ids)
        check_labels(self.labels, len(self.classes), where=self.root)

    def __repr__(self) -> str:
        """Short: the columns may have millions of rows."""
        split = "" if self.split is None else f" {self.split}"
        counts = ((len(self), "picture"), (len(self.boxes), "object"), (len(self.classes), "class"))
        return f"{type(self).__name__}({str(self.root)!r}{split}, {', '.join(counted(*count) for count in counts)})"

    @property
    def doctor(self) -> str:
        """The command that shows all that is wrong with the data set."""
        return command("data check", *self.named)

    @property
    def is_empty(self) -> bool:
        """Whether no picture has an object that counts: one that is neither difficult nor a crowd region."""
        return not bool((~(self.ignore | self.crowd)).any())

    def __len__(self) -> int:
        """P, the number of pictures."""
        return len(self.paths)

    def _rows(self, index: int) -> slice:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def truth(self, index: int) -> Truth:
        """The objects of picture ``index``: boxes (N, 4), and (N,) for the other columns. No pixel is read."""
        rows = self._rows(index)
        return Truth(
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ignore=self.ignore[rows],
            crowd=self.crowd[rows],
            area=self.area[rows],
            image_id=self.image_ids[index],
            path=self.paths[index],
            size=self.sizes[index],
        )

    @property
    def is_on_disk(self) -> bool:
        """Whether picture i is the file paths[i]; not so in a subclass that gets its pictures in another way."""
        return type(self).__getitem__ is Dataset.__getitem__

    @property
    def names(self) -> Iterator[str]:
        """The path of each picture from the data set's folder."""
        before = f"{self.root}{os.sep}"
        whole = before == f"{os.path.normpath(self.root)}{os.sep}"
        for path in self.paths:
            plain = whole and path.startswith(before) and not _ODD_PATH.search(path, len(before) - 1)
            yield path[len(before) :] if plain else os.path.relpath(path, self.root)

    def stored(self, index: int) -> Stored:
        """Where picture ``index`` is stored: its path, or its place inside a larger file."""
        path = self.paths[index]
        part = None if self.parts is None else self.parts.part(index, path)
        return path if part is None else part

    def size_of(self, index: int) -> Size | None:
        """(height, width) of picture ``index``, from its annotation or its header; None if neither says it."""
        if (size := self.sizes[index]) is not None:
            return size
        try:
            return image_size(self.stored(index))
        except OnestageError:
            return None

    def decoding_cost(self, index: int) -> int:
        """Bytes of memory to decode picture ``index``, from its header. Raise DataError if that cannot be read."""
        return decoding_cost(self.stored(index))

    def __getitem__(self, index: int) -> Sample:
        """Decode picture ``index``: image (3, H, W), boxes (N, 4).

        Raise DataError with the file's path if the picture cannot be read or its size contradicts its annotation.
        """
        truth = self.truth(index)
        image = decode_image(self.stored(index))
        if truth.size is not None and truth.size != tuple(image.shape[1:]):
            raise contradiction(truth.path, (image.shape[1], image.shape[2]), truth.size)
        return Sample(image, truth.boxes, truth.labels, truth.ignore | truth.crowd, truth.image_id, truth.path)

    def subset(self, indices: Sequence[int], split: str | None = None) -> Dataset:
        """The pictures at ``indices`` and their objects, in this order."""
        rows = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"{int(rows.min())} to {int(rows.max())}")
        counts = self.offsets.diff()[rows]
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        picked = torch.repeat_interleave(self.offsets[rows] - ends[:-1], counts)
        picked += torch.arange(len(picked))
        return replace(
            self,
            split=split or self.split,
            paths=chosen(self.paths, indices),
            image_ids=chosen(self.image_ids, indices),
            sizes=chosen(self.sizes, indices),
            offsets=ends,
            boxes=self.boxes[picked],
            labels=self.labels[picked],
            ignore=self.ignore[picked],
            crowd=self.crowd[picked],
            area=self.area[picked],
            parts=None if self.parts is None else self.parts.chosen(indices),
        )

    def check_apart(self, folder: Path) -> None:
        """Raise ConfigError if results in that folder would lie among the data set's files: it is the data set's folder, or one
        that holds pictures of it. A folder around the whole data set is none of these.
        """
        root, place = os.path.realpath(self.root) + os.sep, os.path.realpath(folder) + os.sep
        holders = {os.path.realpath(parent) + os.sep for parent in {path.rpartition(os.sep)[0] for path in self.paths}}
        if place == root or (not root.startswith(place) and any(holder.startswith(place) for holder in holders)):
            what, fix = "results would be written among the pictures of a data set", "choose another folder: out="
            raise ConfigError(what, where=folder, got=f"a folder of the data set {self.root}", fix=fix)

    def hold_out(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Draw two disjoint parts by ``seed``: the larger one, and the held-out one with ``fraction`` of the pictures.

        Each part has at least one picture if there are two or more.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        count = min(max(1, round(fraction * len(self))), len(self) - 1)
        return self.subset(sorted(order[count:])), self.subset(sorted(order[:count]), split="held out")


NO_VALIDATION = "there is no split val: training measures on a tenth of the training pictures, which it does not learn from"
"""What the doctor says of a data set without validation pictures."""

NOTHING_TO_MEASURE = "no validation picture has an object, so AP cannot be measured, and best follows the last epoch"
"""What training and the doctor say of a validation split in which nothing is labelled."""


def owner_of(data: Dataset) -> str:
    """The split whose classes others are compared with, for messages."""
    return f"the split {data.split}" if data.split else "this data set"


CORRECT = "correct them"
"""What to do about problems of a data set where nothing would be left without them."""
LEAVE_OUT = CORRECT + ', or go on without them: on_bad="skip"'
"""What to do about problems of a data set, where that is still to be chosen."""


def complain(root: Path, problems: Sequence[Problem], *, empty: bool, more: str = "") -> ProblemsError:
    """The one error for all problems of a data set. It lists the first ten and counts the rest. empty: no object is without
    problems, so leaving out the others is no remedy. more: what else one can do.
    """
    what, got = f"{counted(len(problems), 'problem')} in this data set", first_ten([str(problem) for problem in problems])
    return ProblemsError(what, where=root, got=f"\n{got}", fix=(CORRECT if empty else LEAVE_OUT) + more)


def contradiction(path: Stored, found: Size, stated: Size) -> DataError:
    """The error for a picture whose size is not that of its annotation. The size before the EXIF rotation is told as that."""
    what, fix = "the picture's size contradicts its annotation", "correct the annotation"
    if stated == found[::-1] and is_turned(path):
        what = "the annotation gives the picture's size before its EXIF rotation"
        fix = "remove the EXIF orientation from the picture if the boxes are right without it, else correct the annotation"
    fix += ", or leave the picture out with --on-bad skip"
    return DataError(what, where=str(path), got=f"{size_text(found)} in the picture", expected=size_text(stated), fix=fix)
