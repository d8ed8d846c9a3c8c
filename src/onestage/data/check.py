"""The dataset doctor: the facts to know about a data set before training, and the faults in it.

Shape letters: N objects of the whole set. Sizes are (height, width).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor

from onestage import boxes as box_ops
from onestage.console import Terminal
from onestage.data.dataset import NO_VALIDATION, Dataset, Problem, contradiction, owner_of
from onestage.data.memory import GIGABYTES, PictureMemory, in_bytes
from onestage.data.problems import problems_of
from onestage.data.reader import OpenData, open_data
from onestage.data.tallies import MEDIUM, SMALL, never_taught, objects_of, pictures_with
from onestage.data.threads import PatientThreads
from onestage.data.workers import TIMEOUT
from onestage.errors import DataError
from onestage.images import Stored, decode_image, decoding_cost, image_size, picture_bytes
from onestage.structures import Size


@dataclass(frozen=True)
class SplitSummary:
    """One split; the name is "" if the data set is not divided. ignored: difficult objects; crowds: crowd regions."""

    name: str
    pictures: int
    without_objects: int
    objects: int
    ignored: int
    crowds: int


@dataclass(frozen=True)
class ClassSummary:
    """One class over all splits. by_split: objects in each split, in the order of ``Checkup.splits``."""

    name: str
    objects: int
    pictures: int
    by_split: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some numbers."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class Checkup:
    """The findings of the doctor.

    small, medium, large: how many objects have such an area, by COCO's limits. box_side: square root of the box's area in
    pixels. box_share: the same divided by the square root of the picture's area, 0-1. box_aspect: width over height.
    picture_sizes: (height, width) and how many pictures have it, the most frequent first. file_kinds: pictures by the suffix
    of their names. notes are worth a look and may be right; problems are wrong. decoded: every picture was decoded; False if
    only the headers were read.
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
        """The number of pictures."""
        return sum(count for _, count in self.picture_sizes)

    @property
    def objects(self) -> int:
        """The number of objects."""
        return self.small + self.medium + self.large

    def to_dict(self) -> dict[str, object]:
        """The same as plain data, for JSON. A problem is its place (where) and its reason in one line (what)."""
        listed = {name: [{"where": p.where, "what": p.reason} for p in getattr(self, name)] for name in ("notes", "problems")}
        return asdict(self) | listed


def check_dataset(
    path: str | Path,
    format: str | None = None,
    *,
    split: str | None = None,
    fast: bool = False,
    progress: bool = False,
    gigabytes: float = GIGABYTES,
    timeout: float = TIMEOUT,
) -> Checkup:
    """Look at a whole data set, or at one split of it, and at every picture in it.

    fast: read only the pictures' headers; then truncated pictures and identical ones are not found. progress: show a bar.
    gigabytes: of memory for pictures that are decoded at the same time. timeout: seconds to wait for one picture.
    Raise DataError only if no data set can be read.
    """
    opened = open_data(path, format)
    sets = _load(opened, split)
    owners = _owners(sets)
    look = partial(_look, memory=PictureMemory(in_bytes(gigabytes)), fast=fast)
    seen = _look_at(owners, look, timeout=timeout, progress=progress)
    leaks, twins = _identical(owners, seen, Path(path))
    unreadable = [Problem.of(_short(name, path), look.error) for name, look in seen.items() if look.error]
    boxes, areas, sizes = _objects(owners)
    side, picture_side = box_ops.area(boxes).sqrt(), sizes.prod(dim=1).sqrt()
    extent = boxes[:, 2:] - boxes[:, :2]
    return Checkup(
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
        file_kinds=dict(Counter(map(_file_kind, owners)).most_common()),
        notes=_once(_doubts(opened, sets, split), *(d.notes for d in sets), twins, *map(_duplicate_boxes, sets)),
        problems=_once(problems_of(opened, sets, split), unreadable, leaks),
        decoded=not fast,
    )


Owners = Mapping[str, Sequence[tuple[Dataset, int]]]
"""For the path of each picture: the splits that list it, and its index in each."""


class _Look(NamedTuple):
    """One picture. digest: of the file's bytes, None if they were not read. error: what is wrong, or None."""

    digest: bytes | None
    error: DataError | None = None


def _load(opened: OpenData, split: str | None) -> list[Dataset]:
    """The split that is wanted, or all of them; not trainval if there are both of its parts, train and val."""
    names: list[str | None] = [split]
    if split is None:
        parts_exist = {"train", "val"} <= set(opened.splits)
        names = [name for name in opened.splits if name != "trainval" or not parts_exist] or [None]
    return [opened.look(name) for name in names]


def _doubts(opened: OpenData, sets: Sequence[Dataset], split: str | None) -> list[Problem]:
    """Notes on the files and splits as a whole. split: the only one that is looked at, if any."""
    if split is not None:
        return [*opened.others]
    unmeasured = "val" not in (*opened.splits, *opened.missing) and {*opened.splits} != {"test"} and sum(map(len, sets)) > 1
    notes = [Problem(str(opened.path), NO_VALIDATION)] if unmeasured else []
    return [*opened.others, *opened.left_out, *opened.passed_over, *opened.undivided, *notes, *_untaught(opened, sets)]


def _untaught(opened: OpenData, sets: Sequence[Dataset]) -> list[Problem]:
    """A note for classes that only validation pictures have, unless that is a problem already."""
    train, val = (next((data for data in sets if data.split == name), None) for name in ("train", "val"))
    if train is None or val is None or opened.other_classes("val", train.classes, owner=owner_of(train)):
        return []
    return [Problem(str(opened.path), text) for text in never_taught(train, val)]


def _owners(sets: Sequence[Dataset]) -> Owners:
    owners: dict[str, list[tuple[Dataset, int]]] = defaultdict(list)
    for data in sets:
        for index, path in enumerate(data.paths):
            owners[path].append((data, index))
    return owners


def _firsts(owners: Owners) -> list[tuple[Dataset, int]]:
    """Each picture once, however many splits list it."""
    return [places[0] for places in owners.values()]


def _look_at(
    owners: Owners, look: Callable[[Stored, Size | None], _Look], *, timeout: float, progress: bool
) -> dict[str, _Look]:
    """Look at every picture, several at a time: Pillow decodes without Python's global lock."""
    firsts = {path: places[0] for path, places in owners.items()}
    with (
        PatientThreads(timeout=timeout, farewell=0.0) as threads,
        Progress(console=Terminal(), transient=True, disable=not progress) as bar,
    ):
        looks = {p: threads.submit(partial(look, data.stored(row), data.sizes[row])) for p, (data, row) in firsts.items()}
        tracked = bar.track(looks.items(), total=len(owners), description="looking at every picture")
        return {path: threads.result(future, path) for path, future in tracked}


def _look(path: Stored, stated: Size | None, *, memory: PictureMemory, fast: bool) -> _Look:
    """Decode a picture, or read only its header, and compare its size with the one in its annotation."""
    try:
        with memory.share() as admit:
            if not fast:
                admit(decoding_cost(path))
            content = b"" if fast else picture_bytes(path)
            height, width = image_size(path) if fast else decode_image(content).shape[1:]
            digest = None if fast else hashlib.sha256(content).digest()
    except DataError as error:
        return _Look(None, error)
    if stated in (None, (height, width)):
        return _Look(digest)
    return _Look(digest, contradiction(str(path), (height, width), stated))


def _identical(owners: Owners, seen: Mapping[str, _Look], root: Path) -> tuple[list[Problem], list[Problem]]:
    """Pictures that occur more than once: those in different splits, which leak, and those in one split."""
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
            boxes = f"{extra} {'boxes' if extra > 1 else 'box'}"
            notes.append(Problem(_short(path, data.root), f"{boxes} given twice, with the same class"))
    return notes


def _objects(owners: Owners) -> tuple[Tensor, Tensor, Tensor]:
    """Of all objects: boxes (N, 4), areas (N,), and (N, 2) height and width of their pictures."""
    truths = [data.truth(index) for data, index in _firsts(owners)]
    if not truths:
        return torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 2)
    sizes = [torch.tensor(truth.size or (1, 1), dtype=torch.float32).expand(len(truth.boxes), 2) for truth in truths]
    return torch.cat([truth.boxes for truth in truths]), torch.cat([truth.area for truth in truths]), torch.cat(sizes)


def _summary(data: Dataset) -> SplitSummary:
    without = int((data.offsets[1:] == data.offsets[:-1]).sum())
    return SplitSummary(data.split or "", len(data), without, len(data.boxes), int(data.ignore.sum()), int(data.crowd.sum()))


def _classes(sets: Sequence[Dataset]) -> tuple[ClassSummary, ...]:
    """Classes in the data set's order. Those that the first split does not know come last."""
    names = dict.fromkeys(name for data in sets for name in data.classes)
    objects = [dict(zip(data.classes, objects_of(data, every=True), strict=True)) for data in sets]
    pictures: Counter[str] = Counter()
    for data in sets:
        pictures.update(dict(zip(data.classes, pictures_with(data, every=True), strict=True)))
    rows = {name: tuple(counted.get(name, 0) for counted in objects) for name in names}
    return tuple(ClassSummary(name, sum(row), pictures[name], row) for name, row in rows.items())


def _spread(values: Tensor) -> Spread | None:
    """Of (N,) values; None if there are none."""
    return Spread(float(values.min()), float(values.median()), float(values.max())) if len(values) else None


def _file_kind(path: str) -> str:
    return Path(path).suffix.lower().lstrip(".") or "none"


def _once(*parts: Iterable[Problem]) -> tuple[Problem, ...]:
    """All problems in order, each once."""
    return tuple(dict.fromkeys(chain(*parts)))


def _short(path: str, root: str | Path) -> str:
    """A path as messages write it: relative to the data set."""
    base = Path(root) if Path(root).is_dir() else Path(root).parent
    return Path(path).relative_to(base).as_posix() if Path(path).is_relative_to(base) else path
