"""From rows as the annotations give them to a checked ``Dataset``: one place decides what a good box is, for every format.

Shape letters: M objects of the whole set, P pictures. Boxes are xyxy.

Policy:
- Four finite numbers with x1 < x2 and y1 < y2, or the box is a problem. So a box of zero size is one.
- A box may leave its picture by up to ``SLACK`` pixels, which is how tools round, and is cut silently. More is a problem.
- A picture that is missing, or whose size must come from its header and cannot, is one problem; its objects go with it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data.dataset import Dataset, Problem, complain
from onestage.errors import ConfigError, DataError
from onestage.images import image_size
from onestage.structures import Size

OnBad = Literal["stop", "skip"]

SLACK = 2.0
"""Pixels by which a box may leave its picture: counting from 1 instead of 0 costs one, rounding up another."""


class Classes(NamedTuple):
    """The classes of a data set, a row per label: the name, and the data set's own id.

    own: all names that the data set has for its classes, asked for or not; empty where the labels do not go by name.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    own: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A picture that is there. A size of None is read from its header."""

    path: str
    image_id: int | str
    size: Size | None = None


class Row(NamedTuple):
    """One object: the row of its picture, its box, and the file and line that a message about it names. nan: no area given."""

    picture: int
    box: Sequence[float]
    label: int
    where: str
    ignore: bool = False
    crowd: bool = False
    area: float = float("nan")


@dataclass
class Table:
    """What a reader collects: plain lists, so that adding a row is cheap.

    to_xyxy: from the format's boxes to ours; relative: boxes are parts of the picture's width and height, not pixels.
    """

    root: Path
    to_xyxy: Callable[[Tensor], Tensor] = torch.clone
    relative: bool = False
    pictures: list[Picture] = field(default_factory=list)
    objects: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, where: str, what: str) -> None:
        self.problems.append(Problem(where, what))

    def name(self, path: str | Path) -> str:
        """A path as messages say it: relative to the data set."""
        path = Path(path)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def dataset(self, format: str, split: str | None, *, classes: Classes, on_bad: OnBad) -> Dataset:
        """The checked data set. DataError that lists the problems if there are any, unless ``on_bad`` is "skip"."""
        sizes, readable = self._sizes()
        boxes, good = self._boxes(sizes, readable)
        if self.problems and on_bad == "stop":
            raise complain(self.root, self.problems)
        kept = readable.nonzero().flatten().tolist()
        if not kept:
            raise DataError("no usable picture in this data set", where=self.root, got=next(iter(self.problems), None))
        owners = self._column("picture", torch.int64)
        rows = good.nonzero().flatten()
        rows = rows[owners[rows].argsort(stable=True)]
        counts = owners[rows].bincount(minlength=len(self.pictures))[kept]
        area = self._column("area", torch.float32)[rows]
        return Dataset(
            root=self.root,
            format=format,
            split=split,
            paths=tuple(self.pictures[i].path for i in kept),
            image_ids=self._image_ids(kept),
            sizes=tuple((height, width) for height, width in sizes[kept].tolist()),
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            boxes=boxes[rows],
            labels=self._column("label", torch.int64)[rows],
            ignore=self._column("ignore", torch.bool)[rows],
            crowd=self._column("crowd", torch.bool)[rows],
            area=torch.where(area > 0, area, box_ops.area(boxes[rows])),
            classes=classes.names,
            category_ids=classes.ids,
            problems=tuple(self.problems),
        )

    def _column(self, name: str, dtype: torch.dtype) -> Tensor:
        """One field of all objects, (M, ...)."""
        values = [row[Row._fields.index(name)] for row in self.objects]
        return torch.from_numpy(np.array(values, dtype=np.float64)).to(dtype)

    def _image_ids(self, kept: Sequence[int]) -> tuple[int | str, ...]:
        """The pictures' ids, or their paths where splits read together use the same ids twice."""
        ids = tuple(self.pictures[i].image_id for i in kept)
        return ids if len(set(ids)) == len(ids) else tuple(self.name(self.pictures[i].path) for i in kept)

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """(P, 2) height and width of each picture, from its header where the annotations are silent; (P,) if that worked."""
        sizes = [picture.size or (1, 1) for picture in self.pictures]
        readable = torch.ones(len(sizes), dtype=torch.bool)
        unknown = [i for i, picture in enumerate(self.pictures) if picture.size is None]
        with ThreadPoolExecutor() as pool:
            found = pool.map(_size_of, [self.pictures[i].path for i in unknown])
            for i, size in zip(unknown, found, strict=True):
                if isinstance(size, DataError):
                    self.problem(self.name(self.pictures[i].path), fault(size))
                    readable[i] = False
                else:
                    sizes[i] = size
        return torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2), readable

    def _boxes(self, sizes: Tensor, readable: Tensor) -> tuple[Tensor, Tensor]:
        """(M, 4) float32 boxes in pixels, cut to their pictures, and (M,) which are good; the others become problems."""
        own = sizes[self._column("picture", torch.int64)]
        limits = own[:, [1, 0, 1, 0]]
        boxes = self.to_xyxy(self._column("box", torch.float64).reshape(-1, 4))
        boxes = boxes * limits if self.relative else boxes
        cut = box_ops.clip(boxes, own.double()).float()
        finite = boxes.isfinite().all(dim=1)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        within = ((boxes >= -SLACK) & (boxes <= limits + SLACK)).all(dim=1) & (cut[:, 2:] > cut[:, :2]).all(dim=1)
        good = finite & solid & within
        there = readable[self._column("picture", torch.int64)]
        for i in (~good & there).nonzero().flatten().tolist():
            numbers = ", ".join(f"{number:.6g}" for number in boxes[i].tolist())
            if not finite[i]:
                what = f"the box is not four finite numbers: {numbers}"
            elif not solid[i]:
                what = f"a box of zero or negative size: x1, y1, x2, y2 = {numbers}"
            else:
                what = f"a box outside its picture ({own[i, 1]} x {own[i, 0]}): x1, y1, x2, y2 = {numbers}"
            self.problem(self.objects[i].where, what)
        return cut, good & there


def _size_of(path: str) -> Size | DataError:
    try:
        return image_size(path)
    except DataError as error:
        return error


def fault(error: DataError) -> str:
    """What an error says, in one line, without where it was and how to mend it: those stand beside a listed problem anyway."""
    details = {"got": error.got, "expected": error.expected}
    parts = [error.what, *(f"{name}: {detail}" for name, detail in details.items() if detail is not None)]
    return "; ".join(" ".join(part.split()) for part in parts)


def label_table(names: Sequence[str], ids: Sequence[int], wanted: Sequence[str] | None) -> Classes:
    """The classes that labels count: the data set's own, or those ``wanted``, with the ids the data set has for them.

    A wanted class that the data set does not know gets the next free id.
    """
    if wanted is None:
        return Classes(tuple(names), tuple(ids), tuple(names))
    if len(set(wanted)) < len(wanted):
        raise DataError("a class is named twice", where="classes", got=", ".join(wanted))
    known = dict(zip(names, ids, strict=True))
    free = iter(range(max(ids, default=-1) + 1, max(ids, default=-1) + 1 + len(wanted)))
    return Classes(tuple(wanted), tuple(known[name] if name in known else next(free) for name in wanted), tuple(names))


def differ(root: Path, own: Sequence[str], wanted: Sequence[str], *, fix: str) -> ConfigError:
    """The error where a model that knows the classes ``wanted`` meets a data set of others."""
    return ConfigError(
        "model and data differ in their classes",
        where=root,
        got=f"{len(own)} in the data: {', '.join(own[:10])}",
        expected=f"the model's {len(wanted)}: {', '.join(wanted[:10])}",
        fix=fix,
    )
