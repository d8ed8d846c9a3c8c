"""Shards that are made to take memory or time, or hold what no data set has: bounded, and each fault is told with its place."""

import json
import threading
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from onestage import pages, parts
from onestage.console import Terminal
from onestage.data import load_dataset, open_data, parquet, shards, wds
from onestage.data.loader import TrainLoader
from onestage.data.order import WINDOW_OF_GROUPS, Order
from onestage.data.shard_columns import Collected
from onestage.data.table import Table
from onestage.data.transforms import TrainTransform, stretch
from onestage.errors import DataError
from onestage.images import picture_bytes
from onestage.pages import unpacked
from onestage.parts import Row, open_parquet, rows_of
from shards import CAT, labels, pairs, picture, tar

BOX = [2.0, 3.0, 10.5, 12.0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "cache"))


def write(file: Path, rows: list[dict[str, object]], **options: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file


def row(number: int, *objects: object, **more: object) -> dict[str, object]:
    return {"image": picture(number), "name": f"{number}.png", "objects": [*objects] or [CAT]} | more


@pytest.mark.parametrize("name", ["\ud800", "cat\udfff", "", " \t", "\u200b"])
def test_a_name_that_is_none_is_a_fault_of_its_object(tmp_path: Path, name: str) -> None:
    odd = {"bbox": BOX, "category": name}
    tar(tmp_path / "tars" / "a.tar", [("1.png", picture()), ("1.json", labels(odd, CAT)), *pairs(2, first=2)])
    data = open_data(tmp_path / "tars").look()
    assert [problem.where for problem in data.problems] == ["a.tar/1.json: objects[0]"] and len(data.boxes) == 4
    shape = {"label": name, "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    shapes = {"version": "5", "flags": {}, "shapes": [shape, shape | {"label": "cat"}], "imagePath": "1.png"}
    (tmp_path / "labelme").mkdir()
    (tmp_path / "labelme" / "1.png").write_bytes(picture())
    (tmp_path / "labelme" / "1.json").write_text(json.dumps(shapes | {"imageHeight": 30, "imageWidth": 40}))
    data = open_data(tmp_path / "labelme", "labelme").look()
    assert len(data.problems) == 1 and len(data.boxes) == 1 and "1.json" in data.problems[0].where


def test_labels_of_a_row_are_bounded_as_those_of_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with very many boxes is named, and not unpacked; the rows around it are read."""
    monkeypatch.setattr(parquet, "LARGEST_LABELS", 5000)
    crowd = [{"bbox": BOX, "category": "cat"}] * 300
    write(tmp_path / "a.parquet", [row(1), row(2, *crowd), row(3)], row_group_size=3)
    data = open_data(tmp_path).look()
    assert [f"{problem.where}: {problem.what}" for problem in data.problems] == [
        "a.parquet: row 1: the labels of this row are too long"
    ]
    assert [path.rpartition("/")[2] for path in data.paths] == ["1.png", "3.png"] and len(data.boxes) == 2


def test_few_rows_are_unpacked_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some kilobytes may say a long text in each of very many rows."""
    file = write(tmp_path / "a.parquet", [row(1, image_id="x" * 10_000)] * 5000, row_group_size=5000)
    assert file.stat().st_size < 200_000
    before, most = pyarrow.total_allocated_bytes(), 0
    with open_parquet(file) as opened, file.open("rb") as content:
        for number, (text,) in enumerate(rows_of(opened, 0, ["image_id"], content=content)):
            assert isinstance(text, str) and len(text) == 10_000
            most = max(most, pyarrow.total_allocated_bytes() - before) if number % 256 == 0 else most
    assert number == 4999 and 0 < most < 10_000_000


def test_long_texts_are_unpacked_in_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that all rows have is in the file once."""
    file = write(tmp_path / "a.parquet", [row(1, image_id="x" * 300_000)] * 300, row_group_size=300)
    monkeypatch.setattr(parts, "BYTES_TOGETHER", 3_000_000)
    before, most, lengths = pyarrow.total_allocated_bytes(), 0, list[int]()
    with open_parquet(file) as opened, file.open("rb") as content:
        for (text,) in rows_of(opened, 0, ["image_id"], content=content):
            most = max(most, pyarrow.total_allocated_bytes() - before)
            lengths.append(len(str(text)))
    assert lengths == [300_000] * 300 and 0 < most < 10_000_000


def test_a_list_that_repeats_a_value_very_often_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many boxes take some kilobytes in the file. The groups around them are read."""
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([row(1), row(2) | {"objects": [CAT] * 200_000}, row(3)]),
        tmp_path / "a.parquet",
        row_group_size=1,
    )
    monkeypatch.setattr(parts, "MOST_VALUES", 500_000)
    before = pyarrow.default_memory_pool().max_memory()
    data = open_data(tmp_path).look()
    assert [problem.what for problem in data.problems] == ["a row group of this Parquet file has too many values"]
    assert [path.rpartition("/")[2] for path in data.paths] == ["1.png", "3.png"]
    assert pyarrow.default_memory_pool().max_memory() <= max(before, 20_000_000)


@pytest.mark.parametrize(
    ("name", "most", "says"),
    [("long", parts.LONGEST_NAME, "a name in this Parquet file is too long"), ("x", 1, "this Parquet file has too many rows")],
)
def test_names_and_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: int, says: str) -> None:
    monkeypatch.setattr(parts.tars, "MOST_MEMBERS", most)
    write(tmp_path / "a.parquet", [row(1), row(2, name=name * 2000)])
    data = open_data(tmp_path).look()
    assert [f"{problem.where}: {problem.what}" for problem in data.problems] == [f"a.parquet: {says}"] and len(data) == 0


def test_texts_that_are_no_text_are_a_fault_of_their_file(tmp_path: Path) -> None:
    """Parquet's strings should be UTF-8, and nothing checks it."""
    names = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"\xff\xfe.png", b"2.png"]).buffers())
    table = pyarrow.Table.from_pylist([row(1), row(2)])
    table = table.set_column(table.schema.get_field_index("name"), "name", names)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", [row(3)])
    data = open_data(tmp_path).look()
    assert len(data) == 1
    assert [f"{p.where}: {p.what}" for p in data.problems] == ["a.parquet: a part of this Parquet file cannot be read"]


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    """Sixty pictures in groups of five."""
    write(tmp_path / "set" / "a.parquet", [row(n) for n in range(60)], row_group_size=5, compression="zstd")
    return tmp_path / "set"


def test_the_group_and_the_row_of_a_compressed_picture_are_known(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no list of names is read to find it, in any number of files."""
    data = load_dataset(compressed)
    monkeypatch.setattr(parts, "_in_parquet", None)
    place = data.stored(23)
    assert isinstance(place, Row) and (place.group, place.row) == (4, 3)
    assert picture_bytes(place) == picture(23) and picture_bytes(data.subset([7, 23]).stored(1)) == picture(23)


def test_an_epoch_reads_each_group_about_once(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In windows of the pictures whose groups can be kept. In the order of a whole set each picture would need its group."""
    from onestage.data import loader

    read: list[int] = []
    usual = parts._read_group
    monkeypatch.setattr(parts, "_read_group", lambda file, stamp, group: read.append(group) or usual(file, stamp, group))
    monkeypatch.setattr(loader, "WINDOW_OF_GROUPS", 20)
    monkeypatch.setattr(parts, "KEPT", 5 * 5 * len(picture()))
    data = load_dataset(compressed)
    parts.share_kept(1)
    read.clear()
    batches = TrainLoader(data, TrainTransform(stretch((8, 8))), batch_size=4, seed=1)
    assert sum(len(batch.metas) for batch in batches.epoch(0)) == 60
    assert sorted(read) == [*range(12)]
    order = batches._order
    assert isinstance(order, Order) and order.window == 20 and not order.epoch(0).equal(order.epoch(1))
    assert WINDOW_OF_GROUPS >= 1000


def test_several_groups_are_read_at_the_same_time_and_each_once(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    together = threading.Barrier(3, timeout=60)

    def slow(file: str, stamp: parts.Stamp, group: int) -> list[bytes]:
        read.append(group)
        together.wait()
        return [b"x"]

    data = load_dataset(compressed)
    parts.share_kept(1)
    monkeypatch.setattr(parts, "_read_group", slow)
    threads = [threading.Thread(target=data.stored(5 * n).read) for n in (0, 1, 2, 0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(read) == [0, 1, 2]


def test_a_group_that_cannot_be_read_is_tried_again(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = load_dataset(compressed).stored(3)
    parts.share_kept(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "LARGEST_GROUP", 100)
        for _ in range(2):
            with pytest.raises(DataError, match="a row group of this Parquet file is too large"):
                picture_bytes(place)
    assert picture_bytes(place) == picture(3)


def test_processes_share_what_is_kept() -> None:
    parts.share_kept(4)
    assert parts._groups._most == parts.KEPT // 4
    parts.share_kept(1)


def test_notes_name_the_data_set_as_it_is_named_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they are kept from a time when it was named in another way."""
    odd = {"bbox": BOX, "category": "Cat"}
    for name in ("a", "b"):
        tar(tmp_path / "set" / f"{name}.tar", [("1.png", picture()), ("1.json", labels(CAT, odd, image_id=1))])
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path / "set", Path("set")):
        notes = open_data(root).look().notes
        assert {note.where for note in notes} == {str(root)} and len(notes) == 2


@pytest.mark.parametrize("much", [True, False])
def test_one_large_shard_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, much: bool) -> None:
    """The number of its pictures grows while it is read."""
    seen: list[str] = []
    usual = shards.Progress.__enter__

    def enter(bar: shards.Progress) -> shards.Progress:
        assert bar.disable is not much
        seen.append(bar.columns[-1].render(bar.tasks[0] if bar.tasks else None).plain)  # type: ignore[union-attr, arg-type]
        return usual(bar)

    monkeypatch.setattr(shards, "MUCH", 1000 if much else 10**9)
    monkeypatch.setattr(shards.Progress, "__enter__", enter)
    monkeypatch.setattr(Terminal, "is_terminal", True)
    tar(tmp_path / "a.tar", pairs(3))
    assert len(load_dataset(tmp_path)) == 3 and seen == ["0 pictures"]
    table = Table(tmp_path)
    collected = Collected(tmp_path, None, "wds")
    column = shards._Pictures(collected, [table])
    wds.read_shard(tmp_path / "a.tar", table)
    assert column.render(None).plain == "3 pictures"  # type: ignore[arg-type]
    collected.add(table, {})
    assert collected.pictures == 3


def lie(file: Path, true: int, said: int) -> None:
    """Replace a number in the footer of a Parquet file by a smaller one of as many bytes."""

    def written(number: int, width: int = 0) -> bytes:
        digits = [number >> shift & 127 for shift in range(0, max(7 * width, number.bit_length(), 1), 7)]
        return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])

    content, old = file.read_bytes(), written(2 * true)
    size = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - size : -8]
    assert old in footer
    file.write_bytes(content[: -8 - size] + footer.replace(old, written(2 * said, len(old))) + content[-8:])


def column_of(file: Path) -> object:
    return pyarrow.parquet.ParquetFile(file).metadata.row_group(0).column(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "zstd"},
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY", "data_page_version": "2.0"},
    ],
)
def test_pages_are_asked_what_they_unpack_to(tmp_path: Path, options: dict[str, object]) -> None:
    file = write(
        tmp_path / "a.parquet", [{"image_id": f"{number}" * 500} for number in range(3000)], write_statistics=False, **options
    )
    with open_parquet(file) as opened, file.open("rb") as content:
        values, size, longest = unpacked(opened, content, 0, 0)
    heads = 40 * 50  # what the footer says has the heads of the pages in it
    said = column_of(file).total_uncompressed_size  # type: ignore[attr-defined]
    delta = options.get("column_encoding") is not None
    assert longest == size if delta else 2000 <= longest < size
    assert said - heads <= size <= said and values - 3000 in (0, 3000, 1)  # a dictionary is no page with values


def test_a_footer_that_says_too_little_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of all rows is in the file once; 256 of them would take 77 MB."""
    options = {"compression": "zstd", "write_statistics": False}
    file = write(tmp_path / "a.parquet", [{"image_id": "x" * 300_000}] * 300, **options)
    lie(file, column_of(file).total_uncompressed_size, 100)  # type: ignore[attr-defined]
    assert column_of(file).total_uncompressed_size == 100  # type: ignore[attr-defined]
    monkeypatch.setattr(parts, "BYTES_TOGETHER", 3_000_000)
    before, most = pyarrow.total_allocated_bytes(), 0
    with open_parquet(file) as opened, file.open("rb") as content:
        for (text,) in rows_of(opened, 0, ["image_id"], content=content):
            most = max(most, pyarrow.total_allocated_bytes() - before)
            assert len(str(text)) == 300_000
    assert 0 < most < 10_000_000


def test_a_page_with_more_values_than_the_footer_says_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet", [{"objects": [7] * 200_000}, {"objects": [7]}], write_statistics=False)
    lie(file, 200_001, 2)
    assert column_of(file).num_values == 2  # type: ignore[attr-defined]
    monkeypatch.setattr(parts, "MOST_VALUES", 100_000)
    with open_parquet(file) as opened, file.open("rb") as content:
        with pytest.raises(DataError, match="too many values"):
            next(rows_of(opened, 0, ["objects"], content=content))
        monkeypatch.setattr(parts, "LARGEST_GROUP", 10)
        monkeypatch.setattr(parts, "MOST_VALUES", 2**25)
        with pytest.raises(DataError, match="is too large"):
            next(rows_of(opened, 0, ["objects"], content=content))


def test_pages_that_are_damaged_or_too_many_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet", [{"image_id": f"{number}" * 50} for number in range(3000)], data_page_size=1000)
    monkeypatch.setattr(pages, "MOST_PAGES", 2)
    with open_parquet(file) as opened, file.open("rb") as content, pytest.raises(DataError, match="too many pages"):
        unpacked(opened, content, 0, 0)
    with open_parquet(file) as opened:
        whole = file.read_bytes()
        with file.open("r+b") as content, pytest.raises(DataError, match="cannot be read"):
            content.seek(4)
            content.write(b"\xff" * 64)
            unpacked(opened, content, 0, 0)
    file.write_bytes(whole)
