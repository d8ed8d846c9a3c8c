"""Small data sets on disk, for the tests of readers. One truth in every format: see ``TRUTH``."""

import json
from pathlib import Path

from PIL import Image

SIZE = (40, 60)
"""(height, width) of every picture."""

TRUTH = {
    "a": [("cat", (2, 3, 30, 20)), ("dog", (10, 5, 60, 40))],
    "b": [],
    "c": [("dog", (0, 0, 15, 10))],
}
"""Objects by picture: class, xyxy. Picture b has none."""

NAMES = ("cat", "dog")


def picture(path: Path, size: tuple[int, int] = SIZE, shade: int = 0) -> Path:
    """A grey picture; other shades are other files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (shade, shade, 100)).save(path)
    return path


def pictures(folder: Path) -> None:
    for shade, name in enumerate(TRUTH):
        picture(folder / f"{name}.png", shade=shade)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def coco_content() -> dict[str, list[dict[str, object]]]:
    """Category ids with a gap, not in order."""
    ids = {"cat": 3, "dog": 18}
    names = list(TRUTH)
    images = [{"id": 100 + i, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for i, n in enumerate(names)]
    annotations: list[dict[str, object]] = []
    for i, name in enumerate(names):
        for label, (x1, y1, x2, y2) in TRUTH[name]:
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"id": len(annotations) + 1, "image_id": 100 + i, "category_id": ids[label], "bbox": box, "iscrowd": 0}
            annotations.append(entry)
    categories: list[dict[str, object]] = [{"id": ids[n], "name": n} for n in reversed(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(root: Path, content: object = None, file: str = "annotations/instances_train2017.json") -> Path:
    pictures(root / "train2017")
    write(root / file, json.dumps(content or coco_content()))
    return root


def voc_object(label: str, box: tuple[float, ...], extra: str = "") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<object><name>{label}</name>{extra}<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in corners)}</bndbox></object>"


def voc_xml(name: str, objects: str, size: tuple[object, object] = SIZE) -> str:
    sizes = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{sizes}{objects}</annotation>"


def voc(root: Path) -> Path:
    pictures(root / "JPEGImages")
    for name, objects in TRUTH.items():
        write(root / "Annotations" / f"{name}.xml", voc_xml(name, "".join(voc_object(*o) for o in objects)))
    for split, names in {"train": "a\nb\n", "val": "c\n", "trainval": "a\nb\nc\n", "cat_train": "a  1\nb -1\n"}.items():
        write(root / "ImageSets/Main" / f"{split}.txt", names)
    return root


def yolo_line(label: int, box: tuple[float, ...]) -> str:
    x1, y1, x2, y2 = box
    height, width = SIZE
    return f"{label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}"


def yolo(root: Path, images: str = "images/train", labels: str = "labels/train") -> Path:
    pictures(root / images)
    for name, objects in TRUTH.items():
        if objects:  # the picture without objects has no label file
            write(root / labels / f"{name}.txt", "\n".join(yolo_line(NAMES.index(k), box) for k, box in objects) + "\n")
    write(root / "data.yaml", "path: ../elsewhere/set\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n")
    return root


def csv_text(relative: bool = False) -> str:
    height, width = SIZE
    scale = (1 / width, 1 / height) if relative else (1, 1)
    rows = ["img_name,label,xmin,ymin,xmax,ymax"]
    for name, objects in TRUTH.items():
        for label, (x1, y1, x2, y2) in objects:
            corners = (x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1])
            rows.append(",".join([f"{name}.png", label, *(f"{corner:g}" for corner in corners)]))
        if not objects:
            rows.append(f"{name}.png,,,,,")
    return "\n".join(rows) + "\n"


def csv(root: Path, text: str | None = None, file: str = "label.csv") -> Path:
    pictures(root / "images")
    write(root / file, text or csv_text())
    return root


WRITERS = {"coco": coco, "voc": voc, "yolo": yolo, "csv": csv}
