"""Shards that are damaged, odd, gone or changed: each is named and counted, and nothing wrong is read in silence."""

import gzip
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from onestage import parts
from onestage.data import Dataset, load_dataset, open_data
from onestage.data import parquet as data_parquet
from onestage.data.check import check_dataset
from onestage.data.dataset import Problem
from onestage.data.loader import TrainLoader
from onestage.data.transforms import TrainTransform, stretch
from onestage.errors import DataError
from onestage.parts import Part
from shards import CAT, labels, pairs, picture, tar
from small_runs import start

TRANSFORM = TrainTransform(stretch((8, 8)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Six pictures to train on in two tars, and two to measure."""
    root = tmp_path / "set"
    for number in range(2):
        tar(root / f"train-{number}.tar", pairs(3, first=3 * number))
    tar(root / "val.tar", pairs(2, first=6))
    return root


def told(problems: Sequence[Problem]) -> list[str]:
    return sorted(f"{problem.where}: {problem.what}" for problem in problems)


def looked_at(root: Path) -> Dataset:
    return open_data(root).look(None)


def row(number: int, **more: object) -> dict[str, object]:
    return {"image": picture(number), "name": f"{number}.png", "objects": [CAT]} | more


def parquet(file: Path, rows: list[dict[str, object]], schema: object = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file)


def test_a_shard_without_pictures_is_named(shards: Path) -> None:
    (shards / "train-2.tar").write_bytes(b"")
    tar(shards / "train-3.tar", [])
    tar(shards / "train-4.tar", [("readme.txt", b"x")])
    data = open_data(shards).look("train")
    assert len(data) == 6
    assert told(data.problems) == ["train-2.tar: this tar is empty"]
    assert "train-3.tar: there is no picture in it" in told(data.notes)
    assert "train-4.tar: there is no picture in it" in told(data.notes)


def test_a_parquet_file_without_rows_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", [row(1)])
    schema = pyarrow.parquet.read_schema(tmp_path / "a.parquet")
    parquet(tmp_path / "b.parquet", [], schema)
    data = looked_at(tmp_path)
    assert len(data) == 1 and data.problems == () and "b.parquet: there is no picture in it" in told(data.notes)


ODD_PARTS: dict[str, tuple[dict[str, object], str]] = {
    "pictures as text": ({"image": "a.png"}, "this Parquet file has no column image (bytes)"),
    "pictures as lists of numbers": ({"image": [1, 2]}, "this Parquet file has no column image (bytes)"),
    "objects as text": ({"objects": "cat"}, "row 0: this row has no list of objects"),
    "objects as numbers": ({"objects": [1]}, "row 0: objects[0]: an object has a bbox and a category"),
    "boxes as text": ({"objects": [{"bbox": "1 2 3 4", "category": "cat"}]}, "row 0: objects[0]: bbox should be"),
    "boxes as records": ({"objects": [{"bbox": {"x": 1}, "category": "cat"}]}, "row 0: objects[0]: bbox should be"),
    "no objects": ({"objects": None}, "row 0: this row has no list of objects"),
    "a size as text": ({"height": "thirty", "width": 40}, "row 0:"),
    "another size": ({"height": 31, "width": 40}, "the picture's size contradicts its annotation"),
    "names as numbers": ({"name": 7}, ""),
    "ids as numbers with points": ({"image_id": 7.5}, ""),
}


@pytest.mark.parametrize("odd", ODD_PARTS)
def test_a_part_of_another_schema_is_named_and_the_others_are_read(tmp_path: Path, odd: str) -> None:
    changed, message = ODD_PARTS[odd]
    parquet(tmp_path / "set" / "a.parquet", [row(1, image_id=1)])
    parquet(tmp_path / "set" / "b.parquet", [row(2, image_id=2) | changed])
    checkup = check_dataset(tmp_path / "set")
    said = told(checkup.problems)
    assert len(said) == bool(message) and all("b.parquet" in line and message in line for line in said), said
    data = looked_at(tmp_path / "set")
    assert data.paths[0].endswith("a.parquet/1.png") and data.truth(0).boxes.tolist() == [[2, 3, 12.5, 15]]
    if not message:
        assert len(data) == 2 and data[1].image[0, 0, 0] == 2


def test_a_name_in_two_shards_is_noted(shards: Path) -> None:
    tar(shards / "train-2.tar", pairs(1))
    data = open_data(shards).look("train")
    assert len(data) == 7 and len({*data.image_ids}) == 7
    assert told(data.notes) == [f"{shards}: 2 pictures with an id of another one: their paths take its place"]


def after_an_epoch(root: Path, harm: Callable[[Path], object], **options: object) -> tuple[TrainLoader, int]:
    """A loader that meets the harm between two epochs, and the batches of the second one."""
    loader = TrainLoader(load_dataset(root, split="train"), TRANSFORM, batch_size=2, on_bad="skip", **options)  # type: ignore[arg-type]
    assert len([*loader.epoch(0)]) == 3 and not loader.skipped
    harm(root / "train-1.tar")
    return loader, len([*loader.epoch(1)])


def rewritten(file: Path) -> None:
    """Other pictures at the same places, in a file of the same size."""
    tar(file, pairs(3, first=203))
    os.utime(file, ns=(time.time_ns(), time.time_ns()))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("harm", "said"), [(Path.unlink, "no such file"), (rewritten, "has changed since it was opened")])
def test_a_shard_that_goes_or_changes_between_epochs_is_never_read_as_what_it_was(
    shards: Path, harm: Callable[[Path], object], said: str, workers: int
) -> None:
    loader, batches = after_an_epoch(shards, harm, workers=workers)
    assert batches == 3 and len(loader.skipped) == 3
    for path, error in loader.skipped.items():
        assert path.startswith(f"{shards}/train-1.tar/") and said in f"{error}".lower()
    strict = TrainLoader(load_dataset(shards, split="val"), TRANSFORM, batch_size=2)
    harm(shards / "val.tar")
    with pytest.raises(DataError, match=r"val\.tar"):
        list(strict.epoch(0))


def test_a_shard_that_changes_while_columns_are_made_is_read_again(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onestage.data import wds

    usual, harmed = wds.read_shard, []

    def read(file: Path, table: object) -> object:
        found = usual(file, table)  # type: ignore[arg-type]
        if not harmed:
            harmed.append(file)
            tar(file, pairs(4, first=10))
        return found

    monkeypatch.setattr(wds, "read_shard", read)
    data = load_dataset(shards, split="train")
    assert [data[row].image[0, 0, 0].item() for row in range(3, 6)] == [3, 4, 5]
    with pytest.raises(DataError, match="has changed since"):
        data[0]
    assert len(load_dataset(shards, split="train")) == 7


def test_pictures_of_workers_are_read_once_and_by_one_of_them(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker opens only the places of its batches."""
    log, usual = tmp_path / "log", Part.read

    def read(part: Part, most: int | None = None) -> bytes:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {part.path}\n")
        return usual(part, most)

    monkeypatch.setattr(Part, "read", read)
    loader = TrainLoader(load_dataset(shards, split="train"), TRANSFORM, batch_size=2, workers=2)
    batches = [{meta.path for meta in batch.metas} for batch in loader.epoch(0)]
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    by_worker = {pid: {path for other, path in lines if other == pid} for pid, _ in lines}
    assert str(os.getpid()) not in by_worker and len(by_worker) <= 2
    assert sorted(path for paths in by_worker.values() for path in paths) == sorted(path for batch in batches for path in batch)
    assert all(batch & paths in (batch, set()) for batch in batches for paths in by_worker.values())


def test_a_member_that_names_itself_twice_or_has_no_partner_is_counted_by_the_doctor(shards: Path) -> None:
    tar(shards / "train-1.tar", [*pairs(2), ("0001.jpg", picture(9)), ("0001.json", labels(CAT)), ("0002.png", picture(2))])
    checkup = check_dataset(shards)
    assert told(checkup.problems) == [
        "train-1.tar/0001.jpg: this name has a picture already; the second one is left out",
        "train-1.tar/0001.json: this name has labels already; the second one is left out",
        "train-1.tar/0002: a picture without labels",
    ]


def test_columns_with_other_bytes_are_made_again(shards: Path, tmp_path: Path) -> None:
    """Wherever in the file the damage is, also in the body."""
    right = load_dataset(shards, split="train")
    (file,) = (tmp_path / "cache" / "columns").glob("*.columns")
    whole = file.read_bytes()
    for at in range(0, len(whole) - 64, 64):
        file.write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
        again = load_dataset(shards, split="train")
        assert again.paths == right.paths and again.boxes.equal(right.boxes) and again.labels.equal(right.labels)


def test_all_pictures_may_come_before_all_labels(tmp_path: Path) -> None:
    members = pairs(70)
    tar(tmp_path / "set" / "train.tar", [*members[::2], *members[1::2]])
    assert len(load_dataset(tmp_path / "set")) == 70


def test_numbers_in_one_shard_and_names_in_another_are_a_problem(tmp_path: Path) -> None:
    for name, category in (("a", "cat"), ("b", 1)):
        tar(tmp_path / f"{name}.tar", [(f"{name}.png", picture()), (f"{name}.json", labels(CAT | {"category": category}))])
    assert told(looked_at(tmp_path).problems) == [
        "b.tar/b.json: objects[0]: the class of this object is a number, and others have names"
    ]


def made_columns(shards: Path, log: Path) -> None:
    """Open the data set, and note each shard that is read for it."""
    from onestage.data import wds

    usual = wds.read_shard

    def read(file: Path, table: object) -> object:
        with log.open("a") as lines:
            lines.write(f"{file.name}\n")
        time.sleep(0.2)
        return usual(file, table)  # type: ignore[arg-type]

    wds.read_shard = read  # type: ignore[assignment]
    assert len(load_dataset(shards, split="train")) == 6


def test_one_of_several_processes_reads_the_shards_and_the_others_wait(shards: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "cache")
    processes = [start(made_columns, shards, tmp_path / "log", ONESTAGE_HOME=home) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["train-0.tar", "train-1.tar"]


@pytest.mark.parametrize("format", [None, "parquet"])
def test_if_the_only_part_is_cut_off_that_is_said(tmp_path: Path, format: str | None) -> None:
    parquet(tmp_path / "set" / "a.parquet", [row(1)])
    content = (tmp_path / "set" / "a.parquet").read_bytes()
    (tmp_path / "set" / "a.parquet").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"cut off or damaged(.|\n)*a\.parquet"):
        open_data(tmp_path / "set", format)


def test_rows_that_hold_too_much_are_named_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parquet, "LARGEST_LABELS", 20_000)
    parquet(tmp_path / "set" / "a.parquet", [row(number) for number in range(40)])
    parquet(tmp_path / "set" / "b.parquet", [row(50) | {"objects": [CAT] * 5000}])
    data = looked_at(tmp_path / "set")
    assert len(data) == 40 and told(data.problems) == ["b.parquet: row 0: the labels of this row are too long"]
    monkeypatch.setattr(parts.tars, "MOST_MEMBERS", 30)
    (tmp_path / "set" / "a.parquet").rename(tmp_path / "set" / "c.parquet")
    with pytest.raises(DataError, match="has too many rows"):
        load_dataset(tmp_path / "set")


@pytest.mark.parametrize("format", [None, "wds"])
@pytest.mark.parametrize("damage", [gzip.compress, lambda content: content[:700]])
def test_if_the_only_tar_is_compressed_or_cut_off_that_is_said(
    tmp_path: Path, damage: Callable[[bytes], bytes], format: str | None
) -> None:
    tar(tmp_path / "set" / "a.tar", pairs(2))
    (tmp_path / "set" / "a.tar").write_bytes(damage((tmp_path / "set" / "a.tar").read_bytes()))
    with pytest.raises(DataError, match=r"(gzip|cut off)(.|\n)*a\.tar"):
        open_data(tmp_path / "set", format)


@pytest.mark.parametrize("name", ["\ud800", "cat\udfff", "\u200b", " "])
def test_a_name_that_cannot_be_written_or_seen_costs_one_object(tmp_path: Path, name: str) -> None:
    tar(tmp_path / "set" / "a.tar", [*pairs(2), ("x.png", picture(7)), ("x.json", labels(CAT, CAT | {"category": name}))])
    with pytest.raises(DataError, match=r"1 problem(.|\n)*a\.tar/x\.json") as caught:
        load_dataset(tmp_path / "set")
    assert str(caught.value).encode()
    data = load_dataset(tmp_path / "set", on_bad="skip")
    assert len(data) == 3 and data.classes == ("cat", "dog") and len(data.labels) == 4 and len(data.problems) == 1
