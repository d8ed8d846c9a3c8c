"""What the words after ``onestage batch`` stand for: pictures, each with its id and its place, in an order that stays.

| a word                          | its pictures                                                                             |
|---------------------------------|------------------------------------------------------------------------------------------|
| a folder                        | all below it by the ends of their names, and those in its tar files; hidden ones are not |
| a glob: ``'*.jpg'``, ``{0..9}`` | the files that fit, and all below the folders that fit                                   |
| a .txt, .csv or .parquet file   | those that it lists; a path that is not whole begins at the folder of the list           |
| a .tar file                     | its members whose names end as those of pictures: WebDataset's shards, and others        |
| s3://bucket/photos              | each of these, wherever fsspec reaches                                                   |
| anything different              | that file, whatever its name is                                                          |
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import NamedTuple

from onestage import tars
from onestage.data.files import PICTURE_SUFFIXES
from onestage.errors import DataError, OnestageError, absent, counted, nearest
from onestage.parts import image_column, names_of, open_parquet, picture_names
from onestage.predict.live import without_password
from onestage.scale.lists import PARQUET, PATHS, entries, is_list, opened_parquet
from onestage.scale.stores import LOCAL, UNKNOWN, Found, Local, Passed, Store, is_remote, masked, store_of

TAR = ".tar"
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""A range of numbers in a name, as the shell and WebDataset write it: train-{000000..000099}.tar."""
MOST_NAMES = 1_000_000
"""That ranges in one word may make."""


class Listed(NamedTuple):
    """A picture. id: its name in the results, unlike all others. path: for people and programs; address: of the file that it
    lies in; offset, length: where in it, in bytes, length UNKNOWN for a whole file of which nothing is known. size, changed:
    the state of the file when it was listed.
    """

    id: str
    path: str
    address: str
    offset: int
    length: int
    size: int
    changed: int


Note = Callable[[str], None]
"""Takes what a user should know about the input."""


def pictures_of(given: Sequence[str], *, results: Path, note: Note) -> Iterator[Listed]:
    """The pictures that words stand for, in order; those that two words name come twice.

    results: a folder that is passed over. note: is told of tar files that are cut off, and of what is passed over. Raise
    DataError if a word names no picture. No password is shown: not in ids and paths, nor in errors.
    """
    words = [word for pattern in given for word in expanded(pattern)]
    folders, number = Local(os.path.realpath(results)), 0
    try:
        for word in words:
            store = store_of(word) if is_remote(word) else folders
            before = number
            for picture in _of_word(store, word, alone=len(words) == 1, note=note):
                number += 1
                yield _shown(picture, number)
            if number == before:
                _tell(folders.passed, note)
                raise _none(store, word)
    except OnestageError as error:
        for part in ("where", "got", "fix"):
            text = str(getattr(error, part) or "")
            if "://" in text:
                setattr(error, part, without_password(text))
        raise
    _tell(folders.passed, note)


def _shown(picture: Listed, number: int) -> Listed:
    """The picture with no password in its id and its path. Addresses that differ in a key of their query stay different: they
    get the number of the picture. An id that a list gives stays as it is.
    """
    if not is_remote(picture.address) or (path := masked(picture.path)) == picture.path:
        return picture
    mark = f"#{number}" if masked(path.partition("?")[2]) != picture.path.partition("?")[2] else ""
    id = masked(picture.id)
    return picture._replace(id=id if id == picture.id else id + mark, path=path + mark)


def _tell(passed: Passed, note: Note) -> None:
    """Say what was passed over."""
    if passed.links:
        what = f"what lies behind {counted(passed.links, 'link')} to folders is not taken"
        note(f"{what}, such as {passed.link}: name it as a folder if its pictures are meant")
    if passed.results:
        note(f"the results of other batches are passed over: {', '.join(sorted(passed.results)[:3])}")


def expanded(word: str) -> list[str]:
    """The names that a word with ranges such as {000..123} stands for. Raise DataError if they are too many."""
    if not _RANGE.search(word) or (not is_remote(word) and os.path.lexists(word)):
        return [word]
    texts, ranges = _RANGE.split(word)[::3], []
    total = 1
    for first, last in _RANGE.findall(word):
        width, total = len(first), total * max(0, int(last) - int(first) + 1)
        if not 0 < total <= MOST_NAMES:
            what, expected = "a range of numbers in a name is not understood", f"such as {{000..123}}, {MOST_NAMES:,} at most"
            raise DataError(what, where=word, got=f"{{{first}..{last}}}", expected=expected)
        ranges.append([f"{number:0{width}d}" for number in range(int(first), int(last) + 1)])
    return ["".join(part for pair in zip(texts, [*numbers, ""], strict=True) for part in pair) for numbers in product(*ranges)]


def _of_word(store: Store, word: str, *, alone: bool, note: Note) -> Iterator[Listed]:
    if store.is_folder(word):
        yield from _of_folder(store, word, "" if alone else word.rstrip("/") + "/", note)
    elif (found := store.find(word)) is not None:
        yield from _of_file(store, found._replace(name=found.name if alone else word), note, named=True, short=alone)
    elif glob.has_magic(word):
        lists = is_list(word)
        for match in store.matches(word):
            if store.is_folder(match):
                yield from _of_folder(store, match, match.rstrip("/") + "/", note)
            elif (found := store.find(match)) is not None and (lists or not is_list(match)):
                yield from _of_file(store, found._replace(name=match), note)


def _of_folder(store: Store, folder: str, before: str, note: Note) -> Iterator[Listed]:
    """before: how the ids begin."""
    for found in store.below(folder):
        if not is_list(found.name):
            yield from _of_file(store, found._replace(name=before + found.name), note)


def _of_file(store: Store, found: Found, note: Note, *, named: bool = False, short: bool = False) -> Iterator[Listed]:
    """The pictures in a file, whose name begins their ids. named: the user named this file, so it is a picture if it is
    nothing else. short: it is the only one.
    """
    end = _end(found.name)
    if end == TAR:
        yield from _of_tar(store, found, note, named=named)
    elif named and found.name.lower().endswith(_PACKED):
        what, fix = "a compressed archive is not read: a picture in it has no place", "unpack it, or pack it as a plain .tar"
        raise DataError(what, where=found.address, expected="a .tar file", fix=fix)
    elif is_list(found.name):
        held = _of_rows(store, found) if end == PARQUET else None
        yield from _of_list(store, found, short=short) if held is None else held
    elif named or end in PICTURE_SUFFIXES:
        yield Listed(found.name, found.address, found.address, 0, found.length, found.length, found.changed)


def _end(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  # a million times


def _of_tar(store: Store, found: Found, note: Note, *, named: bool) -> Iterator[Listed]:
    """The pictures in a tar file. One that is cut off or cannot be read has those before the fault, and it is told. Raise
    DataError if there are none, and the user named this file.
    """
    count = 0
    try:
        for picture in _members(store, found):
            count += 1
            yield picture
    except DataError as error:
        if named and not count:
            raise error.at(found.address) from error
        taken = "its pictures before that are taken" if count else "no picture of it is taken"
        note(f"{found.address}: {error.what} ({error.got}); {taken}")


def _members(store: Store, found: Found) -> Iterator[Listed]:
    """The pictures in a tar file. Raise DataError at the first fault."""
    address, name, size, changed = found
    with store.open(address) as file:
        length = file.seek(0, os.SEEK_END) if size == UNKNOWN else size
        for member in tars.members(file, length):
            if member.kind == "file" and _end(member.name) in PICTURE_SUFFIXES and not _is_hidden(member.name):
                inner = member.name.removeprefix("./")
                yield Listed(f"{name}/{inner}", f"{address}/{inner}", address, member.offset, member.size, length, changed)


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _of_rows(store: Store, found: Found) -> Iterator[Listed] | None:
    """The pictures that a Parquet file holds as bytes; None if it holds paths."""
    with opened_parquet(store, found.address) as (file, _):
        if image_column(file) is None:
            return None
    if is_remote(found.address):
        what, fix = (
            "pictures inside a Parquet file are read on this machine alone",
            "copy it, or list the addresses of pictures",
        )
        raise DataError(what, where=found.address, expected="a file of this machine, or of a shared folder", fix=fix)
    return _rows(found)


def _rows(found: Found) -> Iterator[Listed]:
    """The rows of a Parquet file. offset and length of each are its row group, and its row in it."""
    address, name, size, changed = found
    with open_parquet(address) as file, Path(address).open("rb") as content:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        try:
            names = iter(picture_names(names_of(file, content)))
        except DataError as error:
            raise error.at(address) from error
    for group, count in enumerate(sizes):
        for row in range(count):
            inner = next(names)
            yield Listed(f"{name}/{inner}", f"{address}/{inner}", address, group, row, size, changed)


def _of_list(store: Store, found: Found, *, short: bool) -> Iterator[Listed]:
    """The pictures that a list names. Those that are not there are listed too: each is a failure.

    short: whether the ids are the paths as the list has them, which several lists may have for different pictures.
    """
    base: str | None = None
    for entry in entries(store, found.address):
        text = entry.path
        if is_remote(text) or text.startswith(("/", "file://")) or os.path.isabs(text):  # noqa: PTH117
            address = text
        else:
            base = _base(store, found.address, text) if base is None else base
            address = base + text
        if is_remote(address):  # asking for each would take a request
            yield Listed(entry.id or (text if short else address), address, address, 0, UNKNOWN, UNKNOWN, 0)
            continue
        there = _there(address)
        place = os.path.abspath(address.removeprefix("file://")) if there is None else there.address  # noqa: PTH100
        length, changed = (UNKNOWN, 0) if there is None else (there.length, there.changed)
        yield Listed(entry.id or (text if short else place), place, place, 0, length, length, changed)


def _there(address: str) -> Found | None:
    """The file of a path in a list; None if it is not there or cannot be looked at, which reading it will say."""
    with suppress(DataError):
        return LOCAL.find(address)
    return None


def _base(store: Store, address: str, first: str) -> str:
    """What paths of a list begin at: its folder, or this one if the first picture is here and not there."""
    folder = address.rpartition("/")[0] + "/"
    if not is_remote(address) and not os.path.lexists(folder + first) and os.path.lexists(first):
        return os.path.abspath(".") + "/"  # noqa: PTH100
    return folder


def _none(store: Store, word: str) -> DataError:
    """The error for a word that names no picture."""
    ends = ", ".join(sorted(PICTURE_SUFFIXES))
    if store.is_folder(word):
        what = f"no pictures in this folder ({ends}, or in .tar files)"
        fix = "name a folder, a list or a tar with pictures, or Parquet files with pictures by a glob: 'FOLDER/*.parquet'"
    elif glob.has_magic(word):
        what, fix = "no picture matches", "quote the pattern, and look what it fits: ls"
    elif (found := store.find(word)) is not None and _end(word) == TAR:
        what, fix = f"no member of this tar file is a picture ({ends})", "name another file"
    elif found is not None:
        what, fix = "this list names no pictures", f"write a path in each line, or in a column {PATHS[0]}"
    else:
        what = "there is no such file or folder" if is_remote(word) else absent(word)
        fix = "name a folder, a glob, a list (.txt, .csv, .parquet), tar files or an address" + nearest(word, ["report"])
    return DataError(what, where=word, fix=fix)
