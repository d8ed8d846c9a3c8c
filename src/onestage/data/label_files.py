"""The objects of one picture as the text of a file that label tools open: lines of YOLO, and the files of VOC and LabelMe.

Formats: Ultralytics' "YOLO detection", the devkit of Pascal VOC, https://cocodataset.org/#format-data, and labelme 5 and 6
(labelme/_label_file.py), which keep ``description``, ``flags`` and other fields of a shape.

Shape letters: N objects of one picture.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

import torch
import yaml

from onestage import boxes as box_ops
from onestage.files import Json
from onestage.structures import Size

LABELME = "5.0.0"
"""The version of LabelMe: the first one with descriptions writes this form."""

Box = tuple[float, ...]


@dataclass(frozen=True)
class Shape:
    """A box for LabelMe. box: xyxy pixels. name: of its class. flags: those that hold. score: of a detection."""

    box: Box
    name: str
    description: str = ""
    flags: tuple[str, ...] = ()
    score: float | None = None


def labelme_text(picture: str, size: Size, shapes: Iterable[Shape], flags: Iterable[str] = ()) -> str:
    """LabelMe's file of a picture. picture: its path as seen from the file. flags: of the picture; LabelMe shows them."""
    height, width = size
    content: dict[str, Json] = {"version": LABELME, "flags": dict.fromkeys(flags, True)}
    content["shapes"] = [_shape(shape) for shape in shapes]
    content |= {"imagePath": picture, "imageData": None, "imageHeight": height, "imageWidth": width}
    return json_text(content)


def _shape(shape: Shape) -> dict[str, Json]:
    x1, y1, x2, y2 = (round(side, 3) for side in shape.box)
    content: dict[str, Json] = {"label": shape.name, "points": [[x1, y1], [x2, y2]], "group_id": None}
    content |= {"description": shape.description, "shape_type": "rectangle", "flags": dict.fromkeys(shape.flags, True)}
    return content if shape.score is None else content | {"score": shape.score}


def json_text(content: dict[str, Json]) -> str:
    """JSON for people. A name that is no text, as file systems allow, is written so that it stays itself."""
    return json.dumps(content, ensure_ascii=True, indent=1)


class Boxed(NamedTuple):
    """One object. box: xyxy pixels of its picture. label: 0..K-1. ignore: crowd or difficult."""

    box: Box
    label: int
    ignore: bool = False


def yolo_text(objects: Sequence[Boxed], size: Size) -> str:
    """YOLO's lines of a picture. The format cannot mark ignored objects: they are left out."""
    height, width = size
    kept = [item for item in objects if not item.ignore]
    return "".join(
        f"{item.label} {x / width:.7f} {y / height:.7f} {w / width:.7f} {h / height:.7f}\n"
        for item, (x, y, w, h) in zip(kept, box_ops.to_cxcywh(_tensor(kept)).tolist(), strict=True)
    )


def data_yaml(classes: Sequence[str], splits: Collection[str]) -> str:
    """The file data.yaml of a YOLO data set with these splits. It has no ``path``, so all programs look beside it. A comment
    says which splits other programs miss.
    """
    content = {**{name: f"images/{name}" for name in splits}, "nc": len(classes), "names": list(classes)}
    missed = missed_by_others(splits)
    return (f"# {missed}\n" if missed else "") + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def missed_by_others(splits: Collection[str]) -> str | None:
    """A sentence on the splits without which programs such as Ultralytics' do not train on a YOLO data set; None if it has
    them.
    """
    lacks = [split for split in ("train", "val") if split not in splits]
    if not lacks:
        return None
    fix = "divide the set into train and val"
    fix = "divide the set, or write val: images/train to measure on the pictures that train" if lacks == ["val"] else fix
    return f"there is no {' and no '.join(lacks)}, which other programs, such as Ultralytics', need: {fix}"


def coco_boxes(objects: Sequence[Boxed]) -> Iterator[dict[str, Json]]:
    """Bbox, area, iscrowd and ignore of each object, as a COCO annotation has them."""
    for item, (x, y, w, h) in zip(objects, box_ops.to_xywh(_tensor(objects)).tolist(), strict=True):
        sides: list[Json] = [round(value, 3) for value in (x, y, w, h)]
        yield {"bbox": sides, "area": round(w * h, 3), "iscrowd": 0, "ignore": int(item.ignore)}


def coco_categories(classes: Sequence[str], ids: Sequence[int]) -> list[Json]:
    """The categories of a COCO data set."""
    return [{"id": category, "name": name} for category, name in zip(ids, classes, strict=True)]


def voc_text(name: str, size: Size, objects: Sequence[Boxed], classes: Sequence[str]) -> str:
    """VOC's file of a picture of that name. Corners are whole pixels, as the format demands, and a box has a pixel or more."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    element = ElementTree.SubElement(root, "size")
    for key, value in zip(("height", "width", "depth"), (*size, 3), strict=True):
        ElementTree.SubElement(element, key).text = str(value)
    for item in objects:
        x1, y1, x2, y2 = item.box
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = classes[item.label]
        ElementTree.SubElement(entry, "difficult").text = str(int(item.ignore))
        left, top = min(int(x1 + 0.5), size[1] - 1), min(int(y1 + 0.5), size[0] - 1)
        corners = (left, top, max(left + 1, int(x2 + 0.5)), max(top + 1, int(y2 + 0.5)))
        box = ElementTree.SubElement(entry, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(box, key).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _tensor(objects: Sequence[Boxed]) -> torch.Tensor:
    """The boxes (N, 4), in double precision."""
    return torch.tensor([item.box for item in objects], dtype=torch.float64).reshape(-1, 4)
