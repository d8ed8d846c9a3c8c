"""Pictures as their files have them, with their labels -> a data set in another format. Nothing is decoded.

Boxes are written with all their digits, so that the readers find the same numbers again. What a format cannot say is counted in
``lost``: YOLO has no crowds, no difficult objects and no areas, VOC has no crowds and no areas.

Shape letters: N objects of one picture.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypedDict
from xml.etree import ElementTree

from onestage.data.files import MAX_BYTES, PICTURE_SUFFIXES
from onestage.data.label_files import coco_categories, data_yaml
from onestage.data.parquet import CLASSES_KEY, OBJECTS
from onestage.data.shard_columns import CLASSES
from onestage.data.split_words import SPLITS
from onestage.errors import ConfigError, DataError
from onestage.files import LONGEST, GrowingFile, Json, atomic_file, make_folder, write_file, writing
from onestage.parts import IMAGE, NAME
from onestage.structures import ClassSet, Size, Truth
from onestage.tars import END, write_member

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetWriter

UNDIVIDED = "data"
"""What the files of a data set without splits are called where splits give the names."""
MOST_IN_SHARD = 10_000
"""Pictures of a shard."""
_GROUP_BYTES, _GROUP_ROWS = 16_000_000, 100
"""Of a row group: it is in memory until it is written."""
_SIGNATURES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"GIF8": ".gif",
    b"II": ".tif",
    b"MM": ".tif",
}


@dataclass(frozen=True)
class Copy:
    """A picture. name: of its file, which no other has. data: the bytes. truth: its objects. size: (height, width)."""

    name: str
    data: bytes
    truth: Truth
    size: Size

    @property
    def objects(self) -> Iterator[tuple[tuple[float, float, float, float], int, bool, bool, float]]:
        """Each of the N objects: left, top, width and height in pixels; label; difficult; crowd; area."""
        truth = self.truth
        x1, y1, x2, y2 = truth.boxes.double().unbind(dim=1)
        boxes = zip(x1.tolist(), y1.tolist(), (x2 - x1).tolist(), (y2 - y1).tolist(), strict=True)
        columns = (column.tolist() for column in (truth.labels, truth.ignore, truth.crowd, truth.area))
        return zip(boxes, *columns, strict=True)


@dataclass
class Place:
    """Where a split is written. split: its name, or None for a data set that is not divided. shard: bytes of a shard. numbered:
    whether the ids of all its pictures are numbers.
    """

    root: Path
    split: str | None
    classes: ClassSet
    shard: int
    numbered: bool = True


class Writer(ABC):
    """What writes one split of a data set. lost: what its format cannot say, and how often."""

    def __init__(self, place: Place) -> None:
        self.place, self.lost = place, Counter[str]()
        self._open = ExitStack()

    @abstractmethod
    def add(self, copy: Copy) -> None:
        """Write a picture and its labels."""

    @abstractmethod
    def finish(self) -> None:
        """Write what belongs to the split as a whole."""

    def abandon(self, error: BaseException) -> None:
        """Close what is open, after an error, without finishing it."""
        with suppress(Exception):  # such as that of a full disk, once more
            self._open.__exit__(type(error), error, error.__traceback__)


class Names:
    """A file name for each picture that no other has, whether or not capitals count: that of the file that it came from, as far
    as possible. dots: whether there may be some before the suffix.
    """

    def __init__(self, *, dots: bool) -> None:
        self._dots = dots
        self._taken: dict[str, int] = {}

    def of(self, path: str, data: bytes) -> str:
        """The name of the copy of a picture."""
        name = path.replace("\\", "/").rpartition("/")[2]
        stem, dot, suffix = name.rpartition(".")
        if f".{suffix.lower()}" not in PICTURE_SUFFIXES or not dot:
            found = next((kind for mark, kind in _SIGNATURES.items() if data.startswith(mark)), ".jpg")
            stem, suffix = name, found.lstrip(".")
        stem = stem.encode("utf-8", "replace").decode()  # what is no text becomes ?
        stem = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", stem).strip().lstrip(".") or "picture"
        stem = stem if self._dots else stem.replace(".", "_")
        stem = stem.encode()[: LONGEST - 20].decode("utf-8", "ignore")
        made, number = stem, self._taken.get(stem.casefold(), 1)
        while made.casefold() in self._taken:
            made, number = f"{stem}-{number + 1}", number + 1
        self._taken[stem.casefold()] = number
        self._taken.setdefault(made.casefold(), 1)
        return f"{made}.{suffix}"


class TarShards(Writer):
    """Shards for WebDataset: train-000000.tar, and classes.json beside them."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._tar: BinaryIO | None = None
        self._shards = self._bytes = self._count = 0

    def add(self, copy: Copy) -> None:
        """Write the picture and its labels into the shard, or into a new one if that is full."""
        if self._tar is None or self._bytes + len(copy.data) > self.place.shard or self._count >= MOST_IN_SHARD:
            self._next()
        labels = json.dumps(_labels(copy, self.place.classes), ensure_ascii=False, separators=(",", ":"))
        key = copy.name.rpartition(".")[0]
        for name, content in ((copy.name, copy.data), (f"{key}.json", labels.encode())):
            assert self._tar is not None
            write_member(self._tar, name, content)
        self._bytes += len(copy.data)
        self._count += 1

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.write(END)
        self._open.close()

    def _next(self) -> None:
        self._close()
        self._tar = self._open.enter_context(atomic_file(_shard(self.place, self._shards, ".tar"), durable=True))
        self._shards, self._bytes, self._count = self._shards + 1, 0, 0

    def finish(self) -> None:
        """Close the last shard, and list the classes."""
        if not self._shards:
            self._next()
        self._close()
        entries = coco_categories(self.place.classes.names, self.place.classes.ids)
        write_file(self.place.root / CLASSES, json.dumps({"classes": entries}, ensure_ascii=False, indent=1) + "\n")


def _shard(place: Place, number: int, suffix: str) -> Path:
    return place.root / f"{place.split or UNDIVIDED}-{number:06d}{suffix}"


class _Labels(TypedDict):
    """The labels of a picture."""

    image_id: int | str
    height: int
    width: int
    objects: list[dict[str, Json]]


def _labels(copy: Copy, classes: ClassSet) -> _Labels:
    objects = [_entry(*each, classes) for each in copy.objects]
    height, width = copy.size
    image_id = copy.truth.image_id
    if isinstance(image_id, str):  # a file name is one, and need be no text
        image_id = image_id.encode("utf-8", "backslashreplace").decode()
    return {"image_id": image_id, "height": height, "width": width, "objects": objects}


def _entry(
    box: tuple[float, float, float, float], label: int, ignore: bool, crowd: bool, area: float, classes: ClassSet
) -> dict[str, Json]:
    flags = {name: 1 for name, flag in (("ignore", ignore), ("iscrowd", crowd)) if flag}
    return {"bbox": [*box], "category": classes.names[label], "area": area, **flags}


class ParquetShards(Writer):
    """Parquet files with a picture in each row: train-000000.parquet. Pictures lie in them as they are."""

    def __init__(self, place: Place) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            what, fix = "Parquet files are written by a package that is not installed", "pip install 'onestage[parquet]'"
            raise ConfigError(what, got="no pyarrow", fix=fix) from error
        super().__init__(place)
        self._arrow = pyarrow
        self._writer: ParquetWriter | None = None
        self._rows: list[dict[str, object]] = []
        self._shards = self._bytes = self._count = self._waiting = 0

    def add(self, copy: Copy) -> None:
        """Put the picture and its objects into the shard, or into a new one if that is full."""
        if self._writer is None or self._bytes + len(copy.data) > self.place.shard or self._count >= MOST_IN_SHARD:
            self._next()
        if self._waiting + len(copy.data) > _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self._write()
        labels = _labels(copy, self.place.classes)
        objects = [entry | {flag: flag in entry for flag in ("ignore", "iscrowd")} for entry in labels["objects"]]
        image_id = labels["image_id"] if self.place.numbered else str(labels["image_id"])
        self._rows.append({NAME: copy.name, **labels, "image_id": image_id, OBJECTS: objects, IMAGE: copy.data})
        self._bytes, self._count, self._waiting = self._bytes + len(copy.data), self._count + 1, self._waiting + len(copy.data)

    def _next(self) -> None:
        self._close()
        file = self._open.enter_context(atomic_file(_shard(self.place, self._shards, ".parquet"), durable=True))
        schema = self._schema()
        words = [f"{OBJECTS}.list.element.category"]
        writer = self._arrow.parquet.ParquetWriter(
            file, schema, compression="NONE", use_dictionary=words, write_statistics=words
        )
        self._writer = self._open.enter_context(writer)
        self._shards, self._bytes, self._count = self._shards + 1, 0, 0

    def _schema(self) -> Schema:
        a = self._arrow
        box = a.list_(a.float64())
        fields = {"bbox": box, "category": a.string(), "area": a.float64(), "ignore": a.bool_(), "iscrowd": a.bool_()}
        listed = coco_categories(self.place.classes.names, self.place.classes.ids)
        return a.schema(
            [
                a.field(NAME, a.string(), nullable=False),
                a.field("image_id", a.int64() if self.place.numbered else a.string(), nullable=False),
                a.field("height", a.int32(), nullable=False),
                a.field("width", a.int32(), nullable=False),
                a.field(OBJECTS, a.list_(a.struct(list(fields.items()))), nullable=False),
                a.field(IMAGE, a.binary(), nullable=False),
            ],
            metadata={CLASSES_KEY: json.dumps(listed)},
        )

    def _write(self) -> None:
        """Write the rows that wait, as a row group."""
        if self._rows and self._writer is not None:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._writer.schema))
        self._rows, self._waiting = [], 0

    def _close(self) -> None:
        self._write()
        self._open.close()

    def finish(self) -> None:
        """Close the last shard."""
        if not self._shards:
            self._next()
        self._close()


class CocoCopy(Writer):
    """train/ and annotations/instances_train.json; images/ and annotations/instances.json if there are no splits.

    The pictures go into the file at once. The objects, which come after all pictures, wait in a file beside it.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._folder = make_folder(place.root / (place.split or "images"))
        self._file = make_folder(place.root / "annotations") / f"instances{f'_{place.split}' if place.split else ''}.json"
        self._json = self._open.enter_context(atomic_file(self._file, durable=True))
        self._objects = GrowingFile(self._file.with_name("objects"))
        self._open.callback(self._objects.close)
        self._pictures = self._count = self._bytes = 0
        self._json.write(b'{"images": [')

    def add(self, copy: Copy) -> None:
        """Write the picture and its entries. Raise DataError if the file would be larger than those that are read."""
        write_file(self._folder / copy.name, copy.data)
        image_id = copy.truth.image_id
        number = image_id if isinstance(image_id, int) and self.place.numbered else self._pictures + 1
        entry: dict[str, Json] = {"id": number, "file_name": copy.name, "height": copy.size[0], "width": copy.size[1]}
        content = _next_entry(entry, self._pictures)
        self._json.write(content)
        self._pictures, self._bytes = self._pictures + 1, self._bytes + len(content)
        for box, label, ignore, crowd, area in copy.objects:
            found: dict[str, Json] = {"id": self._count + 1, "image_id": number, "category_id": self.place.classes.ids[label]}
            found |= {"bbox": [*box], "area": area, "iscrowd": int(crowd), "ignore": int(ignore)}
            content = _next_entry(found, self._count)
            self._objects.write(content)
            self._count, self._bytes = self._count + 1, self._bytes + len(content)
        if self._bytes > (most := MAX_BYTES[".json"]):
            what, got = "one file of COCO cannot hold so many objects", f"{self._count:,} objects so far"
            fix = "choose a format that divides a split into files: --to wds, or --to parquet"
            raise DataError(what, where=self._file, got=got, expected=f"at most {most:,} bytes in a file", fix=fix)

    def finish(self) -> None:
        """Write the objects and the classes, and close the file."""
        self._json.write(b'\n],\n"annotations": [')
        self._objects.sync()
        self._objects.close()
        with writing(self._file), self._objects.part.open("rb") as file:
            while piece := file.read(1 << 20):
                self._json.write(piece)
        with writing(self._file):
            self._objects.part.unlink()
        listed = coco_categories(self.place.classes.names, self.place.classes.ids)
        self._json.write(f'\n],\n"categories": {json.dumps(listed)}}}\n'.encode())
        self._open.close()


def _next_entry(entry: dict[str, Json], before: int) -> bytes:
    return (",\n" if before else "\n").encode() + json.dumps(entry).encode()


class YoloCopy(Writer):
    """images/train/, labels/train/ and data.yaml; images/, labels/ and classes.txt if there are no splits."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._images, self._labels = (make_folder(place.root / kind / (place.split or "")) for kind in ("images", "labels"))

    def add(self, copy: Copy) -> None:
        """Write the picture and its lines."""
        write_file(self._images / copy.name, copy.data)
        height, width = copy.size
        lines = []
        for (x, y, w, h), label, ignore, crowd, area in copy.objects:
            if ignore or crowd:
                self.lost["difficult object or crowd, which is left out"] += 1
                continue
            self.lost["area that is not that of its box"] += _is_outline(area, w, h)
            lines.append(f"{label} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}\n")
        write_file(self._labels / f"{copy.name.rpartition('.')[0]}.txt", "".join(lines))

    def finish(self) -> None:
        """List the classes, and the splits so far."""
        names = [*self.place.classes.names]
        if self.place.split is None:
            write_file(self.place.root / "classes.txt", "".join(f"{name}\n" for name in names))
            return
        there = {folder.name for folder in (self.place.root / "images").iterdir()}
        splits = [split for split in SPLITS if split in there]
        write_file(self.place.root / "data.yaml", data_yaml(names, splits))


class VocCopy(Writer):
    """JPEGImages/, Annotations/ and ImageSets/Main/train.txt; no lists if there are no splits."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._images, self._annotations = (make_folder(place.root / kind) for kind in ("JPEGImages", "Annotations"))
        self._stems: list[str] = []

    def add(self, copy: Copy) -> None:
        """Write the picture and its XML file."""
        write_file(self._images / copy.name, copy.data)
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = copy.name
        size = ElementTree.SubElement(root, "size")
        for key, value in zip(("height", "width", "depth"), (*copy.size, 3), strict=True):
            ElementTree.SubElement(size, key).text = str(value)
        corners = copy.truth.boxes.double().tolist()
        for box, ((_, _, w, h), label, ignore, crowd, area) in zip(corners, copy.objects, strict=True):
            self.lost["crowd, which becomes a difficult object"] += crowd
            self.lost["area that is not that of its box"] += _is_outline(area, w, h)
            entry = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(entry, "name").text = self.place.classes.names[label]
            ElementTree.SubElement(entry, "difficult").text = str(int(ignore or crowd))
            place = ElementTree.SubElement(entry, "bndbox")
            for key, number in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                ElementTree.SubElement(place, key).text = repr(number).removesuffix(".0")
        ElementTree.indent(root)
        stem = copy.name.rpartition(".")[0]
        write_file(self._annotations / f"{stem}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
        self._stems.append(stem)

    def finish(self) -> None:
        """List the pictures of the split."""
        if self.place.split is not None:
            folder = make_folder(self.place.root / "ImageSets" / "Main")
            write_file(folder / f"{self.place.split}.txt", "".join(f"{stem}\n" for stem in self._stems))


def _is_outline(area: float, width: float, height: float) -> bool:
    """Whether an area is not that of its box."""
    return abs(area - width * height) > 1e-3 * max(area, 1.0)
