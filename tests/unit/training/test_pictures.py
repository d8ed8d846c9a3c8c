"""Pictures that changed since a run began are noticed when it goes on."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onestage.cli.main import main
from onestage.data.reader import open_data
from onestage.errors import ConfigError
from onestage.training import pictures
from onestage.training.checkpoint import STATE
from onestage.training.loop import resume
from small_runs import CONFIG, run, write_pictures

ONE = replace(CONFIG, epochs=1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return write_pictures(tmp_path / "data")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_start(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])


def other_end(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-500] + bytes([content[-500] ^ 1]) + content[-499:])


@pytest.mark.parametrize(
    ("change", "said"), [(cut, "bytes ->"), (other_start, "other content"), (other_end, "other content"), (os.remove, "read")]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_kind_of_change_is_named(data: Path, tmp_path: Path, change, said: str, split: str) -> None:
    sets = [open_data(data, None).load(name) for name in ("train", "val")]
    pictures.save(tmp_path, pictures.stamps_of(*sets))
    pictures.check(tmp_path, pictures.stamps_of(*sets), root=data, go_on="go on")
    changed = sorted((data / split).iterdir())[1]
    change(changed)
    with pytest.raises(ConfigError, match="1 picture has changed since") as caught:
        pictures.check(tmp_path, pictures.stamps_of(*sets), root=data, go_on="onestage train --resume RUN")
    assert f"{split}/{changed.name}: " in str(caught.value) and said in str(caught.value)
    assert "onestage train --resume RUN --accept-changes" in str(caught.value)


def test_the_first_ten_are_named(data: Path, tmp_path: Path) -> None:
    sets = open_data(data, None).load("train")
    pictures.save(tmp_path, pictures.stamps_of(sets))
    for path in sets.paths:
        cut(Path(path))
    with pytest.raises(ConfigError, match=r"12 pictures have changed(.|\n)*and 2 more"):
        pictures.check(tmp_path, pictures.stamps_of(sets), root=data, go_on="go on")


def test_a_run_goes_on_with_changed_pictures_on_request_only(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(data, Path("run"), ONE)
    cut(data / "train" / "000003.jpg")
    with pytest.raises(ConfigError, match=r"000003\.jpg"):
        resume("run")
    assert main(["train", "--resume", "run"]) == 2
    assert main(["train", "--resume", "run", "--accept-changes"]) == 0
    assert main(["train", "--resume", "run"]) == 0  # they are known now
    assert main(["train", str(data), "--accept-changes"]) == 2


@given(content=st.binary(max_size=300))
def test_a_damaged_list_stops_no_run(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / pictures.NAME).write_bytes(content)
    assert pictures.load(folder) in (None, {})


@pytest.mark.parametrize("models", ["whole", "last damaged", "none"])
def test_where_all_checkpoints_are_damaged_the_advice_works(
    data: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str], models: str
) -> None:
    run(data, tmp_path / "run", ONE)
    for state in (tmp_path / "run").glob(f"checkpoints/*/{STATE}"):
        state.write_text("{")
    for name in {"whole": [], "last damaged": ["last"], "none": ["last", "best"]}[models]:
        (tmp_path / "run" / f"{name}.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="no checkpoint to go on from") as caught:
        resume(tmp_path / "run")
    assert "step-00000003: state.json is damaged" in str(caught.value.got)
    command = str(caught.value.fix).partition(": ")[2]
    assert ("--weights" in command) == (models != "none") and "--epochs 1 --batch-size 4" in command
    if models != "whole":
        assert main(shlex.split(command)[1:]) == 0
        assert (tmp_path / "run-2" / "last.safetensors").exists()
