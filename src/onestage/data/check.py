"""The dataset doctor: everything worth knowing of a data set before training on it, and whatever is wrong with it.

Shape letters: N objects of the whole set. Sizes are (height, width).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data.dataset import Dataset, Problem
from onestage.data.reader import list_splits, load_dataset
from onestage.data.table import fault
from onestage.errors import DataError
from onestage.images import decode_image, image_size
from onestage.structures import Size

SMALL, MEDIUM = 32**2, 96**2
"""Areas in pixels below which COCO's evaluation calls an object small and medium (cocoapi, cocoeval.py, Params.areaRng)."""


@dataclass(frozen=True)
class SplitSummary:
    """One split; the name "" stands for a set that is not divided. ignored: difficult objects; crowds: crowd regions."""

    name: str
    pictures: int
    without_objects: int
    objects: int
    ignored: int
    crowds: int


@dataclass(frozen=True)
class ClassSummary:
    """One class over all splits. by_split: objects in each split, in the order of ``Report.splits``."""

    name: str
    objects: int
    pictures: int
    by_split: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    small, medium, large: objects by COCO's areas. box_side: square root of the box's area in pixels; box_share: the same as a
    part of the square root of the picture's area, 0-1; box_aspect: width over height. picture_sizes: (height, width) and how
    many pictures have it, commonest first. file_kinds: pictures by the suffix of their names. notes are worth a look and may be
    in order; problems are not. decoded: whether every picture was decoded, and not its header alone.
    """

    path: str
    format: str
    splits: tuple[SplitSummary, ...]
    classes: tuple[ClassSummary, ...]
    small: int
    medium: int
    large: int
    box_side: Spread | None
    box_share: Spread | None
    box_aspect: Spread | None
    picture_sizes: tuple[tuple[Size, int], ...]
    file_kinds: Mapping[str, int]
    notes: tuple[Problem, ...]
    problems: tuple[Problem, ...]
    decoded: bool

    @property
    def pictures(self) -> int:
        return sum(count for _, count in self.picture_sizes)

    @property
    def objects(self) -> int:
        return self.small + self.medium + self.large


def check_dataset(
    path: str | Path,
    format: str | None = None,
    *,
    split: str | None = None,
    fast: bool = False,
    progress: bool = False,
) -> Report:
    """Look at a whole data set, or at one split of it, and at every picture in it.

    fast: read only the pictures' headers; then truncated pictures and identical ones are not found. progress: show a bar.
    Raises DataError only where there is nothing to report on: no data set, or none of its pictures.
    """
    sets = _load(path, format, split)
    owners = _owners(sets)
    seen = _look_at(owners, fast=fast, progress=progress)
    leaks, twins = _identical(owners, seen, Path(path))
    duplicates = [note for data in sets for note in _duplicate_boxes(data)]
    problems = [problem for data in sets for problem in data.problems]
    unreadable = [Problem(_short(name, path), look.problem) for name, look in seen.items() if look.problem]
    boxes, areas, sizes = _objects(owners)
    side, picture_side = box_ops.area(boxes).sqrt(), sizes.prod(dim=1).sqrt()
    extent = boxes[:, 2:] - boxes[:, :2]
    return Report(
        path=str(path),
        format=sets[0].format,
        splits=tuple(map(_summary, sets)),
        classes=_classes(sets),
        small=int((areas < SMALL).sum()),
        medium=int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
        large=int((areas >= MEDIUM).sum()),
        box_side=_spread(side),
        box_share=_spread(side / picture_side),
        box_aspect=_spread(extent[:, 0] / extent[:, 1]),
        picture_sizes=tuple(Counter(data.sizes[i] or (0, 0) for data, i in _firsts(owners)).most_common()),
        file_kinds=dict(Counter(Path(name).suffix.lower().lstrip(".") or "none" for name in owners).most_common()),
        notes=tuple(dict.fromkeys([*twins, *duplicates])),
        problems=tuple(dict.fromkeys([*problems, *unreadable, *leaks])),
        decoded=not fast,
    )


Owners = Mapping[str, Sequence[tuple[Dataset, int]]]
"""By the path of each picture: the splits it is in, and its index there."""


class _Look(NamedTuple):
    """What looking at one picture gave: a digest of the file's bytes (None: not read), and what is wrong, if anything."""

    digest: bytes | None
    problem: str


def _load(path: str | Path, format: str | None, split: str | None) -> list[Dataset]:
    """The splits asked for. trainval is left out beside its parts, train and val."""
    if split is not None:
        names: list[str | None] = [split]
    else:
        existing = list_splits(path, format)
        names = [name for name in existing if name != "trainval" or not {"train", "val"} <= set(existing)] or [None]
    return [load_dataset(path, format, split=name, on_bad="skip") for name in names]


def _owners(sets: Sequence[Dataset]) -> Owners:
    owners: dict[str, list[tuple[Dataset, int]]] = defaultdict(list)
    for data in sets:
        for index, path in enumerate(data.paths):
            owners[path].append((data, index))
    return owners


def _firsts(owners: Owners) -> list[tuple[Dataset, int]]:
    """Each picture once, however many splits list it."""
    return [places[0] for places in owners.values()]


def _look_at(owners: Owners, *, fast: bool, progress: bool) -> dict[str, _Look]:
    """Look at every picture, several at a time: Pillow decodes outside of Python's lock."""

    def look(path: str) -> _Look:
        data, index = owners[path][0]
        try:
            content = b"" if fast else Path(path).read_bytes()
            size = image_size(path) if fast else tuple(decode_image(content).shape[1:])
        except DataError as error:
            return _Look(None, fault(error))
        except OSError as error:
            return _Look(None, f"this picture cannot be read: {error.strerror}")
        height, width = data.sizes[index] or size
        wrong = f"the picture is {size[1]} x {size[0]}, but its annotation says {width} x {height}"
        return _Look(None if fast else hashlib.sha256(content).digest(), "" if size == (height, width) else wrong)

    with Progress(transient=True, disable=not progress) as bar, ThreadPoolExecutor() as pool:
        looks = bar.track(pool.map(look, owners), total=len(owners), description="looking at every picture")
        return dict(zip(owners, looks, strict=True))


def _identical(owners: Owners, seen: Mapping[str, _Look], root: Path) -> tuple[list[Problem], list[Problem]]:
    """Pictures that come more than once: (in different splits, which is a leak; in one split)."""
    groups: dict[bytes | str, list[str]] = defaultdict(list)
    for path in owners:
        groups[seen[path].digest or path].append(path)
    leaks, twins = [], []
    for paths in groups.values():
        splits = sorted({str(data.split) for path in paths for data, _ in owners[path]})
        first, *others = (_short(path, root) for path in paths)
        same = f"the same picture as {', '.join(others)}" if others else "the same file"
        if len(splits) > 1:
            leaks.append(Problem(first, f"{same} is in several splits: {', '.join(splits)}"))
        elif others:
            twins.append(Problem(first, same))
    return leaks, twins


def _duplicate_boxes(data: Dataset) -> list[Problem]:
    """A note for each picture in which two objects of one class have exactly the same box."""
    notes = []
    for index, path in enumerate(data.paths):
        truth = data.truth(index)
        rows = torch.cat([truth.boxes, truth.labels[:, None].float()], dim=1)
        _, counts = rows.unique(dim=0, return_counts=True) if len(rows) > 1 else (rows, torch.ones(0))
        extra = int((counts - 1).sum())
        if extra:
            plural = "s" if extra > 1 else ""
            notes.append(Problem(_short(path, data.root), f"{extra} box{'es' * bool(plural)} given twice, with the same class"))
    return notes


def _objects(owners: Owners) -> tuple[Tensor, Tensor, Tensor]:
    """Of all objects: boxes (N, 4), areas (N,), and the height and width of their pictures (N, 2)."""
    truths = [data.truth(index) for data, index in _firsts(owners)]
    sizes = [torch.tensor(truth.size or (1, 1), dtype=torch.float32).expand(len(truth.boxes), 2) for truth in truths]
    return torch.cat([truth.boxes for truth in truths]), torch.cat([truth.area for truth in truths]), torch.cat(sizes)


def _summary(data: Dataset) -> SplitSummary:
    without = int((data.offsets[1:] == data.offsets[:-1]).sum())
    return SplitSummary(data.split or "", len(data), without, len(data.boxes), int(data.ignore.sum()), int(data.crowd.sum()))


def _classes(sets: Sequence[Dataset]) -> tuple[ClassSummary, ...]:
    """Classes in the data set's order; those that only some splits know come last."""
    names = dict.fromkeys(name for data in sets for name in data.classes)
    objects = [Counter(data.classes[label] for label in data.labels.tolist()) for data in sets]
    pictures: Counter[str] = Counter()
    for data in sets:
        owner = torch.repeat_interleave(torch.arange(len(data)), data.offsets.diff())
        pairs = torch.stack([owner, data.labels], dim=1).unique(dim=0)
        pictures.update(data.classes[label] for label in pairs[:, 1].tolist())
    rows = {name: tuple(own[name] for own in objects) for name in names}
    return tuple(ClassSummary(name, sum(row), pictures[name], row) for name, row in rows.items())


def _spread(values: Tensor) -> Spread | None:
    return Spread(float(values.min()), float(values.median()), float(values.max())) if len(values) else None


def _short(path: str, root: str | Path) -> str:
    """A path as messages say it: relative to the data set."""
    base = Path(root) if Path(root).is_dir() else Path(root).parent
    return Path(path).relative_to(base).as_posix() if Path(path).is_relative_to(base) else path
