"""Pascal VOC: one XML file for each picture, boxes as xmin, ymin, xmax, ymax in pixels.

The format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 9. Policy:
- The numbers are taken unchanged: x1 = xmin and x2 = xmax. VOC itself counts pixels from 1 and includes both ends. The
  tools that write this format today count from 0, and a file does not say which. So a box is off by one pixel at most, and
  it agrees to the digit with what converters to COCO and YOLO make of the same file.
- ``difficult`` objects are kept and flagged ``ignore``; those with LabelMe's ``deleted`` are left out, with a note. A ``score``
  is not read, and a note says so. A width or height of 0 or -1 is read from the picture.
- The picture has the name of the XML file and lies at the same place: see pairing.py. If there are several, or none,
  ``<filename>`` names it.
- Tags may be in any case. An object has one name and one box with four corners. A <bndbox> that is neither in an
  <object> of <annotation> nor in a <part> is a problem: it may be an object that would be lost.
- Classes are all names in the whole data set, sorted, for any split that is read. So all splits agree.
- Splits are the lists ImageSets/Main/{train,val,trainval,test}.txt, or folders of these names. A line is an id, blanks and all.
  Only a 1, -1 or 0 at its end, as in VOC's lists of one class, is no part of it, unless a file has that name.
- DTDs, entities and external references are refused.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from onestage.data.dataset import Problem
from onestage.data.files import PICTURE_SUFFIXES, Sources, by_split, head, read_bytes, read_list, split_above
from onestage.data.labels import StoredClasses, look_of
from onestage.data.pairing import Named, Pairs, is_outside, pair
from onestage.data.split_words import SPLITS, split_name
from onestage.data.table import Row, Said, Table
from onestage.data.text import decimal, flag, listed, misspelt, no_scores, quoted, renaming, stated_size, unquoted
from onestage.data.tree import ByName, Tree, folded
from onestage.errors import DataError, counted, shortened
from onestage.structures import Size

LAYOUT = "Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/train.txt, or pictures and .xml files in one folder"

_ROOT = re.compile(r"(?:\s|<[?!][^<>]*>)*<([A-Za-z_][\w.-]*)")  # after a declaration and comments

_BEYOND_EXPAT = frozenset(
    "gbk gb2312 gb18030 hz big5 big5hkscs cp950 shift_jis cp932 euc_jp iso2022_jp euc_kr cp949 johab".split()  # noqa: SIM905
)
"""Declared encodings of several bytes for a character, by Python's names. The XML parser knows none of them."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Object(NamedTuple):
    """One object: its number in the file, counted from 1, its name, its xyxy box, and whether it is difficult."""

    number: int
    name: str
    box: list[float]
    difficult: bool


@dataclass
class _Annotation(Said):
    """What one XML file says. deleted: how many objects are left out as deleted. has_scores: some object has a score."""

    objects: list[_Object] = field(default_factory=list)
    deleted: int = 0
    has_scores: bool = False


@dataclass(frozen=True)
class VocSet:
    """A VOC data set found on disk: an XML file for each picture. absent: a problem for each listed file that is not there.
    notes: on XML files that are passed over.
    """

    sure: ClassVar[bool] = True
    tree: Tree = field(repr=False)
    sources: Sources
    absent: Mapping[Path, Problem] = field(default_factory=dict)
    notes: Sequence[Problem] = ()

    @property
    def missing(self) -> Mapping[str, DataError]:
        """Nothing in this format states a split apart from its files."""
        return {}

    @property
    def label_files(self) -> frozenset[Path]:
        """The files that are read for some split."""
        splits = [files for split, files in self.sources.items() if split] or [self.sources[""]]
        return frozenset(file for files in splits for file in files)

    def read(self, table: Table, split: str) -> None:
        """Put the pictures, the objects and the classes of a split ("" for all) into the table."""
        names = {item.name for annotation in self._annotations.values() for item in annotation.objects}
        table.classes = StoredClasses.named(sorted(names))
        table.notes.extend(self.notes)
        moved: dict[str, Path] = {}
        for file in self.sources[split]:
            if file in self.absent:
                table.problems.append(self.absent[file])
                continue
            _fill(table, file, self._annotations[file], partial(self._picture, moved))
        table.notes.extend(
            _left_out(table, {file: self._annotations[file] for file in self.sources[split] if file not in self.absent})
        )
        if moved:
            table.moved(self.sources[split][0].parent, moved)

    @cached_property
    def _annotations(self) -> dict[Path, _Annotation]:
        """Every file that is there."""
        files = dict.fromkeys(file for files in self.sources.values() for file in files)
        return {file: _parse(file) for file in files if file not in self.absent}

    @cached_property
    def _pairs(self) -> Pairs:
        return pair(self.tree, self.tree.pictures, self._annotations)

    def _picture(self, moved: dict[str, Path], file: Path, file_name: str | None) -> Path:
        """The picture of an XML file. Raise DataError if there is none, or if several fit.

        moved: gets the picture if ``<filename>`` is a path of another machine.
        """
        found = self._pairs.pictures.get(file, ())
        if len(found) > 1:
            last = folded(re.split(r"[/\\]", (file_name or "").strip())[-1])
            found = [picture for picture in found if folded(picture.name) == last] or found
        if len(found) == 1:
            rivals = [other for other in self._pairs.labels[found[0]] if other in self.label_files]
            if len(rivals) > 1:
                got = ", ".join(map(self.tree.short, rivals))
                raise DataError("several files hold the labels of one picture", got=got, fix="leave one of them")
            return found[0]
        if found:
            got = ", ".join(map(self.tree.short, found))
            raise DataError("several pictures fit", got=got, fix="name the right one in <filename>")
        named = Named(self.tree, file)
        picture = named.find(file_name or file.stem)
        moved |= named.moved
        return picture


def _left_out(table: Table, annotations: Mapping[Path, _Annotation]) -> Iterator[Problem]:
    """Notes on what the files say and nothing reads: scores, and objects that are deleted."""
    if scored := [file for file, annotation in annotations.items() if annotation.has_scores]:
        yield Problem(table.name(scored[0]), no_scores(["<score>"]))
    if cut := [file for file, annotation in annotations.items() if annotation.deleted]:
        count = sum(annotations[file].deleted for file in cut)
        yield Problem(table.name(cut[0]), f"{counted(count, 'object')} left out: <deleted> says so")


def find(tree: Tree) -> VocSet | None:
    """The VOC data set among these files, or None."""
    xml = [file for file in tree.offered if file.suffix.lower() == ".xml"]
    if not any(map(holds_labels, xml)):
        return None
    xml, notes = _without_others(tree, xml)
    listed: dict[str, tuple[Path, ...]] = {}
    absent: dict[Path, Problem] = {}
    names = ByName(tree, xml)
    for split, file in _split_lists(tree.offered):
        listed[split] = listed.get(split, ()) + _listed(tree, file, names, absent)
    if listed:
        return VocSet(tree, {"": tuple(xml)} | {split: listed[split] for split in SPLITS if split in listed}, absent, notes)
    return VocSet(tree, by_split(xml, [split_above(file, tree.root) for file in xml]), notes=notes)


def _without_others(tree: Tree, xml: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """The files without those of another root element that belong to no picture, such as project.xml; a note for each."""
    roots = {file: _ROOT.match(head(file, 4096)) for file in xml}
    others = [file for file, root in roots.items() if root and root[1].lower() != "annotation"]
    paired = pair(tree, tree.pictures, others).pictures if others else {}
    others = [file for file in others if file not in paired]
    what = "this XML file is passed over: its root element is no <annotation>"
    notes = [Problem(tree.short(file), what, got=f"<{(roots[file] or '')[1]}>") for file in others]
    return [file for file in xml if file not in others], notes


def holds_labels(file: Path) -> bool:
    """Whether a file looks like annotations in this format."""
    return file.suffix.lower() == ".xml" and bool(re.search(r"<annotation[\s>]", head(file, 1024), re.IGNORECASE))


def _split_lists(files: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The lists of whole splits in ImageSets/Main, or in ImageSets; dog_train.txt is about one class only."""
    for file in files:
        folder = file.parent.parent if file.parent.name.lower() == "main" else file.parent
        in_sets = folder.name.lower() == "imagesets" and file.suffix.lower() == ".txt"
        split = split_name(file.stem) if in_sets and file.stem.isalpha() else None
        if split:
            yield split, file


def _listed(tree: Tree, file: Path, names: ByName, absent: dict[Path, Problem]) -> tuple[Path, ...]:
    """The XML files that a list in ImageSets/Main names, an id on each line. names: of all XML files. absent: gets a problem
    for each file that is not there.
    """
    base = file.parents[2] if file.parent.name.lower() == "main" else file.parents[1]
    annotations = Named(tree, file, among=names, base=base, is_list=True)
    found: list[Path] = []
    for number, line in enumerate(read_list(file), start=1):
        bare = re.sub(r"\s+(1|-1|0)$", "", line.strip())
        ids = [line, line.strip(), bare, unquoted(line)]
        ids += [str(Path(name).with_suffix("")) for name in ids if Path(name).suffix.lower() in PICTURE_SUFFIXES | {".xml"}]
        known = next((name for name in ids if annotations.fits(f"{name}.xml")), None)
        if known is not None:
            found.append(annotations.find(f"{known}.xml"))
        elif bare and is_outside(line):
            what, fix = "this list names a file outside the data set", "write names of files in Annotations/, without .xml"
            raise DataError(what, where=f"{file}:{number}", got=quoted(line), fix=fix)
        elif bare:
            name = min(ids[4:], key=len, default=bare)  # without the suffix of a picture
            missing = (found[0].parent if found else base / "Annotations") / f"{name}.xml"
            found.append(missing)
            absent[missing] = _no_file(tree, missing, f"{tree.short(file)}:{number}")
    return tuple(dict.fromkeys(found))


def _no_file(tree: Tree, missing: Path, where: str) -> Problem:
    """The problem for an XML file that a list names and that is not there."""
    what = f"the list names {quoted(missing.stem)}, and there is no file {tree.short(missing)}"
    return Problem(where, what, fix=f"put the file into {tree.short(missing.parent)}/, or remove the line from the list")


def _parse(file: Path) -> _Annotation:
    """Read one XML file. All faults are in its errors."""
    try:
        root = _root(file)
    except DataError as error:
        return _Annotation(errors=[("", error)], usable=False)
    annotation = _Annotation(root.findtext("filename"))
    try:
        annotation.size = _size(root)
    except DataError as error:
        annotation.errors.append(("", error))
        annotation.usable = False
    for number, element in enumerate(root.findall("object"), start=1):
        annotation.has_scores |= element.find("score") is not None
        try:
            if _flag(element, "deleted", "the object is deleted"):
                annotation.deleted += 1
            else:
                annotation.objects.append(_object(number, element))
        except DataError as error:
            annotation.errors.append((f" object {number}", error))
    if strays := _stray_boxes(root):
        got = f"<{shortened(strays[0])}>" + (f" and {len(strays) - 1:,} more" if len(strays) > 1 else "")
        what = "a <bndbox> is in an element that is no object of this file"
        annotation.errors.append(("", DataError(what, got=got, expected="<object> in <annotation>")))
    return annotation


def _stray_boxes(root: Element) -> list[str]:
    """The tags of the elements that hold a <bndbox> and are not read: no objects, and no parts of one."""
    found, inner = [], [(child, child.tag == "object") for child in root]
    found += [root.tag] * (root.find("bndbox") is not None)
    while inner:
        element, is_read = inner.pop()
        if element.tag != "part":
            found += [element.tag] * (not is_read and element.find("bndbox") is not None)
            inner += [(child, False) for child in element]
    return found


def _root(file: Path) -> Element:
    """The element <annotation> of a file. Raise DataError if there is none."""
    content = read_bytes(file)
    try:
        root = ElementTree.fromstring(_decoded(content), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        fix = "correct that line, or label the picture again"
        if not _is_utf8(content):
            fix = 'save it as UTF-8, or name its encoding in the first line, such as <?xml version="1.0" encoding="gbk"?>'
        raise DataError("this is not readable XML", got=shortened(str(error)), fix=fix) from error
    for element in root.iter():
        element.tag = element.tag.lower()
    if root.tag != "annotation":
        raise DataError("the root element is wrong", got=f"<{shortened(root.tag)}>", expected="<annotation>")
    return root


def _decoded(content: bytes) -> bytes | str:
    """The content, decoded if it declares an encoding that the XML parser does not know. Raise ValueError if that fails."""
    declared = re.match(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([\w.:-]+)", content)
    if declared:
        with suppress(LookupError):
            name = codecs.lookup(declared[1].decode()).name
            return content.decode(name) if name in _BEYOND_EXPAT else content
    return content


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _size(root: Element) -> Size | None:
    """(height, width) as stated, or None if they are missing, 0 or -1. Raise DataError if they are no sizes."""
    height, width = ((root.findtext(f"size/{key}") or "0").strip() for key in ("height", "width"))
    try:
        return stated_size(decimal(height or "0"), decimal(width or "0"))
    except ValueError:  # a DataError is one too
        got = f"width {quoted(width)}, height {quoted(height)}"
        fix = "write the picture's size in pixels, or 0, and the picture tells it"
        raise DataError("height and width should be numbers", got=got, fix=fix) from None


def _object(number: int, element: Element) -> _Object:
    """Raise DataError with the reason if this is no object."""
    name = (_only(element, "name") or "").strip()
    if not name:
        raise DataError("an object needs a <name>", fix="write its class there, or remove the object")
    look_of(name)
    if _only(element, "bndbox") is None:
        tags = [child.tag for child in element]
        near = next(iter(misspelt(["bndbox"], tags).values()), None)
        fix = f"rename <{shortened(near)}> to <bndbox>" if near else "correct the name of the box, or remove the object"
        raise DataError("an object has no <bndbox>", got=_shown(tags), fix=fix)
    texts = [_only(element, f"bndbox/{corner}") for corner in _CORNERS]
    if None in texts:
        raise _corners_missing([child.tag for child in element.iterfind("bndbox/*")])
    try:
        box = [decimal(text or "") for text in texts]
    except ValueError:
        got = ", ".join(f"{corner} {quoted(text)}" for corner, text in zip(_CORNERS, texts, strict=True))
        raise DataError("<bndbox> should hold four numbers", got=got, fix="correct them, or remove the object") from None
    return _Object(number, name, box, _flag(element, "difficult", "the object counts neither for nor against a detector"))


def _corners_missing(tags: Sequence[str]) -> DataError:
    """The error for a <bndbox> without some corner. tags: those in it."""
    absent = [corner for corner in _CORNERS if corner not in tags]
    sides = next((pair for pair in (("w", "h"), ("width", "height")) if {*pair} <= {*tags}), None)
    if sides and {"x", "y"} <= {*tags}:
        width, height = sides
        fix = f"if x and y are the left top corner: xmin is x, ymin is y, xmax is x + {width}, and ymax is y + {height}"
    elif sides and absent == ["xmax", "ymax"]:
        fix = f"xmax is xmin + {sides[0]}, and ymax is ymin + {sides[1]}"
    else:
        near = misspelt(absent, [tag for tag in tags if tag not in _CORNERS])
        fix = renaming(near) or "write what is missing, or remove the object"
    what = f"<bndbox> has no {_shown(absent)}"
    return DataError(what, got=_shown(tags) or "nothing in it", expected=_shown(_CORNERS), fix=fix)


def _shown(tags: Iterable[str]) -> str:
    """Tags for a message."""
    return listed(f"<{tag}>" for tag in tags)


def _flag(element: Element, tag: str, meaning: str) -> bool:
    """Whether an object has a flag. Raise DataError if that is neither yes nor no. meaning: of the flag, for the message."""
    text = _only(element, tag) or ""
    try:
        return flag(text)
    except ValueError:
        what, fix = f"<{tag}> is not understood", f"write 1 if {meaning}, or 0"
        raise DataError(what, got=quoted(text), expected="0 or 1", fix=fix) from None


def _only(element: Element, path: str) -> str | None:
    """The text of the one element at a path; None if there is none. Raise DataError if there are several."""
    found = element.findall(path)
    if len(found) > 1:
        raise DataError(f"an object has {len(found):,} times <{path.rpartition('/')[2]}>", expected="one")
    return (found[0].text or "") if found else None


def _fill(table: Table, file: Path, annotation: _Annotation, picture_of: Callable[[Path, str | None], Path]) -> None:
    picture = table.labelled(file, annotation, partial(picture_of, file, annotation.picture))
    if picture is not None:
        for number, name, box, difficult in annotation.objects:
            table.objects.append(Row(picture, box, name, f"{table.name(file)} object {number}", ignore=difficult))
