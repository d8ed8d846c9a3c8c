"""Data sets in shards: files that each hold some thousand pictures with their labels. What tars and Parquet files share.

Every shard is read once. What it says is checked as that of any other format, shard by shard, and kept as columns in a file of
the cache (``files.cache_folder``), from which the data set is open at once the next time. The columns are made again if a
shard, or the list of classes, has another size or time of change.

The classes are listed in classes.json beside the shards, ``{"classes": [{"id": 1, "name": "cat"}]}``, as COCO lists its
categories. Without the list they are all names in the objects, sorted.

Shape letters: P pictures, M objects of the whole set, K classes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from onestage.console import Terminal
from onestage.data.coco import categories_of
from onestage.data.columns import Array, Column, InPlace, Numbers, Parts, Sizes, Texts, read_columns, write_columns
from onestage.data.dataset import Dataset, Problem, complain
from onestage.data.files import Sources, by_split, read_text, split_above
from onestage.data.labels import ClassKey, Labels, StoredClasses, alike
from onestage.data.shard_columns import CLASSES, OBJECT_COLUMNS, Collected, Places, before
from onestage.data.split_words import split_name
from onestage.data.table import ONE_NAME, UNKNOWN, OnBad, PictureFile, Table, no_pictures, unknown_classes
from onestage.data.text import quoted
from onestage.data.tree import Tree
from onestage.errors import DataError, OnestageError, WriteError, counted
from onestage.files import TEMPORARY, Json, cache_folder, make_folder
from onestage.parts import Stamp, stamp_of
from onestage.processes import Launch
from onestage.structures import ClassSet

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

VERSION = 3
"""Of the readers: columns that others have made are made again."""
MANY, MUCH = 8, 200_000_000
"""Shards, or bytes of them, whose first reading shows a bar."""

Kept = tuple[Mapping[str, Array], Mapping[str, Json]]
"""Columns and their facts."""
ReadShard = Callable[[Path, Table], Places]
"""Puts what a shard says into a table."""


def shard_sources(tree: Tree, files: Sequence[Path]) -> Sources:
    """The shards of each split: the name of the file says it, or that of a folder above."""
    return by_split(files, [split_name(file.stem) or split_above(file, tree.root) for file in files])


@dataclass(frozen=True)
class ShardSet:
    """A data set in shards, found on disk. format: its name. read_shard: how a shard of it is read. listed: the classes, where
    the shards themselves list them.
    """

    missing: ClassVar[Mapping[str, DataError]] = {}
    tree: Tree = field(repr=False)
    format: str
    sources: Sources
    read_shard: ReadShard = field(repr=False)
    listed: Callable[[Sequence[Path]], StoredClasses | None] = field(default=lambda files: None, repr=False)
    sure: bool = True

    @property
    def label_files(self) -> frozenset[Path]:
        """The shards that are read for some split."""
        splits = [files for split, files in self.sources.items() if split] or [self.sources[""]]
        return frozenset(file for files in splits for file in files)

    def open(self, root: Path, split: str) -> ShardTable:
        """The columns of a split ("" for all), from the cache, or read now. Raise DataError if the list of classes, or a class,
        is wrong.
        """
        files = self.sources[split]
        list_of_classes = self._list_of_classes()
        stamps = [_stamp(file) for file in (*files, *list_of_classes)]
        asked: dict[str, Json] = {
            "version": VERSION,
            "format": self.format,
            "files": [self.tree.short(file) for file in (*files, *list_of_classes)],
            "stamps": [[*stamp] for stamp in stamps],
        }
        place = _place(self.tree.chosen or self.tree.top, self.format, split)
        found = _columns_of(place, asked)
        if found is None:
            with nullcontext() if place is None else _one_at_a_time(place):
                found = _columns_of(place, asked)
                if found is None:
                    stored = _read_classes(list_of_classes[0]) if list_of_classes else self.listed(files)
                    arrays, facts = _read(root, files, self.read_shard, self.format, stored)
                    found = _kept(place, arrays, facts | asked)
        return ShardTable(root, files, tuple(stamps[: len(files)]), *found)

    def _list_of_classes(self) -> tuple[Path, ...]:
        """The list of the classes beside the shards, or in the folder above them; none if there is none."""
        folders = dict.fromkeys((self.sources[""][0].parent, self.tree.root))
        return tuple(path for folder in folders if (path := folder / CLASSES).is_file())[:1]


def _stamp(file: Path) -> Stamp:
    try:
        return stamp_of(file)
    except OSError:
        return Stamp(-1, -1)


def _place(named: Path, format: str, split: str) -> Path | None:
    """The file of the cache for a split of what the user named; None if there is no place for a cache, or if shards in a
    temporary folder get another path soon.
    """
    whole = named.resolve()
    if any(name.endswith(TEMPORARY) for name in whole.parts):
        return None
    with suppress(WriteError):
        digest = hashlib.sha256(repr((str(whole), format, split)).encode("utf-8", "backslashreplace"))
        return cache_folder("columns") / f"{digest.hexdigest()[:32]}.columns"
    return None


@contextmanager
def _one_at_a_time(place: Path) -> Iterator[None]:
    """A block in which the processes of this machine make the same columns one after another. It leaves an empty file beside
    them. Where files cannot be locked or written, no process waits.
    """
    with ExitStack() as stack:
        with suppress(OSError, WriteError):
            make_folder(place.parent)
            descriptor = os.open(place.with_name(f"{place.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, descriptor)
            if fcntl is not None:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _tell_of_waiting()
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _tell_of_waiting() -> None:
    """Say why nothing happens, once for all processes of a training."""
    if Launch.from_environment().is_main:
        Terminal(stderr=True).print("another process reads the shards; this one waits for what they say")


def _columns_of(place: Path | None, asked: Mapping[str, Json]) -> Kept | None:
    """The columns of the cache, if they are of the shards that are asked for."""
    found = None if place is None else read_columns(place)
    same = found is not None and {key: found[1].get(key) for key in asked} == asked
    return found if same and found is not None and found[0].keys() >= {*OBJECT_COLUMNS} else None


def _kept(place: Path | None, arrays: Mapping[str, Array], facts: Mapping[str, Json]) -> Kept:
    """The columns as they are in the cache now; those in memory if nothing can be written there."""
    if place is not None:
        with suppress(WriteError):
            make_folder(place.parent)
            write_columns(place, arrays, facts)
            return read_columns(place) or (arrays, facts)
    return arrays, facts


def _read_classes(file: Path) -> StoredClasses:
    """The listed classes. Objects may write their names or their ids."""
    fix = 'write it as {"classes": [{"id": 1, "name": "cat"}]}'
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        if isinstance(error, OnestageError):
            raise
        raise DataError("this is not valid JSON", where=file, got=error, fix=fix) from error
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError("this is no list of classes", where=file, got=quoted(content), fix=fix)
    return listed_classes(file, entries)


def listed_classes(file: Path, entries: list[Json]) -> StoredClasses:
    """Classes from a list of ids and names, as COCO has it. Objects may write either."""
    names = categories_of(file, entries)
    keys: dict[ClassKey, str] = dict(names.items()) | {name: name for name in names.values()}
    return StoredClasses(ClassSet(tuple(names.values()), tuple(names)), keys)


def _read(
    root: Path, files: Sequence[Path], read_shard: ReadShard, format: str, stored: StoredClasses | None
) -> tuple[dict[str, Array], dict[str, Json]]:
    """The columns of all shards."""
    collected = Collected(root, stored, format)
    console, tables = Terminal(stderr=True), [Table(root)]
    few = len(files) < MANY and sum(stamp.size for stamp in map(_stamp, files)) < MUCH
    columns = (*Progress.get_default_columns(), _Pictures(collected, tables))
    with Progress(*columns, console=console, transient=True, disable=few or not console.is_terminal) as bar:
        for file in bar.track(files, description="reading shards, this once"):
            table = tables[0] = Table(root)
            try:
                places = read_shard(file, table)
            except DataError as error:
                table.problems.append(Problem.of(table.name(file), error))
                places = {}
            if not table.pictures and not table.problems:
                table.notes.append(Problem(table.name(file), "there is no picture in it"))
            collected.add(table, places)
            tables[0] = Table(root)
    return collected.columns()


class _Pictures(ProgressColumn):
    """How many pictures were read so far, also of the shard that is being read. table: the last one."""

    def __init__(self, collected: Collected, table: Sequence[Table]) -> None:
        super().__init__()
        self._collected, self._table = collected, table

    def render(self, task: Task) -> Text:
        """The text at the end of the bar."""
        return Text(counted(self._collected.pictures + len(self._table[0].pictures), "picture"))


@dataclass(frozen=True, eq=False)
class ShardTable:
    """The columns of some shards. It makes data sets as a ``Table`` does. stamps: of the files. arrays, facts: as read."""

    root: Path
    files: Sequence[Path]
    stamps: tuple[Stamp, ...]
    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]
    pictures: ClassVar[Sequence[PictureFile]] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The K names of the classes."""
        return tuple(self.facts["names"])

    @property
    def classes(self) -> StoredClasses | None:
        """The classes of the shards; None if objects only number them."""
        if self.facts["numbered"] and self.names:
            return None
        return StoredClasses(ClassSet(self.names, tuple(self.facts["ids"])), {name: name for name in self.names})

    @property
    def problems(self) -> list[Problem]:
        """What is wrong in the shards."""
        return self._listed("problems")

    def _listed(self, name: str) -> list[Problem]:
        """Problems or notes. The place of those of the whole data set is its name, as it is today."""
        return [Problem(where or str(self.root), *rest) for where, *rest in self.facts[name]]

    def _table(self, labels: Labels) -> NDArray[np.int64]:
        """(K,) the label of each class, or UNKNOWN."""
        keys = [int(name) for name in self.names] if self.facts["numbered"] else self.names
        return np.array([labels.of.get(key, UNKNOWN) for key in keys], np.int64)

    def other_classes(self, labels: Labels, split: str | None) -> DataError | None:
        """The error if there are objects of classes that no label counts; None if there are none."""
        count = np.bincount(self.arrays["labels"], minlength=len(self.names))
        lost = {
            name: int(number)
            for name, number, label in zip(self.names, count, self._table(labels), strict=True)
            if number and label == UNKNOWN
        }
        return unknown_classes(lost, self.names, labels, where=f"{self.root} ({split})" if split else str(self.root))

    def dataset(self, format: str, split: str | None, *, labels: Labels, on_bad: OnBad, may_be_empty: bool = False) -> Dataset:
        """The data set, mapped into memory as far as no object is left out. Errors: see ``Table.dataset``."""
        strangers = self.other_classes(labels, split)
        if strangers is not None and on_bad == "stop":
            raise strangers
        problems = self.problems
        if strangers is not None:
            problems.append(Problem.of_whole(self.root, strangers))
        if problems and on_bad == "stop":
            raise complain(self.root, problems, empty=not len(self.arrays["boxes"]))
        if not len(self.arrays["sizes"]) and not may_be_empty:
            raise no_pictures(self.root, split, problems)
        notes = self._listed("notes")
        notes += [Problem(str(self.root), text, fix=ONE_NAME) for text in alike(self.names)]
        return self._labelled(self._table(labels), labels)(format, split, tuple(problems), tuple(notes))

    def _labelled(self, table: NDArray[np.int64], labels: Labels) -> Callable[..., Dataset]:
        """What makes the data set, once its format, its split, its problems and notes are known."""
        columns = {name: self.arrays[name] for name in ("labels", *OBJECT_COLUMNS)}
        offsets = self.arrays["offsets"]
        if not np.array_equal(table, np.arange(len(table))):
            columns["labels"] = table[columns["labels"]] if len(table) else columns["labels"]
        if (table == UNKNOWN).any():
            known = columns["labels"] != UNKNOWN
            offsets = np.concatenate([[0], known.cumsum()])[offsets]
            columns = {name: column[known] for name, column in columns.items()}
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}

        def made(format: str, split: str | None, problems: tuple[Problem, ...], notes: tuple[Problem, ...]) -> Dataset:
            return Dataset(
                root=self.root,
                format=format,
                split=split,
                paths=Texts(self.arrays["paths"], self.arrays["path_ends"], before(self.root)),
                image_ids=self._image_ids,
                sizes=Sizes(self.arrays["sizes"]),
                offsets=torch.from_numpy(offsets),
                boxes=tensors["boxes"],
                labels=tensors["labels"],
                ignore=tensors["ignore"],
                crowd=tensors["crowd"],
                area=tensors["area"],
                classes=labels.table.names,
                category_ids=labels.table.ids,
                problems=problems,
                notes=tuple(dict.fromkeys(notes)),
                parts=self._parts,
            )

        return made

    @property
    def _image_ids(self) -> Sequence[int | str]:
        """As stated; the paths of pictures that have an id of another one."""
        if "ids" in self.arrays:
            ids: Column[int | str] = Numbers(self.arrays["ids"])
        else:
            ids = Texts(self.arrays["id_texts"], self.arrays["id_ends"])
        if "ids_twice" not in self.arrays:
            return ids
        return InPlace(ids, Texts(self.arrays["paths"], self.arrays["path_ends"]), self.arrays["ids_twice"])

    @property
    def _parts(self) -> Parts:
        files = tuple(map(str, self.files))
        return Parts(files, self.stamps, self.arrays["file"], self.arrays["offset"], self.arrays["length"])
