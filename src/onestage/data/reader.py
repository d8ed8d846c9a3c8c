"""From a path to a ``Dataset`` of any format. The format is recognised from the files, or named."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from os import PathLike, fspath
from pathlib import Path
from typing import Protocol

from onestage.data import coco, csv, labelme, parquet, voc, wds, yolo
from onestage.data.dataset import Dataset, Problem
from onestage.data.files import (
    CONVERT,
    CONVERT_ALL,
    READ_FIX,
    UNREAD_SUFFIXES,
    Sources,
    is_folder,
    is_regular,
    is_there,
    split_above,
    walk,
)
from onestage.data.foreign import first_foreign
from onestage.data.labels import MODEL, Labels, StoredClasses, assign_labels
from onestage.data.shards import ShardSet, ShardTable
from onestage.data.split_words import SPLITS, split_name
from onestage.data.table import OnBad, Table
from onestage.data.text import listed
from onestage.data.tree import Parts, Tree, labels_may_be_above, surroundings, without_role
from onestage.errors import DataError, OnestageError, absent, counted, nearest, shortened


class Layout(Protocol):
    """The files of a data set, found on disk and not yet read."""

    @property
    def sources(self) -> Sources:
        """The files of each split; "" stands for the whole set."""
        ...

    @property
    def missing(self) -> Mapping[str, DataError]:
        """The splits that the data set names and that are not there, each with the reason."""
        ...

    @property
    def sure(self) -> bool:
        """Whether this is no file that only comes with a data set of another format."""
        ...

    @property
    def label_files(self) -> frozenset[Path]:
        """The annotation files that are read for some split, or for the whole set if it is not divided."""
        ...

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split into the table."""
        ...


class Reader(Protocol):
    """What the module of a format offers. LAYOUT: what such a data set looks like, for messages."""

    LAYOUT: str

    def find(self, tree: Tree) -> Layout | ShardSet | None:
        """The data set of this format among these files, or None."""
        ...

    def holds_labels(self, file: Path) -> bool:
        """Whether a file looks like annotations in this format."""
        ...


FORMATS: Mapping[str, Reader] = {
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
    "csv": csv,
    "labelme": labelme,
    "wds": wds,
    "parquet": parquet,
}


@dataclass(frozen=True)
class OpenData:
    """A data set whose format and files are known. ``load`` reads the annotations of each split once and keeps them.

    path: as the user named it. root: the data set's folder. labels_alone: see ``open_data``. named: see ``Dataset``.
    """

    path: Path
    root: Path
    format: str
    layout: Layout | ShardSet = field(repr=False)
    tree: Tree = field(repr=False)
    labels_alone: bool = False
    named: tuple[str, ...] = ("DATA",)
    _tables: dict[str, Table | ShardTable] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that exist among train, val, trainval and test; empty if the data set is not divided."""
        return tuple(split for split in self.layout.sources if split)

    @property
    def missing(self) -> Mapping[str, DataError]:
        """The splits that the data set names and that are not there, each with the reason."""
        return self.layout.missing

    @property
    def absent(self) -> tuple[Problem, ...]:
        """An entry for each split that the data set names and that is not there."""
        return tuple(Problem.of_whole(self.path, error) for error in self.missing.values())

    @property
    def passed_over(self) -> tuple[Problem, ...]:
        """A note for each folder of pictures or annotations that lies where those of the splits do, and whose name says no
        split.
        """
        sources = self.layout.sources.items()
        used = {file.parent for split, files in sources if split for file in files} | {
            f.parent for f in self.layout.label_files
        }
        places = {place for folder in used for name, place in _around(self.tree.parts(folder)) if split_name(name)}
        lost = dict.fromkeys(file.parent for file in (*self.unnamed, *self._lost))
        others: dict[str, None] = {}
        for folder in lost:
            names = folder.relative_to(self.root).parts if folder.is_relative_to(self.root) else ()
            for depth, (name, place) in enumerate(_around(self.tree.parts(folder)), start=1):
                if place in places and not split_name(name):
                    others["/".join(names[:depth]) + "/"] = None
        what = "this folder is passed over: its name says no split"
        fix = "rename it, for example to val, or name it in data.yaml"
        return tuple(Problem(folder, what, expected=", ".join(SPLITS), fix=fix) for folder in others)

    @property
    def undivided(self) -> tuple[Problem, ...]:
        """A note if all pictures that are read lie in several folders, each with labels, and no name of them says a split: they
        may be splits.
        """
        unnamed = {*self.unnamed}
        pictures = {self._top(file) for file in self.tree.pictures if file not in unnamed}
        labelled = {self._top(file) for file in self.layout.label_files}
        if self.splits or len(pictures) < 2 or None in pictures or not pictures <= labelled:
            return ()
        names = listed(sorted(filter(None, pictures)))
        what = f"these folders do not divide the data set, because their names say no splits: {names}"
        fix = "if they are splits, call them so; otherwise nothing is wrong"
        return (Problem(str(self.path), what, expected=", ".join(SPLITS), fix=fix),)

    def _top(self, file: Path) -> str | None:
        """The first folder above a file whose name says more than a role; None if there is none."""
        names = file.relative_to(self.root).parent.parts if file.is_relative_to(self.root) else ()
        return next(filter(without_role, names), None)

    @cached_property
    def _lost(self) -> list[Path]:
        """The files that look like annotations in this format, and that no split reads."""
        holds, read = FORMATS[self.format].holds_labels, self.layout.label_files
        return [file for file in self.tree.offered if file not in read and holds(file)]

    @property
    def unread(self) -> tuple[Problem, ...]:
        """The files that look like annotations in this format, and that no split reads: an entry for each folder.

        Files that are problems of a split that was loaded do not count.
        """
        told = {problem.where for table in self._tables.values() for problem in table.problems}
        lost = [file for file in self._lost if self.tree.short(file) not in told]
        by_folder = {folder: [*files] for folder, files in groupby(lost, key=lambda file: file.parent)}
        return tuple(_unread(self.tree, folder, files) for folder, files in by_folder.items())

    @cached_property
    def others(self) -> tuple[Problem, ...]:
        """A note for each data set of another format that is here too."""
        return tuple(
            Problem(str(self.path), f"there is a data set in the format {name} here too; only {self.format} is read")
            for name in FORMATS
            if name != self.format and _found(name, self.tree)
        )

    @property
    def unnamed(self) -> tuple[Path, ...]:
        """The pictures in the folder that no annotation or list names, among the splits that were loaded so far. None if the
        user named one file: others may belong to what lies around it.
        """
        named = {path for table in self._tables.values() for path, *_ in table.pictures}
        known = {file for split in self.splits or ("",) for file in self.layout.sources[split]}  # YOLO's are pictures
        pictures = self.tree.pictures if self.tree.chosen is None else ()
        return tuple(file for file in pictures if str(file) not in named and file not in known)

    @property
    def unlabelled(self) -> tuple[Problem, ...]:
        """An entry for train and for val, if there are pictures in folders of this name and no annotations of the split."""
        if not {"train", "val"} - {*self.splits} or "trainval" in self.splits:
            return ()
        found: dict[str | None, list[Path]] = defaultdict(list)
        for file in self.unnamed:
            found[split_above(file, self.root)].append(file)
        what = "{} in folders of {} that no annotation, list or data.yaml names, so there is no split {}: {}"
        return tuple(
            Problem(str(self.path), what.format(counted(len(found[s]), "picture"), s, s, self._first(found[s])))
            for s in ("train", "val")
            if s in found and s not in self.splits and s not in self.missing
        )

    @property
    def left_out(self) -> tuple[Problem, ...]:
        """A note on the pictures in the folder that no split has, and one on those in formats that are not read, if there are
        any.
        """
        unread = self.tree.with_suffix(UNREAD_SUFFIXES) if self.tree.chosen is None else ()
        kinds = {
            "that no annotation, list or split names": (self.unnamed, None),
            "in formats that are not read": (unread, CONVERT),
        }
        return tuple(
            Problem(str(self.path), f"{counted(len(files), 'picture')} {kind}: {self._first(files)}", fix=fix)
            for kind, (files, fix) in kinds.items()
            if files
        )

    def _first(self, files: Sequence[Path]) -> str:
        return ", ".join(map(self.tree.short, files[:3])) + (", ..." if len(files) > 3 else "")

    def other_classes(self, split: str | None, classes: Sequence[str], *, owner: str) -> OnestageError | None:
        """Why a split cannot be read with these classes of ``owner``, as ``load`` says it; None if it can."""
        table = self._table(self._key(split))
        try:
            labels = assign_labels(self._classes(table, classes), classes, where=self.path, owner=owner)
            return table.other_classes(labels, split)
        except OnestageError as error:
            return error

    def load(
        self,
        split: str | None = None,
        *,
        classes: Sequence[str] | None = None,
        owner: str = MODEL,
        on_bad: OnBad = "stop",
    ) -> Dataset:
        """The pictures and objects of a split, or of the whole set. Arguments and errors: see ``load_dataset``. owner: whose
        ``classes`` they are, for messages, such as "the split train".
        """
        _check_on_bad(on_bad)
        key = self._key(split)
        labels = assign_labels(self._classes(self._table(key), classes), classes, where=self.path, owner=owner)
        return self._dataset(key, labels, on_bad=on_bad)

    def look(self, split: str | None = None, *, names: Sequence[str] | None = None) -> Dataset:
        """As ``load`` with on_bad="skip", for those who list what is wrong: perhaps no picture is left. names: of the classes,
        if the data set only numbers them.
        """
        key = self._key(split)
        labels = assign_labels(self._classes(self._table(key), names), None, where=self.path)
        return self._dataset(key, labels, on_bad="skip", may_be_empty=True)

    def _dataset(self, key: str, labels: Labels, *, on_bad: OnBad, may_be_empty: bool = False) -> Dataset:
        split = key or (self.splits[0] if len(self.splits) == 1 else None)
        made = self._table(key).dataset(self.format, split, labels=labels, on_bad=on_bad, may_be_empty=may_be_empty)
        return replace(made, named=self.named)

    def _table(self, key: str) -> Table | ShardTable:
        if key not in self._tables and isinstance(self.layout, ShardSet):
            self._tables[key] = self.layout.open(self.root, key)
        elif key not in self._tables and not isinstance(self.layout, ShardSet):
            table = Table(self.root, labels_alone=self.labels_alone)
            self.layout.read(table, key)
            self._tables[key] = table
        return self._tables[key]

    def _classes(self, table: Table | ShardTable, wanted: Sequence[str] | None) -> StoredClasses:
        """The classes of the data set. If nothing names them, their numbers count the wanted ones."""
        if table.classes is None and not wanted:
            near = yolo.misspelt_names(self.tree)
            fix = "write them, one on each line, into a file classes.txt there, or into a data.yaml"
            fix = f"rename {near} to classes.txt, if it has the names, one on each line" if near else fix
            raise DataError("nothing says the names of this data set's classes", where=self.root, got=near, fix=fix)
        return table.classes or StoredClasses.by_number(wanted or ())

    def _key(self, split: str | None) -> str:
        """The key of ``layout.sources`` for the user's word for a split."""
        if split is None:
            return ""
        key = split_name(split)
        if key is not None and key in self.missing:
            raise self.missing[key]
        if key is None or key not in self.splits:
            expected = f"one of: {', '.join(self.splits)}" if self.splits else "no split: this data set is not divided"
            fix = "leave the split out, or name one that is there"
            what = f"there is no split {split!r} in this data set{nearest(split, self.splits)}"
            raise DataError(what, where=self.path, expected=expected, fix=fix)
        return key


def open_data(path: str | Path, format: str | None = None, *, labels_alone: bool = False) -> OpenData:
    """Find out which format a data set has and which files belong to it.

    path: a folder, or one .json, .csv, .yaml, .tar or .parquet file. format: "coco", "voc", "yolo", "csv", "labelme", "wds"
    (tars) or "parquet"; recognised if left out.
    labels_alone: only the labels are needed, so a picture of COCO or VOC whose size is stated may be missing.
    Raise DataError if there is no data set, or more than one.
    """
    path = _named(path)
    if format is not None and format not in FORMATS:
        what, fix = f"unknown format {format!r}{nearest(format, FORMATS)}", "leave it out: the files tell it"
        raise DataError(what, expected=", ".join(FORMATS), fix=fix)
    tree = _tree(path)
    wanted = (format,) if format else tuple(FORMATS)
    layouts = {name: layout for name in wanted if (layout := FORMATS[name].find(tree))}
    if any(layout.sure for layout in layouts.values()):
        layouts = {name: layout for name, layout in layouts.items() if layout.sure}
    if not layouts:
        raise _nothing_here(tree, path, wanted)
    if len(layouts) > 1:
        fix = f"name one: --format {next(iter(layouts))}, or name a folder or file further down"
        raise DataError("more than one data set is here", where=path, got=" and ".join(layouts), fix=fix)
    named = (str(path), *(() if format is None else ("--format", format)))
    return OpenData(path, tree.root, *next(iter(layouts.items())), tree, labels_alone, named)


def load_dataset(
    path: str | Path,
    format: str | None = None,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    on_bad: OnBad = "stop",
) -> Dataset:
    """Read the annotations of a data set; its pictures stay on disk.

    path: a folder, or one .json, .csv, .yaml, .tar or .parquet file. format: "coco", "voc", "yolo", "csv", "labelme", "wds"
    (tars) or "parquet"; recognised if left out.
    split: "train", "val" (or "valid", "validation"), "test" or "trainval"; everything if left out. classes: the names that
    labels 0..K-1 stand for, for example those of a trained model; the data set's names if left out. on_bad: "stop" raises one
    DataError that lists what is wrong; "skip" leaves out what is wrong and keeps the list in ``Dataset.problems``.

    Raise ConfigError if the data set knows none of ``classes``. A data set may only number its classes, 0..K-1: its numbers
    then count ``classes``, with a warning.
    """
    _check_on_bad(on_bad)
    return open_data(path, format).load(split, classes=classes, on_bad=on_bad)


def list_splits(path: str | Path, format: str | None = None) -> tuple[str, ...]:
    """The splits of a data set among train, val, trainval and test; empty if it is not divided."""
    return open_data(path, format).splits


def _named(path: str | Path) -> Path:
    """The path of a data set. Raise DataError if it is none."""
    if isinstance(path, str | PathLike) and fspath(path):
        return Path(path)
    what, fix = "a data set is named by its path", "name its folder; a dot stands for the current one"
    raise DataError(what, got=repr(path), expected="a str or Path", fix=fix)


def _nothing_here(tree: Tree, path: Path, wanted: Sequence[str]) -> DataError:
    """The error if no data set was recognised. A CSV file that has most of the columns tells more, and
    so do labels with the names of classes.
    """
    if "csv" in wanted and (error := csv.misread(tree, sure=len(wanted) == 1)):
        return error
    if "yolo" in wanted and tree.chosen is None and (error := yolo.misread(tree)):
        return error
    for name, module in (("parquet", parquet), ("wds", wds)):
        if name in wanted and (error := module.misread(tree)):
            return error
    if foreign := first_foreign(tree.offered):
        file, name = foreign
        what, fix = (
            f"these annotations are {name}, which is not read",
            "export them as COCO, Pascal VOC or YOLO, or convert them",
        )
        return DataError(what, where=path, got=tree.short(file), expected=", ".join(wanted), fix=fix)
    if tree.chosen is not None:
        what, fix = (
            "no labelled pictures were recognised by this file",
            f"name the folder of the data set: {surroundings(path)}",
        )
        return DataError(what, where=path, expected="a folder, or one .json, .csv, .yaml, .tar or .parquet file", fix=fix)
    known = "\n            ".join(FORMATS[name].LAYOUT for name in wanted)
    fix = labels_may_be_above(path, tree)
    fix = CONVERT_ALL if tree.with_suffix(UNREAD_SUFFIXES) and not tree.pictures else fix
    return DataError("no labelled pictures were recognised here", where=path, got=_contents(tree), expected=known, fix=fix)


def _contents(tree: Tree) -> str:
    """What lies in a folder that is no data set, for a message: the pictures, and the kinds of other files with the first of
    each.
    """
    unread = tree.with_suffix(UNREAD_SUFFIXES)
    pictures = {*tree.pictures, *unread}
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for file in (file for file in tree.files if file not in pictures):
        by_kind[f"{file.suffix.lower()} file" if file.suffix else "file without a suffix"].append(file)
    by_kind |= {"picture in a format that is not read": [*unread]} if unread else {}
    more = {".csv file": ", whose columns are not understood or name no picture here"}
    found = [counted(len(tree.pictures), "picture")] if tree.files else ["no file"]
    for kind, files in [*by_kind.items()][:6]:
        count = (
            f"1 {kind}" if len(files) == 1 else f"{len(files):,} {kind.replace('file', 'files').replace('picture', 'pictures')}"
        )
        found.append(f"{count} ({shortened(tree.short(files[0]), 60)}{', ...' if len(files) > 1 else ''}{more.get(kind, '')})")
    return "; ".join(found)


def _around(folders: Parts) -> list[tuple[str, tuple[Parts, Parts]]]:
    """Each folder of a path, with those above it and those below it."""
    return [(name, (folders[:i], folders[i + 1 :])) for i, name in enumerate(folders)]


def _check_on_bad(on_bad: str) -> None:
    if on_bad not in ("stop", "skip"):
        raise DataError("this value is unknown", where="on_bad", got=on_bad, expected="'stop' or 'skip'")


def _tree(path: Path) -> Tree:
    """All files of a data set: those in its folder, or those around the one file that was named."""
    chosen = path if is_regular(path) else None
    if chosen is None and not is_folder(path):
        what = "this is no regular file and no folder" if is_there(path) else absent(path)
        raise DataError(what, where=path, fix="correct the path of the data set")
    top = surroundings(path) if chosen else path
    try:
        return Tree(top, tuple(walk(top, locked=chosen is not None)), chosen)  # what lies beside one file may be anything
    except OSError as error:
        raise DataError("this folder cannot be read", where=error.filename, got=error.strerror, fix=READ_FIX) from error


def _found(format: str, tree: Tree) -> bool:
    """Whether there is a data set in this format that can be understood."""
    try:
        return FORMATS[format].find(tree) is not None
    except DataError:
        return False


def _unread(tree: Tree, folder: Path, files: Sequence[Path]) -> Problem:
    """The entry for files of labels in one folder that nothing reads."""
    if len(files) == 1:
        return Problem(tree.short(files[0]), "this file looks like labels, and nothing reads it")
    what = f"{len(files):,} files look like labels, and nothing reads them: {', '.join(file.name for file in files[:3])}"
    return Problem(f"{tree.short(folder)}/", what + (", ..." if len(files) > 3 else ""))
