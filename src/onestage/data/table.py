"""From the rows of annotations to a checked ``Dataset``. This file alone defines a good box, for every format.

Shape letters: M objects of the whole set, P pictures. Boxes are xyxy.

Policy:
- Four finite numbers with x1 < x2 and y1 < y2, or the box is a problem. So a box of zero size is a problem.
- A box may leave its picture by up to ``SLACK`` pixels, because tools round. It is then cut silently. More is a problem.
- A picture that is missing is one problem. So is a picture whose size is neither in the annotations nor in a readable header.
  The objects of such a picture are left out without further problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data.box_forms import Checks, are_per_cent, checked, other_form, too_large
from onestage.data.dataset import Dataset, Fault, Problem, complain
from onestage.data.labels import MODEL, SHOWN, ClassKey, Labels, StoredClasses, alike
from onestage.data.text import listed, size_text
from onestage.data.threads import PatientThreads
from onestage.errors import DataError, PictureError, command, counted
from onestage.images import image_size
from onestage.structures import Size

OnBad = Literal["stop", "skip"]

WHOLE = 1.5
"""A box that is given in parts of its picture ends at 1; one that reaches beyond this is in pixels."""

ONE_NAME = "if they are one class, write one name in all annotations"

UNKNOWN = -1
"""In the column of labels: the object's class is not among the wanted classes."""


class PictureFile(NamedTuple):
    """A picture that exists. A size of None is read from its header."""

    path: str
    image_id: int | str
    size: Size | None = None


@dataclass
class Said:
    """What a file of annotations says about its one picture.

    picture: its name as the file has it. size: as stated. errors: what is wrong, each with the place in the file. usable: the
    picture is part of the set.
    """

    picture: str | None = None
    size: Size | None = None
    errors: list[tuple[str, DataError]] = field(default_factory=list)
    usable: bool = True


class Row(NamedTuple):
    """One object.

    picture: the row of its picture. box: four numbers in the format's order and unit. key: the class as the annotation
    writes it. where: the file and line, for messages. area: in pixels; nan if the annotation gives none.
    """

    picture: int
    box: Sequence[float]
    key: ClassKey
    where: str
    ignore: bool = False
    crowd: bool = False
    area: float = float("nan")


@dataclass
class Table:
    """What a reader collects: plain lists, so that adding a row is cheap. It is complete before anything is made of it.

    to_xyxy: (M, 4) boxes of the format -> (M, 4) xyxy. relative: boxes are parts of the picture's width and height, not
    pixels. classes: those of the data set; None if nothing names them. labels_alone: a picture need not be there if its
    annotation states the size.
    """

    root: Path
    to_xyxy: Callable[[Tensor], Tensor] = torch.clone
    relative: bool = False
    classes: StoredClasses | None = None
    labels_alone: bool = False
    pictures: list[PictureFile] = field(default_factory=list)
    objects: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def add(self, picture: PictureFile) -> int:
        """The row of a picture that is added."""
        self.pictures.append(picture)
        return len(self.pictures) - 1

    def picture(self, find: Callable[[], Path], beside: Path, size: Size | None) -> Path:
        """The picture that ``find`` finds; or ``beside``, if it need not be there. size: as stated, or None.

        Raise DataError as ``find`` does.
        """
        try:
            return find()
        except PictureError:
            if not self.labels_alone or size is None:
                raise
            return beside

    def labelled(
        self, file: Path, said: Said, find: Callable[[], Path], check: Callable[[Path], None] | None = None
    ) -> int | None:
        """Add the picture of a file of annotations, and note what is wrong with that file. Return the row of the picture, or
        None if the file is not usable.

        find: finds the picture, or raises DataError. check: raises DataError if this picture cannot be that of the file.
        """
        where = self.name(file)
        for place, error in said.errors:
            self.problem(where + place, error)
        if not said.usable:
            return None
        try:
            path = self.picture(find, file.parent / (said.picture or file.stem), said.size)
            if check is not None:
                check(path)
        except DataError as error:
            self.problem(where, error)
            return None
        return self.add(PictureFile(str(path), file.stem, said.size))

    def problem(self, where: str, error: DataError) -> None:
        """Note what is wrong at a place."""
        self.problems.append(Problem.of(where, error))

    def moved(self, file: Path, moved: Mapping[str, Path]) -> None:
        """Note which files are taken for paths of another machine. moved: the file that is meant, for each path in ``file``."""
        for stated, meant in list(moved.items())[:1]:
            more = f", and so on for {len(moved):,} paths" if len(moved) > 1 else ""
            what = f"{stated} is a path of another machine; {self.name(meant)} is taken for it{more}"
            self.notes.append(Problem(self.name(file), what))

    def name(self, path: str | Path) -> str:
        """A path as messages write it: relative to the data set."""
        path = Path(path)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def dataset(self, format: str, split: str | None, *, labels: Labels, on_bad: OnBad, may_be_empty: bool = False) -> Dataset:
        """The checked data set. Raise one DataError for all problems, unless ``on_bad`` is "skip"; in any case if all boxes of
        a format in pixels are in parts of the picture, and if no picture is left, unless it ``may_be_empty``. May be called
        more than once, for other labels.
        """
        self._check_unit()
        self._check_forms()
        column = self._labels(labels)
        known = column != UNKNOWN
        strangers = self.other_classes(labels, split)
        if strangers is not None and on_bad == "stop":
            raise strangers
        columns = self._columns
        rows = (known & self._checks.good & self._sizes.readable[columns.picture]).nonzero().flatten()
        problems = [*self.problems, *self._strangers(column, labels), *self._unreadable, *self._bad_boxes(known)]
        if problems and on_bad == "stop":
            raise complain(self.root, problems, empty=not len(rows))
        kept = self._sizes.readable.nonzero().flatten().tolist()
        if not kept and not may_be_empty:
            raise no_pictures(self.root, split, problems)
        rows = rows[columns.picture[rows].argsort(stable=True)]
        counts = columns.picture[rows].bincount(minlength=len(self.pictures))[kept]
        boxes, area = self._checks.boxes[rows], columns.area[rows]
        return Dataset(
            root=self.root,
            format=format,
            split=split,
            paths=tuple(self.pictures[i].path for i in kept),
            image_ids=self._image_ids(kept),
            sizes=tuple((height, width) for height, width in self._sizes.sizes[kept].tolist()),
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            boxes=boxes,
            labels=column[rows],
            ignore=columns.ignore[rows],
            crowd=columns.crowd[rows],
            area=torch.where(area > 0, area, box_ops.area(boxes)),
            classes=labels.table.names,
            category_ids=labels.table.ids,
            problems=tuple(problems),
            notes=(*self.notes, *(Problem(str(self.root), text, fix=ONE_NAME) for text in alike(self._names))),
        )

    def _check_unit(self) -> None:
        """Raise DataError if a format in pixels has boxes within 0-1 that are not whole numbers, and none larger."""
        boxes = self._columns.box
        parts = in_parts(boxes)
        if self.relative or not parts.any() or (boxes > WHOLE).any():
            return
        row = self.objects[int(parts.nonzero()[0])]
        raise DataError(
            "all boxes lie within 0-1, as parts of the picture; this format has them in pixels",
            where=self.root,
            got=f"{row.where}: {_numbers(row.box)}",
            fix="multiply x and widths by the picture's width, y and heights by its height",
        )

    def _check_forms(self) -> None:
        """Raise DataError if the boxes look like another form, or another unit, than the format has: see ``box_forms``."""
        columns = self._columns
        limits = self._sizes.sizes[columns.picture][:, [1, 0, 1, 0]]
        numbers = columns.box * limits if self.relative else columns.box
        area = columns.area.double()
        if found := other_form(numbers, limits, area, self.to_xyxy):
            row = self.objects[found.first]
            more = f", and {found.more:,} more that cannot be {found.meant}" if found.more else ""
            raise DataError(
                f"these boxes look like {found.written}; this format has {found.meant}",
                where=self.root,
                got=f"{row.where}: {_numbers(row.box)}{more}",
                expected=found.meant,
                fix=found.fix,
            )
        if larger := too_large(self._checks.given, area):
            raise self._too_small(larger, per_cent=are_per_cent(self._checks.given, area, limits))

    def _too_small(self, larger: Sequence[int], *, per_cent: bool) -> DataError:
        """The error for boxes of which most are smaller than their stated area. larger: those. per_cent: of the picture."""
        row = self.objects[larger[0]]
        more = f", and {len(larger) - 1:,} more" if len(larger) > 1 else ""
        pixels = "multiply x and widths by the picture's width, y and heights by its height, and divide them by 100"
        return DataError(
            "most boxes are smaller than the area that is stated for them"
            + ("; they look like per cent of the picture, and this format has pixels" if per_cent else ""),
            where=self.root,
            got=f"{row.where}: box {_numbers(row.box)}, area {row.area:g}{more}",
            expected="boxes in pixels, and areas that are not larger",
            fix=pixels if per_cent else "write the boxes in pixels; if they are right, correct area, or leave it out",
        )

    def other_classes(self, labels: Labels, split: str | None) -> DataError | None:
        """The error if there are objects of classes that the data set names, or only numbers, and no label counts; None if
        there are none.
        """
        if self.classes is None:
            used = sorted({row.key for row in self.objects if isinstance(row.key, int)})
            keys: Mapping[ClassKey, str] = {key: str(key) for key in used}
            names = tuple(keys.values())
        else:
            keys, names = self.classes.keys, self.classes.table.names
        count = Counter(keys[row.key] for row in self.objects if row.key in keys and row.key not in labels.of)
        return unknown_classes(count, names, labels, where=f"{self.root} ({split})" if split else str(self.root))

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of the data set's classes; none if nothing names them."""
        return self.classes.table.names if self.classes else ()

    def _image_ids(self, kept: Sequence[int]) -> tuple[int | str, ...]:
        """The pictures' ids, or their paths where splits that are read together use an id twice."""
        ids = tuple(self.pictures[i].image_id for i in kept)
        return ids if len(set(ids)) == len(ids) else tuple(self.name(self.pictures[i].path) for i in kept)

    def _labels(self, labels: Labels) -> Tensor:
        """(M,) int64: each object's label, or UNKNOWN."""
        return torch.tensor([labels.of.get(row.key, UNKNOWN) for row in self.objects], dtype=torch.int64)

    def _strangers(self, column: Tensor, labels: Labels) -> Iterator[Problem]:
        """A problem for each object of a class that no label counts."""
        stored = self.classes or StoredClasses.by_number(labels.table.names)
        expected = ", ".join(map(stored.key_text, list(labels.of)[:SHOWN]))
        for i in (column == UNKNOWN).nonzero().flatten().tolist():
            row = self.objects[i]
            yield Problem(row.where, f"unknown class {stored.key_text(row.key)}", expected=expected)

    @cached_property
    def _columns(self) -> _Columns:
        return _Columns(
            picture=torch.tensor([row.picture for row in self.objects], dtype=torch.int64),
            box=torch.from_numpy(np.array([row.box for row in self.objects], dtype=np.float64).reshape(-1, 4)),
            ignore=torch.tensor([row.ignore for row in self.objects], dtype=torch.bool),
            crowd=torch.tensor([row.crowd for row in self.objects], dtype=torch.bool),
            area=torch.tensor([row.area for row in self.objects], dtype=torch.float32),
        )

    @cached_property
    def _sizes(self) -> _Sizes:
        """The size of each picture, from its header where the annotations are silent. Raise LostError if its disk is so too."""
        with PatientThreads(farewell=0.0) as threads:
            unknown = {i: picture.path for i, picture in enumerate(self.pictures) if picture.size is None}
            looks = {i: threads.submit(partial(_size_of, path)) for i, path in unknown.items()}
            found = {i: threads.result(look, unknown[i]) for i, look in looks.items()}
        sizes = [picture.size or found[i] for i, picture in enumerate(self.pictures)]
        errors = {i: size for i, size in enumerate(sizes) if isinstance(size, DataError)}
        numbers = [(1, 1) if isinstance(size, DataError) else size for size in sizes]
        readable = torch.ones(len(sizes), dtype=torch.bool)
        readable[list(errors)] = False
        return _Sizes(torch.tensor(numbers, dtype=torch.int64).reshape(-1, 2), readable, errors)

    @property
    def _unreadable(self) -> Iterator[Problem]:
        """A problem for each picture whose size is unknown."""
        errors = self._sizes.errors.items()
        return (Problem.of(self.name(self.pictures[i].path), error, fault="picture") for i, error in errors)

    @cached_property
    def _checks(self) -> Checks:
        """Every box in pixels, cut to its picture, and what is right with it."""
        sizes = self._sizes.sizes[self._columns.picture]
        limits = sizes[:, [1, 0, 1, 0]]
        boxes = self.to_xyxy(self._columns.box)
        return checked(boxes * limits if self.relative else boxes, limits)

    def _bad_boxes(self, known: Tensor) -> Iterator[Problem]:
        """A problem for each bad box. known (M,) bool: objects of a known class; those in unreadable pictures do not count."""
        pictures = self._columns.picture
        for i in (~self._checks.good & known & self._sizes.readable[pictures]).nonzero().flatten().tolist():
            what = _fault(self._checks, i, self._sizes.sizes[pictures[i]])
            given = f"{_numbers(self.objects[i].box)} as left, top, width, height"
            empty: Fault | None = "box" if self._checks.finite[i] and not self._checks.solid[i] else None
            yield Problem(self.objects[i].where, what, given if self.to_xyxy is box_ops.from_xywh else None, fault=empty)


def unknown_classes(count: Mapping[str, int], names: Sequence[str], labels: Labels, *, where: str) -> DataError | None:
    """The error for objects of classes that no label counts; None if there are none. count: such objects, by class. names: of
    all classes of the data.
    """
    if not count:
        return None
    train = ", or train a model for these classes" if labels.owner == MODEL else ""
    of = f"{counted(sum(count.values()), 'object')} of {counted(len(count), 'class')}"
    return DataError(
        f"{of} that {labels.owner} does not have: {listed(count)}",
        where=where,
        got=f"{len(names)} in the data: {listed(names)}",
        expected=f"{labels.owner}'s {len(labels.table.names)}: {listed(labels.table.names)}",
        fix=f"use the same names{train}, or leave these objects out: --on-bad skip",
    )


def no_pictures(root: Path, split: str | None, problems: Sequence[Problem]) -> DataError:
    """The error for a data set, or a split of it, of which no picture is left. problems: why not."""
    what = f"no usable picture in {'' if split is None else f'split {split} of '}this data set"
    fix = f"see all that is wrong: {command('data check', root)}"
    if split is not None and not problems:
        fix = "add pictures to it, or take it out of the data set"
    return DataError(what, where=root, got=next(iter(problems), None), fix=fix)


class _Columns(NamedTuple):
    """The fields of all objects: picture (M,) int64, box (M, 4) float64, ignore and crowd (M,) bool, area (M,) float32."""

    picture: Tensor
    box: Tensor
    ignore: Tensor
    crowd: Tensor
    area: Tensor


class _Sizes(NamedTuple):
    """sizes (P, 2) int64: height and width; readable (P,) bool: whether the size is known; errors: why not, by picture."""

    sizes: Tensor
    readable: Tensor
    errors: dict[int, DataError]


def _fault(checks: Checks, i: int, size: Tensor) -> str:
    """What is wrong with box ``i`` of a picture of ``size`` (2,)."""
    numbers = ", ".join(f"{number:.6g}" for number in checks.given[i].tolist())
    if not checks.finite[i]:
        return f"the box is not four finite numbers: {numbers}"
    if not checks.solid[i]:
        return f"a box of zero or negative size: x1, y1, x2, y2 = {numbers}"
    return f"a box outside its picture, {size_text((int(size[0]), int(size[1])))}: x1, y1, x2, y2 = {numbers}"


def _numbers(box: Sequence[float]) -> str:
    """The numbers of a box as the file has them, for a message."""
    return ", ".join(f"{number:g}" for number in box)


def in_parts(boxes: Tensor) -> Tensor:
    """(M,) bool: the numbers of a box (M, 4) lie within 0-1 and are not all whole, so it is in parts of its picture."""
    return ((boxes >= 0) & (boxes <= 1)).all(dim=1) & (boxes != boxes.round()).any(dim=1)


def _size_of(path: str) -> Size | DataError:
    try:
        return image_size(path)
    except DataError as error:
        return error
