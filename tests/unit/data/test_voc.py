"""Pascal VOC: what is kept, what is refused, and the layouts on disk."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import trees
from onestage.data import list_splits, load_dataset
from onestage.errors import DataError

BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><filename>&c;</filename></annotation>'
)
OUTSIDER = '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
BOX = (1, 1, 9, 9)
DOG = trees.voc_object("dog", BOX)


def test_numbers_stay_as_they_are_and_difficult_is_flagged(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    objects = trees.voc_object("dog", (1, 1, 60, 40), "<difficult>1</difficult>") + trees.voc_object("cat", (1.5, 2.25, 9, 9))
    trees.write(root / "Annotations/c.xml", trees.voc_xml("c", objects))
    data = load_dataset(root, split="val")
    assert data.boxes.tolist() == [[1, 1, 60, 40], [1.5, 2.25, 9, 9]]
    assert data.ignore.tolist() == [True, False] and not data.crowd.any()


def test_parts_of_an_object_are_no_objects(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    trees.write(root / "Annotations/c.xml", trees.voc_xml("c", trees.voc_object("dog", BOX, part)))
    data = load_dataset(root, split="val")
    assert data.classes == ("cat", "dog") and data.boxes.tolist() == [list(BOX)]


@pytest.mark.parametrize("change", [str.upper, str.title])
def test_tags_in_any_case(change: Callable[[str], str], tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    for file in (root / "Annotations").iterdir():
        file.write_text(re.sub(r"</?\w+>", lambda tag: change(tag[0]), file.read_text()))
    data = load_dataset(root)
    assert data.classes == ("cat", "dog") and len(data.boxes) == 3


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        (f"<objects>{DOG}</objects>", "object"),
        (f"<a><b>{DOG}{DOG}</b></a>", "object> and 1 more"),
        (DOG.replace("object>", "obj>"), "obj"),
        (f"{DOG}{DOG.replace('object>', 'item>')}", "item"),
        (DOG.replace("</object>", f"{DOG}</object>"), "object"),
        (DOG.removeprefix("<object><name>dog</name>").removesuffix("</object>"), "annotation"),
    ],
)
def test_a_box_that_is_not_read_is_one_problem(text: str, tag: str, tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    trees.write(root / "Annotations/c.xml", trees.voc_xml("c", text))
    with pytest.raises(DataError, match="1 problem in this data set") as caught:
        load_dataset(root)
    assert "c.xml: a <bndbox> is in an element that is no object" in str(caught.value) and f"got: <{tag}" in str(caught.value)


@pytest.mark.parametrize("tag", ["name", "bndbox", "xmin", "ymin", "xmax", "ymax", "difficult"])
def test_an_object_has_each_thing_once(tag: str, tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    text = trees.voc_object("dog", BOX, "<difficult>0</difficult>")
    twice = re.sub(rf"<{tag}>.*</{tag}>", lambda found: found[0] * 2, text)
    trees.write(root / "Annotations/c.xml", trees.voc_xml("c", twice))
    with pytest.raises(DataError, match="1 problem in this data set") as caught:
        load_dataset(root)
    assert f"c.xml object 1: an object has 2 times <{tag}>" in str(caught.value)


@pytest.mark.parametrize("size", [(0, 0), ("", ""), (40, 0), (-1, -1), (40, -1), (" 40 ", "0.0"), ("40.0", " 60\n")])
def test_a_size_of_zero_is_read_from_the_picture(size: tuple[object, object], tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    trees.write(root / "Annotations/c.xml", trees.voc_xml("c", trees.voc_object("dog", BOX), size))
    assert load_dataset(root, split="val").sizes == (trees.SIZE,)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "c.xml", "not readable XML"),
        ("<annotation><object>", "c.xml", "not readable XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "c.xml", "not readable XML"),
        (BOMB, "c.xml", "not readable XML"),
        (OUTSIDER, "c.xml", "not readable XML"),
        ("<annotations/>", "c.xml", "expected: <annotation>"),
        (trees.voc_xml("c", "", ("forty", 60)), "c.xml", "height and width should be numbers"),
        (trees.voc_xml("c", "", (-40, 60)), "c.xml", "height and width should be numbers"),
        (trees.voc_xml("c", "", (2**63, 60)), "c.xml", "height and width should be numbers"),
        (trees.voc_xml("c", "", ("1e30", 60)), "c.xml", "height and width should be numbers"),
        (trees.voc_xml("c", "", ("nan", "9" * 5000)), "c.xml", "height and width should be numbers"),
        (trees.voc_xml("c", "", ("1_0", 60)), "c.xml", "height and width should be numbers"),
        (trees.voc_xml("c", trees.voc_object("dog", ("1_0", 1, 9, 9))), "c.xml object 1", "xmin '1_0'"),
        (trees.voc_xml("c", "<object/>"), "c.xml object 1", "needs a <name>"),
        (trees.voc_xml("c", "<object><name>dog</name></object>"), "c.xml object 1", "an object has no <bndbox>"),
        (trees.voc_xml("c", trees.voc_object("dog", ("1,5", 1, 9, 9))), "c.xml object 1", "xmin '1,5'"),
        (trees.voc_xml("c", trees.voc_object("dog", (1, 1, 9, "nan"))), "c.xml object 1", "not four finite numbers"),
        (trees.voc_xml("c", trees.voc_object("dog", (1, 1, 9, "inf"))), "c.xml object 1", "not four finite numbers"),
        (trees.voc_xml("c", trees.voc_object("dog", (9, 1, 1, 9))), "c.xml object 1", "zero or negative size"),
        (trees.voc_xml("c", trees.voc_object("dog", BOX, "<difficult>maybe</difficult>")), "c.xml object 1", "0 or 1"),
    ],
)
def test_a_bad_file_or_object_is_one_problem(text: str, place: str, message: str, tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    trees.write(root / "Annotations/c.xml", text)
    with pytest.raises(DataError, match="1 problem in this data set") as caught:
        load_dataset(root)
    assert f"Annotations/{place}: " in str(caught.value) and message in str(caught.value)
    data = load_dataset(root, on_bad="skip")
    assert len(data.problems) == 1 and data.labels.tolist() == [0, 1]


def test_a_split_that_lists_what_is_not_there(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    trees.write(root / "ImageSets/Main/test.txt", "c\nnowhere\n")
    with pytest.raises(
        DataError, match=r"ImageSets/Main/test\.txt:2: the list names .nowhere., and there is no file Annotations/nowhere\.xml"
    ):
        load_dataset(root, split="test")
    assert load_dataset(root, split="test", on_bad="skip").image_ids == ("c",)
    trees.write(root / "ImageSets/Main/test.txt", "../../c\n")
    with pytest.raises(DataError, match="outside the data set"):
        load_dataset(root)


def test_the_picture_is_named_like_the_file_or_by_it(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    (root / "Annotations/c.xml").rename(root / "Annotations/other.xml")
    assert [Path(path).name for path in load_dataset(root).paths] == ["a.png", "b.png", "c.png"]


def test_layouts(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    trees.pictures(flat)
    for name in trees.TRUTH:
        trees.write(flat / f"{name}.xml", trees.voc_xml(name, trees.voc_object("dog", BOX)))
    assert list_splits(flat) == () and len(load_dataset(flat).boxes) == 3

    for folder in ("train", "valid"):
        trees.pictures(tmp_path / "robo" / folder)
        for name in trees.TRUTH:
            trees.write(tmp_path / "robo" / folder / f"{name}.xml", trees.voc_xml(name, trees.voc_object("dog", BOX)))
    assert list_splits(tmp_path / "robo") == ("train", "val")
    assert all("/valid/" in path for path in load_dataset(tmp_path / "robo", split="val").paths)
    assert len(set(load_dataset(tmp_path / "robo").image_ids)) == 6

    trees.voc(tmp_path / "VOCdevkit/VOC2007")
    assert list_splits(tmp_path / "VOCdevkit") == ("train", "val", "trainval")
    assert len(load_dataset(tmp_path / "VOCdevkit", split="trainval")) == 3


@pytest.mark.parametrize("said", ["", "\n  "])
def test_nothing_in_difficult_is_no(said: str, tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    trees.write(root / "Annotations/c.xml", trees.voc_xml("c", trees.voc_object("dog", BOX, f"<difficult>{said}</difficult>")))
    assert load_dataset(root, split="val").ignore.tolist() == [False]


def test_any_number_of_other_xml_files_may_come_first(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    for number in range(25):
        trees.write(root / f"Aaa/{number}.xml", "<metadata/>")
    assert load_dataset(root, split="val").classes == ("cat", "dog")


def test_a_listed_picture_without_annotations_is_told_by_the_file_that_is_meant(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    trees.write(root / "ImageSets/Main/test.txt", "c.jpg\nnowhere.jpg\n")
    with pytest.raises(DataError, match=r"there is no file Annotations/nowhere\.xml"):
        load_dataset(root, split="test")


def test_a_box_under_another_tag_is_named(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    file = root / "Annotations/a.xml"
    file.write_text(file.read_text().replace("bndbox", "bbox"))
    with pytest.raises(DataError, match=r"an object has no <bndbox>; got: .*<bbox>"):
        load_dataset(root)
