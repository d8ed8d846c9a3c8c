"""``onestage predict film.mp4``: a drawn film and rows, what is refused, and how it ends."""

import json
from pathlib import Path

import pytest

from films import encode
from onestage.cli.main import main
from onestage.predict.film_rows import FilmRows
from onestage.predict.film_writer import FilmWriter
from onestage.predict.films import FilmFile
from onestage.predict.frames import Frame

Captured = pytest.CaptureFixture[str]
SIZE = (64, 64)


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def length(film: Path) -> int:
    return sum(isinstance(item, Frame) for item in FilmFile(film).frames())


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return encode(Path("in.mp4"), 9, size=SIZE)


def test_a_film_becomes_a_drawn_film_and_rows(run: Path, film: Path, capsys: Captured) -> None:
    command = ["predict", str(run), "in.mp4", "--score", "0.2", "--top", "2", "--out", "o"]
    assert main(command) == 0
    found = rows(Path("o"))
    assert [row["frame"] for row in found] == [*range(9)] and [row["time"] for row in found[:2]] == [0.0, 0.033333]
    assert {len(row["detections"]) for row in found} == {2}  # type: ignore[arg-type]
    assert length(Path("o/in.mp4")) == 9
    text = capsys.readouterr().out
    assert "9 frames" in text and "18 detections" in text and "annotated film: o/in.mp4" in text
    assert main(command) == 0  # what it wrote itself is replaced
    assert main([*command[:-1], "."]) == 2 and "would replace" in capsys.readouterr().err


def test_options_of_films(run: Path, film: Path, capsys: Captured) -> None:
    command = ["predict", str(run), "in.mp4", "--score", "0.2", "--every", "2", "--seconds", "0.2", "--track"]
    assert main([*command, "--no-pictures", "--format", "jsonl"]) == 0
    found = rows(Path("predictions"))
    assert [row["frame"] for row in found] == [0, 2, 4] and not Path("predictions/in.mp4").exists()
    assert any(entry["track"] for entry in found[-1]["detections"])  # type: ignore[attr-defined]
    assert "objects with an id" in capsys.readouterr().out


def test_zones_are_counted_and_objects_blurred(run: Path, film: Path) -> None:
    command = ["predict", str(run), "in.mp4", "--score", "0.2", "--seconds", "0.1", "--blur", "ball", "ring", "--no-pictures"]
    assert main([*command, "--zone", "here=0,0,1,0,1,1,0,1", "--zone", "none=60,60,61,60,61,61"]) == 0
    found = rows(Path("predictions"))
    for row in found:
        names = [entry["class_name"] for entry in row["detections"]]  # type: ignore[attr-defined]
        everywhere = row["zones"]["here"]  # type: ignore[index]
        assert set(everywhere) <= set(names) and sum(everywhere.values()) > 0.5 * len(names)
        assert all(everywhere[name] <= names.count(name) for name in everywhere)
    (blurred, *_), (before, *_) = FilmFile(Path("predictions/in.mp4")).frames(), FilmFile(film).frames()
    assert isinstance(blurred, Frame) and isinstance(before, Frame)
    assert (blurred.pixels.int() - before.pixels.int()).abs().float().mean() > 4


def test_several_films_and_a_broken_one(run: Path, film: Path, capsys: Captured) -> None:
    encode(Path("cut.mkv"), 60, size=SIZE)
    Path("cut.mkv").write_bytes(Path("cut.mkv").read_bytes()[:-4000])
    assert main(["predict", str(run), "in.mp4", "cut.mkv", "--score", "0.9", "--out", "o"]) == 1
    found = rows(Path("o"))
    assert [row["path"] for row in found] == ["in.mp4"] * 9 + ["cut.mkv"] * (len(found) - 9)
    assert "ends before" in found[-1]["error"]["what"]  # type: ignore[index]
    assert length(Path("o/cut.mkv.mp4")) == len(found) - 10
    assert "1 fault" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("in.mp4", "text.mp4", "missing.mp4", "last.mp4"), ("text.mp4", "in.mp4", "last.mp4")])
def test_a_film_that_cannot_be_opened_stops_no_other(run: Path, film: Path, names: tuple[str, ...], capsys: Captured) -> None:
    Path("text.mp4").write_text("no film")
    encode(Path("last.mp4"), 2, size=SIZE)
    assert main(["predict", str(run), *names, "--score", "0.9", "--out", "o"]) == 1
    lengths = {"in.mp4": 9, "last.mp4": 2}
    found = rows(Path("o"))
    assert [row["path"] for row in found] == [name for name in names for _ in range(lengths.get(name, 1))]
    assert ["error" in row for row in found] == [name not in lengths for name in names for _ in range(lengths.get(name, 1))]
    assert "text.mp4" in capsys.readouterr().err and length(Path("o/last.mp4")) == 2 and not Path("o/text.mp4").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["in.mp4", "a.jpg"], "cannot be looked at by one command"),
        (["missing.mp4"], "no such file"),
        (["file:///etc/passwd"], "not understood"),
        (["photo.jpg", "--every", "2", "--track"], "--every, --track for photo.jpg"),
        (["in.mp4", "--every", "0"], "every"),
        (["in.mp4", "--format", "coco"], "JSON lines"),
        (["in.mp4", "--to", "yolo"], "--to yolo"),
        (["in.mp4", "--blur", "cat"], "cat"),
        (["in.mp4", "--no-pictures"], "add --format jsonl"),
        (["text.mp4"], "no film that can be read"),
        (["in.mp4", "--workers", "2"], "--workers 2"),
        (["in.mp4", "--worker-timeout", "5"], "--worker-timeout 5"),
        (["in.mp4", "--reconnect", "5"], "--reconnect 5"),
        (["in.mp4", "--realtime", "--batch-size", "4"], "--batch-size 4"),
        (["rtsp://127.0.0.1:1/a", "--batch-size", "4"], "--batch-size 4"),
        (["rtsp://127.0.0.1:1/a?token=secret", "a.jpg"], "token=***"),
    ],
)
def test_mistakes(run: Path, film: Path, given: list[str], message: str, capsys: Captured) -> None:
    Path("text.mp4").write_text("no film")
    assert main(["predict", str(run), *given, "--out", "o"]) == 2
    assert message in capsys.readouterr().err and not Path("o/predictions.jsonl").exists()


def test_a_glob_names_films_where_the_shell_leaves_it(run: Path, film: Path, capsys: Captured) -> None:
    for name in ("b.mp4", "[c].mp4"):
        film.with_name(name).write_bytes(film.read_bytes())
    command = ["predict", str(run), "--seconds", "0.01", "--no-pictures", "--format", "jsonl", "--out", "o"]
    assert main([*command, "?.mp4", "[c].mp4", "in.mp4"]) == 0
    assert [row["path"] for row in rows(Path("o"))] == ["b.mp4", "[c].mp4", "in.mp4"]
    assert main([*command, "in.mp4", "--score", "0.999"]) == 0 and "1 frame in" in capsys.readouterr().out
    assert main([*command, "no*.mp4"]) == 2 and "no*.mp4" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done(run: Path, film: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FilmRows.add

    def interrupted(self: FilmRows, row: dict[str, object]) -> None:
        if row["frame"] == 4:
            raise KeyboardInterrupt
        real(self, row)
        assert (self.path.parent / "predictions.jsonl.part").read_text().count("\n") == row["frame"] + 1  # type: ignore[operator]

    monkeypatch.setattr(FilmRows, "add", interrupted)
    assert main(["predict", str(run), "in.mp4", "--score", "0.2", "--out", "o"]) == 130
    assert len(rows(Path("o"))) == 4 == length(Path("o/in.mp4"))
    assert "interrupted" in capsys.readouterr().err


def test_a_full_disk_stops_the_film_and_not_the_rows(
    run: Path, film: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onestage.errors import WriteError

    def full(self: FilmWriter, seen: object) -> None:
        raise WriteError("no space left", where=self.path)

    monkeypatch.setattr(FilmWriter, "add", full)
    assert main(["predict", str(run), "in.mp4", "--score", "0.2", "--out", "o"]) == 1
    assert len(rows(Path("o"))) == 9 and not Path("o/in.mp4").exists()
    assert capsys.readouterr().err.count("not saved") == 1


def test_without_pyav_the_command_to_install_it_is_named(
    run: Path, film: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["predict", str(run), "in.mp4"]) == 2
    assert 'pip install "onestage[film]"' in capsys.readouterr().err
