"""Which annotations belong to which picture: every layout of docs/data.md, and kinds of trees that were read wrongly once."""

import os
import re
import unicodedata
from pathlib import Path

import pytest

from layouts import build
from loaded import ROOT
from onestage.data import load_dataset, open_data
from onestage.data.check import check_dataset
from onestage.errors import DataError, OnestageError

PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| (coco|voc|yolo|csv) \| (\d+) \| (\d+) \| ([a-z, ]*)\|$", PAGE, re.M)
TREES = dict(re.findall(r"^### ([^\n]+)\n\n```\n(.*?)```", PAGE, re.M | re.S))


def test_every_row_of_the_table_has_its_tree():
    assert [row[0] for row in ROWS] == [*TREES] and len(ROWS) == len(re.findall(r"^\| .* \| \d+ \| \d+ \|", PAGE, re.M))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_layout_of_the_page_is_read_as_the_page_says(row, tmp_path):
    name, format, pictures, objects, splits = row
    opened = open_data(build(tmp_path, TREES[name]))
    data = opened.load()
    assert (opened.format, len(data), len(data.boxes)) == (format, int(pictures), int(objects))
    assert opened.splits == tuple(splits.strip().split(", ") if splits.strip() else ())
    assert sum(len(opened.load(split)) for split in opened.splits) in (0, len(data))
    report = check_dataset(tmp_path, fast=True)
    assert report.problems == () and report.objects == int(objects)


def objects_of(root: Path, **options: str) -> dict[str, int]:
    """How many objects each picture has, by its path."""
    data = load_dataset(root, **options)
    return {Path(path).relative_to(root).as_posix(): len(data.truth(i).boxes) for i, path in enumerate(data.paths)}


YAML = "train: images/train; names: [cat, dog]"
CSV = "filename,label,xmin,ymin,xmax,ymax"
STRANGE = (
    "a b", "a (1)", "a.b.c", "a, b", "a#1", "a 1", "a -1", "größe", "IMG_1", "a'b", "1", "[a]", "a&b", "cam1/a", "x/y (2)/a"
)  # fmt: skip


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("format", ["yolo", "voc", "coco", "csv", "list"])
def test_names_are_not_taken_apart(format, name, form, tmp_path):
    """A second picture has the name up to the first blank, dot, bracket or comma: it must not be taken for the first."""
    other = re.split(r"[ .,(\[#&']", name)[0] or "other"
    names = dict.fromkeys([name, other if other != name else "other"])
    shown = [unicodedata.normalize(form, each) for each in names]
    quoted = "; ".join(f'"{each}.JPG",cat,2,3,30,20' for each in shown)
    tree = [f"images/{each}.JPG" for each in names]
    tree += {
        "yolo": ["classes.txt    cat; dog", *(f"labels/{each}.txt" for each in shown)],
        "list": [
            "data.yaml    train: list.txt; names: [cat, dog]",
            "list.txt    " + "; ".join(f"images/{each}.JPG" for each in shown),
            *(f"labels/{each}.txt" for each in names),
        ],
        "voc": [*(f"Annotations/{each}.xml    x.jpg" for each in names), "ImageSets/Main/train.txt    " + "; ".join(shown)],
        "coco": ["all.json    " + "; ".join(f"{each}.JPG" for each in shown)],
        "csv": [f"all.csv    {CSV}; {quoted}"],
    }[format]
    split = {"split": "train"} if format in ("voc", "list") else {}
    assert objects_of(build(tmp_path, "\n".join(tree).replace("x.jpg", "none.jpg")), **split) == {
        f"images/{each}.JPG": 1 for each in names
    }


FOLDERS = [
    ("Images", "Labels"), ("IMAGES", "LABELS"), ("image", "label"), ("img", "annots"), ("imgs", "annotations"),
    ("JPEGImages", "labels"), ("photos", "txt"), ("train_images", "train_labels"), ("images_train", "labels_train"),
    ("trainImages", "trainLabels"), ("a/b/c/d/e/images/x/y", "a/b/c/d/e/labels/x/y"), ("Fotos", "Kisten"), ("pics", "."),
    ("set/images", "set/images/labels"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "labels"), FOLDERS)
@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_folders_of_any_spelling(format, images, labels, tmp_path):
    suffix = {"yolo": "txt", "voc": "xml"}[format]
    tree = f"{images}/a.jpg\n{images}/b.jpg\n{labels}/a.{suffix}    {'0 0.5 0.5 0.2 0.2' if format == 'yolo' else 'none.jpg'}"
    root = build(tmp_path, tree + ("\nnames/classes.txt    cat; dog" if format == "yolo" else ""))
    found = {name: count for name, count in objects_of(root).items() if count}
    assert found == {f"{images}/a.jpg": 1}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize(
    "tree",
    [
        "data.yaml    train: list.txt; names: [cat, dog]\nlist.txt    images/é.jpg; images/b.jpg\nimages/é.jpg\nimages/b.jpg\n"
        "labels/é.txt\nlabels/b.txt",
        "classes.txt    größe; dog\nimages/é.jpg\nimages/b.jpg\nlabels/é.txt\nlabels/b.txt",
        "ImageSets/Main/train.txt    é; b\nAnnotations/é.xml\nAnnotations/b.xml\nJPEGImages/é.jpg\nJPEGImages/b.jpg",
        f"all.csv    {CSV}; é.jpg,cat,2,3,30,20; b.jpg,cat,2,3,30,20\né.jpg\nb.jpg",
    ],
)
def test_lists_in_other_encodings(encoding, tree, tmp_path):
    build(tmp_path, tree, encoding)
    for file in tmp_path.rglob("*.yaml"):  # YAML is UTF-8 or UTF-16
        file.write_text(file.read_text(encoding=encoding), encoding="utf-8")
    if encoding == "cp1252" and "all.csv" in tree:
        with pytest.raises(DataError, match="not UTF-8"):  # it holds class names, which nothing can confirm
            load_dataset(tmp_path / "all.csv")
        return
    opened = open_data(tmp_path)
    data = opened.load(opened.splits[0] if opened.splits else None)
    assert len(data) == len(data.boxes) == 2


SEVERAL = {
    "two orders of classes": (
        "a/classes.txt    cat; dog\nb/classes.txt    dog; cat\na/1.jpg\na/1.txt\nb/2.jpg\nb/2.txt",
        "a/classes.txt: cat, dog; b/classes.txt: dog, cat",
    ),
    "data.yaml and classes.txt": (
        f"data.yaml    {YAML}\nimages/train/a.jpg\nlabels/train/a.txt\nlabels/classes.txt    dog; cat",
        "data.yaml: cat, dog; labels/classes.txt: dog, cat",
    ),
    "a class twice": ("classes.txt    cat; dog; cat\n1.jpg\n1.txt", "'cat' in lines 1, 3"),
    "a class without a name": ("classes.txt    cat; ; dog\n1.jpg\n1.txt", "classes.txt:2"),
    "YOLO, pictures": ("classes.txt    cat\nimages/a.jpg\nimages/a.png\nlabels/a.txt", "images/a.jpg, images/a.png"),
    "YOLO, labels": (
        "classes.txt    cat\nimages/a.jpg\nlabels/a.txt\nannots/a.txt    0 0.4 0.4 0.1 0.1", "annots/a.txt, labels/a.txt"
    ),
    **{
        f"YOLO, labels and {kind}": (
            f"classes.txt    cat\nimages/a.jpg\nlabels/a.txt\nimages/b.jpg\nlabels/b.txt\nannots/a.txt    {text}",
            "annots/a.txt, labels/a.txt",
        )
        for kind, text in {
            "decimal commas": "0 0,5 0,5 0,2 0,2",
            "too few columns": "0 0.5 0.5 0.2",
            "a negative class": "-1 0.5 0.5 0.2 0.2",
            "a number that is none": "0 0.5 0.5 0.2 x",
            "a class with parts": "0.5 0.5 0.5 0.2 0.2",
        }.items()
    },
    "YOLO, folders of labels": (
        "classes.txt    cat\nFotos/a.jpg\nA/a.txt\nB/a.txt    0 0.4 0.4 0.1 0.1", "Fotos/ with A/; Fotos/ with B/"
    ),
    "YOLO, lists": (
        "classes.txt    cat\na.jpg\na.txt\ntrain.txt    a.jpg\nlists/train.txt    a.jpg", "train.txt, lists/train.txt"
    ),
    "VOC, pictures": ("a.jpg\na.png\na.xml    c.jpg", "a.jpg, a.png"),
    "VOC, files": ("images/a.jpg\nannots/a.xml    a.jpg\nxmls/a.xml    a.jpg", "annots/a.xml, xmls/a.xml"),
    "COCO, pictures": ("all.json    a.jpg\ncam1/a.jpg\ncam2/a.jpg", "cam1/a.jpg, cam2/a.jpg"),
    "COCO, pictures far down": (
        "annotations/all.json    a.jpg\nimages/x/cam1/a.jpg\nimages/x/cam2/a.jpg", "images/x/cam1/a.jpg, images/x/cam2/a.jpg"
    ),
    "COCO, beside and in images": ("annotations/all.json    a.jpg\nimages/a.jpg\na.jpg", "a.jpg, images/a.jpg"),
    "COCO, spellings": ("all.json    A.JPG\nimages/a.jpg\nimages/A.jpg", "images/A.jpg, images/a.jpg"),
    "CSV, pictures": (f"all.csv    {CSV}; a.jpg,cat,2,3,30,20\ncam1/a.jpg\ncam2/a.jpg", "cam1/a.jpg, cam2/a.jpg"),
    "CSV, suffixes": (f"all.csv    {CSV}; a,cat,2,3,30,20\na.jpg\na.png", "a.jpg, a.png"),
    "two COCO files": ("one.json    a.jpg\ntwo.json    a.jpg\na.jpg", "one.json, two.json"),
    "two COCO files of a split": (
        "instances_train.json    a.jpg\ntrain.json    a.jpg\na.jpg", "instances_train.json, train.json"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_the_first_of_several_is_no_answer(kind, tmp_path):
    """The error, or the one problem, lists the candidates."""
    tree, candidates = SEVERAL[kind]
    with pytest.raises(DataError) as caught:
        load_dataset(build(tmp_path, tree))
    assert candidates in str(caught.value)


def test_an_empty_file_does_not_lose_to_one_elsewhere(tmp_path):
    root = build(tmp_path, SEVERAL["YOLO, labels"][0] + "\nimages/b.jpg\nlabels/b.txt")
    for text in ("", "\n", " \r\n"):
        (root / "labels/a.txt").write_text(text)
        with pytest.raises(DataError, match=r"annots/a.txt, labels/a.txt"):
            load_dataset(root)


DECIDED = {
    "text that is no labels": (
        "classes.txt    cat\nimages/a.jpg\nlabels/a.txt\nimages/b.jpg\nlabels/b.txt\nannots/a.txt    a photo of 2 cats", {},
        {"images/a.jpg": 1, "images/b.jpg": 1},
    ),
    "the split of the COCO file": (
        "annotations/instances_train.json    a.jpg\nannotations/instances_val.json    a.jpg\ntrain/a.jpg\nval/a.jpg",
        {"split": "val"}, {"val/a.jpg": 1},
    ),
    "the year of the COCO file": (
        "annotations/instances_train2017.json    a.jpg\ntrain2017/a.jpg\ntrain2014/a.jpg", {}, {"train2017/a.jpg": 1}
    ),
    "<filename>": ("a.jpg\na.png\na.xml    a.png", {}, {"a.png": 1}),
    "a list": (
        "data.yaml    train: list.txt; names: [cat]\nlist.txt    images/a.png\nimages/a.jpg\nimages/a.png\nlabels/a.txt",
        {}, {"images/a.png": 1},
    ),
    "the spelling": (
        "classes.txt    cat\nimages/a.jpg\nimages/A.jpg\nlabels/A.txt\nlabels/a.txt", {},
        {"images/a.jpg": 1, "images/A.jpg": 1},
    ),
    "a folder beside masks": (
        f"all.csv    {CSV}; a.png,cat,2,3,30,20\nimages/a.png\nmasks/a.png", {}, {"images/a.png": 1}
    ),
    "the nearer set": (
        "A/Annotations/1.xml\nA/JPEGImages/1.jpg\nB/Annotations/1.xml\nB/JPEGImages/1.jpg", {},
        {"A/JPEGImages/1.jpg": 1, "B/JPEGImages/1.jpg": 1},
    ),
    "one picture by two names": (
        f"all.csv    {CSV}; a.jpg,cat,2,3,30,20; images/a.jpg,cat,2,3,31,20\nimages/a.jpg", {}, {"images/a.jpg": 2}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DECIDED)
def test_what_the_files_state_decides(kind, tmp_path):
    tree, options, expected = DECIDED[kind]
    assert objects_of(build(tmp_path, tree), **options) == expected


ABSOLUTE = {
    "COCO": "all.json    /home/me/set/images/a.jpg\nimages/a.jpg",
    "CSV": f"all.csv    {CSV}; C:\\set\\images\\a.jpg,cat,2,3,30,20\nimages/a.jpg",
    "VOC": "annots/1.xml    /home/me/set/images/a.jpg\nimages/a.jpg",
    "a list": "data.yaml    train: list.txt; names: [cat]\nlist.txt    /x/images/a.jpg\nimages/a.jpg\nlabels/a.txt",
    "data.yaml": "data.yaml    train: /x/y/images; names: [cat]\nimages/a.jpg\nlabels/a.txt",
    "a list in data.yaml": (
        "data.yaml    train: C:/x/list.txt; names: [cat]\nlist.txt    images/a.jpg\nimages/a.jpg\nlabels/a.txt"
    ),
}


@pytest.mark.parametrize("kind", ABSOLUTE)
def test_a_path_of_another_machine_means_the_file_inside_and_this_is_said(kind, tmp_path):
    root = build(tmp_path, ABSOLUTE[kind])
    assert objects_of(root) == {"images/a.jpg": 1}
    notes = [note.what for note in load_dataset(root).notes]
    assert len(notes) == 1 and "another machine" in notes[0]
    assert "another machine" in " ".join(note.what for note in check_dataset(root, fast=True).notes)


@pytest.mark.parametrize("name", ["/home/me/other/b.jpg", "/home/me/cam1/a.jpg", "../images/a.jpg", "http://host/images/a.jpg"])
def test_a_path_outside_without_such_an_end_is_refused(name, tmp_path):
    root = build(tmp_path / "set", f"all.json    {name}; c.jpg\ncam2/a.jpg\nc.jpg")
    build(tmp_path / "set", "images/a.jpg") if name.startswith("../") else None
    with pytest.raises(DataError, match="leads outside"):
        load_dataset(root)


def test_an_absolute_path_is_never_opened_even_on_this_machine(tmp_path):
    outside = build(tmp_path / "out", "b.jpg") / "b.jpg"
    root = build(tmp_path / "set", f"all.json    {outside}; a.jpg\na.jpg")
    with pytest.raises(DataError, match="leads outside"):
        load_dataset(root)
    assert objects_of(build(tmp_path / "set", f"all.json    {root}/a.jpg")) == {"a.jpg": 1}


SYSTEM = "images/._a.jpg\n.DS_Store\nimages/Thumbs.db\n__MACOSX/images/._a.jpg\n__MACOSX/images/b.jpg\n.cache/images/c.jpg"


@pytest.mark.parametrize("name", ["YOLO with classes.txt", "VOC in folders by split", "COCO with folders in names"])
def test_files_of_operating_systems_are_passed_over(name, tmp_path):
    before = check_dataset(build(tmp_path, TREES[name]), fast=True)
    for path in [*SYSTEM.splitlines(), "labels/._a.txt", "__MACOSX/labels/._a.txt", "annotations/._x.json", "._classes.txt"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(40))
    assert check_dataset(tmp_path, fast=True) == before


UNREAD = {
    "a folder of labels": f"data.yaml    {YAML}\nimages/train/a.jpg\nlabels/train/a.txt\nlabels/old/x.txt\nlabels/old/y.txt",
    "a split that data.yaml lacks": f"data.yaml    {YAML}\nimages/train/a.jpg\nlabels/train/a.txt\n"
    "images/test/x.jpg\nlabels/test/x.txt",
    "a picture that no list names": "data.yaml    train: t.txt; names: [cat]\nt.txt    images/a.jpg\nimages/a.jpg\n"
    "labels/a.txt\nimages/x.jpg\nlabels/x.txt",
    "VOC, no list": "ImageSets/Main/train.txt    a\nAnnotations/a.xml\nAnnotations/x.xml\nJPEGImages/a.jpg\nJPEGImages/x.jpg",
    "CSV without its pictures": f"train.csv    {CSV}; a.jpg,cat,2,3,30,20\na.jpg\nval.csv    {CSV}; x.jpg,cat,2,3,30,20",
}


@pytest.mark.parametrize("kind", UNREAD)
def test_labels_that_nothing_reads_are_named(kind, tmp_path):
    root = build(tmp_path, UNREAD[kind])
    (problem,) = check_dataset(root, fast=True).problems
    assert "nothing reads" in problem.what and re.search(r"\bx\.|labels/old|val\.csv", str(problem)), problem


def test_other_files_are_no_labels_that_nothing_reads(tmp_path):
    tree = f"data.yaml    {YAML}\nimages/train/a.jpg\nlabels/train/a.txt\nREADME.roboflow.txt    1 export\nnotes.txt    0 0.5"
    report = check_dataset(build(tmp_path, tree), format="yolo", fast=True)
    assert report.problems == ()
    build(tmp_path, "all.json    images/train/a.jpg")
    report = check_dataset(tmp_path, format="yolo", fast=True)
    assert report.problems == () and "coco" in report.notes[0].what


@pytest.mark.parametrize("tree", ["images/train/a.jpg", "images/train/a.jpg\nlabels/train/a.txt"])
def test_no_object_where_some_are_expected_is_a_problem(tree, tmp_path):
    root = build(tmp_path, f"data.yaml    {YAML}\n{tree}")
    for file in root.rglob("a.txt"):
        file.write_text("\n")
    (problem,) = check_dataset(root, fast=True).problems
    assert "no object was read" in problem.what


def test_a_split_that_is_stated_and_missing(tmp_path):
    root = build(
        tmp_path, "data.yaml    train: images/train; val: images/val; names: [cat]\nimages/train/a.jpg\nlabels/train/a.txt"
    )
    (problem,) = check_dataset(root, fast=True).problems
    assert "'val'" in problem.what and problem.got == "'images/val'"
    with pytest.raises(DataError, match="for 'val'"):
        load_dataset(root, split="val")
    assert open_data(root).splits == ("train",)


def test_a_class_that_only_validation_has_is_told_alike(tmp_path):
    root = build(
        tmp_path, "annotations/instances_train.json    a.jpg\nannotations/instances_val.json    b.jpg\ntrain/a.jpg\nval/b.jpg"
    )
    file = root / "annotations/instances_train.json"
    file.write_text(file.read_text().replace(', {"id": 2, "name": "dog"}', ""))
    other = root / "annotations/instances_val.json"
    other.write_text(other.read_text().replace('"category_id": 1', '"category_id": 2'))
    (problem,) = check_dataset(root, fast=True).problems
    opened = open_data(root)
    with pytest.raises(OnestageError) as caught:
        opened.load("val", classes=opened.load("train").classes, owner="the split train")
    assert problem.what == caught.value.what and problem.got == "2 in the data: cat, dog"


def test_folders_that_may_not_be_read_beside_a_file_that_is_named(tmp_path, monkeypatch):
    root = build(tmp_path, "all.json    a.jpg\na.jpg\nprivate/x.jpg")
    inner = os.scandir

    def scandir(path):
        if Path(str(path)).name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return inner(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(load_dataset(root / "all.json")) == 1
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(root)


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path):
    root = build(tmp_path, TREES["YOLO with classes.txt"])
    (root / "image/loop").symlink_to(root, target_is_directory=True)
    assert len(load_dataset(root)) == 2


BOXES = "images/train/a.jpg\nlabels/train/a.txt\nclasses.txt    cat\n"
WITHOUT_LABELS = {
    "no file of labels": BOXES + "images/val/b.jpg\nimages/val/c.jpg",
    "other order": "train/images/a.jpg\ntrain/labels/a.txt\nclasses.txt    cat\nvalid/images/b.jpg\nvalid/images/c.jpg",
    "one folder": "train/a.jpg\ntrain/a.txt\nclasses.txt    cat\nvalidation/b.jpg\nvalidation/c.jpg",
    "VOC": "train/a.jpg\ntrain/a.xml\nval/b.jpg\nval/c.jpg",
    "COCO": "annotations/instances_train2017.json    a.jpg\ntrain2017/a.jpg\nval2017/b.jpg\nval2017/c.jpg",
    "CSV": f"train.csv    {CSV}; a.jpg,cat,2,3,30,20\ntrain/a.jpg\nval/b.jpg\nval/c.jpg",
}


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("kind", WITHOUT_LABELS)
def test_validation_pictures_without_labels_are_never_passed_over_in_silence(kind, empty, tmp_path):
    root = build(tmp_path, WITHOUT_LABELS[kind])
    yolo = open_data(root).format == "yolo"
    if empty and yolo:
        for file in root.rglob("b.jpg"):
            labels = Path(str(file).replace("images", "labels")).with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.touch()
    report = check_dataset(root, fast=True)
    (problem,) = report.problems
    assert ("no validation picture has an object" if yolo else "2 pictures in folders of val") in problem.what
    assert [split.name for split in report.splits] == ["train", *["val"] * yolo]
    assert report.pictures == (3 if yolo else 1)


LEFT_OUT = {
    "YOLO": BOXES + "masks/a.png\ntrain/masks/x.jpg",
    "YOLO with data.yaml": f"data.yaml    {YAML}\nimages/train/a.jpg\nlabels/train/a.txt\nimages/more/x.jpg\nx.jpg",
    "YOLO with lists": "a.jpg\na.txt\nb.jpg\nx.jpg\nclasses.txt    cat\ntrain.txt    a.jpg",
    "VOC": "a.jpg\na.xml\nb.jpg\nx.jpg",
    "COCO": "all.json    a.jpg\nimages/a.jpg\nimages/b.jpg\nimages/x.jpg",
    "CSV": f"all.csv    {CSV}; a.jpg,cat,2,3,30,20\na.jpg\nb.jpg\nx.jpg",
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_pictures_that_nothing_names_are_counted(kind, tmp_path):
    report = check_dataset(build(tmp_path, LEFT_OUT[kind]), fast=True)
    note, *_ = report.notes
    assert "2 pictures that no annotation, list or split names" in note.what and "x.jpg" in note.what
    assert report.pictures == 1 and report.problems == ()
