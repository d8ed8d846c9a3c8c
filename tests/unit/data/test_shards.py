"""Data sets in tars and Parquet files: what they say, what is wrong in them, and the columns in the cache."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pyarrow.parquet.encryption as encryption
import pytest
import torch

from batches import assert_same
from onestage.data import Dataset, load_dataset, open_data
from onestage.data.check import check_dataset
from onestage.data.columns import read_columns
from onestage.data.convert import convert
from onestage.data.dataset import Problem
from onestage.data.loader import Shard, TrainLoader
from onestage.data.transforms import Augment, TrainTransform, stretch
from onestage.errors import DataError, ProblemsError
from onestage.images import picture_bytes
from onestage.parts import Part, open_parquet
from onestage.structures import Batch
from onestage.training.inventory import Inventory
from onestage.training.pictures import stamps_of
from shards import CAT, DOG, labels, pairs, picture, tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of these tests."""
    monkeypatch.setenv("ONESTAGE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "columns"


def looked_at(root: Path, format: str | None = None) -> Dataset:
    """What is in a data set, and what is wrong with it."""
    return open_data(root, format).look(None)


def told(problems: Sequence[Problem]) -> list[str]:
    return sorted(f"{problem.where}: {problem.what}" for problem in problems)


def parquet(file: Path, rows: list[dict[str, object]], **options: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file


def row(number: int, *objects: object, **more: object) -> dict[str, object]:
    content = {
        "image": picture(number),
        "name": f"{number}.png",
        "objects": [{"area": None, "iscrowd": 0} | o for o in objects],
    }  # type: ignore[operator]
    return content | more


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Seven pictures in two tars to train on, and two to measure."""
    root = tmp_path / "set"
    tar(root / "train-000000.tar", pairs(4))
    tar(root / "train-000001.tar", pairs(3, first=4))
    tar(root / "val.tar", pairs(2, first=7))
    return root


def test_tars_are_a_data_set(shards: Path) -> None:
    opened = open_data(shards)
    assert (opened.format, opened.splits) == ("wds", ("train", "val"))
    data = opened.load("train")
    assert len(data) == 7 and data.classes == ("cat", "dog") and list(data.image_ids) == list(range(7))
    assert data.truth(1).boxes.tolist() == [[2, 3, 12.5, 15], [5, 5, 25, 25]]
    assert data.truth(1).labels.tolist() == [0, 1] and data.truth(1).crowd.tolist() == [False, True]
    assert data.truth(1).area.tolist() == [126.0, 123.5]
    assert [data[i].image[0, 0, 0].item() for i in range(7)] == list(range(7))
    assert data.paths[5] == f"{shards}/train-000001.tar/0005.png"
    assert isinstance(data.stored(5), Part)


def test_no_problem_is_found_in_sound_shards(shards: Path) -> None:
    checkup = check_dataset(shards)
    assert checkup.problems == () and checkup.notes == () and checkup.pictures == 9 and checkup.objects == 13


def test_one_shard_can_be_named(shards: Path) -> None:
    assert len(load_dataset(shards / "train-000001.tar")) == 3


def test_a_list_of_classes_gives_their_order_and_ids(shards: Path) -> None:
    entries = [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}, {"id": 11, "name": "cow"}]
    (shards / "classes.json").write_text(json.dumps({"classes": entries}))
    data = load_dataset(shards, split="train")
    assert (data.classes, data.category_ids) == (("dog", "cat", "cow"), (7, 9, 11))
    assert data.truth(1).labels.tolist() == [1, 0]
    (shards / "classes.json").write_text(json.dumps({"classes": entries[:1]}))
    with pytest.raises(ProblemsError, match="unknown class 'cat'"):
        load_dataset(shards, split="train")
    (shards / "classes.json").write_text('{"classes": [')
    with pytest.raises(DataError, match="not valid JSON"):
        load_dataset(shards, split="train")


def test_ids_of_classes_need_a_list_or_names_from_a_model(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("1.png", picture()), ("1.json", labels({"bbox": [1, 1, 9, 9], "category": 0}))])
    with pytest.raises(DataError, match="nothing says the names"):
        load_dataset(tmp_path / "a.tar")
    assert load_dataset(tmp_path / "a.tar", classes=("cat", "dog")).labels.tolist() == [0]


def test_classes_of_a_model_are_the_labels(shards: Path) -> None:
    data = load_dataset(shards, split="train", classes=("cow", "dog", "cat"))
    assert data.truth(1).labels.tolist() == [2, 1]
    with pytest.raises(DataError, match=r"3 objects of 1 class that the model does not have: dog"):
        load_dataset(shards, split="train", classes=("cat",))
    data = load_dataset(shards, split="train", classes=("cat",), on_bad="skip")
    assert data.labels.tolist() == [0] * 7 and data.offsets.tolist() == list(range(8)) and len(data.problems) == 1


def link(name: str, to: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, to
    return entry


def test_each_fault_in_a_tar_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    faults = [
        ("lone.png", picture()),
        ("blind.json", labels(CAT)),
        ("0001.png", picture(9)),
        link("link.png", "/etc/passwd"),
        ("../out.png", picture()),
        ("no.png", picture()),
        ("no.json", b"{"),
        ("list.png", picture()),
        ("list.json", b"[]"),
        ("nan.png", picture()),
        ("nan.json", b'{"objects": [NaN]}'),
        ("twice.png", picture()),
        ("twice.json", b'{"objects": [], "objects": []}'),
        ("box.png", picture()),
        ("box.json", labels({"bbox": [1, 2, 3], "category": "cat"}, {"bbox": [1, 2, 3, 4]}, 5, CAT)),  # type: ignore[arg-type]
        ("far.png", picture()),
        ("far.json", labels({"bbox": [90, 2, 3, 4], "category": "cat"})),
        ("empty.png", b""),
        ("empty.json", labels(CAT)),
        ("page.png", b"<html>"),
        ("page.json", b'{"objects": []}'),
    ]
    tar(tmp_path / "train.tar", [*pairs(3), *faults, ("notes.txt", b"x"), ("._0001.png", b"left by a system")])
    data = looked_at(tmp_path)
    assert told(data.problems) == [
        "train.tar/../out.png: refused: the name leads outside the tar",
        "train.tar/0001.png: this name has a picture already; the second one is left out",
        "train.tar/blind: labels without a picture",
        "train.tar/box.json: objects[0]: bbox should be [left, top, width, height] in pixels",
        "train.tar/box.json: objects[1]: an object has a bbox and a category",
        "train.tar/box.json: objects[2]: an object has a bbox and a category",
        "train.tar/empty: this picture is empty or too large",
        "train.tar/far.json: objects[0]: a box outside its picture, 40 x 30 (width x height): x1, y1, x2, y2 = 90, 2, 93, 6",
        "train.tar/link.png: refused: this member is a symbolic link",
        "train.tar/list: these labels have no list of objects",
        "train.tar/lone: a picture without labels",
        "train.tar/nan: these labels are not valid JSON",
        "train.tar/no: these labels are not valid JSON",
        "train.tar/page.png: this is not a picture of a known format",
        "train.tar/twice: these labels are not valid JSON",
    ]
    assert told(data.notes) == ["train.tar: 1 file passed over, neither pictures nor labels: 1 .txt"]
    assert [Path(path).name for path in data.paths] == ["0000.png", "0001.png", "0002.png", "box.png", "far.png"]
    assert picture_bytes(data.stored(1)) == picture(1)
    with pytest.raises(ProblemsError, match="15 problems"):
        load_dataset(tmp_path)


def test_a_tar_that_is_cut_is_a_problem_and_what_is_whole_is_read(shards: Path) -> None:
    file = shards / "train-000000.tar"
    content = file.read_bytes()
    for keep, whole in (
        (0, 0),
        (100, 0),
        (1500, 0),
        (2500, 1),
        (3000, 1),
        (content.rindex(b"0003.json") + 520, 3),
        (len(content), 4),
    ):
        file.write_bytes(content[:keep])
        data = looked_at(shards)
        cut = [problem for problem in data.problems if problem.where == "train-000000.tar"]
        assert (len(data), len(cut)) == (whole + 5, int(keep < len(content))), keep
        assert not cut or "cut off" in cut[0].what or "empty" in cut[0].what


def test_a_file_that_is_no_tar_among_tars_is_named(shards: Path) -> None:
    (shards / "train-000002.tar").write_bytes(b"no tar" * 500)
    (shards / "train-000003.tar").write_bytes(b"\x1f\x8b" + bytes(3000))
    assert told(looked_at(shards).problems) == [
        "train-000002.tar: this is no tar",
        "train-000003.tar: this tar is compressed with gzip",
    ]


def test_tars_beside_another_data_set_are_no_data_set(tmp_path: Path) -> None:
    tar(tmp_path / "download.tar", [("images/1.png", picture()), ("annotations/1.json", labels(CAT))])
    with pytest.raises(DataError, match="no labelled pictures"):
        open_data(tmp_path)


@pytest.mark.parametrize("kind", [int, "id {}".format])
def test_an_id_that_several_pictures_have_gives_way_to_their_paths(tmp_path: Path, kind: Callable[[int], object]) -> None:
    """All other pictures keep theirs, so predictions that name them still fit."""
    for name, first in (("a", 0), ("b", 1)):
        members = [(f"{first + n}.png", picture(n)) for n in range(2)]
        members += [(f"{first + n}.json", labels(CAT, image_id=kind(first + n))) for n in range(2)]
        tar(tmp_path / f"{name}.tar", members)
    for _ in range(2):
        data = looked_at(tmp_path)
        assert [*data.image_ids] == [kind(0), "a.tar/1.png", "b.tar/1.png", kind(2)]
        assert data.subset([3, 1]).image_ids == (kind(2), "a.tar/1.png")
        assert told(data.notes) == [f"{tmp_path}: 2 pictures with an id of another one: their paths take its place"]


def test_columns_are_kept_and_made_again_only_if_a_shard_changes(
    shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    from onestage.data import wds

    usual = wds.read_shard
    monkeypatch.setattr(wds, "read_shard", lambda file, table: read.append(file.name) or usual(file, table))
    first = load_dataset(shards, split="train")
    again = load_dataset(shards, split="train")
    assert read == ["train-000000.tar", "train-000001.tar"]
    assert first.paths == again.paths and torch.equal(first.boxes, again.boxes)
    tar(shards / "train-000001.tar", pairs(4, first=4))
    assert len(load_dataset(shards, split="train")) == 8 and len(read) == 4
    for damage in (b"", b"other", next(cache.glob("*.columns")).read_bytes()[:300]):
        for file in cache.glob("*.columns"):
            file.write_bytes(damage)
        assert len(load_dataset(shards, split="train")) == 8
    assert len(read) == 10


def test_a_folder_without_a_cache_is_read_too(shards: Path, cache: Path) -> None:
    cache.parent.write_text("a file in its place")
    assert len(load_dataset(shards, split="train")) == 7


def test_columns_that_were_changed_change_no_file(shards: Path, cache: Path) -> None:
    data = load_dataset(shards, split="train")
    data.boxes[0] = 7
    assert load_dataset(shards, split="train").boxes[0].tolist() == [2, 3, 12.5, 15]


def test_shards_without_any_object_are_read_and_kept(tmp_path: Path, cache: Path) -> None:
    tar(tmp_path / "a.tar", [("1.png", picture()), ("1.json", labels())])
    for _ in range(2):
        data = load_dataset(tmp_path / "a.tar")
        assert (len(data), len(data.boxes), data.classes, data.is_empty) == (1, 0, (), True)
    assert len([*cache.glob("*.columns")]) == 1


def test_hostile_columns_are_none(tmp_path: Path) -> None:
    for head in (
        '{"arrays": {"a": ["object", [1], 0, 0]}, "bytes": 64}',
        '{"arrays": {"a": ["int64", [-1], 0, 0]}, "bytes": 64}',
        "[]",
        "7",
    ):
        begun = b"onestage columns 2\n" + f"{len(head):08x}{head}".encode()
        (tmp_path / "x").write_bytes(begun.ljust(-(-len(begun) // 64) * 64, b"\0") + bytes(64))
        assert read_columns(tmp_path / "x") is None


def test_parts_of_a_set_in_shards_keep_their_places(shards: Path) -> None:
    data = load_dataset(shards, split="train")
    large, small = data.hold_out(0.3, 1)
    rows = [*large.image_ids, *small.image_ids]
    assert sorted(rows) == list(range(7))
    assert [small[i].image[0, 0, 0].item() for i in range(len(small))] == list(small.image_ids)
    again = large.subset([1, 0])
    assert again.image_ids == [large.image_ids[1], large.image_ids[0]]
    assert [again[i].image[0, 0, 0].item() for i in range(2)] == list(again.image_ids)
    with pytest.raises(IndexError):
        large.subset([0, 5])


def test_parquet_files_are_a_data_set(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", [row(1, CAT), row(2, CAT, DOG)], row_group_size=1)
    parquet(tmp_path / "train-1.parquet", [row(3, DOG, image_id=99), row(4, image_id=98)])
    data = load_dataset(tmp_path, split="train")
    assert data.format == "parquet" and data.classes == ("cat", "dog")
    assert data.image_ids == ["1.png", "2.png", "99", "98"] and [len(data.truth(i).boxes) for i in range(4)] == [1, 2, 1, 0]
    assert [data[i].image[0, 0, 0].item() for i in range(4)] == [1, 2, 3, 4]
    assert picture_bytes(f"{tmp_path}/train-1.parquet/4.png") == picture(4)
    assert "whole row group" in told(data.notes)[0]


@pytest.mark.parametrize("options", [{}, {"compression": "NONE"}, {"compression": "zstd", "use_dictionary": False}])
def test_pictures_of_any_parquet_are_read_right(tmp_path: Path, options: dict[str, object]) -> None:
    parquet(tmp_path / "a.parquet", [row(i % 250, CAT, name=f"{i}.png") for i in range(60)], row_group_size=25, **options)
    data = load_dataset(tmp_path)
    assert [picture_bytes(data.stored(i)) for i in range(60)] == [picture(i) for i in range(60)]


def test_a_parquet_file_of_the_package_datasets_is_read(tmp_path: Path) -> None:
    rows = [
        {
            "image": {"bytes": picture(5), "path": "a/b.png"},
            "width": 40,
            "height": 30,
            "objects": {"bbox": [[1.0, 2, 3, 4]], "category": [1]},
        }
    ]
    table = pyarrow.Table.from_pylist(rows)
    about = {"info": {"features": {"objects": {"feature": {"category": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}}}
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "t.parquet")
    data = load_dataset(tmp_path)
    assert (
        data.classes == ("dog",)
        and data.truth(0).boxes.tolist() == [[1, 2, 4, 6]]
        and data.paths[0].endswith("t.parquet/b.png")
    )


def test_each_fault_in_parquet_files_is_named(tmp_path: Path) -> None:
    bad = row(3, {"bbox": [1.0, 2.0], "category": "cat"}, CAT)
    parquet(tmp_path / "a.parquet", [row(1, CAT), bad, row(1, CAT), row(2, CAT, image=None), row(4, CAT, image=b"<html>")])
    parquet(tmp_path / "b.parquet", [{"boxes": [1]}])
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and more")
    data = looked_at(tmp_path)
    assert told(data.problems) == [
        "a.parquet/0000003: this picture is empty",
        "a.parquet/0000004: this is not a picture of a known format",
        "a.parquet: row 1: objects[0]: bbox should be [left, top, width, height] in pixels",
        "a.parquet: row 2: the name '1.png' is given twice; this picture is left out",
        "b.parquet: this Parquet file has no column image (bytes) and no column objects",
        "c.parquet: this Parquet file is cut off or damaged",
        "d.parquet: this Parquet file is cut off or damaged",
    ]
    assert len(data) == 2 and len(data.boxes) == 2


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "a.parquet", [row(1, CAT)])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'onestage\[parquet\]'"):
        load_dataset(tmp_path)


def loaded(data: Dataset, **options: Any) -> list[Batch]:
    """The batches of an epoch, without the paths of the pictures."""
    transform = TrainTransform(stretch((16, 16)), Augment(photometric=0.5, mosaic=0.5))
    batches = TrainLoader(data, transform, batch_size=4, seed=5, **options).epoch(3)
    return [replace(batch, metas=tuple(replace(meta, path="") for meta in batch.metas)) for batch in batches]


@pytest.mark.parametrize("to", ["wds", "parquet"])
def test_a_training_on_shards_gets_the_same_batches_as_on_files(tmp_path: Path, shards: Path, to: str) -> None:
    convert(shards, tmp_path / "files", to="coco")
    convert(shards, tmp_path / "copy", to=to, shard=0.0002)  # type: ignore[arg-type]
    files, copy = (load_dataset(tmp_path / name, split="train") for name in ("files", "copy"))
    assert copy.parts is not None and len(copy.parts.files) > 2 and (copy.parts.offset > 0).all()
    assert_same(loaded(copy), loaded(files))
    assert_same(loaded(copy, workers=2), loaded(files))
    whole = [[meta.image_id for meta in batch.metas] for batch in loaded(files)]
    ranks = [[[meta.image_id for meta in batch.metas] for batch in loaded(copy, shard=Shard(rank, 2))] for rank in range(2)]
    assert ranks == [[batch[rank::2] for batch in whole] for rank in range(2)]


def test_each_process_reads_the_bytes_of_its_pictures_alone(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset(shards, split="train")
    read: list[list[str]] = []
    usual: Callable[..., bytes] = Part.read
    monkeypatch.setattr(Part, "read", lambda part, most=None: read[-1].append(part.path) or usual(part, most))
    for rank in range(3):
        read.append([])
        list(TrainLoader(data, TrainTransform(stretch((8, 8))), batch_size=6, shard=Shard(rank, 3)).epoch(0))
    assert sorted(len({*paths}) for paths in read) == [2, 2, 2] and len({path for paths in read for path in paths}) == 6


def test_a_picture_of_a_cut_tar_that_was_open_is_skipped_with_its_reason(shards: Path) -> None:
    data = load_dataset(shards, split="train")
    file = shards / "train-000000.tar"
    file.write_bytes(file.read_bytes()[:3000])
    loader = TrainLoader(data, TrainTransform(stretch((8, 8))), batch_size=4, on_bad="skip")
    assert len(list(loader.epoch(0))) == 1
    assert all("has changed" in str(error) for error in loader.skipped.values())


def test_the_bytes_of_shards_do_not_depend_on_when_they_are_written(tmp_path: Path, shards: Path) -> None:
    for name in ("a", "b"):
        convert(shards, tmp_path / name, to="wds")
    assert [f.read_bytes() for f in sorted((tmp_path / "a").iterdir())] == [
        f.read_bytes() for f in sorted((tmp_path / "b").iterdir())
    ]


def test_webdataset_reads_what_is_written(tmp_path: Path, shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    convert(shards, tmp_path / "copy", to="wds")
    found = list(webdataset.WebDataset(str(tmp_path / "copy" / "train-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"{i:04d}" for i in range(7)]
    assert [sample["png"] for sample in found] == [picture(i) for i in range(7)]
    assert json.load(io.BytesIO(found[1]["json"]))["objects"][1]["category"] == "dog"


@pytest.mark.parametrize("to", ["wds", "parquet"])
def test_changed_pictures_are_noticed_in_shards_as_in_files(tmp_path: Path, shards: Path, to: str) -> None:
    """A run compares these stamps when it goes on. Of the same pictures they are the same, wherever they lie."""
    convert(shards, tmp_path / "files", to="coco")
    convert(shards, tmp_path / "copy", to=to)  # type: ignore[arg-type]
    files, copy = (stamps_of(load_dataset(tmp_path / name, split="train")) for name in ("files", "copy"))
    assert len(copy) == 7 and [*copy.values()] == [*files.values()]


def test_a_run_goes_on_with_the_pictures_of_shards_that_are_left(shards: Path) -> None:
    train, val = (load_dataset(shards, split=split) for split in ("train", "val"))
    begun = Inventory.of(train, val)
    again, measured, gone = begun.divide(load_dataset(shards, split="train"), val)
    assert gone == () and again.paths == train.paths and begun.changes(again) == [] and measured.image_ids == val.image_ids
    tar(shards / "train-000001.tar", pairs(2, first=4))
    again, _, gone = begun.divide(load_dataset(shards, split="train"), val)
    assert gone == ("train-000001.tar/0006.png",) and list(again.image_ids) == [0, 1, 2, 3, 4, 5, 0]
    assert [again[i].image[0, 0, 0].item() for i in range(7)] == [0, 1, 2, 3, 4, 5, 0]


class OpenKeys(encryption.KmsClient):
    """A store of keys that hides nothing."""

    def __init__(self, _: object) -> None:
        encryption.KmsClient.__init__(self)

    def wrap_key(self, key: bytes, _: str) -> str:
        """The key as a text."""
        return key.hex()


@pytest.mark.parametrize("plain_footer", [True, False])
def test_encrypted_parquet_is_an_error(tmp_path: Path, plain_footer: bool) -> None:
    """With a plain footer, pyarrow ends the whole process when it is asked how such a column is compressed."""
    column = "objects.list.element.bbox.list.element"
    setting = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"key": ["image", column]}, plaintext_footer=plain_footer
    )
    keys = encryption.CryptoFactory(OpenKeys).file_encryption_properties(encryption.KmsConnectionConfig(), setting)
    table = pyarrow.table({"image": [picture()], "objects": [[{"bbox": [1.0, 2.0, 9.0, 9.0], "category": "cat"}]]})
    file = tmp_path / "train.parquet"
    with pyarrow.parquet.ParquetWriter(file, table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="encrypt"):
        open_parquet(file)
    with file.open("rb") as content, pytest.raises(DataError, match="encrypt"):  # as a list of pictures is read
        open_parquet("s3://bucket/train.parquet", content)
