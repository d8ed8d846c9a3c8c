"""Random trees of every format against the truth from which they were made: which objects each picture has."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path
from random import Random

import trees
from fuzz.harness import fuzz
from onestage.data import open_data
from onestage.data.check import check_dataset

IMAGES = ("images", "Images", "IMAGES", "image", "img", "JPEGImages", "pictures", "Photos", "train_images", "frames")
LABELS = ("labels", "Labels", "LABELS", "label", "annots", "annotations", "Annotations", "txt", "train_labels", "lbl")
FOLDERS = ("site", "cam1", "cam2", "day 1", "a.b", "x (2)", "größe", "1", "set-3", "Kamera #4")
NAMES = (
    "a",
    "b",
    "a 1",
    "a (1)",
    "a.b",
    "a, b",
    "#1",
    "ä",
    "é à",
    "frame_000001",
    "1",
    "-1",
    "0",
    "IMG 7",
    "[x]",
    "it's",
    "a&b",
)
SUFFIXES = (".jpg", ".JPG", ".png", ".PNG", ".jpeg", ".Jpeg")
SPLITS = ("train", "val", "test")
PICTURES = {}

Truth = dict[str, int]
"""The width in pixels of the one object of each picture, by its path; 0 for a picture without one."""


def image(suffix: str) -> bytes:
    """A small picture, encoded once for each kind."""
    if suffix not in PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            PICTURES[suffix] = trees.picture(Path(folder) / f"a{suffix}").read_bytes()
    return PICTURES[suffix]


class Set:
    """A data set that is being written: its random choices, its folder and its truth."""

    def __init__(self, random: Random, root: Path) -> None:
        self.random, self.root = random, root
        self.truth: Truth = {}
        self.images = random.choice(IMAGES)
        self.above = [random.choice(FOLDERS) for _ in range(random.choice((0, 0, 0, 1, 4)))]
        self.below = [random.choice(FOLDERS) for _ in range(random.choice((0, 0, 1, 3)))]
        self.splits = random.choice((("",), ("train", "val"), SPLITS)) if "train" not in self.images else ("",)
        self.by_split = random.random() < 0.5  # train/images, or images/train
        self.encoding = random.choice(("utf-8", "utf-8-sig", "utf-16", "cp1252"))

    def folder(self, role: str, split: str) -> str:
        """Where the pictures or the labels of a split lie."""
        middle = [split, role] if self.by_split else [role, split]
        return "/".join(part for part in [*self.above, *middle, *self.below] if part)

    def write(self, path: str, content: bytes | str, encoding: str = "utf-8") -> None:
        """Write a file of the data set."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))

    def add_pictures(self) -> dict[str, list[str]]:
        """Write the pictures of each split; give their paths. No two of a folder have one name before the suffix."""
        found = {}
        for split in self.splits:
            names = self.random.sample(NAMES, self.random.randint(1, 6))
            found[split] = [f"{self.folder(self.images, split)}/{name}{self.random.choice(SUFFIXES)}" for name in names]
            for path in found[split]:
                self.write(path, image(Path(path).suffix))
                self.truth[path] = self.random.choice((0, *range(5, 50)))
        if not any(self.truth.values()):
            self.truth[found[self.splits[0]][0]] = 9
        return found

    def stated(self, text: str) -> str:
        """A name as a file states it: in one of Unicode's normal forms."""
        form = "NFC" if self.encoding == "cp1252" else self.random.choice(("NFC", "NFD"))
        return unicodedata.normalize(form, text)

    def as_list(self, names: list[str]) -> str:
        """Names as a list has them, with the line ends of some system."""
        return self.random.choice(("\n", "\r\n")).join([*map(self.stated, names), *[""] * self.random.randint(0, 2)])

    def add_what_systems_leave(self) -> None:
        """Write files that operating systems and exporters leave behind."""
        path = self.random.choice([*self.truth])
        folder, _, name = path.rpartition("/")
        for stranger in (".DS_Store", "Thumbs.db", f"._{name}", f"._{Path(name).stem}.txt", f"._{Path(name).stem}.xml"):
            if self.random.random() < 0.5:
                self.write(f"{folder}/{stranger}", b"\0\5\x16\7 not what it seems")
        if self.random.random() < 0.3:
            self.write(f"__MACOSX/{folder}/._{name}", b"\0\5\x16\7")
            self.write("README.roboflow.txt", "exported\n")


def line(width: int) -> str:
    return f"0 0.5 0.5 {width / trees.SIZE[1]:.6f} 0.5\n"


def yolo(data: Set) -> None:
    """By data.yaml with folders or lists, or by folders and classes.txt; labels in a folder of any spelling, or beside."""
    labels = data.random.choice(LABELS) if "train" not in data.images else "train_labels"
    labels = labels if "train" in data.images or "train" not in labels else "labels"
    labels = data.images if data.random.random() < 0.2 else labels
    pictures = data.add_pictures()
    for split, paths in pictures.items():
        for path in paths:
            if data.truth[path] or data.random.random() < 0.5:
                name = data.stated(f"{data.folder(labels, split)}/{Path(path).stem}.txt")
                data.write(name, line(data.truth[path]) if data.truth[path] else "")
    kind = data.random.choice(("lists", "folders", "none")) if data.splits != ("",) else "none"
    if kind == "none":
        data.write("classes.txt", data.as_list(["größe", "dog"]), data.encoding)
        return
    entries = {}
    for split, paths in pictures.items():
        entries[split] = f"{split}.txt" if kind == "lists" else data.folder(data.images, split)
        if kind == "lists":
            above = data.random.choice(("", "./", "/home/me/set/", "C:/set/"))
            data.write(f"{split}.txt", data.as_list([above + path for path in paths]), data.encoding)
    data.write("data.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in entries.items()) + "names: [cat, dog]\n")


def voc(data: Set) -> None:
    """With ImageSets or by folders; XML files in a folder of any spelling, or beside."""
    labels = data.random.choice(LABELS) if "train" not in data.images else "train_labels"
    labels = labels if "train" in data.images or "train" not in labels else "Annotations"
    lists = data.random.random() < 0.4
    if lists:
        data.splits, data.above = ("",), []
    for split, paths in data.add_pictures().items():
        for path in paths:
            file_name = data.random.choice((Path(path).name, "other.jpg", Path(path).stem))
            width = data.truth[path]
            objects = trees.voc_object("cat", (1, 1, 1 + width, 9)) if width else ""
            xml = f"<annotation><filename>{file_name.replace('&', '&amp;')}</filename>{objects}</annotation>"
            data.write(data.stated(f"{data.folder(labels, split)}/{Path(path).stem}.xml"), xml)
        if lists:
            ids = ["/".join([*data.below, Path(path).stem]) for path in paths]
            cut = data.random.randint(0, len(ids))
            for name, chosen in (("train", ids[:cut]), ("val", ids[cut:])):
                data.write(f"ImageSets/Main/{name}.txt", data.as_list(chosen), data.encoding)


def coco(data: Set) -> None:
    """In a folder of annotations, or beside the folder of pictures, with names from some folder on."""
    place = data.random.choice(("annotations/", "annots/", "", "labels/"))
    for split, paths in data.add_pictures().items():
        cut = data.random.randint(0, paths[0].count("/"))
        names = ["/".join(path.split("/")[cut:]) for path in paths]
        absolute = data.random.random() < 0.2 and cut == 0
        images = [{"id": i, "file_name": data.stated("/home/me/" * absolute + name)} for i, name in enumerate(names)]
        objects = [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, data.truth[path], 8]}
            for i, path in enumerate(paths)
            if data.truth[path]
        ]
        content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
        data.write(f"{place}instances_{split or 'all'}.json", json.dumps(content))


def csv(data: Set) -> None:
    """A file for each split, with bare names, or paths from the root."""
    data.encoding = data.random.choice(("utf-8", "utf-8-sig", "utf-16"))
    place = data.random.choice(("", "lists/", "annotations/"))
    for split, paths in data.add_pictures().items():
        cut = data.random.choice((0, paths[0].count("/")))
        rows = []
        for path in paths:
            name = data.stated("/".join(path.split("/")[cut:]))
            box = f"cat,1,1,{1 + data.truth[path]},9" if data.truth[path] else ",,,,"
            rows.append(f'"{name}",{box}')
        text = "\n".join(["filename,label,xmin,ymin,xmax,ymax", *rows, ""])
        data.write(f"{place}{split or 'all'}.csv", text, data.encoding)


FORMATS = {"yolo": yolo, "voc": voc, "coco": coco, "csv": csv}


def widths(opened, split: str | None, root: Path) -> Truth:
    """What was read: as ``Truth``."""
    data, found = opened.load(split), {}
    for index, path in enumerate(data.paths):
        boxes = data.truth(index).boxes
        assert len(boxes) <= 1, f"{path} has {len(boxes)} objects"
        found[Path(path).relative_to(root).as_posix()] = round(float(boxes[0, 2] - boxes[0, 0])) if len(boxes) else 0
    return found


def attempt(random: Random) -> str:
    """Make a data set and read it. What is read has to be the truth."""
    format = random.choice([*FORMATS])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = Set(random, root)
        FORMATS[format](data)
        data.add_what_systems_leave()
        opened = open_data(root)
        assert opened.format == format
        assert widths(opened, None, root) == data.truth
        assert opened.unread == ()
        if random.random() < 0.1:
            assert not [
                p for p in check_dataset(root, fast=True).problems if "object was read" not in p.what and "AP" not in p.what
            ]
    return format


def test_random_trees_are_read_as_they_were_made():
    fuzz("layouts", attempt)
