"""``onestage data generate``: complete data sets, and no folder of the user's ever harmed."""

from pathlib import Path

import pytest

from onestage.cli import generate as command
from onestage.cli.generate import generate, parse_size
from onestage.data.reader import load_dataset
from onestage.errors import ConfigError, DataError
from onestage.files import TEMPORARY


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_every_split_is_written_and_says_what_to_do_next(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shapes"
    classes = ("ball", "ring")
    assert generate(out, format=format, train=6, val=2, test=1, size="48x64", classes=classes) == 0  # type: ignore[arg-type]
    sizes = {split: len(load_dataset(out, split=split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 6, "val": 2, "test": 1}
    train = load_dataset(out, split="train")
    assert train.format == format and train.classes == classes and train[0].image.shape == (3, 48, 64)
    assert f"next: onestage train {out}\n" in capsys.readouterr().out
    assert "--train 6 --val 2 --test 1 --size 48x64 --classes ball ring --seed 0" in (out / "GENERATED.md").read_text()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.jpg").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="holds other things"):
            generate(tmp_path, train=1, val=0, size="32", overwrite=overwrite)
    assert (tmp_path / "train" / "mine.jpg").read_bytes() == b"precious"


def test_a_generated_data_set_is_replaced_only_on_request(tmp_path: Path) -> None:
    generate(tmp_path, train=3, val=1, size="32")
    with pytest.raises(DataError, match="--overwrite"):
        generate(tmp_path, train=2, val=0, size="32")
    generate(tmp_path, train=2, val=0, size="32", format="yolo", overwrite=True)
    assert len(load_dataset(tmp_path)) == 2 and not (tmp_path / "annotations").exists()
    half_a_file = tmp_path / f".data.yaml.0123{TEMPORARY}"  # as a crash leaves it
    half_a_file.write_text("path")
    generate(tmp_path, train=1, val=0, size="32", overwrite=True)
    assert len(load_dataset(tmp_path)) == 1 and not half_a_file.exists()


def test_a_file_of_the_user_among_generated_ones_stops_the_replacement(tmp_path: Path) -> None:
    generate(tmp_path, train=1, val=0, size="32")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        generate(tmp_path, train=1, val=0, size="32", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine" and len(load_dataset(tmp_path)) == 1


def test_an_interrupted_run_can_be_told_from_a_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, train=1, val=0, size="32")
    assert [file.name for file in tmp_path.iterdir()] == ["INCOMPLETE.md"]
    monkeypatch.undo()
    generate(tmp_path, train=1, val=0, size="32", overwrite=True)
    assert not (tmp_path / "INCOMPLETE.md").exists() and (tmp_path / "GENERATED.md").exists()


@pytest.mark.parametrize("size", ["", "big", "10x20x30", "-5", "64,64"])
def test_a_size_that_is_not_understood(size: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--size"):
        generate(tmp_path / "new", size=size)
    assert not (tmp_path / "new").exists()


def test_a_size_without_pixels_is_refused_under_the_name_of_its_option() -> None:
    for text in ("0", "0x0", "64x0"):
        with pytest.raises(ConfigError, match="--picture has a side without pixels"):
            parse_size(text, option="--picture")
    with pytest.raises(ConfigError, match="--picture is not understood"):
        parse_size("big", option="--picture")
    assert parse_size("1x2") == (1, 2)


@pytest.mark.parametrize(("train", "val"), [(0, 0), (-1, 5)])
def test_no_pictures_are_an_error(train: int, val: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        generate(tmp_path / "new", train=train, val=val)
