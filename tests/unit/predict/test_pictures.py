"""Which pictures are meant, and what they are called: nothing twice, nothing lost, nothing replaced."""

import os
from pathlib import Path

import pytest
from PIL import Image

from onestage.errors import DataError
from onestage.predict.pictures import PictureFile, absolute, check_copies, copy_names, find_pictures, ids_of, names_of


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "a/x.jpg",
        "b/x.jpg",
        "b/c/y.PNG",
        "b/notes.txt",
        "b/.hidden.jpg",
        ".git/z.jpg",
        "predictions/old.jpg",
        "w.dat",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*given: str) -> list[str]:
    return [path.as_posix() for path in find_pictures(given, results=Path("predictions"))]


def test_a_folder_stands_for_all_visible_pictures_below_but_not_for_earlier_results(tree: Path) -> None:
    assert found(".") == ["a/x.jpg", "b/x.jpg", "b/c/y.PNG"]
    assert found(str(tree)) == [f"{tree}/a/x.jpg", f"{tree}/b/x.jpg", f"{tree}/b/c/y.PNG"]


def test_files_folders_and_globs_together_name_every_picture_once(tree: Path) -> None:
    assert found("b/c/../x.jpg", "b", "*/x.jpg", "**/*.PNG") == ["b/c/../x.jpg", "b/c/y.PNG", "a/x.jpg"]
    assert found("?") == ["a/x.jpg", "b/x.jpg", "b/c/y.PNG"]


def test_a_file_named_itself_is_taken_whatever_it_is_called(tree: Path) -> None:
    assert found("w.dat") == ["w.dat"]
    assert found("b/*x*") == ["b/x.jpg"], "a glob takes pictures only"


def test_a_name_with_glob_characters_means_itself_first(tree: Path) -> None:
    (tree / "a/[1].jpg").touch()
    assert found("a/[1].jpg") == ["a/[1].jpg"]


def test_every_argument_that_leads_nowhere_is_named(tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(DataError) as error:
        found("a", "empty", "none.jpg", "*.webp")
    lines = str(error.value).splitlines()
    assert lines[0] == "nothing to look at" and len(lines) == 5 and lines[4].startswith("  fix:")
    assert "empty: no pictures in this folder" in lines[1]
    assert "none.jpg: there is no such file" in lines[2] and "*.webp: no picture matches" in lines[3]


def test_a_folder_of_films_alone_says_how_films_are_named(tree: Path) -> None:
    (tree / "films").mkdir()
    (tree / "films/Beach.MP4").touch()
    with pytest.raises(DataError, match=r"but films, such as Beach\.MP4: name these themselves"):
        found("films")


def test_names_start_at_the_folder_that_holds_all_pictures() -> None:
    assert names_of([Path("p/a/x.jpg"), Path("p/b/x.jpg")]) == ["a/x.jpg", "b/x.jpg"]
    assert names_of([Path("p/a/x.jpg")]) == ["x.jpg"]
    assert names_of([Path("p/x.jpg"), Path("p/q/../y.jpg")]) == ["x.jpg", "y.jpg"]


def test_ids_are_numbers_only_where_all_names_are_different_numbers() -> None:
    assert ids_of(["000139.jpg", "val/7.png"]) == [139, 7]
    assert ids_of(["1.jpg", "b.jpg"]) == ["1.jpg", "b.jpg"]
    assert ids_of(["a/1.jpg", "b/01.jpg"]) == ["a/1.jpg", "b/01.jpg"]


def test_no_two_copies_have_the_same_name() -> None:
    copies = copy_names(["x.gif", "x.gif.jpg", "x.webp", "y.jpg", "y.png"])
    assert copies == ["x.gif.jpg.jpg", "x.gif.jpg", "x.webp.jpg", "y.jpg", "y.png"]


def check(names: list[str], paths: list[Path], folder: Path) -> None:
    check_copies([PictureFile(path, name, name) for name, path in zip(names, paths, strict=True)], folder)


def test_a_copy_never_replaces_a_picture() -> None:
    with pytest.raises(DataError, match="would replace"):
        check(["a.jpg", "b.jpg"], [Path("in/a.jpg"), Path("in/b.jpg")], Path("in"))
    with pytest.raises(DataError, match="would replace"):
        check(["a/x.jpg", "x.jpg"], [Path("in/a/x.jpg"), Path("in/x.jpg")], Path("in/a"))


@pytest.mark.parametrize("given", ["in", "link"])
@pytest.mark.parametrize("out", ["in", "link", "in/../link", "other/in"])
def test_a_copy_never_replaces_a_picture_through_a_link(given: str, out: str, tmp_path: Path) -> None:
    for folder in ("in", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in/a.jpg").touch()
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "other/in").symlink_to(tmp_path / "in")
    with pytest.raises(DataError, match="would replace"):
        check(["a.jpg"], [tmp_path / given / "a.jpg"], tmp_path / out)


def test_a_picture_that_is_a_link_is_not_replaced(tmp_path: Path) -> None:
    for folder in ("store", "in"):
        (tmp_path / folder).mkdir()
    (tmp_path / "store/a.jpg").touch()
    (tmp_path / "in/a.jpg").symlink_to("../store/a.jpg")
    with pytest.raises(DataError, match="would replace"):
        check(["a.jpg"], [tmp_path / "in/a.jpg"], tmp_path / "store")


def test_earlier_results_are_left_out_through_a_link_too(tree: Path) -> None:
    (tree / "link").symlink_to(".")
    names = [path.name for path in find_pictures([str(tree / "link")], results=Path("predictions"))]
    assert names == ["x.jpg", "x.jpg", "y.PNG"]
    names = [path.name for path in find_pictures(["."], results=tree / "link/predictions")]
    assert names == ["x.jpg", "x.jpg", "y.PNG"]


@pytest.mark.parametrize("held", [b"", b"text", None])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_copy_replaces_no_other_file(name: str, held: bytes | None, tmp_path: Path) -> None:
    target = tmp_path / name
    if held is None:
        Image.new("RGB", (8, 8)).save(target)
    else:
        target.write_bytes(held)
    with pytest.raises(DataError, match="would replace"):
        check([name], [Path("in") / name], tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="needs a folder that can be deleted while it is the current one")
def test_a_current_folder_that_was_deleted_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(DataError, match="current folder was deleted"):
        absolute(Path("x.jpg"))
