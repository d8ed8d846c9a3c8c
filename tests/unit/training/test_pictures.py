"""Pictures that changed since a run began are noticed when it goes on."""

import json
import os
import shlex
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onestage.cli.main import main
from onestage.data.reader import open_data
from onestage.errors import ConfigError, LostError, OnestageError
from onestage.training import lock, pictures
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


DAMAGED = {
    "text": b'{"a.jpg": "x"}',
    "a number": b'{"a.jpg": 3}',
    "NaN": b'{"a.jpg": NaN}',
    "null": b'{"a.jpg": null}',
    "a list": b'["12-0011223344556677"]',
    "a stamp alone": b'"12-0011223344556677"',
    "a list as a stamp": b'{"a.jpg": ["12-0011223344556677"]}',
    "other digits": '{"a.jpg": "\u0661-0011223344556677"}'.encode(),
    "a minus": b'{"a.jpg": "-1-0011223344556677"}',
    "a short checksum": b'{"a.jpg": "1-00"}',
    "a line after it": b'{"a.jpg": "1-0011223344556677\\n"}',
    "a long size": b'{"a.jpg": "' + b"9" * 5000 + b'-0011223344556677"}',
    "a long number": b'{"a.jpg": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "not UTF-8": b'{"\xff": "12-0011223344556677"}',
    "cut off": b'{"a.jpg": "12-0011',
    "empty": b"",
}


def listed(folder: Path, content: bytes) -> Path:
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / pictures.NAME).write_bytes(content)
    return folder


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_list_is_an_error_that_says_how_to_go_on(tmp_path: Path, content: bytes) -> None:
    listed(tmp_path, content)
    with pytest.raises(ConfigError, match=r"(?s)cannot be read.*--accept-changes") as caught:
        pictures.check(tmp_path, {"a.jpg": "12-0011223344556677"}, root=tmp_path, go_on="go on")
    assert len(str(caught.value)) < 1500


def test_a_list_that_is_too_large_or_no_file_is_an_error(tmp_path: Path) -> None:
    path = listed(tmp_path, b"") / "checkpoints" / pictures.NAME
    with path.open("r+b") as file:
        file.truncate(2**40)  # it takes no room on the disk
    with pytest.raises(ConfigError, match="more than"):
        pictures.load(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        pictures.load(tmp_path)


@given(
    content=st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_no_list_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = listed(tmp_path_factory.mktemp("run"), content)
    try:
        assert pictures.load(folder) == {}
    except ConfigError as error:
        assert "--accept-changes" in str(error)


def test_a_run_with_a_damaged_list_goes_on_on_request(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", ONE)
    whole = pictures.load(tmp_path / "run")
    listed(tmp_path / "run", b'{"a.jpg": "x"}')
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    resume(tmp_path / "run", accept_changes=True)
    assert pictures.load(tmp_path / "run") == whole


def test_only_the_pictures_at_the_paths_are_forgotten(data: Path, tmp_path: Path) -> None:
    sets = [open_data(data, None).load(name) for name in ("train", "val")]
    paths = list(sets[0].paths)
    short = Path(paths[0]).with_name("3.jpg")
    Path(paths[0]).rename(short)
    sets[0] = replace(sets[0], root=data / "train", paths=(str(short), *paths[1:]))  # 000003.jpg ends with 3.jpg
    stamps = pictures.stamps_of(*sets)
    pictures.save(tmp_path, stamps)
    pictures.forget(tmp_path, {paths[3], "elsewhere/3.jpg"}, *sets)
    assert stamps.keys() - (pictures.load(tmp_path) or {}).keys() == {"000003.jpg"}


def test_changes_are_accepted_only_by_a_run_that_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused because of a lock, or for want of the data, it leaves the list as it was."""
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    out = tmp_path / "run"
    run(data, out, ONE)
    before = pictures.load(out)
    cut(data / "train" / "000003.jpg")
    with lock.FolderLock(out / "checkpoints"), pytest.raises(ConfigError, match="another process"):
        resume(out, accept_changes=True)
    data.rename(tmp_path / "gone")
    with pytest.raises(OnestageError):
        resume(out, accept_changes=True)
    assert pictures.load(out) == before
    (tmp_path / "gone").rename(data)
    with pytest.raises(ConfigError, match="1 picture has changed"):
        resume(out)
    resume(out, accept_changes=True)
    resume(out)


def test_a_dead_disk_ends_the_start_of_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = threading.Event()
    monkeypatch.setattr(pictures, "_stamp", lambda path: dead.wait(60))
    try:
        with pytest.raises(LostError, match="a thread does not answer"):
            run(data, tmp_path / "run", replace(ONE, worker_timeout=0.3))
    finally:
        dead.set()


def test_those_who_wait_for_the_stamps_hear_of_them_in_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_stamp", lambda path: time.sleep(0.15) or path)
    taken: dict[str, str] = {}
    heard = list(pictures.stamping(taken, open_data(data, None).load("train"), timeout=2.0))
    assert heard and len(taken) == 12


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


def test_pictures_that_have_come_and_gone_are_named(data: Path, tmp_path: Path) -> None:
    train_set, val_set = (open_data(data, None).load(name) for name in ("train", "val"))
    assert pictures.come_and_gone(tmp_path, train_set) == []  # an old run has no list
    pictures.save(tmp_path, pictures.stamps_of(train_set))
    assert pictures.come_and_gone(tmp_path, train_set) == []
    (gone,) = pictures.come_and_gone(tmp_path, train_set.subset(range(1, len(train_set))))
    assert gone == f"{Path(train_set.paths[0]).relative_to(data)}: it is gone"
    assert all(line.endswith(": it is new") for line in pictures.come_and_gone(tmp_path, train_set, val_set))
