"""Which pictures are meant, and what they are called: nothing twice, nothing lost, nothing replaced."""

from pathlib import Path

import pytest

from onestage.errors import DataError
from onestage.predict.pictures import copies_of, find_pictures, ids_of, names_of


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
    assert lines[0] == "nothing to look at" and len(lines) == 4
    assert "empty: no pictures in this folder" in lines[1]
    assert "none.jpg: there is no such file" in lines[2] and "*.webp: no picture matches" in lines[3]


def test_names_start_at_the_folder_that_holds_all_pictures() -> None:
    assert names_of([Path("p/a/x.jpg"), Path("p/b/x.jpg")]) == ["a/x.jpg", "b/x.jpg"]
    assert names_of([Path("p/a/x.jpg")]) == ["x.jpg"]
    assert names_of([Path("p/x.jpg"), Path("p/q/../y.jpg")]) == ["x.jpg", "y.jpg"]


def test_ids_are_numbers_only_where_all_names_are_different_numbers() -> None:
    assert ids_of(["000139.jpg", "val/7.png"]) == [139, 7]
    assert ids_of(["1.jpg", "b.jpg"]) == ["1.jpg", "b.jpg"]
    assert ids_of(["a/1.jpg", "b/01.jpg"]) == ["a/1.jpg", "b/01.jpg"]


def test_no_two_copies_have_the_same_name() -> None:
    names = ["x.gif", "x.gif.jpg", "x.webp", "y.jpg", "y.png"]
    copies = copies_of(names, [Path("in") / name for name in names], Path("out"))
    assert [copy.as_posix() for copy in copies] == [
        "out/x.gif.jpg.jpg", "out/x.gif.jpg", "out/x.webp.jpg", "out/y.jpg", "out/y.png",
    ]  # fmt: skip


def test_a_copy_never_replaces_a_picture() -> None:
    with pytest.raises(DataError, match="would replace"):
        copies_of(["a.jpg", "b.jpg"], [Path("in/a.jpg"), Path("in/b.jpg")], Path("in"))
    with pytest.raises(DataError, match="would replace"):
        copies_of(["a/x.jpg", "x.jpg"], [Path("in/a/x.jpg"), Path("in/x.jpg")], Path("in/a"))
