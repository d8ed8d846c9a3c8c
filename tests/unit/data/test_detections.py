"""Anybody's detections: one set in every form gives the same, and what cannot be used is told and counted."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch

import trees
from onestage.data import json_stream, load_dataset, open_data, read_detections
from onestage.data.dataset import Dataset
from onestage.data.detections import FoundObjects, holds_detections, open_detections
from onestage.data.predictions import FORMATS, Format, PredictionWriter
from onestage.errors import DataError
from onestage.structures import Detections

WIDTH, HEIGHT = trees.SIZE[::-1]
FOUND = [
    ("a", "cat", (2.0, 3.0, 30.0, 20.0), 0.9),
    ("a", "dog", (12.5, 6.0, 59.0, 39.0), 0.25),
    ("c", "dog", (20.0, 10.0, 50.0, 35.0), 0.5),
    ("c", "dog", (1.0, 25.0, 30.0, 38.0), 0.75),
    *(("b", "cat", (0.0, 0.0, 6.0 + i, 4.0), 0.99 - i / 100) for i in range(4)),
]
"""Picture, class, xyxy, score."""
IN_ORDER = [FOUND[i] for i in (0, 1, 4, 5, 6, 7, 3, 2)]
"""By picture, best first."""
IDS = {"cat": 3, "dog": 18}
PICTURES = {"a": 100, "b": 101, "c": 102}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(trees.coco(tmp_path_factory.mktemp("coco")))


def entry(row: tuple[str, str, tuple[float, ...], float], **other: object) -> dict[str, Any]:
    picture, label, (x1, y1, x2, y2), score = row
    box = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": PICTURES[picture], "category_id": IDS[label], "bbox": box, "score": score} | other


def saved(path: Path, content: object) -> Path:
    return trees.write(path, content if isinstance(content, str) else json.dumps(content))


def texts(folder: Path, line: Any) -> Path:
    """A file for each picture. line: makes the text after the class."""
    for name in trees.TRUTH:
        lines = [f"{label} {line(box, score)}" for picture, label, box, score in FOUND if picture == name]
        trees.write(folder / f"{name}.txt", "\n".join(lines))
    return folder


def corners(box: tuple[float, ...]) -> str:
    return " ".join(map(str, box))


def relative(box: tuple[float, ...]) -> str:
    x1, y1, x2, y2 = box
    return f"{(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}"


def as_voc(folder: Path) -> Path:
    for name in IDS:
        rows = [f"{picture} {score} {corners(box)}" for picture, label, box, score in FOUND if label == name]
        trees.write(folder / f"comp4_det_test_{name}.txt", "\n".join(rows) + "\n")
    return folder


def as_set(path: Path) -> Path:
    """The ids are those of another program; the names count."""
    annotations = [entry(row) | {"image_id": "abc".index(row[0]), "category_id": row[1] == "dog"} for row in FOUND]
    for annotation in annotations:
        annotation["category_id"] = int(annotation["category_id"])
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("abc")]
    return saved(
        path, {"annotations": annotations, "images": images, "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}
    )


def as_csv(path: Path) -> Path:
    rows = [f"images/{picture}.png,{label.upper()},{','.join(map(str, box))},{score}" for picture, label, box, score in FOUND]
    return saved(path, "\n".join(["image,label,xmin,ymin,xmax,ymax,confidence", *rows]))


MADE = {
    "COCO results": lambda folder: saved(folder / "r.json", [entry(row) for row in FOUND]),
    "COCO results without a suffix": lambda folder: saved(folder / "r", [entry(row) for row in FOUND]),
    "ids as texts": lambda folder: saved(folder / "r.json", [entry(r, image_id=str(PICTURES[r[0]])) for r in FOUND]),
    "names for ids": lambda folder: saved(folder / "r.json", [entry(r, image_id=f"D:\\x\\{r[0]}.png") for r in FOUND]),
    "an entry in each line": lambda folder: saved(folder / "r.jsonl", "\n".join(json.dumps(entry(r)) for r in FOUND)),
    "a COCO data set with scores": lambda folder: as_set(folder / "r.json"),
    "CSV": lambda folder: as_csv(folder / "r.csv"),
    "VOC": lambda folder: as_voc(folder / "r"),
    "YOLO": lambda folder: texts(folder / "r", lambda box, score: f"{relative(box)} {score}"),
    "score, corners": lambda folder: texts(folder / "r", lambda box, score: f"{score} {corners(box)}"),
}  # fmt: skip


def plain(found: list[Detections]) -> list[tuple[str, str, tuple[float, ...], float]]:
    """What ``FOUND`` says, best first in each picture."""
    rows = ((Path(d.path).stem, one.name, one.box, one.score) for d in found for one in d)
    return [(name, label, tuple(round(x, 3) for x in box), round(score, 4)) for name, label, box, score in rows]


@pytest.mark.parametrize("form", MADE)
def test_every_form_gives_the_same(form: str, coco: Dataset, tmp_path: Path) -> None:
    path = MADE[form](tmp_path)
    assert holds_detections(path)
    found = read_detections(path, coco)
    assert [d.image_id for d in found] == [100, 101, 102]
    assert plain(found) == IN_ORDER
    assert found[0].category_ids == (3, 18) and found[0].labels.tolist() == [0, 1] and found[0].size == trees.SIZE


@pytest.mark.parametrize("format", FORMATS)
def test_what_predict_writes_is_read(format: Format, coco: Dataset, tmp_path: Path) -> None:
    file = tmp_path / FORMATS[format].file_name
    written = read_detections(MADE["COCO results"](tmp_path), coco)
    with PredictionWriter(file, format) as writer:
        for found in written:
            writer.add(found)
    assert plain(read_detections(file, coco)) == plain(written)


def test_one_file_of_a_class(coco: Dataset, tmp_path: Path) -> None:
    file = as_voc(tmp_path) / "comp4_det_test_dog.txt"
    assert {name for _, name, *_ in plain(read_detections(file, coco))} == {"dog"}


def test_numbers_of_classes_count_a_list_of_names(coco: Dataset, tmp_path: Path) -> None:
    trees.write(tmp_path / "classes.txt", "dog\ncat\n")
    trees.write(tmp_path / "labels/a.txt", "1 0.9 2 3 30 20\n0 0.25 12.5 6 59 39\n")
    assert plain(read_detections(tmp_path / "labels", coco)) == FOUND[:2]


def test_numbers_with_zeros_in_front(tmp_path: Path) -> None:
    trees.picture(tmp_path / "000042.png")
    trees.write(tmp_path / "label.csv", "image,label,xmin,ymin,xmax,ymax\n000042.png,cat,1,2,30,20\n")
    file = saved(tmp_path / "r.json", [{"image_id": 42, "category_id": 0, "bbox": [1, 2, 29, 18], "score": 0.5}])
    opened = open_detections(file).on(load_dataset(tmp_path))
    assert len(opened.detections[0]) == 1
    assert any("numbers of classes are taken for: 0 cat" in note.what for note in opened.notes)


def test_equal_scores_keep_the_order_of_the_file(coco: Dataset, tmp_path: Path) -> None:
    rows = [("a", "cat", (float(x), 1.0, 40.0, 30.0), 0.5) for x in (5, 3, 9, 1)]
    found = read_detections(saved(tmp_path / "r.json", [entry(row) for row in rows]), coco)
    assert found[0].boxes[:, 0].tolist() == [5, 3, 9, 1]


def left_out(content: object, coco: Dataset, folder: Path) -> FoundObjects:
    """What is left of a file with on_bad="skip", after it was refused with "stop"."""
    opened = open_detections(saved(folder / "r.json", content))
    with pytest.raises(DataError, match="cannot be used"):
        opened.on(coco)
    return opened.on(coco, on_bad="skip")


BAD = {
    "a picture that the data set does not have": {"image_id": 7},
    "a class that the data set does not have": {"category_id": 4},
    "a box that is not finite": {"bbox": [1, 2, float("nan"), 4]},
    "far outside every picture": {"bbox": [1, 2, 1e300, 4]},
    "a box of negative size": {"bbox": [10, 10, -5, 5]},
    "a score outside 0-1": {"score": -0.5},
    "a score that is not finite": {"score": float("inf")},
    "a score is no number": {"score": "0.5"},
    "a box is not four numbers": {"bbox": [1, 2, 3]},
    "an id is neither a number nor a text": {"image_id": True},
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_used_is_counted(what: str, coco: Dataset, tmp_path: Path) -> None:
    content = [entry(row) for row in FOUND] + [entry(FOUND[0]) | BAD[what]] * 2
    found = left_out(content, coco, tmp_path)
    (problem,) = found.left_out
    assert what in problem.what and problem.what.startswith("2 detections") and "entry 9" in str(problem.got)
    assert len(plain(found.detections)) == len(FOUND)


def test_a_fault_of_every_kind_is_in_the_error(coco: Dataset, tmp_path: Path) -> None:
    content = [entry(FOUND[0]), *(entry(FOUND[0]) | bad for bad in BAD.values()), {"score": 1}, 7]
    with pytest.raises(DataError) as caught:
        read_detections(saved(tmp_path / "r.json", content), coco)
    assert "12 of 13 detections cannot be used" in str(caught.value) and 'on_bad="skip"' in str(caught.value.fix)


def test_boxes_of_no_size_and_outside_stay(coco: Dataset, tmp_path: Path) -> None:
    boxes = [[5, 5, 0, 0], [-10, 5, 30, 10]]
    found = read_detections(saved(tmp_path / "r.json", [entry(FOUND[0], bbox=box) for box in boxes]), coco)
    assert found[0].boxes.tolist() == [[5, 5, 5, 5], [-10, 5, 20, 15]]


def test_per_cent(coco: Dataset, tmp_path: Path) -> None:
    file = saved(tmp_path / "r.json", [entry(row, score=100 * row[3]) for row in FOUND])
    opened = open_detections(file).on(coco)
    assert plain(opened.detections) == IN_ORDER
    assert any("per cent" in note.what for note in opened.notes)


LONG = "[" * 100_000
REFUSED = {
    "cut off": (json.dumps([entry(FOUND[0])] * 5)[:-30], "cut off"),
    "nested": (LONG, "nested too deeply"),
    "nested in an entry": (f'[{{"image_id": 1, "bbox": {LONG}', "nested too deeply"),
    "a key twice": ('[{"image_id": 1, "image_id": 2}]', "given twice"),
    "a long number": ('[{"image_id": ' + "9" * 5000 + "}]", "not valid JSON"),
    "labels": (json.dumps(trees.coco_content()), "these are labels"),
    "no detections": ('{"model": "ssd300"}', "no detections in a form"),
    "corners": (json.dumps([entry(r, bbox=r[2]) for r in FOUND]), "left, top, right, bottom"),
    "parts": (json.dumps([entry(r, bbox=[0.1, 0.2, 0.3, 0.25]) for r in FOUND]), "within 0-1"),
    "other pictures": (json.dumps([entry(r, image_id=9) for r in FOUND]), "no detection of this file can be used"),
    "outlines": (json.dumps([{"image_id": 100, "category_id": 3, "segmentation": {}, "score": 1}]), "no bbox"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "nothing": ("", "an empty file"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, coco: Dataset, tmp_path: Path) -> None:
    content, words = REFUSED[what]
    with pytest.raises(DataError, match=words):
        read_detections(saved(tmp_path / "r.json", content), coco, on_bad="skip")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.csv", "image,label,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n", "no column of this CSV file has scores"),
        ("r.csv", 'image,label,xmin,ymin,xmax,ymax,score\na.png,cat,1,2,30,4,0.5\n"a.png,cat', "cannot be read"),
        ("a.txt", "cat 0.5 0.5 0.25 0.25\n", "these are labels"),
        ("a.txt", "cat 0.5 0.5 0.25 0.25 0.5\n", "several ways"),
        ("a.txt", "cat 7 9 1 5 8\n", "nothing tells"),
    ],
)
def test_what_is_refused_of_texts(name: str, content: str, words: str, coco: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_detections(saved(tmp_path / name, content), coco)


def test_a_compressed_file_is_to_be_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    for packed in (gzip.compress(b"[]"), bz2.compress(b"[]"), lzma.compress(b"[]"), b"PK\x03\x04" + bytes(60)):
        file.write_bytes(packed)
        with pytest.raises(DataError, match="a compressed file") as caught:
            open_detections(file)
        assert caught.value.fix == "unpack it first"


def test_an_empty_list_finds_nothing(coco: Dataset, tmp_path: Path) -> None:
    opened = open_detections(saved(tmp_path / "r.json", [])).on(coco)
    assert [len(d) for d in opened.detections] == [0, 0, 0]
    assert "3 pictures of 3 without detections" in opened.notes[0].what


def test_models_and_runs_are_no_detections(tmp_path: Path) -> None:
    trees.write(tmp_path / "run/config.json", "{}")
    trees.write(tmp_path / "run/a.txt", "cat 0.5 1 2 3 4\n")
    (tmp_path / "m.safetensors").write_bytes(b"[\0\0\0\0\0\0\0" + b'{"a": 1}')
    assert not any(holds_detections(tmp_path / name) for name in ("run", "m.safetensors", "nowhere", "x.onnx"))


def test_json_is_read_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = {"a": [1, 23, 'x\\"y', {"b": [None, True]}], "c": 4.5, "d": []}
    file = saved(tmp_path / "r.json", json.dumps(content, indent=1))
    monkeypatch.setattr(json_stream, "PIECE", 1)
    assert [tuple(item) for item in json_stream.items(file)] == [
        ("a", 0, 1, False), ("a", 1, 23, False), ("a", 2, "x\\\"y", False),
        ("a", 3, {"b": [None, True]}, False), ("c", 0, 4.5, True)
    ]  # fmt: skip
    monkeypatch.setattr(json_stream, "LONGEST", 10)
    with pytest.raises(DataError, match="an entry of more than 10 characters"):
        list(json_stream.items(file))


def test_labels_alone_do_without_pictures(tmp_path: Path) -> None:
    file = saved(tmp_path / "instances.json", trees.coco_content())
    with pytest.raises(DataError, match="there is no picture"):
        load_dataset(file)
    data = open_data(file, labels_alone=True).load()
    assert plain(read_detections(MADE["COCO results"](tmp_path), data))[0] == FOUND[0]


BOX = ",".join(map(str, FOUND[0][2]))
LARGE = {
    "r.json": ("[", json.dumps(entry(FOUND[0])), ",", "]"),
    "r.jsonl": ("", f'{{"path": "a.png", "detections": [{{"box": [{BOX}], "score": 0.9, "class_name": "cat"}}]}}', "\n", "\n"),
    "r.csv": ("image,label,xmin,ymin,xmax,ymax,score\n", f"a.png,cat,{BOX},0.9", "\n", "\n"),
    "comp4_det_val_cat.txt": ("", f"a 0.9 {BOX.replace(',', ' ')}", "\n", "\n"),
}
"""The beginning of a file, a row, what stands between two rows, the end."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_many_rows_need_little_memory(name: str, coco: Dataset, tmp_path: Path) -> None:
    """56 bytes a row, and room to grow. As Python objects they would need more than 500."""
    import tracemalloc

    rows, (start, row, between, end) = 200_000, LARGE[name]
    with (tmp_path / name).open("w") as file:
        file.write(start + between.join([row] * rows) + end)
    tracemalloc.start()
    opened = open_detections(tmp_path / name)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(opened.rows) == rows and most < 120 * rows + 8e6
    found = opened.on(coco).detections
    assert len(found[0]) == rows and torch.equal(found[0].boxes[0], found[0].boxes[-1])
