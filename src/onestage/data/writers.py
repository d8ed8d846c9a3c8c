"""Samples -> a data set on disk in COCO, Pascal VOC or YOLO layout. The readers of the same names read it back.

Each writer stores one split. A second call with the same root adds another split. Annotations are written after the
pictures, so a split without annotations was interrupted. Pictures and their numbering are the same in all three layouts.
Boxes come back to 1/1000 of a pixel from COCO and YOLO, and to whole pixels from VOC.

Shape letters: N objects of one picture; H, W its size.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import torch
import yaml
from PIL import Image

from onestage import boxes as box_ops
from onestage.errors import DataError
from onestage.files import make_folder, write_file
from onestage.structures import Sample, Size

WRITTEN_SPLITS = ("train", "val", "test")
Split = Literal["train", "val", "test"]
Suffix = Literal[".jpg", ".png"]


@dataclass(frozen=True)
class Encoded:
    """A picture as the bytes of its file, and its objects as plain numbers: so it travels between processes and to disk.

    boxes: xyxy pixels; labels: 0..K-1; ignore: crowd or difficult; N of each.
    """

    name: str
    data: bytes
    size: Size
    image_id: int | str
    boxes: tuple[tuple[float, ...], ...]
    labels: tuple[int, ...]
    ignore: tuple[bool, ...]


def encode(sample: Sample, suffix: Suffix = ".jpg", *, quality: int = 92) -> Encoded:
    """Compress a sample: image (3, H, W), boxes (N, 4). The file's name is the id; DataError if the id cannot be a name."""
    stem = f"{sample.image_id:06d}" if isinstance(sample.image_id, int) else sample.image_id
    if not re.fullmatch(r"[\w-][\w.-]*", stem):
        raise DataError("this id cannot be a file name", got=stem, expected="letters, digits, '_', '-' and '.'")
    file = io.BytesIO()
    picture = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
    picture.save(file, "PNG" if suffix == ".png" else "JPEG", quality=quality)
    return Encoded(
        name=stem + suffix,
        data=file.getvalue(),
        size=(sample.image.shape[1], sample.image.shape[2]),
        image_id=sample.image_id,
        boxes=tuple(tuple(box) for box in sample.boxes.tolist()),
        labels=tuple(sample.labels.tolist()),
        ignore=tuple(sample.ignore.tolist()),
    )


def write_coco(
    samples: Iterable[Sample | Encoded],
    root: Path,
    *,
    classes: Sequence[str],
    category_ids: Sequence[int] | None = None,
    split: Split = "train",
) -> int:
    """Write {split}/*.jpg and annotations/instances_{split}.json. Return the number of pictures.

    Category ids are 1..K if they are left out. Ignored objects get ``"ignore": 1``.
    """
    ids = category_ids or range(1, len(classes) + 1)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for item in _stored(samples, root / split, classes):
        number = item.image_id if isinstance(item.image_id, int) else len(images) + 1
        images.append({"id": number, "file_name": item.name, "height": item.size[0], "width": item.size[1]})
        for (x, y, w, h), label, ignore in _objects(item, box_ops.to_xywh):
            box = [round(value, 3) for value in (x, y, w, h)]
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[label], "bbox": box}
            annotations.append(annotation | {"area": round(w * h, 3), "iscrowd": 0, "ignore": int(ignore)})
    categories = [{"id": category, "name": name} for category, name in zip(ids, classes, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write_text(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return len(images)


def write_voc(samples: Iterable[Sample | Encoded], root: Path, *, classes: Sequence[str], split: Split = "train") -> int:
    """Write JPEGImages/, Annotations/*.xml and ImageSets/Main/{split}.txt. Return the number of pictures.

    Corners are rounded to whole pixels, as the format demands. Ignored objects become difficult ones. The format has no list
    of classes: readers number the names in alphabetical order.
    """
    stems = []
    for item in _stored(samples, root / "JPEGImages", classes):
        stem = Path(item.name).stem
        tree = _voc_tree(item, classes)
        ElementTree.indent(tree)
        _write_text(root / "Annotations" / f"{stem}.xml", ElementTree.tostring(tree, encoding="unicode") + "\n")
        stems.append(stem)
    _write_text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    return len(stems)


def write_yolo(samples: Iterable[Sample | Encoded], root: Path, *, classes: Sequence[str], split: Split = "train") -> int:
    """Write images/{split}/, labels/{split}/*.txt and data.yaml, which lists all splits so far. Return the number of pictures.

    The format cannot mark ignored objects: they are left out.
    """
    count = 0
    for item in _stored(samples, root / "images" / split, classes):
        height, width = item.size
        lines = [
            f"{label} {x / width:.7f} {y / height:.7f} {w / width:.7f} {h / height:.7f}\n"
            for (x, y, w, h), label, ignore in _objects(item, box_ops.to_cxcywh)
            if not ignore
        ]
        _write_text(root / "labels" / split / f"{Path(item.name).stem}.txt", "".join(lines))
        count += 1
    splits = {name: f"images/{name}" for name in WRITTEN_SPLITS if (root / "images" / name).is_dir()}
    content = {"path": ".", **splits, "nc": len(classes), "names": list(classes)}
    _write_text(root / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return count


def _stored(samples: Iterable[Sample | Encoded], folder: Path, classes: Sequence[str]) -> Iterator[Encoded]:
    """Write the pictures into the folder, and yield each one without its bytes."""
    make_folder(folder)
    names: set[str] = set()
    for sample in samples:
        item = encode(sample) if isinstance(sample, Sample) else sample
        if item.name in names:
            fix = "give each sample an image_id that no other one has: its file is named after it"
            raise DataError("two pictures have the same id", where=folder, got=item.image_id, fix=fix)
        if any(label >= len(classes) for label in item.labels):
            raise DataError("a label has no class", where=item.name, got=item.labels, expected=f"below {len(classes)}")
        names.add(item.name)
        write_file(folder / item.name, item.data)
        yield replace(item, data=b"")


def _objects(
    item: Encoded, convert: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[tuple[tuple[float, float, float, float], int, bool]]:
    """The objects of a picture: box, label, ignore. convert: (N, 4) xyxy -> (N, 4) in the format of the result."""
    boxes = convert(torch.tensor(item.boxes, dtype=torch.float64).reshape(-1, 4)).tolist()
    return zip(boxes, item.labels, item.ignore, strict=True)


def _voc_tree(item: Encoded, classes: Sequence[str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = item.name
    size = ElementTree.SubElement(root, "size")
    for key, value in zip(("height", "width", "depth"), (*item.size, 3), strict=True):
        ElementTree.SubElement(size, key).text = str(value)
    for (x1, y1, x2, y2), label, ignore in zip(item.boxes, item.labels, item.ignore, strict=True):
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = classes[label]
        ElementTree.SubElement(entry, "difficult").text = str(int(ignore))
        left, top = min(int(x1 + 0.5), item.size[1] - 1), min(int(y1 + 0.5), item.size[0] - 1)
        corners = (left, top, max(left + 1, int(x2 + 0.5)), max(top + 1, int(y2 + 0.5)))
        box = ElementTree.SubElement(entry, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(box, key).text = str(value)
    return root


def _write_text(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_file(path, text)
