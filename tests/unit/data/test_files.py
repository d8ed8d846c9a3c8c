"""Files of foreign data: limits on what is read, and names that no file can have."""

import os
from pathlib import Path

import pytest

import trees
from onestage.data import load_dataset
from onestage.data.files import MAX_BYTES, is_folder, is_regular, read_bytes
from onestage.errors import DataError

PATHS = {
    "coco": "annotations/instances_train2017.json",
    "voc": "Annotations/a.xml",
    "yolo": "labels/train/a.txt",
    "csv": "label.csv",
}


@pytest.mark.parametrize("name", PATHS)
def test_a_file_over_its_limit_is_refused_before_it_is_read(name: str, tmp_path: Path) -> None:
    root = trees.WRITERS[name](tmp_path)
    file = root / PATHS[name]
    os.truncate(file, MAX_BYTES[file.suffix] + 1)  # a hole: it takes no space
    with pytest.raises(DataError, match="this file is too large") as caught:
        load_dataset(root)
    assert f"{MAX_BYTES[file.suffix] + 1:,} bytes" in str(caught.value)


def test_the_annotations_of_coco_pass() -> None:
    assert MAX_BYTES[".json"] > 4 * 450e6


def test_a_link_to_itself_is_passed_over(tmp_path: Path) -> None:
    root = trees.WRITERS["coco"](tmp_path)
    before = len(load_dataset(root))
    (root / "loop.json").symlink_to("loop.json")
    (root / "annotations" / "loop").symlink_to("loop")
    assert len(load_dataset(root)) == before


def test_a_pipe_is_no_data_set(tmp_path: Path) -> None:
    """To open it would wait for a writer."""
    os.mkfifo(tmp_path / "labels.json")
    with pytest.raises(DataError, match="no regular file"):
        load_dataset(tmp_path / "labels.json")
    with pytest.raises(DataError, match="not a regular file"):
        read_bytes(tmp_path / "labels.json")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800", "x/" * 5000, ""])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    assert not is_regular(tmp_path / name) and is_folder(tmp_path / name) == (name == "")
    with pytest.raises(DataError):
        load_dataset(tmp_path / name / "labels.csv")
    with pytest.raises(DataError):
        load_dataset(tmp_path / name)
