"""Data sets of detections: what is written is what our readers read, and a killed run goes on with the same bytes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from onestage.data import load_dataset
from onestage.errors import DataError, WriteError
from onestage.predict.copies import SetPictures
from onestage.predict.pictures import name_pictures
from onestage.predict.pipeline import Outcome
from onestage.predict.sets import SetFormat, SetPlan, pictures_folder, set_sink
from onestage.predict.sinks import Counts, Sink, closing
from onestage.predict.zones import Zone
from onestage.structures import ClassSet, Detections

CLASSES = ClassSet(("dog", "cat", "eel"), (7, 3, 20))
FORMATS: tuple[SetFormat, ...] = ("yolo", "coco", "voc", "labelme")
TOLERANCE = {"yolo": 2e-3, "coco": 2e-3, "voc": 0.51, "labelme": 2e-3}
SIZE = (50, 70)


def detections(count: int, seed: int) -> Detections:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 40.0])
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Detections(
        boxes=torch.cat(
            [low, low + 2 + torch.rand(count, 2, generator=generator) * 20], dim=1
        ),  # some reach beyond the picture
        scores=torch.linspace(0.9, 0.3, count),
        labels=labels,
        class_names=tuple(CLASSES.names[label] for label in labels),
        category_ids=tuple(CLASSES.ids[label] for label in labels),
        size=SIZE,
    )


@pytest.fixture
def outcomes(tmp_path: Path) -> list[Outcome]:
    """Pictures with and without detections, two of one name, one with a name of a split, and one that could not be read."""
    names = ["val/x.jpg", "b/x.jpg", "b/x.png", "images/lone eel.jpg", "7.webp", "broken.jpg", "test.bmp"]
    paths = [tmp_path / "photos" / name for name in names]
    rows = []
    for number, picture in enumerate(name_pictures(paths)):
        picture.path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (30 * number, 90, 120)).save(picture.path)
        found = detections((4, 0, 3, 6, 1, 0, 2)[number], number)
        rows.append(Outcome(picture, DataError("no picture") if "broken" in picture.name else found))
    return rows


def write(sink: Sink, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        sink.add(outcome)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_set_is_read_back(format: SetFormat, link: bool, outcomes: list[Outcome], tmp_path: Path) -> None:
    root = tmp_path / "set" / format
    pictures = SetPictures(pictures_folder(format, root), link=link)
    for picture, found in outcomes:
        if isinstance(found, Detections):
            pictures(picture, found, torch.zeros(3, *SIZE, dtype=torch.uint8))
    sink = set_sink(format, SetPlan(root, CLASSES))
    write(sink, outcomes)
    sink.finish()
    data = load_dataset(root)
    assert data.format == format and len(data) == 6 and not data.problems
    if format == "yolo":
        assert data.classes == CLASSES.names
    if format == "coco":
        assert dict(zip(data.classes, data.category_ids, strict=True)) == dict(zip(*CLASSES, strict=True))
    by_stem = {Path(path).stem: row for row, path in enumerate(data.paths)}
    for picture, found in outcomes:
        if isinstance(found, Detections):
            truth = data.truth(by_stem[picture.stem])
            expected = found.clipped()
            assert tuple(data.classes[label] for label in truth.labels) == found.class_names
            torch.testing.assert_close(truth.boxes, expected.boxes, atol=TOLERANCE[format], rtol=0)
            assert not truth.ignore.any() and not truth.crowd.any()
            assert torch.equal(
                data[by_stem[picture.stem]].image[:, 0, 0], torch.tensor(Image.open(picture.path).getpixel((0, 0)))
            )


def test_labelme_has_the_scores(outcomes: list[Outcome], tmp_path: Path) -> None:
    sink = set_sink("labelme", SetPlan(tmp_path / "set", CLASSES))
    write(sink, outcomes)
    picture, found = outcomes[0]
    assert isinstance(found, Detections)
    content = json.loads((tmp_path / "set" / f"{picture.stem}.json").read_text())
    assert [shape["score"] for shape in content["shapes"]] == pytest.approx(found.scores.tolist())
    assert content["shapes"][0]["description"] == "score 0.900" and content["imagePath"] == f"{picture.stem}.jpg"
    assert (content["imageHeight"], content["imageWidth"]) == SIZE


def counts_in(root: Path) -> Counts:
    root.mkdir(exist_ok=True)
    zones = [Zone.read("left=0,0,.5,0,.5,1,0,1")]
    return Counts(root / "counts.csv", CLASSES.names, shown=(0, 2), zones=zones)


def make(kind: str, root: Path) -> Sink:
    if kind == "counts":
        return counts_in(root)
    formats: dict[str, SetFormat] = {name: name for name in FORMATS}
    return set_sink(formats[kind], SetPlan(root, CLASSES))


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("kind", [*FORMATS, "counts"])
def test_a_killed_run_goes_on_with_the_same_bytes(kind: str, finished: bool, outcomes: list[Outcome], tmp_path: Path) -> None:
    clean = make(kind, tmp_path / "clean")
    write(clean, outcomes)
    clean.finish()
    for done in range(len(outcomes) + 1):
        root = tmp_path / f"{done}"
        killed = make(kind, root)
        with closing([killed]):
            write(killed, outcomes[:done])
            state = killed.sync()
            write(killed, outcomes[done : done + 2])  # written, and not in the state
            if finished:
                killed.finish()
        again = make(kind, root)
        again.go_on(json.loads(json.dumps(state)))
        write(again, outcomes[done:])
        again.finish()
        assert tree(root) == tree(tmp_path / "clean"), done
        if isinstance(again, Counts) and isinstance(clean, Counts):
            assert again.summary() == clean.summary()


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_coco_file_that_was_replaced_cannot_be_gone_on_from(outcomes: list[Outcome], tmp_path: Path) -> None:
    sink = set_sink("coco", SetPlan(tmp_path, CLASSES))
    write(sink, outcomes)
    state = sink.sync()
    sink.finish()
    (tmp_path / "annotations/instances_train.json").write_text("{}")
    with pytest.raises(WriteError, match="no file of an earlier run"):
        set_sink("coco", SetPlan(tmp_path, CLASSES)).go_on(state)


def test_counts_are_those_of_the_detections(outcomes: list[Outcome], tmp_path: Path) -> None:
    import csv

    sink = counts_in(tmp_path)
    write(sink, outcomes)
    sink.finish()
    with (tmp_path / "counts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [found for _, found in outcomes if isinstance(found, Detections)]
    assert [row["zone"] for row in rows] == ["whole picture", "left"] * len(found)
    for row, picture in zip(rows[::2], found, strict=True):
        counts = [picture.class_names.count(name) for name in ("dog", "eel")]
        assert [int(row["objects"]), int(row["dog"]), int(row["eel"])] == [sum(counts), *counts] and "cat" not in row
    feet = [(x1 + x2) / 2 < 35 for picture in found for (x1, _, x2, _), *_ in picture if picture]
    named = [name for picture in found for name in picture.class_names]
    dogs = sum(inside for inside, name in zip(feet, named, strict=True) if name == "dog")
    assert sum(int(row["dog"]) for row in rows[1::2]) == dogs
    assert f"{dogs} dog" in sink.summary()[0] and sink.summary()[0].startswith("in left: ")
