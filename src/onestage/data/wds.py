"""WebDataset: tars in which files of one name, before the first dot, are a picture and its labels: 000001.jpg and 000001.json.

The convention: https://github.com/webdataset/webdataset, "The WebDataset format". Labels have the form
``{"image_id": 1, "height": 480, "width": 640, "objects": [{"bbox": [10, 20, 30, 40], "category": "cat"}]}``, with boxes as
left, top, width, height in pixels, and, as in COCO, ``area``, ``iscrowd`` and ``ignore`` of an object. Policy:
- A category is a name, or an id of the list of classes (shards.py). height and width may be missing: the picture tells them.
  Without image_id, the name is the id.
- A picture without labels is a problem, not a picture without objects. So are labels without a picture, a name that occurs
  twice, and a member that is a link, a device or the like. A tar that is cut off or damaged is read up to there, and is a
  problem.
- A name ends at its first dot, so 000001.left.jpg is a second picture of 000001, and a problem.
- Nothing is extracted: labels are read from the tar, and pictures when they are needed. What else is in a tar is passed over,
  with a note.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from onestage import boxes as box_ops
from onestage import tars
from onestage.data.coco import as_id, box_numbers, field_of, flag_field, plain_object, refuse_constant, stated_area
from onestage.data.dataset import Problem
from onestage.data.files import PICTURE_SUFFIXES, inside
from onestage.data.labels import look_of
from onestage.data.shard_columns import Places
from onestage.data.shards import ShardSet, shard_sources
from onestage.data.table import PictureFile, Row, Table
from onestage.data.text import listed, quoted, stated_size
from onestage.data.tree import Tree
from onestage.errors import DataError, PictureError, counted, shortened
from onestage.files import Json
from onestage.images import ImageLimits

LAYOUT = "WebDataset: train-000000.tar, train-000001.tar, ..., with 000001.jpg and 000001.json in them"
LABELS = "json"
LARGEST_LABELS = 16 * 1024**2
"""Bytes of the labels of a picture."""
_LOOKED_AT = 200_000
"""Members of a tar that tell whether it is of this format: all pictures may come before all labels."""


class Content(NamedTuple):
    """A file in a tar. name: with its folders. offset, size: in bytes."""

    name: str
    offset: int
    size: int


@dataclass
class Sample:
    """The files of one name: the picture, and the labels."""

    picture: Content | None = None
    labels: Content | None = None


@dataclass
class _Found:
    """What is in a tar. samples: by name. others: files that are neither pictures nor labels, by what follows their name."""

    samples: dict[str, Sample] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


def find(tree: Tree) -> ShardSet | None:
    """The data set of this format among these files, or None. Where one tar of a folder is of this format, all are."""
    shards = [file for file in tree.offered if file.suffix.lower() == ".tar"]
    sure = {
        folder
        for folder in dict.fromkeys(file.parent for file in shards)
        if any(holds_labels(f) for f in shards if f.parent == folder)
    }
    shards = [file for file in shards if file.parent in sure]
    return ShardSet(tree, "wds", shard_sources(tree, shards), read_shard) if shards else None


def misread(tree: Tree) -> DataError | None:
    """Why the first tar that cannot be read to its end cannot, such as a compressed one; None if all can."""
    for file in tree.offered:
        if file.suffix.lower() == ".tar":
            try:
                with file.open("rb") as tar:
                    deque(islice(tars.members(tar, file.stat().st_size), _LOOKED_AT), maxlen=0)
            except DataError as error:
                return error.at(file)
            except OSError:
                continue
    return None


def holds_labels(file: Path) -> bool:
    """Whether this is a tar with a picture and its labels among its first members."""
    if file.suffix.lower() != ".tar":
        return False
    found: dict[str, bool] = {}
    try:
        with file.open("rb") as tar:
            for member in islice(tars.members(tar, file.stat().st_size), _LOOKED_AT):
                key, suffix = _parts_of(member.name)
                is_label = suffix == LABELS
                counts = member.kind == "file" and (is_label or _is_picture(suffix))
                if counts and found.setdefault(key, is_label) != is_label:
                    return True
    except (DataError, OSError):
        pass
    return False


def read_shard(file: Path, table: Table) -> Places:
    """Put the pictures and objects of a tar into the table. Raise DataError if it cannot be opened."""
    table.to_xyxy = box_ops.from_xywh
    try:
        with file.open("rb") as tar:
            found = _Found()
            for key, sample in _samples(tar, file, table, found):
                found.samples[key] = sample
            return dict(_read_samples(tar, file, table, found))
    except OSError as error:
        fix = "see whether it is there and whether you may read it"
        raise DataError("this file cannot be read", where=file, got=error.strerror, fix=fix) from error


def _samples(tar: BinaryIO, file: Path, table: Table, found: _Found) -> Iterator[tuple[str, Sample]]:
    """Each name when it occurs first. The sample is filled later on."""
    name = table.name(file)
    try:
        for member in tars.members(tar, file.stat().st_size):
            if member.kind == "folder":
                continue
            try:
                content = _content(member)
                key, suffix = _parts_of(content.name)
                if not key.rpartition("/")[2]:  # as ._a.jpg, which macOS puts beside a.jpg
                    continue
                if suffix != LABELS and not _is_picture(suffix):
                    found.others[suffix] += 1
                    continue
                if key not in found.samples:
                    yield key, Sample()
                _put(found.samples[key], content, is_label=suffix == LABELS)
            except DataError as error:
                table.problem(f"{name}/{shortened(member.name, 200)}", error)
    except DataError as error:
        table.problem(name, error)


def _content(member: tars.Member) -> Content:
    """Raise DataError if a member is no plain file with a name inside the tar."""
    if member.kind != "file":
        fix = "write the picture itself into the tar, or remove this entry"
        raise DataError(f"refused: this member is {member.kind}", fix=fix)
    clean = inside(member.name)
    if clean is None:
        raise DataError("refused: the name leads outside the tar", got=quoted(member.name), fix="write it with another name")
    return Content(clean, member.offset, member.size)


def _put(sample: Sample, content: Content, *, is_label: bool) -> None:
    """Raise DataError if the sample has such a file already."""
    other = sample.labels if is_label else sample.picture
    if other is not None:
        kind = "labels" if is_label else "a picture"
        fix = "give each picture, with its labels, a name that no other has"
        raise DataError(f"this name has {kind} already; the second one is left out", got=other.name, fix=fix)
    if is_label:
        sample.labels = content
    else:
        sample.picture = content


def _read_samples(tar: BinaryIO, file: Path, table: Table, found: _Found) -> Iterator[tuple[str, tuple[int, int]]]:
    """The place of each picture, by its path, when the table has it."""
    name = table.name(file)
    for key, sample in found.samples.items():
        where = f"{name}/{key}"
        try:
            if sample.picture is None:
                raise PictureError("labels without a picture", fix=f"add the picture to the tar: {key}.jpg")
            if sample.labels is None:
                fix = f"add {key}.{LABELS}; without objects, it says so"
                raise DataError("a picture without labels", expected=f'{key}.{LABELS}, such as {{"objects": []}}', fix=fix)
            _check_size(sample.picture)
            labels = _parsed(tar, sample.labels)
            path = f"{file}/{sample.picture.name}"
            rows = [*_rows(table, labels, picture=len(table.pictures), where=f"{name}/{sample.labels.name}")]
            size = stated_size(labels.get("height"), labels.get("width"))
            stated = as_id(labels.get("image_id"))
            table.add(PictureFile(path, key if stated is None else stated, size))
            table.objects.extend(rows)
            yield path, (sample.picture.offset, sample.picture.size)
        except DataError as error:
            table.problem(where, error)
    if found.others:
        kinds = listed(f"{number:,} .{suffix}" for suffix, number in found.others.most_common())
        what = f"{counted(found.others.total(), 'file')} passed over, neither pictures nor labels: {kinds}"
        table.notes.append(Problem(name, what))


def _check_size(picture: Content) -> None:
    most = ImageLimits().max_bytes
    if not 0 < picture.size <= most:
        got, expected = f"{picture.size:,} bytes", f"1 to {most:,}"
        raise PictureError("this picture is empty or too large", got=got, expected=expected, fix="replace it, or leave it out")


def _parsed(tar: BinaryIO, labels: Content) -> dict[str, Json]:
    """The labels of a picture. Raise DataError if they are none."""
    if labels.size > LARGEST_LABELS:
        got, expected = f"{labels.size:,} bytes", f"at most {LARGEST_LABELS:,}"
        raise DataError("these labels are too long", got=got, expected=expected, fix="write the objects alone into them")
    tar.seek(labels.offset)
    try:
        content = json.loads(tar.read(labels.size), object_pairs_hook=plain_object, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError("these labels are not valid JSON", got=error, fix="write them again") from error
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        got = listed(content) if isinstance(content, dict) else quoted(content)
        fix = 'write {"objects": [{"bbox": [left, top, width, height], "category": "cat"}]}'
        raise DataError("these labels have no list of objects", got=got, expected='a list under "objects"', fix=fix)
    return content


def _rows(table: Table, labels: dict[str, Json], *, picture: int, where: str) -> Iterator[Row]:
    """The objects. What is wrong with one is a problem."""
    objects = labels["objects"]
    for number, entry in enumerate(objects if isinstance(objects, list) else ()):
        place = f"{where}: objects[{number}]"
        try:
            yield object_row(entry, picture, place)
        except DataError as error:
            table.problem(place, error)


def object_row(entry: Json, picture: int, where: str) -> Row:
    """One object. Raise DataError if it is none."""
    if not isinstance(entry, dict) or "bbox" not in entry or field_of(entry, "category") is None:
        got = listed(entry) if isinstance(entry, dict) else quoted(entry)
        raise DataError("an object has a bbox and a category", got=got, fix="write what is missing, or remove the object")
    category = entry["category"]
    key = category if isinstance(category, str) else as_id(category)
    if key is None:
        raise DataError("category should be a name or an id", got=quoted(category), fix="write the name in quotes")
    if isinstance(key, str):
        look_of(key)
    box = box_numbers(entry["bbox"])
    return Row(picture, box, key, where, flag_field(entry, "ignore"), flag_field(entry, "iscrowd"), stated_area(entry))


def _parts_of(name: str) -> tuple[str, str]:
    """The name of a sample, with its folders, and what follows the first dot in lower case: a/b.jpg -> a/b, jpg."""
    folder, _, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def _is_picture(suffix: str) -> bool:
    return f".{suffix.rpartition('.')[2]}" in PICTURE_SUFFIXES
