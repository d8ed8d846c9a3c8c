"""Small data sets in tars and Parquet files."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image


def picture(shade: int = 100, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """The file of a picture of one colour. size: width and height."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade % 256, 60, 120)).save(file, kind)
    return file.getvalue()


def labels(*objects: Mapping[str, object], **more: object) -> bytes:
    return json.dumps({"height": 30, "width": 40, "objects": objects, **more}).encode()


CAT = {"bbox": [2, 3, 10.5, 12], "category": "cat"}
DOG = {"bbox": [5, 5, 20, 20], "category": "dog", "area": 123.5, "iscrowd": 1}


def pairs(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    """So many pictures with their labels: a cat in each, and in every other one a dog."""
    found = []
    for number in range(first, first + count):
        objects = (CAT, DOG) if number % 2 else (CAT,)
        found += [(f"{number:04d}.png", picture(number)), (f"{number:04d}.json", labels(*objects, image_id=number))]
    return found


def tar(file: Path, members: Iterable[tuple[str, bytes] | tarfile.TarInfo], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar with these files, or entries without content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file
