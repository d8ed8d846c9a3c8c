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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from onestage.data.label_files import Boxed, coco_boxes, coco_categories, data_yaml, voc_text, yolo_text
from onestage.data.stems import same_file
from onestage.errors import DataError
from onestage.files import Json, make_folder, write_file
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

    @property
    def objects(self) -> list[Boxed]:
        """Its objects, one by one."""
        return [Boxed(*row) for row in zip(self.boxes, self.labels, self.ignore, strict=True)]


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
    images: list[Json] = []
    annotations: list[Json] = []
    for item in _stored(samples, root / split, classes):
        number = item.image_id if isinstance(item.image_id, int) else len(images) + 1
        images.append({"id": number, "file_name": item.name, "height": item.size[0], "width": item.size[1]})
        for boxed, box in zip(item.objects, coco_boxes(item.objects), strict=True):
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": ids[boxed.label]} | box)
    content = {"images": images, "annotations": annotations, "categories": coco_categories(classes, ids)}
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
        _write_text(root / "Annotations" / f"{stem}.xml", voc_text(item.name, item.size, item.objects, classes))
        stems.append(stem)
    _write_text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    return len(stems)


def write_yolo(samples: Iterable[Sample | Encoded], root: Path, *, classes: Sequence[str], split: Split = "train") -> int:
    """Write images/{split}/, labels/{split}/*.txt and data.yaml, which lists all splits so far. Return the number of pictures.

    The format cannot mark ignored objects: they are left out.
    """
    count = 0
    for item in _stored(samples, root / "images" / split, classes):
        _write_text(root / "labels" / split / f"{Path(item.name).stem}.txt", yolo_text(item.objects, item.size))
        count += 1
    splits = [name for name in WRITTEN_SPLITS if (root / "images" / name).is_dir()]
    _write_text(root / "data.yaml", data_yaml(classes, splits))
    return count


def _stored(samples: Iterable[Sample | Encoded], folder: Path, classes: Sequence[str]) -> Iterator[Encoded]:
    """Write the pictures into the folder, and yield each one without its bytes."""
    make_folder(folder)
    stems: set[str] = set()  # a.jpg and a.png would share one file of labels; so would a.jpg and A.jpg on some systems
    for sample in samples:
        item = encode(sample) if isinstance(sample, Sample) else sample
        if (stem := same_file(Path(item.name).stem)) in stems:
            fix = "give each sample an image_id that no other one has: its file is named after it"
            raise DataError("two pictures have the same id", where=folder, got=item.image_id, fix=fix)
        if any(label >= len(classes) for label in item.labels):
            raise DataError("a label has no class", where=item.name, got=item.labels, expected=f"below {len(classes)}")
        stems.add(stem)
        write_file(folder / item.name, item.data)
        yield replace(item, data=b"")


def _write_text(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_file(path, text)
