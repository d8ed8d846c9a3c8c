"""Pascal VOC: one XML file for each picture, boxes as xmin, ymin, xmax, ymax in pixels.

The format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 9. Policy:
- The numbers are taken as they stand, x1 = xmin and x2 = xmax. VOC itself counts pixels from 1 and includes both ends, but the
  tools that write this format today count from 0, and nothing in a file says which. So a box is off by one pixel at most,
  and it agrees to the digit with what converters to COCO and YOLO make of the same file.
- ``difficult`` objects are kept and flagged ``ignore``. A width and height of 0 are read from the picture.
- The picture is the one named like the XML file; only if there is none, the one that ``<filename>`` names.
- Classes are all names in the whole data set, sorted, whichever split is read; so all splits agree.
- Splits are the lists ImageSets/Main/{train,val,trainval,test}.txt, or folders of these names.
- DTDs, entities and external references are refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from onestage.data.files import (
    SPLITS,
    Pictures,
    Sources,
    by_split,
    head,
    inside,
    picture_folders,
    read_text,
    split_above,
    split_name,
)
from onestage.data.table import Classes, Picture, Row, Table, label_table
from onestage.errors import DataError
from onestage.structures import Size

LAYOUT = "Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/train.txt, or pictures and .xml files in one folder"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Annotation:
    """What one XML file says. problems: (object number or nothing, reason); usable: whether its picture can be used."""

    file_name: str | None = None
    size: Size | None = None
    objects: list[tuple[int, str, list[float], bool]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    usable: bool = True


@dataclass(frozen=True)
class VocSet:
    """A VOC data set found on disk: an XML file for each picture."""

    root: Path
    sources: Sources

    def read(self, table: Table, split: str, classes: Sequence[str] | None) -> Classes:
        """Put the pictures and objects of a split ("" for all) into the table."""
        parsed = {file: _parse(file) for file in dict.fromkeys([*self.sources[""], *self.sources[split]])}
        names = sorted({name for annotation in parsed.values() for _, name, _, _ in annotation.objects})
        labels = label_table(names, range(len(names)), classes)
        folders = {file.parent: file for file in parsed}
        pictures = {folder: Pictures(picture_folders(file, None)) for folder, file in folders.items()}
        for file in self.sources[split]:
            _read_annotation(table, file, parsed[file], pictures=pictures[file.parent], labels=labels)
        return labels


def find(root: Path, files: Sequence[Path]) -> VocSet | None:
    """The VOC data set among these files, if there is one."""
    xml = [file for file in files if file.suffix.lower() == ".xml"]
    if not any(re.search(r"<annotation[\s>]", head(file, 1024)) for file in xml[:20]):
        return None
    lists = [file for file in files if file.parts[-3:-1] == ("ImageSets", "Main") and file.suffix == ".txt"]
    listed: dict[str, tuple[Path, ...]] = {}
    for file in lists:
        split = split_name(file.stem) if file.stem.isalpha() else None  # dog_train.txt speaks of one class only
        if split:
            listed[split] = listed.get(split, ()) + _listed(file)
    if listed:
        return VocSet(root, {"": tuple(xml)} | {split: listed[split] for split in SPLITS if split in listed})
    return VocSet(root, by_split(xml, [split_above(file, root) for file in xml]))


def _listed(file: Path) -> tuple[Path, ...]:
    """The XML files that a list in ImageSets/Main names: an id on each line, perhaps with a number after it."""
    folder = file.parents[2] / "Annotations"
    ids = dict.fromkeys(line.split()[0] for line in read_text(file).splitlines() if line.strip())
    outside = next((name for name in ids if inside(name) is None), None)
    if outside is not None:
        raise DataError("this list names a file outside the data set", where=file, got=outside)
    return tuple(folder / f"{name}.xml" for name in ids)


def _parse(file: Path) -> _Annotation:
    """Read one XML file; whatever is wrong is kept as a problem."""
    try:
        root = ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except FileNotFoundError:
        return _Annotation(usable=False, problems=[("", "a split lists this file, but it does not exist")])
    except (ParseError, DefusedXmlException, ValueError, LookupError, OSError) as error:
        return _Annotation(usable=False, problems=[("", f"this is not readable XML: {error}")])
    if root.tag != "annotation":
        return _Annotation(usable=False, problems=[("", f"the root element should be <annotation>, got <{root.tag}>")])
    annotation = _Annotation(file_name=root.findtext("filename"))
    try:
        annotation.size = _size(root)
    except ValueError as error:
        annotation.problems.append(("", str(error)))
        annotation.usable = False
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            annotation.objects.append((number, *_object(element)))
        except ValueError as error:
            annotation.problems.append((f" object {number}", str(error)))
    return annotation


def _size(root: Element) -> Size | None:
    """(height, width) as stated, or None if they are missing or 0."""
    height, width = (root.findtext(f"size/{key}") or "0" for key in ("height", "width"))
    try:
        size = int(float(height)), int(float(width))
    except (ValueError, OverflowError):
        size = (-1, -1)
    if min(size) < 0:
        raise ValueError(f"height and width should be numbers, got {height!r} and {width!r}")
    return size if min(size) > 0 else None


def _object(element: Element) -> tuple[str, list[float], bool]:
    """Name, xyxy box and whether it is difficult. Raises ValueError with the reason why this is no object."""
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object needs a <name>")
    texts = [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        box = [float(text or "") for text in texts]
    except ValueError:
        got = ", ".join(f"{corner} {text!r}" for corner, text in zip(_CORNERS, texts, strict=True))
        raise ValueError(f"<bndbox> should hold four numbers, got {got}") from None
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"<difficult> should be 0 or 1, got {difficult!r}")
    return name, box, difficult == "1"


def _read_annotation(table: Table, file: Path, annotation: _Annotation, *, pictures: Pictures, labels: Classes) -> None:
    where = table.name(file)
    for suffix, reason in annotation.problems:
        table.problem(where + suffix, reason)
    if not annotation.usable:
        return
    path = pictures.find(file.stem) or pictures.find(annotation.file_name or "")
    if path is None:
        table.problem(where, pictures.missing(annotation.file_name or file.stem))
        return
    table.pictures.append(Picture(path, file.stem, annotation.size))
    for number, name, box, difficult in annotation.objects:
        place = f"{where} object {number}"
        if name in labels.names:
            table.objects.append(Row(len(table.pictures) - 1, box, labels.names.index(name), place, ignore=difficult))
        else:
            table.problem(place, f"unknown class {name!r}")
