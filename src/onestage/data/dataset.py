"""A data set in memory: what every reader makes and everything else uses. Pictures stay on disk until they are asked for.

Shape letters: N objects in one picture, M objects of the whole set, P pictures, K classes. Boxes are xyxy float32 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from onestage.errors import DataError, counted, first_ten
from onestage.images import decode_image
from onestage.structures import Sample, Size, Truth, check_labels


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data set: the file (and line or field), what is wrong, and what it costs to go on without it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, eq=False)
class Dataset(torch.utils.data.Dataset[Sample]):
    """P labelled pictures as columns, so that a million of them stay cheap to hold, to share with workers and to slice.

    paths, image_ids, sizes: P each; a size is (height, width), or None where the format does not give it.
    boxes (M, 4), labels (M,) int64 in 0..K-1, ignore (M,) bool (difficult), crowd (M,) bool, area (M,) float32: the objects of
    picture i are the rows offsets[i]:offsets[i + 1]. classes and category_ids: the K names and the data set's own ids.
    problems: what was wrong and left out (empty unless it was read with on_bad="skip").
    """

    root: Path
    format: str
    split: str | None
    paths: tuple[str, ...]
    image_ids: tuple[int | str, ...]
    sizes: tuple[Size | None, ...]
    offsets: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    crowd: Tensor
    area: Tensor
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: tuple[Problem, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        columns = (self.boxes, self.labels, self.ignore, self.crowd, self.area)
        assert len({len(c) for c in columns}) == 1 and int(self.offsets[-1]) == len(self.boxes)
        assert len(self.paths) == len(self.image_ids) == len(self.sizes) == len(self.offsets) - 1
        assert len(self.classes) == len(self.category_ids)
        check_labels(self.labels, len(self.classes), where=self.root)

    def __len__(self) -> int:
        return len(self.paths)

    def _rows(self, index: int) -> slice:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def truth(self, index: int) -> Truth:
        """What is known of picture ``index``, without reading its pixels."""
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

    def __getitem__(self, index: int) -> Sample:
        """Decode picture ``index``. Raises DataError naming the file if it cannot be read or contradicts its annotation."""
        truth = self.truth(index)
        image = decode_image(truth.path)
        if truth.size is not None and truth.size != tuple(image.shape[1:]):
            raise DataError(
                "the picture's size contradicts its annotation",
                where=truth.path,
                got=f"{image.shape[1]} x {image.shape[2]} pixels (height x width)",
                expected=f"{truth.size[0]} x {truth.size[1]}",
                fix="correct the annotation, or leave the picture out with --on-bad skip",
            )
        return Sample(image, truth.boxes, truth.labels, truth.ignore | truth.crowd, truth.image_id, truth.path)

    def subset(self, indices: Sequence[int], split: str | None = None) -> Dataset:
        """The pictures at ``indices``, in that order, with their objects."""
        rows = [torch.arange(self._rows(i).start, self._rows(i).stop) for i in indices]
        picked = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
        lengths = torch.tensor([0, *(len(r) for r in rows)])
        return replace(
            self,
            split=split or self.split,
            paths=tuple(self.paths[i] for i in indices),
            image_ids=tuple(self.image_ids[i] for i in indices),
            sizes=tuple(self.sizes[i] for i in indices),
            offsets=lengths.cumsum(0),
            boxes=self.boxes[picked],
            labels=self.labels[picked],
            ignore=self.ignore[picked],
            crowd=self.crowd[picked],
            area=self.area[picked],
        )

    def hold_out(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Two disjoint parts, drawn by ``seed``: the larger one and the ``fraction`` held out (at least one picture of two)."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        count = min(max(1, round(fraction * len(self))), len(self) - 1)
        return self.subset(sorted(order[count:])), self.subset(sorted(order[:count]), split="held out")


def complain(root: Path, problems: Sequence[Problem]) -> DataError:
    """The one error that lists what is wrong with a data set: the first ten with file and line, the others counted."""
    lines = first_ten([str(p) for p in problems])
    fix = 'correct them, or go on without them: --on-bad skip, in Python on_bad="skip"'
    return DataError(f"{root}: {counted(len(problems), 'problem')} in this data set\n{lines}\n  fix:      {fix}")
