"""Pascal VOC: one XML file for each picture, boxes as xmin, ymin, xmax, ymax in pixels.

The format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 9. Policy:
- The numbers are taken unchanged: x1 = xmin and x2 = xmax. VOC itself counts pixels from 1 and includes both ends. The
  tools that write this format today count from 0, and a file does not say which. So a box is off by one pixel at most, and
  it agrees to the digit with what converters to COCO and YOLO make of the same file.
- ``difficult`` objects are kept and flagged ``ignore``. A width or height of 0 or -1 is read from the picture.
- The picture has the name of the XML file. If there is none, ``<filename>`` names it.
- Classes are all names in the whole data set, sorted, for any split that is read. So all splits agree.
- Splits are the lists ImageSets/Main/{train,val,trainval,test}.txt, or folders of these names.
- DTDs, entities and external references are refused.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from onestage.data.files import (
    SPLITS,
    Pictures,
    Sources,
    by_split,
    head,
    inside,
    is_regular,
    picture_folders,
    read_bytes,
    read_text,
    split_above,
    split_name,
)
from onestage.data.labels import StoredClasses
from onestage.data.table import PictureFile, Row, Table
from onestage.data.text import decimal, quoted, stated_size
from onestage.errors import DataError, shortened
from onestage.structures import Size

LAYOUT = "Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/train.txt, or pictures and .xml files in one folder"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Object(NamedTuple):
    """One object: its number in the file, counted from 1, its name, its xyxy box, and whether it is difficult."""

    number: int
    name: str
    box: list[float]
    difficult: bool


@dataclass
class _Annotation:
    """What one XML file says. errors: what is wrong, with the place in the file; usable: its picture is part of the set."""

    file_name: str | None = None
    size: Size | None = None
    objects: list[_Object] = field(default_factory=list)
    errors: list[tuple[str, DataError]] = field(default_factory=list)
    usable: bool = True


@dataclass(frozen=True)
class VocSet:
    """A VOC data set found on disk: an XML file for each picture."""

    root: Path
    sources: Sources

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table."""
        names = {item.name for annotation in self._annotations.values() for item in annotation.objects}
        table.classes = StoredClasses.named(sorted(names))
        for file in self.sources[split]:
            _fill(table, file, self._annotations[file], self._pictures[file.parent])

    @cached_property
    def _annotations(self) -> dict[Path, _Annotation]:
        """Every file that is there or on a list of a split."""
        return {file: _parse(file) for file in dict.fromkeys(file for files in self.sources.values() for file in files)}

    @cached_property
    def _pictures(self) -> dict[Path, Pictures]:
        """The pictures that the files of each folder may mean."""
        folders = {file.parent: file for file in self._annotations}
        return {folder: Pictures(picture_folders(file, None)) for folder, file in folders.items()}


def find(root: Path, files: Sequence[Path]) -> VocSet | None:
    """The VOC data set among these files, or None."""
    xml = [file for file in files if file.suffix.lower() == ".xml"]
    if not any(re.search(r"<annotation[\s>]", head(file, 1024)) for file in xml[:20]):
        return None
    listed: dict[str, tuple[Path, ...]] = {}
    for split, file in _split_lists(files):
        listed[split] = listed.get(split, ()) + _listed(file)
    if listed:
        return VocSet(root, {"": tuple(xml)} | {split: listed[split] for split in SPLITS if split in listed})
    return VocSet(root, by_split(xml, [split_above(file, root) for file in xml]))


def _split_lists(files: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The lists of whole splits in ImageSets/Main; dog_train.txt is about one class only."""
    for file in files:
        in_main = file.parts[-3:-1] == ("ImageSets", "Main") and file.suffix == ".txt"
        split = split_name(file.stem) if in_main and file.stem.isalpha() else None
        if split:
            yield split, file


def _listed(file: Path) -> tuple[Path, ...]:
    """The XML files that a list in ImageSets/Main names: an id on each line, perhaps with a number after it."""
    folder = file.parents[2] / "Annotations"
    ids = dict.fromkeys(line.split()[0] for line in read_text(file).splitlines() if line.strip())
    outside = next((name for name in ids if inside(name) is None), None)
    if outside is not None:
        raise DataError("this list names a file outside the data set", where=file, got=quoted(outside))
    return tuple(folder / f"{name}.xml" for name in ids)


def _parse(file: Path) -> _Annotation:
    """Read one XML file. All faults are in its errors."""
    try:
        root = _root(file)
    except DataError as error:
        return _Annotation(errors=[("", error)], usable=False)
    annotation = _Annotation(file_name=root.findtext("filename"))
    try:
        annotation.size = _size(root)
    except DataError as error:
        annotation.errors.append(("", error))
        annotation.usable = False
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            annotation.objects.append(_object(number, element))
        except DataError as error:
            annotation.errors.append((f" object {number}", error))
    return annotation


def _root(file: Path) -> Element:
    """The element <annotation> of a file. Raise DataError if there is none."""
    if not is_regular(file):
        raise DataError("a split lists this file, but it does not exist")
    content = read_bytes(file)
    try:
        root = ElementTree.fromstring(content, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError("this is not readable XML", got=shortened(str(error))) from error
    if root.tag != "annotation":
        raise DataError("the root element is wrong", got=f"<{shortened(root.tag)}>", expected="<annotation>")
    return root


def _size(root: Element) -> Size | None:
    """(height, width) as stated, or None if they are missing, 0 or -1. Raise DataError if they are no sizes."""
    height, width = ((root.findtext(f"size/{key}") or "0").strip() for key in ("height", "width"))
    try:
        return stated_size(decimal(height or "0"), decimal(width or "0"))
    except ValueError:  # a DataError is one too
        got = f"width {quoted(width)}, height {quoted(height)}"
        raise DataError("height and width should be numbers", got=got) from None


def _object(number: int, element: Element) -> _Object:
    """Raise DataError with the reason if this is no object."""
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError("an object needs a <name>")
    texts = [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        box = [decimal(text or "") for text in texts]
    except ValueError:
        got = ", ".join(f"{corner} {quoted(text)}" for corner, text in zip(_CORNERS, texts, strict=True))
        raise DataError("<bndbox> should hold four numbers", got=got) from None
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise DataError("<difficult> is not understood", got=quoted(difficult), expected="0 or 1")
    return _Object(number, name, box, difficult == "1")


def _fill(table: Table, file: Path, annotation: _Annotation, pictures: Pictures) -> None:
    where = table.name(file)
    for place, error in annotation.errors:
        table.problem(where + place, error)
    if not annotation.usable:
        return
    path = pictures.find(file.stem) or pictures.find(annotation.file_name or "")
    if path is None:
        table.problem(where, pictures.missing(annotation.file_name or file.stem))
        return
    picture = table.add(PictureFile(path, file.stem, annotation.size))
    for number, name, box, difficult in annotation.objects:
        table.objects.append(Row(picture, box, name, f"{where} object {number}", ignore=difficult))
