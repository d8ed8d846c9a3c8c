"""A data set in another format: the same labels, and the same bytes of the pictures.

The copy is made in a temporary folder beside its place. There it is read, and compared with the original. Then it takes its
place. A kill, Ctrl-C or a full disk leaves no copy there, and the same command begins from the start; it also removes the
temporary folder of a killed command.

Shape letters: K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from onestage.data.copies import CocoCopy, Copy, Names, ParquetShards, Place, TarShards, VocCopy, Writer, YoloCopy
from onestage.data.dataset import Dataset, Problem
from onestage.data.label_files import missed_by_others
from onestage.data.problems import refuse_problems
from onestage.data.reader import OpenData, open_data
from onestage.data.table import OnBad
from onestage.errors import ConfigError, DataError, check_number, counted, first_ten
from onestage.files import given_path, make_folder, temporary_folder, writing
from onestage.images import picture_bytes
from onestage.structures import ClassSet, Truth

Target = Literal["wds", "parquet", "coco", "yolo", "voc"]
WRITERS: Mapping[str, Callable[[Place], Writer]] = {
    "wds": TarShards,
    "parquet": ParquetShards,
    "coco": CocoCopy,
    "yolo": YoloCopy,
    "voc": VocCopy,
}
SHARD = 256.0
"""Megabytes of a shard, if nothing else is said."""
ROUNDS = 1e-9
"""Pixels by which a corner may differ that YOLO's parts of a picture give back: 0 may become 1e-15. Others are the same to the
bit.
"""
Track = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Opens a block of so many pictures; what it gives is called after each one."""


@dataclass(frozen=True)
class Converted:
    """What was written. pictures: of each split; "" for a data set that is not divided. lost: what the format cannot say, and
    how often. problems: what was left out. note: what other programs miss in the copy.
    """

    pictures: Mapping[str, int]
    objects: int
    lost: Mapping[str, int]
    problems: tuple[Problem, ...]
    note: str | None = None


def convert(
    data: str | Path,
    out: Path,
    *,
    to: Target,
    format: str | None = None,
    on_bad: OnBad = "stop",
    shard: float = SHARD,
    track: Track = lambda text, count: nullcontext(lambda: None),
) -> Converted:
    """Write a data set into the folder ``out``, which is made or empty, in the format ``to``.

    format: that of the data set; recognised if left out. on_bad: "stop" raises DataError if anything is wrong with the data
    set; "skip" leaves that out. shard: megabytes of a shard. track: shows how far the work is.

    Raise ConfigError if something is in ``out``, or if that lies in the data set; DataError if the copy is not as the original;
    WriteError if it cannot be written.
    """
    check_number("shard", shard, least=1e-6, most=100_000)
    out = given_path(out, "out")
    out = out.resolve() if out.is_symlink() else out
    opened = open_data(data, format)
    _check_place(opened, out)
    sets = _load(opened, on_bad)
    problems = [*dict.fromkeys(problem for part in sets for problem in part.problems)]
    named, lost = {}, Counter[str]()
    make_folder(out.parent)
    given_path(out, "out")  # a name is too long only in a folder that is there
    with temporary_folder(out) as folder:
        copy, names = make_folder(folder / "copy"), Names(dots=to != "wds")
        for part in sets:
            classes, numbered = ClassSet(part.classes, part.category_ids), all(isinstance(name, int) for name in part.image_ids)
            writer = WRITERS[to](Place(copy, part.split, classes, int(shard * 1e6), numbered))
            with track(part.split or "pictures", len(part)) as done:
                named[part.split or ""] = _write(part, writer, names, on_bad, problems, done)
            lost.update(writer.lost)
        _compare(copy, to, sets, named)
        with writing(out):
            if out.exists():
                out.rmdir()
            copy.replace(out)
    objects = sum(int(part.offsets.diff()[[*named[part.split or ""]]].sum()) for part in sets)
    pictures = {split: len(copied) for split, copied in named.items()}
    note = missed_by_others(pictures) if to == "yolo" else None
    return Converted(pictures, objects, {what: number for what, number in lost.items() if number}, tuple(problems), note)


def _check_place(opened: OpenData, out: Path) -> None:
    """Raise ConfigError if a copy in that folder would write over something, or lie among the files that it is made from."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what, fix = "the copy would lie among other files", "name a folder that is not there yet, or is empty"
        raise ConfigError(what, where=out, got="a folder with files in it" if out.is_dir() else "a file", fix=fix)
    if out.resolve().is_relative_to(opened.tree.top.resolve()):
        what, fix = "the copy would lie inside the data set", "name a folder beside it"
        raise ConfigError(what, where=out, got=f"a folder in {opened.tree.top}", fix=fix)


def _load(opened: OpenData, on_bad: OnBad) -> list[Dataset]:
    """All splits; not trainval if there are both of its parts. Raise DataError if something is wrong that is not to be skipped,
    or if the splits have other classes.
    """
    both = {"train", "val"} <= {*opened.splits}
    splits: list[str | None] = [split for split in opened.splits if split != "trainval" or not both]
    splits = splits or [None]
    if on_bad == "stop":
        refuse_problems(opened, splits, names=None)
    first = opened.load(splits[0], on_bad=on_bad)
    return [
        first,
        *(opened.load(split, classes=first.classes, owner=f"the split {first.split}", on_bad=on_bad) for split in splits[1:]),
    ]


def _write(
    data: Dataset, writer: Writer, names: Names, on_bad: OnBad, problems: list[Problem], done: Callable[[], None]
) -> dict[int, str]:
    """Write a split. Return the name of each picture by its row; those that cannot be read have none."""
    try:
        found = dict(_written(data, writer, names, on_bad, problems, done))
        writer.finish()
    except BaseException as error:
        writer.abandon(error)
        raise
    return found


def _written(
    data: Dataset, writer: Writer, names: Names, on_bad: OnBad, problems: list[Problem], done: Callable[[], None]
) -> Iterator[tuple[int, str]]:
    """The row and the name of each picture, once it is written."""
    for row in range(len(data)):
        truth = data.truth(row)
        try:
            content = picture_bytes(data.stored(row))
            size = data.size_of(row)
            if size is None:
                raise DataError("the size of this picture cannot be read", where=truth.path, fix="replace it, or leave it out")
        except DataError as error:
            if on_bad == "stop":
                raise
            problems.append(Problem.of(truth.path, error, fault="picture"))
        else:
            name = names.of(truth.path, content)
            writer.add(Copy(name, content, truth, size))
            yield row, name
        done()


def _compare(copy: Path, to: Target, sets: list[Dataset], named: Mapping[str, Mapping[int, str]]) -> None:
    """Read the copy. Raise DataError unless it says the same as the original, as far as its format can."""
    wrong: list[str] = []
    try:
        opened = open_data(copy, to)
        for part in sets:
            copied = named[part.split or ""]
            if copied:
                wrong += _differences(part, opened.load(part.split if opened.splits else None, on_bad="skip"), copied, to)
    except DataError as error:
        wrong.append(str(error))
    if wrong:
        what, fix = "the copy does not say the same as the data set, and was removed", "choose another format"
        raise DataError(what, where=copy, got="\n" + first_ten(wrong), fix=fix)


def _differences(data: Dataset, copy: Dataset, copied: Mapping[int, str], to: Target) -> Iterator[str]:
    """What is not the same, a line for each picture."""
    row_of = {path.replace("\\", "/").rpartition("/")[2]: row for row, path in enumerate(copy.paths)}
    label_of = torch.tensor(
        [copy.classes.index(name) if name in copy.classes else -1 for name in data.classes], dtype=torch.int64
    )
    yield from map(str, copy.problems)
    if len(copy) != len(copied):
        yield f"{counted(len(copied), 'picture')} in the original, {len(copy):,} in the copy"
    for row, name in copied.items():
        if name not in row_of:
            yield f"{name}: it is missing"
            continue
        if other := _unlike(data.truth(row), copy.truth(row_of[name]), label_of, to):
            yield f"{name}: other {', '.join(other)}"


def _unlike(mine: Truth, its: Truth, label_of: Tensor, to: Target) -> list[str]:
    """What is not the same in the copy of a picture, as far as its format says it. label_of (K,): the copy's label by ours."""
    seen = ~(mine.ignore | mine.crowd) if to == "yolo" else torch.ones(len(mine.boxes), dtype=torch.bool)
    pairs = {"classes": (label_of[mine.labels[seen]], its.labels)}
    if to == "voc":
        pairs["difficult"] = (mine.ignore | mine.crowd, its.ignore)
    elif to != "yolo":
        pairs |= {"difficult": (mine.ignore, its.ignore), "crowds": (mine.crowd, its.crowd), "areas": (mine.area, its.area)}
    other = [what for what, (ours, theirs) in pairs.items() if not torch.equal(ours, theirs)]
    boxes, near = mine.boxes[seen], ROUNDS if to == "yolo" else 0.0
    same = boxes.shape == its.boxes.shape and bool(((boxes - its.boxes).abs() <= near).all())
    return other if same else ["boxes", *other]
