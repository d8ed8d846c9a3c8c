"""COCO JSON: what is kept, what is refused, and the layouts on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trees
from onestage.data import list_splits, load_dataset
from onestage.data.files import pieces
from onestage.errors import DataError

Change = Callable[[dict[str, Any]], object]


def changed(tmp_path: Path, change: Change) -> Path:
    content = trees.coco_content()
    change(content)
    return trees.coco(tmp_path, content)


def test_ids_with_gaps_are_closed_in_order_of_id(tmp_path: Path) -> None:
    data = load_dataset(trees.coco(tmp_path))
    assert data.classes == ("cat", "dog") and data.category_ids == (3, 18)
    assert data.labels.tolist() == [0, 1, 1]
    assert data.image_ids == (100, 101, 102)


def test_crowds_and_ignored_objects_are_flagged_and_keep_their_box(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [0, 2400], "size": [40, 60]}, "area": 7.5}
        content["annotations"][1]["ignore"] = 1

    data = load_dataset(changed(tmp_path, change))
    assert data.crowd.tolist() == [True, False, False]
    assert data.ignore.tolist() == [False, True, False]
    assert data.boxes[0].tolist() == [2, 3, 30, 20]
    assert data.area.tolist() == [7.5, 50 * 35, 150]
    assert data[0].ignore.tolist() == [True, True]


def test_annotations_may_come_in_any_order(tmp_path: Path) -> None:
    root = changed(tmp_path, lambda content: content["annotations"].reverse())
    data = load_dataset(root)
    assert data.offsets.tolist() == [0, 2, 2, 3]
    assert data.truth(0).labels.tolist() == [1, 0] and data.truth(2).labels.tolist() == [1]


def test_sizes_are_read_from_the_pictures_where_the_file_is_silent(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            del image["height"], image["width"]

    assert load_dataset(changed(tmp_path, change)).sizes == (trees.SIZE,) * 3


def test_a_size_that_contradicts_the_pixels_is_an_error_when_the_picture_is_opened(tmp_path: Path) -> None:
    data = load_dataset(changed(tmp_path, lambda content: content["images"][1].update(width=61)))
    assert data[0].image.shape == (3, 40, 60)
    with pytest.raises(DataError, match="contradicts its annotation"):
        data[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].pop("bbox"), "annotations[0] (id 1): this annotation has no bbox"),
        (lambda c: c["annotations"][0].update(bbox=["2", 3, 4, 5]), "bbox should be"),
        (lambda c: c["annotations"][0].update(bbox=[True, 3, 4, 5]), "bbox should be"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "bbox should be"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 10**400, 5]), "outside"),
        (lambda c: c["annotations"][0].update(bbox=[-(10**400), 1, 5, 5]), "outside"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 0, 5]), "zero or negative size"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, -4, 5]), "zero or negative size"),
        (lambda c: c["annotations"][0].update(category_id=4), "unknown class 4; expected: 3 ('cat'), 18 ('dog')"),
        (lambda c: c["annotations"][0].update(image_id=7), "there is no image with id 7"),
        (lambda c: c["annotations"][0].update(image_id=[100]), "there is no image with id [100]"),
        (lambda c: c["annotations"][0].update(iscrowd="yes"), "should be 0 or 1"),
        (lambda c: c["annotations"][0].update(id=2), "this annotation id is given twice"),
        (lambda c: c["annotations"].append(5), "annotations[3]: an annotation should be an object"),
        (lambda c: c["images"].append(5), "images[3]: an image needs"),
        (lambda c: c["images"].append(dict(c["images"][0])), "images[3]: the image id 100 is given twice"),
        (lambda c: c["images"].append(c["images"][1] | {"id": 7}), "images[3] (id 7): this picture is listed under two ids"),
        (
            lambda c: c["images"].append(c["images"][2] | {"id": "x", "file_name": "./c.png"}),
            "(id x): this picture is listed under two ids, and is the one of id 102",
        ),
        (lambda c: c["images"].append(c["images"][0] | {"id": 7, "file_name": "../train2017/a.png"}), "images[3] (id 7)"),
        (lambda c: c["images"][1].update(id=True), "images[1]: an image needs"),
        (lambda c: c["images"][1].pop("file_name"), "file_name should be a string"),
        (lambda c: c["images"][1].update(width="60"), "should be whole numbers above 0"),
        (lambda c: c["images"][1].update(width=-60), "should be whole numbers above 0"),
        (lambda c: c["images"][1].update(file_name="../train2017/b.png"), "leads outside"),
        (lambda c: c["images"][1].update(file_name="/etc/passwd"), "leads outside"),
        (lambda c: c["images"][1].update(file_name="C:\\other.png"), "leads outside"),
        (lambda c: c["images"][1].update(file_name="..\\b.png"), "leads outside"),
        (lambda c: c["images"][1].update(file_name="http://host/b.png"), "leads outside"),
        (lambda c: c["images"][1].update(file_name="b\0.png"), "leads outside"),
    ],
)
def test_a_bad_entry_is_one_problem(change: Change, message: str, tmp_path: Path) -> None:
    root = changed(tmp_path, change)
    with pytest.raises(DataError, match="1 problem in this data set") as caught:
        load_dataset(root)
    assert message in str(caught.value)
    assert len(load_dataset(root, on_bad="skip").problems) == 1


HUGE = [2**63, 10**30, 1e30, 10**4000, -7, 60.5, "60", [60]]
"""Sides that no picture has."""


@pytest.mark.parametrize("side", HUGE, ids=lambda side: str(side)[:9])
@pytest.mark.parametrize("key", ["width", "height"])
def test_a_side_that_no_picture_has_is_one_problem(key: str, side: object, tmp_path: Path) -> None:
    root = changed(tmp_path, lambda content: content["images"][1].update({key: side}))
    with pytest.raises(DataError, match="1 problem") as caught:
        load_dataset(root)
    assert "should be whole numbers above 0; got: width" in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("missing", [None, 0, -1, -1.0, "gone"])
@pytest.mark.parametrize("keys", [["width"], ["height"], ["width", "height"]])
def test_the_picture_tells_a_side_that_is_not_stated(keys: list[str], missing: object, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for key in keys:
            content["images"][1][key] = missing
            if missing == "gone":
                del content["images"][1][key]

    assert load_dataset(changed(tmp_path, change)).sizes == (trees.SIZE,) * 3


@pytest.mark.parametrize(
    ("value", "crowd"), [(None, False), ("0", False), ("1", True), (1.0, True), (True, True), ("gone", False)]
)
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_flags_as_tools_write_them(key: str, value: object, crowd: bool, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {key: value, "segmentation": None}
        if value == "gone":
            content["annotations"][0].pop(key)

    data = load_dataset(changed(tmp_path, change))
    assert (data.crowd if key == "iscrowd" else data.ignore).tolist() == [crowd, False, False]


FORMS: list[Callable[[int], object]] = [int, float, str]


@pytest.mark.parametrize("image", FORMS)
@pytest.mark.parametrize("image_id", FORMS)
@pytest.mark.parametrize("category", FORMS)
@pytest.mark.parametrize("category_id", FORMS)
def test_ids_in_every_form(image: Any, image_id: Any, category: Any, category_id: Any, tmp_path: Path) -> None:
    """The picture keeps the id that stands in the list of images, as results have to have it."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry["id"] = image(entry["id"])
        for entry in content["annotations"]:
            entry |= {"image_id": image_id(entry["image_id"]), "category_id": category_id(entry["category_id"])}
        for entry in content["categories"]:
            entry["id"] = category(entry["id"])

    data = load_dataset(changed(tmp_path, change))
    assert data.labels.tolist() == [0, 1, 1] and data.category_ids == (3, 18)
    assert data.image_ids == tuple(map(image, (100, 101, 102)))


def test_a_number_that_could_mean_two_texts_means_none(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][0]["id"], content["images"][1]["id"] = "0100", "100"

    with pytest.raises(DataError, match="2 problems") as caught:
        load_dataset(changed(tmp_path, change))
    assert str(caught.value).count("there is no image with id 100") == 2


@pytest.mark.parametrize("stored_id", [2**63, 10**4000, 1e300, 1.5, True, None, [1]], ids=lambda stored: str(stored)[:9])
@pytest.mark.parametrize("kind", ["images", "categories"])
def test_ids_that_are_none(kind: str, stored_id: object, tmp_path: Path) -> None:
    root = changed(tmp_path, lambda content: content[kind].append({"id": stored_id, "name": "x", "file_name": "a.png"}))
    with pytest.raises(DataError, match=r"an image needs a number|a category needs a whole number") as caught:
        load_dataset(root)
    assert len(str(caught.value)) < 600


def test_ids_of_digits_that_64_bits_cannot_hold(tmp_path: Path) -> None:
    """Text stays text; a category needs a number."""
    digits = "7" * 5000
    root = changed(tmp_path, lambda content: content["images"][1].update(id=digits))
    assert load_dataset(root).image_ids[1] == digits
    root = changed(tmp_path, lambda content: content["categories"][0].update(id=digits))
    with pytest.raises(DataError, match="a category needs a whole number as id"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        ({"id": 3, "name": "cow"}, "this category's id is given twice", "give 'cat' and 'cow' different ids"),
        ({"id": "3", "name": "cow"}, "this category's id is given twice", "give 'cat' and 'cow' different ids"),
        ({"id": 40, "name": "cat"}, "this category's name is given twice", "write category_id 3 in its annotations"),
        ({"id": 3.0, "name": "cat"}, "this category is given twice", "remove this entry"),
    ],
)
def test_a_category_given_twice_says_what_to_do(entry: dict[str, object], what: str, fix: str, tmp_path: Path) -> None:
    root = changed(tmp_path, lambda content: content["categories"].append(entry))
    with pytest.raises(DataError, match=what) as caught:
        load_dataset(root)
    assert "categories[2]" in str(caught.value) and fix in str(caught.value.fix)


def test_categories_alone_are_no_data_set(tmp_path: Path) -> None:
    """Label tools put such a file beside labels in another format."""
    notes = json.dumps({"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {"year": 2026}})
    for name, make in trees.WRITERS.items():
        root = make(tmp_path / name)
        trees.write(root / "notes.json", notes)
        assert load_dataset(root).format == name
    with pytest.raises(DataError, match="no labelled pictures"):
        load_dataset(tmp_path / "coco/notes.json")


def test_images_may_stand_behind_a_long_list_of_categories(tmp_path: Path) -> None:
    content: dict[str, Any] = trees.coco_content()
    names = [{"id": 1000 + i, "name": f"{i} {'x' * 60}"} for i in range(2000)]
    root = trees.coco(tmp_path, {"categories": [*content.pop("categories"), *names], **content})
    assert len(load_dataset(root)) == 3


LONG = "x" * 70_000
HEADS = {
    "long info": lambda text: f'{{"info": {{"description": "{LONG}"}}, {text[1:]}',
    "long licenses": lambda text: f'{{"licenses": ["{LONG}"], {text[1:]}',
    "another key": lambda text: f'{{"{LONG}": 0, {text[1:]}',
    "blanks": lambda text: "{" + " " * 70_000 + text[1:],
    "escaped keys": lambda text: text.replace('"images"', r'"\u0069mages"').replace('"annotations"', r'"annotation\u0073"'),
    "escaped whole keys far down": lambda text: f'{{"info": "{LONG}", {_escaped(text)[1:]}',
}  # fmt: skip


def _escaped(text: str) -> str:
    for key in ("images", "annotations"):
        text = text.replace(f'"{key}"', '"' + "".join(f"\\u{ord(letter):04X}" for letter in key) + '"')
    return text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", HEADS)
def test_a_file_beside_another_is_seen_whatever_it_begins_with(kind: str, encoding: str, tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    trees.pictures(root / "val2017")
    file = root / "annotations/instances_val2017.json"
    file.write_text(HEADS[kind](json.dumps(trees.coco_content())), encoding=encoding)
    assert list_splits(root) == ("train", "val")
    assert len(load_dataset(root, split="val")) == 3


@pytest.mark.parametrize("size", [70, 71, 72, 100])
def test_a_word_on_the_edge_of_two_pieces_is_found(size: int, tmp_path: Path) -> None:
    file = trees.write(tmp_path / "a.json", "x" * 65 + '"images"')
    assert any('"images"' in piece for piece in pieces(file, size))


def test_half_a_character_in_a_name(tmp_path: Path) -> None:
    root = changed(tmp_path, lambda content: content["categories"][0].update(name="d\ud83d"))
    with pytest.raises(DataError, match="lone surrogate"):
        load_dataset(root)


@pytest.mark.parametrize(
    "name", ["x" * 300 + "/b.png", "x" * 300, "a/" * 3000 + "b.png", "b\ud800.png", "b\0.png", "\ud800/b.png"]
)
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    root = changed(tmp_path, lambda content: content["images"][1].update(file_name=name))
    with pytest.raises(DataError, match="1 problem") as caught:
        load_dataset(root)
    assert len(str(caught.value)) < 600 and str(caught.value).encode()


def test_a_class_that_was_not_asked_for_is_named(tmp_path: Path) -> None:
    """By its name too, where the file knows it, also with its id as text."""

    def change(content: dict[str, Any]) -> None:
        content["annotations"][0].update(category_id="3")
        content["categories"].append({"id": 40, "name": "cow"})

    root = changed(tmp_path, change)
    with pytest.raises(DataError, match="3 objects of 2 classes that the model does not have: cat, dog"):
        load_dataset(root, classes=["cow"])
    problems = [str(problem) for problem in load_dataset(root, classes=["cow"], on_bad="skip").problems]
    assert sum("unknown class 18 ('dog'); expected: 40 ('cow')" in problem for problem in problems) == 2
    assert sum("unknown class 3 ('cat')" in problem for problem in problems) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"images": [', "not valid JSON"),
        ('{"images": [], "annotations": [NaN], "categories": []}', "NaN is no JSON number"),
        ('{"images": [], "annotations": [-Infinity], "categories": []}', "-Infinity is no JSON number"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "the key 'images' is given twice"),
        ('{"images": [], "annotations": ' + "[" * 100_000, "nested too deeply"),
        ('{"images": [], "annotations": {}, "categories": []}', "a list under annotations"),
        ('{"images": []}', "a list under annotations, categories"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "categories[0]"),
        ('{"images": [], "annotations": [], "categories": [{"id": "x", "name": "a"}]}', "whole number as id"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "given twice",
        ),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a list, perhaps of detections"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    ],
)
def test_a_file_that_is_no_data_set(text: str, message: str, tmp_path: Path) -> None:
    from onestage.data.coco import _parse, categories_of

    file = trees.write(tmp_path / "instances.json", text)
    with pytest.raises(DataError) as caught:
        categories_of(file, _parse(file)["categories"])
    assert message in str(caught.value) and "instances.json" in str(caught.value)


def test_byte_order_mark_and_string_ids(tmp_path: Path) -> None:
    content: dict[str, Any] = trees.coco_content()
    for image in content["images"]:
        image["id"] = f"im {image['id']}"
    for annotation in content["annotations"]:
        annotation |= {"image_id": f"im {annotation['image_id']}", "category_id": str(annotation["category_id"])}
    root = trees.coco(tmp_path)
    file = root / "annotations/instances_train2017.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    data = load_dataset(file)
    assert data.image_ids[0] == "im 100" and data.labels.tolist() == [0, 1, 1]


def test_layouts(tmp_path: Path) -> None:
    content: dict[str, Any] = trees.coco_content()
    for folder in ("train", "valid", "test"):  # as Roboflow exports
        trees.pictures(tmp_path / "robo" / folder)
        trees.write(tmp_path / "robo" / folder / "_annotations.coco.json", json.dumps(content))
    assert list_splits(tmp_path / "robo") == ("train", "val", "test")
    data = load_dataset(tmp_path / "robo", split="val")
    assert len(data) == 3 and all("/valid/" in path for path in data.paths)
    everything = load_dataset(tmp_path / "robo")
    assert len(everything) == 9 and everything.split is None
    assert len(set(everything.image_ids)) == 9  # the three files use the same ids

    trees.pictures(tmp_path / "flat")
    trees.write(tmp_path / "flat" / "labels.json", json.dumps(content))
    assert list_splits(tmp_path / "flat") == () and len(load_dataset(tmp_path / "flat")) == 3

    trees.pictures(tmp_path / "nested/images/val2017")
    trees.pictures(tmp_path / "nested/images/train2017")
    trees.write(tmp_path / "nested/annotations/instances_val2017.json", json.dumps(content))
    trees.write(tmp_path / "nested/annotations/captions_val2017.json", '{"images": [], "annotations": []}')
    assert all("/val2017/" in path for path in load_dataset(tmp_path / "nested").paths)


def test_two_files_without_a_split_are_ambiguous(tmp_path: Path) -> None:
    root = trees.coco(tmp_path, file="annotations/one.json")
    trees.coco(tmp_path, file="annotations/two.json")
    with pytest.raises(DataError, match=r"annotations/one.json, annotations/two.json"):
        load_dataset(root)
    assert len(load_dataset(root / "annotations/two.json")) == 3


def test_splits_that_disagree_on_categories_cannot_be_read_together(tmp_path: Path) -> None:
    root = trees.coco(tmp_path)
    content = trees.coco_content()
    content["categories"] = [{"id": 18, "name": "cat"}, {"id": 3, "name": "dog"}]
    trees.coco(root, content, "annotations/instances_val2017.json")
    trees.pictures(root / "val2017")
    assert load_dataset(root, split="val").category_ids == (3, 18)
    with pytest.raises(DataError, match="disagree on their categories"):
        load_dataset(root)


KEYS_OF_TOOLS: dict[str, object] = {
    "original_width": 128,
    "completed_by": "an annotator",
    "from_name": "label",
    "rectanglelabels": ["cat"],
    "result": [{"original_width": 128, "rectanglelabels": ["cat"]}],
    "data_row": {"id": "x"},
    "Labeled Data": "x",
    "shape_attributes": {"name": "rect"},
    "classTitle": "cat",
    "geometryType": "rectangle",
    "coordinates": {"x": 1},
    "imagePath": "a.jpg",
}


@pytest.mark.parametrize("place", ["images", "annotations", "info"])
def test_keys_that_other_tools_add_hide_no_split(place: str, tmp_path: Path) -> None:
    content: dict[str, Any] = {"info": [{"shapes": []}], **trees.coco_content()}
    for entry in content[place]:
        entry |= KEYS_OF_TOOLS | {"shapes": []}
    root = trees.coco(tmp_path)
    trees.pictures(root / "val2017")
    trees.write(root / "annotations/instances_val2017.json", json.dumps(content))
    assert list_splits(root) == ("train", "val") and len(load_dataset(root, split="val").boxes) == 3


def test_a_set_without_categories_is_no_other_format_for_one_key(tmp_path: Path) -> None:
    content: dict[str, Any] = trees.coco_content()
    content["images"][0] |= {"original_width": 128, "completed_by": "x", "data_row": "x", "imagePath": "a.jpg"}
    del content["categories"]
    with pytest.raises(DataError, match="a list under categories"):
        load_dataset(trees.coco(tmp_path, content))
