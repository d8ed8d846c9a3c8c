"""Numbers of objects: of each class, of each size, and of pictures with some of a class. A part of the objects is counted at a
time, so those of a million pictures take next to no memory.

Shape letters: N objects that are counted together, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from onestage.data.dataset import Dataset

AT_ONCE = 2**16
"""Objects that are counted together; all those of one picture, if it has more."""
SMALL, MEDIUM = 32**2, 96**2
"""COCO's evaluation calls objects of a smaller area in pixels small or medium (cocoapi, cocoeval.py, Params.areaRng)."""


def spans(data: Dataset, *, most: int | None = None) -> Iterator[tuple[slice, slice]]:
    """The rows of some pictures, and those of their N objects, until all have come. N is at most ``most``, by default AT_ONCE;
    a picture with more comes alone.
    """
    most = AT_ONCE if most is None else most
    first = 0
    while first < len(data):
        begun = int(data.offsets[first])
        stop = max(first + 1, int(torch.searchsorted(data.offsets, begun + most, right=True)) - 1)
        yield slice(first, stop), slice(begun, int(data.offsets[stop]))
        first = stop


def owners(data: Dataset, pictures: slice) -> Tensor:
    """The row of the picture of each object of these pictures, (N,) int64."""
    return pictures.start + torch.repeat_interleave(data.offsets[pictures.start : pictures.stop + 1].diff())


def bands(area: Tensor) -> Tensor:
    """area (N,) in pixels of the picture -> (N,) int64: 0 for small, 1 for medium, 2 for large objects."""
    return torch.bucketize(area, torch.tensor([SMALL, MEDIUM], dtype=area.dtype), right=True)


def counting(data: Dataset, rows: slice) -> Tensor:
    """Which of these objects count, (N,) bool: those that are neither difficult nor crowd regions."""
    return ~(data.ignore[rows] | data.crowd[rows])


def objects_by_size(data: Dataset) -> Tensor:
    """(K, 3) int64: the small, medium and large objects of each class that count."""
    found = torch.zeros(3 * len(data.classes), dtype=torch.int64)
    for _, rows in spans(data):
        which = counting(data, rows)
        found += torch.bincount(3 * data.labels[rows][which] + bands(data.area[rows][which]), minlength=len(found))
    return found.view(-1, 3)


def objects_of(data: Dataset, *, every: bool = False) -> list[int]:
    """The number of objects of each class: of those that count, or of ``every`` one."""
    found = torch.zeros(len(data.classes), dtype=torch.int64)
    for _, rows in spans(data):
        labels = data.labels[rows] if every else data.labels[rows][counting(data, rows)]
        found += torch.bincount(labels, minlength=len(found))
    return found.tolist()


def pictures_with(data: Dataset, *, every: bool = False) -> list[int]:
    """The number of pictures with objects of each class: with some that count, or with any if ``every`` one is meant."""
    kinds = len(data.classes)
    found = torch.zeros(kinds, dtype=torch.int64)
    for pictures, rows in spans(data):
        pairs = owners(data, pictures) * kinds + data.labels[rows]
        pairs = (pairs if every else pairs[counting(data, rows)]).unique()
        found += torch.bincount(pairs % max(1, kinds), minlength=kinds)
    return found.tolist()


def never_taught(train: Dataset, val: Dataset) -> list[str]:
    """A sentence for the classes that validation pictures have and training pictures have not; none if there are no such."""
    taught = _classes_in(train)
    missed = [name for name in _classes_in(val) if name not in taught]
    what = f"no training picture has an object of a class that validation pictures have: {', '.join(missed[:10])}"
    return [what] if missed else []


def _classes_in(data: Dataset) -> list[str]:
    """The classes of which there are objects."""
    return [name for name, count in zip(data.classes, objects_of(data, every=True), strict=True) if count]
