"""Data sets on disk from trees as docs/data.md shows them: a file on each line, and after it what it says."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import trees
from onestage.data.files import PICTURE_SUFFIXES

LINE = re.compile(r"(.+?)(?:\s{2,}(.*))?")
OBJECT = "0 0.5 0.5 0.25 0.25"


def files_of(tree: str) -> dict[str, list[str]]:
    """What each file of a tree says, by line."""
    found = {}
    for line in filter(str.strip, tree.splitlines()):
        path, said = LINE.fullmatch(line.strip()).groups()  # type: ignore[union-attr]
        found[path] = [part.strip() for part in said.split("; ")] if said else []
    return found


def build(root: Path, tree: str, encoding: str = "utf-8") -> Path:
    """Write the files of a tree. encoding: of the lists, YAML and CSV files."""
    for shade, (path, said) in enumerate(files_of(tree).items()):
        file, kind = root / path, Path(path).suffix.lower()
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind in PICTURE_SUFFIXES:
            trees.picture(file, shade=shade % 250)
        elif kind == ".json":
            file.write_text(json.dumps(coco(said)), encoding="utf-8")
        elif kind == ".xml":
            file.write_text(voc(said[0] if said else f"{file.stem}.jpg"), encoding="utf-8")
        else:
            file.write_text("\n".join(said or [OBJECT]) + "\n", encoding=encoding)
    return root


def coco(names: Iterable[str]) -> dict[str, object]:
    """A COCO file with an object in each picture."""
    names = list(names)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 28, 17]} for i in range(len(names))]
    return {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}


def voc(file_name: str) -> str:
    """A VOC file with an object."""
    return f"<annotation><filename>{file_name}</filename>{trees.voc_object('cat', (2, 3, 30, 20))}</annotation>"
