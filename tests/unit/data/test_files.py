"""Files of foreign data: limits on what is read, and names that no file can have."""

import glob
import os
from pathlib import Path

import pytest

import trees
from onestage.data import load_dataset
from onestage.data.files import MAX_BYTES, is_folder, is_regular, matches, read_bytes
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
    with pytest.raises(DataError, match="not a file"):
        read_bytes(tmp_path / "labels.json")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800", "x/" * 5000, ""])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    assert not is_regular(tmp_path / name) and is_folder(tmp_path / name) == (name == "")
    with pytest.raises(DataError):
        load_dataset(tmp_path / name / "labels.csv")
    with pytest.raises(DataError):
        load_dataset(tmp_path / name)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with pictures, some hidden, some with odd names."""
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/3.png", ".h/4.jpg", "a/.h.jpg", "a[1]/5.jpg", "a**b/6.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PATTERNS = ["**/*.jpg", "*.jpg", "a/**", "a/**/*.jpg", "**/b/*", "*/**/3.*", "**/b/**/*.png", "a**/*.jpg", "no/**", "**"]


@pytest.mark.parametrize("before", ["", "./", "ROOT/"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_globs_fit_what_those_of_python_fit(tree: Path, pattern: str, before: str) -> None:
    pattern = before.replace("ROOT", str(tree)) + pattern
    expected = {os.path.normpath(path) for path in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    found = [os.path.normpath(path) for path in matches(pattern)]
    assert set(found) >= {path for path in expected if Path(path).is_file()}
    assert set(found) <= expected and len(found) == len(set(found))


def test_links_that_lead_in_circles_are_followed_once(tree: Path) -> None:
    """With two of them in each folder, Python's own glob would not end."""
    for link in ("x", "y", "z"):
        (tree / "a" / "b" / link).symlink_to(tree / "a")
    (tree / "self").symlink_to(tree / "self")
    (tree / "other").symlink_to(tree / "a")
    assert [path for path in matches("**/3.jpg") if "other" not in path] == ["a/b/3.jpg"]
    assert "other/b/3.jpg" in matches("**/3.jpg") and len(matches("**/3.jpg")) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_passed_over(tree: Path) -> None:
    (tree / "a").chmod(0o644)
    try:
        assert [path for path in matches("**/*.jpg") if not path.startswith(("a[", "a*"))] == ["1.jpg", "a/2.jpg"]
    finally:
        (tree / "a").chmod(0o755)
