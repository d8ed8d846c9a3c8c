"""Data sets in other formats: equal labels, untouched pictures, nothing written over, nothing half done."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from onestage.cli.main import main
from onestage.data import Dataset, load_dataset
from onestage.data.convert import WRITERS, convert
from onestage.data.copies import Copy, Names, TarShards
from onestage.errors import ConfigError, DataError, WriteError
from onestage.files import TEMPORARY
from onestage.images import picture_bytes
from shards import CAT, labels, pairs, picture, tar
from small_runs import send, start

FORMATS = ["wds", "parquet", "coco", "yolo", "voc"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "cache"))


def odd_box(generator: np.random.Generator) -> dict[str, object]:
    """An object whose corners have all digits that float32 has."""
    x, y = generator.random(2) * 15
    return {
        "bbox": [float(x), float(y), *(generator.random(2) * 14 + 0.1).tolist()],
        "category": str(generator.choice(["cat", "dog"])),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    members: list[tuple[str, bytes]] = []
    for number in range(12):
        objects = [odd_box(generator) for _ in range(number % 4)]
        kind = ("PNG", "JPEG", "WEBP")[number % 3]
        name = f"{number:03d}"
        members += [
            (f"{name}.{kind.lower()}", picture(number, kind=kind)),
            (f"{name}.json", labels(*objects, image_id=number + 5)),
        ]
    tar(tmp_path / "source" / "train.tar", members[:16])
    tar(tmp_path / "source" / "val.tar", members[16:])
    return tmp_path / "source"


def said(data: Dataset) -> list[tuple[bytes, list[list[float]], list[str]]]:
    """The bytes and the labels of each picture, by the bytes."""
    rows = []
    for row in range(len(data)):
        truth = data.truth(row)
        rows.append(
            (picture_bytes(data.stored(row)), truth.boxes.tolist(), [data.classes[label] for label in truth.labels.tolist()])
        )
    return sorted(rows)


@pytest.mark.parametrize("first", FORMATS)
def test_there_and_back_nothing_changes(source: Path, tmp_path: Path, first: str) -> None:
    found = convert(source, tmp_path / "there", to=first)  # type: ignore[arg-type]
    assert (found.pictures, found.objects, found.lost, found.problems) == ({"train": 8, "val": 4}, 18, {}, ())
    convert(tmp_path / "there", tmp_path / "back", to="wds")
    for split in ("train", "val"):
        original = said(load_dataset(source, split=split))
        assert said(load_dataset(tmp_path / "there", split=split)) == original
        assert said(load_dataset(tmp_path / "back", split=split)) == original


@pytest.mark.parametrize("to", FORMATS)
def test_a_set_without_splits_stays_so(source: Path, tmp_path: Path, to: str) -> None:
    convert(source / "train.tar", tmp_path / "one", to="coco")
    (tmp_path / "plain").mkdir()
    tar(tmp_path / "plain" / "a.tar", pairs(4))
    found = convert(tmp_path / "plain", tmp_path / "copy", to=to)  # type: ignore[arg-type]
    assert found.pictures == {"": 4} and len(load_dataset(tmp_path / "copy")) == 4


@pytest.mark.parametrize("to", FORMATS)
def test_what_a_format_cannot_say_is_counted(tmp_path: Path, to: str) -> None:
    flagged = CAT | {"ignore": 1, "area": 20.0}
    members = [*pairs(4), ("x.png", picture(9)), ("x.json", labels(CAT, flagged, image_id=50))]
    tar(tmp_path / "source" / "train.tar", members)
    lost = convert(tmp_path / "source", tmp_path / "copy", to=to).lost  # type: ignore[arg-type]
    expected = {
        "yolo": {"difficult object or crowd, which is left out": 3},
        "voc": {"crowd, which becomes a difficult object": 2, "area that is not that of its box": 3},
    }
    assert lost == expected.get(to, {})
    if to not in expected:
        ours, theirs = load_dataset(tmp_path / "source"), load_dataset(tmp_path / "copy")
        for name in ("boxes", "labels", "ignore", "crowd", "area"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert list(theirs.image_ids) == [0, 1, 2, 3, 50]


def test_ids_of_classes_are_kept_where_the_format_has_them(source: Path, tmp_path: Path) -> None:
    (source / "classes.json").write_text(
        '{"classes": [{"id": 4, "name": "dog"}, {"id": 9, "name": "cat"}, {"id": 11, "name": "cow"}]}'
    )
    for to in ("wds", "parquet", "coco"):
        convert(source, tmp_path / to, to=to)  # type: ignore[arg-type]
        data = load_dataset(tmp_path / to, split="train")
        assert (data.classes, data.category_ids) == (("dog", "cat", "cow"), (4, 9, 11))


def test_names_are_unique_whole_and_safe() -> None:
    names = Names(dots=False)
    jpeg = b"\xff\xd8\xff"
    given = ["a/x.jpg", "b/X.jpg", "b/x.png", "v1.2.jpg", "s.parquet/0000001", ".._.png", "a:b\n.jpg", "ü" * 300 + ".jpg"]
    made = [names.of(path, jpeg) for path in given]
    assert made[:7] == ["x.jpg", "X-2.jpg", "x-3.png", "v1_2.jpg", "0000001.jpg", "_.png", "a_b_.jpg"]
    assert len(made[7].encode()) < 200
    assert Names(dots=True).of("v1.2.jpg", jpeg) == "v1.2.jpg"


def test_nothing_is_written_over(source: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "file"):
        with pytest.raises(ConfigError, match="would lie among other files"):
            convert(source, out, to="coco")
    for out in (source / "copy", source):
        with pytest.raises(ConfigError, match=r"inside the data set|other files"):
            convert(source, out, to="coco")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full", "source"]
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", to="coco")
    assert (tmp_path / "empty").stat().st_mode & 0o777 == (tmp_path / "full").stat().st_mode & 0o777


@pytest.mark.parametrize("to", FORMATS)
def test_an_interrupted_copy_leaves_nothing(source: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = WRITERS[to]
    usual, count = writer.add, iter(range(100))  # type: ignore[attr-defined]

    def add(self: object, copy: object) -> None:
        if next(count) == 9:
            raise KeyboardInterrupt
        usual(self, copy)

    monkeypatch.setattr(writer, "add", add)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "copy", to=to)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["source"]


def test_faults_stop_the_copy_or_are_counted(source: Path, tmp_path: Path) -> None:
    with (source / "train.tar").open("r+b") as file:
        file.truncate(9000)
    with pytest.raises(DataError, match="cut off"):
        convert(source, tmp_path / "copy", to="coco")
    found = convert(source, tmp_path / "copy", to="coco", on_bad="skip")
    assert found.pictures["train"] < 8 and "cut off" in str(found.problems[0])


def test_a_copy_that_differs_is_an_error_and_goes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Names.of
    monkeypatch.setattr(Names, "of", lambda self, path, data: usual(self, path, data).replace("001.", "wrong."))
    monkeypatch.setattr(
        "onestage.data.copies.json.dumps",
        lambda content, **_: __import__("json").JSONEncoder().encode(content).replace('"category": "cat"', '"category": "dog"'),
    )
    with pytest.raises(DataError, match="does not say the same"):
        convert(source, tmp_path / "copy", to="wds")
    assert not (tmp_path / "copy").exists()


def test_a_full_disk_is_one_error_that_names_the_copy(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, copy: object) -> None:
        raise WriteError("the file could not be written", where="x", fix="free some space on that disk")

    monkeypatch.setattr(WRITERS["yolo"], "add", full)
    assert main(["data", "convert", str(source), str(tmp_path / "copy"), "--to", "yolo"]) == 2
    assert not (tmp_path / "copy").exists()


def test_the_verb_says_what_it_did(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", str(source), str(tmp_path / "copy"), "--to", "parquet"]) == 0
    out = capsys.readouterr().out
    assert "12 pictures (8 train, 4 val) and 18 objects as parquet in" in out and "onestage data check" in out
    assert main(["data", "check", str(tmp_path / "copy")]) == 0
    assert "copy  Parquet, 12 pictures, 18 objects" in capsys.readouterr().out.replace("\n", " ")


def test_a_killed_command_begins_from_the_start(source: Path, tmp_path: Path) -> None:
    """Nothing of it is at the place of the copy, and what it left goes with the next command."""
    process = start(convert_slowly, source, tmp_path / "copy", ONESTAGE_HOME=str(tmp_path / "cache"))
    while process.is_alive() and not [*tmp_path.glob(f".copy*{TEMPORARY}/copy/*")]:
        time.sleep(0.01)
    send(signal.SIGKILL, process)
    process.join(60)
    (left,) = tmp_path.glob(f".copy*{TEMPORARY}")
    assert not (tmp_path / "copy").exists()
    os.utime(left, (0, 0))
    assert convert(source, tmp_path / "copy", to="wds").pictures == {"train": 8, "val": 4}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["copy", "source"]


def convert_slowly(source: Path, out: Path) -> None:
    usual = TarShards.add

    def add(self: TarShards, copy: Copy) -> None:
        usual(self, copy)
        time.sleep(1)

    TarShards.add = add  # type: ignore[method-assign]
    convert(source, out, to="wds", shard=0.0001)


def test_the_copy_is_compared_before_it_takes_its_place(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onestage.data.convert._compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "copy", to="wds")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["source"]


def test_what_other_readers_of_yolo_miss_is_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(source, tmp_path / "both", to="yolo").note is None
    content = yaml.safe_load((tmp_path / "both" / "data.yaml").read_text())
    assert content == {"train": "images/train", "val": "images/val", "nc": 2, "names": ["cat", "dog"]}
    (source / "val.tar").unlink()
    assert main(["data", "convert", str(source), str(tmp_path / "train"), "--to", "yolo"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "there is no val, which other programs, such as Ultralytics', need" in said
    assert (tmp_path / "train" / "data.yaml").read_text().startswith("# there is no val, ")


def test_a_thousand_pictures_of_one_name_get_names_at_once() -> None:
    names = Names(dots=True)
    made = [names.of(f"{clip}/000001.jpg", b"") for clip in range(20_000)]
    assert len({*made}) == 20_000 and made[-1] == "000001-20000.jpg"


def test_a_name_that_is_too_long_is_refused_before_the_work(source: Path, tmp_path: Path) -> None:
    for out in (tmp_path / ("x" * 300), tmp_path / "new" / ("x" * 300)):
        with pytest.raises(ConfigError, match="out is a path that the system does not take"):
            convert(source, out, to="wds")


def test_objects_beyond_the_largest_file_of_coco_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onestage.data.copies.MAX_BYTES", {".json": 900})
    with pytest.raises(DataError, match="one file of COCO cannot hold so many objects"):
        convert(source, tmp_path / "copy", to="coco")


ODD_NAMES = [
    "a\nb.png", "tab\t.png", b"\xff\xfe.png".decode("utf-8", "surrogateescape"), b"\xfe.png".decode("utf-8", "surrogateescape"),
    "n" * 240 + ".png", "ü" * 120 + ".png", " first.png", "last .png", "..png", ".hidden.png", "a;b'\"$(x).png", "a%00b.png",
    "-rf.png", "a\\b.png", "q?*.png", "x.PNG", "e\u0301.png", "\u00e9.png", "\u65e5\u672c.png",
]  # fmt: skip


@pytest.mark.parametrize("to", FORMATS)
def test_pictures_of_any_name_come_through(tmp_path: Path, to: str) -> None:
    """Also those that are no text, as of a disk of another system: their ids are written as texts."""
    root = tmp_path / "odd"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(ODD_NAMES):
        (root / "images" / name).write_bytes(picture(number))
        (root / "labels" / f"{name.rpartition('.')[0]}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (root / "classes.txt").write_text("cat\n")
    convert(root, tmp_path / "copy", to=to)  # type: ignore[arg-type]
    copy = load_dataset(tmp_path / "copy")
    assert said(copy) == said(load_dataset(root)) and len({*copy.image_ids}) == len(ODD_NAMES)
    for path in copy.paths:
        name = path.rpartition("/")[2]
        assert name.encode() and not {*name} & {*'\n\t?*"<>|:'} and len(name.encode()) <= 255
