"""Weights on disk: exact round trips, atomic writes, and every kind of bad file as one clear error."""

import argparse
import errno
import json
import os
import stat
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from onestage.errors import WeightsError
from onestage.model import files

METADATA = {"config": '{"kind": "x"}', "classes": '["cat", "dög"]', "a": "1", "b": "2", "c": "3"}


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "float": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "bfloat": torch.randn(5, generator=generator).bfloat16(),
        "step": torch.tensor(7.0),
        "count": torch.tensor([2**62, -1]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype and tensor.shape == right[name].shape, name
        assert torch.equal(tensor, right[name]), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    files.save_tensors(path, some_tensors(), METADATA)
    return path


# --- round trip ---


def test_tensors_and_metadata_come_back_exactly(good: Path) -> None:
    tensors, metadata = files.load_tensors(good)
    assert_same(some_tensors(), tensors)
    assert metadata == {**METADATA, files.FORMAT_KEY: "1"}


def test_the_header_is_read_without_the_tensors(good: Path) -> None:
    header = files.read_header(good)
    assert header.shapes == {name: tuple(t.shape) for name, t in some_tensors().items()}
    assert files.read_metadata(good) == header.metadata == {**METADATA, files.FORMAT_KEY: "1"}


def test_the_file_is_plain_safetensors(good: Path) -> None:
    assert_same(some_tensors(), safetensors.torch.load_file(good))


def test_shared_and_non_contiguous_tensors_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base, "row": base[1], "t": base.t(), "expanded": torch.ones(1).expand(4)}
    tensors["parameter"] = torch.nn.Parameter(base)
    files.save_tensors(tmp_path / "x.safetensors", tensors, {})
    assert_same({k: v.detach() for k, v in tensors.items()}, files.load_tensors(tmp_path / "x.safetensors")[0])


def test_the_same_input_gives_the_same_bytes() -> None:
    """The library orders metadata by a hash drawn anew in each process, so the order is ours."""
    metadata = {str(i): "x" for i in range(9)}
    packed = files.pack_tensors(some_tensors(), metadata)
    header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
    assert list(header["__metadata__"]) == [*metadata, files.FORMAT_KEY]
    assert packed == files.pack_tensors(dict(reversed(some_tensors().items())), dict(reversed(metadata.items())))


def test_loaded_tensors_do_not_depend_on_the_file(good: Path) -> None:
    """A memory-mapped file that is cut afterwards would kill the process with a bus error."""
    tensors, _ = files.load_tensors(good)
    good.write_bytes(b"")
    assert_same(some_tensors(), tensors)


# --- writing ---


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write_atomically(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "x"
    files.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WeightsError, match=os.strerror(code)) as caught:
        files.write_atomically(path, b"new")
    assert str(path) in str(caught.value) and "fix:" in str(caught.value)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["x"]


def test_a_write_that_stops_half_way(tmp_path: Path) -> None:
    """The system itself stops the write, as on a full disk: no file may grow beyond 10 kB."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "x"
    files.write_atomically(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=os.strerror(errno.EFBIG)):
            files.write_atomically(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["x"]


def test_an_interrupted_write_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "x", b"new")
    assert names(tmp_path) == []


def test_what_a_crash_left_is_removed_and_a_writer_at_work_is_not(tmp_path: Path) -> None:
    crashed, working = tmp_path / f".x.1{files.TEMPORARY}", tmp_path / f".x.2{files.TEMPORARY}"
    crashed.touch(), working.touch()
    os.utime(crashed, (0, 0))
    files.write_atomically(tmp_path / "x", b"1")
    assert names(tmp_path) == [working.name, "x"]
    files.remove_leftovers(tmp_path, older_than=0)
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("path", ["missing/x", "."])
def test_an_impossible_path_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"fix: +(make the folder|name a file)"):
        files.write_atomically(path, b"1")


# --- bad files of our own kind ---


def with_header(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor_entry(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD = {
    "empty": (b"", "empty"),
    "one byte": (b"\x01", "not a weights file"),
    "zeros": (bytes(100), "not a weights file"),
    "huge header": ((2**40).to_bytes(8, "little") + b'{"a"', "header is too long"),
    "header beyond the file": ((500).to_bytes(8, "little") + b'{"a"', "cut short"),
    "broken json": (with_header(b'{"a": '), "header is not understood"),
    "deep json": (with_header(b'{"a": ' + b"[" * 100_000), "header is not understood"),
    "infinite shape": (with_header(b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', bytes(4)), "header"),
    "no object": (with_header(b'{"a": 3}'), "header is not understood"),
    "metadata not text": (with_header({"__metadata__": {"a": 3}}), "header is not understood"),
    "overlap": (with_header({"a": tensor_entry(0, 4), "b": tensor_entry(2, 6)}, bytes(6)), "damaged"),
    "size against shape": (with_header({"a": tensor_entry(0, 8)}, bytes(8)), "damaged"),
    "negative shape": (with_header({"a": tensor_entry(0, 4, shape=(-1,))}, bytes(4)), "damaged"),
    "immense shape": (with_header({"a": tensor_entry(0, 4, shape=(2**62, 2**62))}, bytes(4)), "damaged"),
    "unknown dtype": (with_header({"a": tensor_entry(0, 4, dtype="X99")}, bytes(4)), "damaged"),
    "later version": (with_header({"__metadata__": {files.FORMAT_KEY: "2"}}), "later onestage"),
    "html": (b"<!DOCTYPE html><html>404</html>", "HTML"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git-lfs pointer"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(60), "JPEG"),
    "tflite": (b"\x20\0\0\0TFL3" + bytes(60), r"TensorFlow Lite model\n(.*\n)*.*onestage import \S+ -o"),
    "pickle": (b"\x80\x02}q\x00." + bytes(60), r"onestage import \S+ -o \S+\.safetensors"),
    "zip": (b"PK\x03\x04" + bytes(60), r"onestage import \S+ -o \S+\.safetensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_error_that_names_it(tmp_path: Path, name: str) -> None:
    contents, message = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(contents)
    with pytest.raises(WeightsError, match=message) as caught:
        files.load_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", [n for n in BAD if BAD[n][1] != "damaged"])
def test_the_header_alone_shows_the_same_faults(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad").write_bytes(BAD[name][0])
    with pytest.raises(WeightsError, match=BAD[name][1]):
        files.read_metadata(tmp_path / "bad")


def test_a_file_cut_anywhere_is_refused(good: Path) -> None:
    data = good.read_bytes()
    for end in range(len(data)):
        with pytest.raises(WeightsError):
            files.unpack_tensors(data[:end], "x")


@pytest.mark.parametrize("change", [-1, 1])
def test_cut_and_trailing_bytes_are_told_apart(good: Path, change: int) -> None:
    data = good.read_bytes()
    good.write_bytes(data[:-1] if change < 0 else data + b"\0")
    with pytest.raises(WeightsError, match="cut short" if change < 0 else "after its end") as caught:
        files.load_tensors(good)
    assert f"{len(data):,} bytes" in str(caught.value) and f"{len(data) + change:,} bytes" in str(caught.value)


def test_random_damage_never_escapes_as_another_error(good: Path) -> None:
    data = good.read_bytes()
    names = some_tensors().keys()
    generator = torch.Generator().manual_seed(1)
    refused = 0
    for _ in range(2000):
        at, value = torch.randint(len(data), (), generator=generator), torch.randint(256, (), generator=generator)
        damaged = bytearray(data)
        damaged[int(at) % 900] = int(value)  # the header is where it matters
        try:
            tensors, _ = files.unpack_tensors(bytes(damaged), "x")
        except WeightsError:
            refused += 1
        else:  # a letter of a name or of the metadata: then all tensors are there
            assert len(tensors) == len(names) and len(names - tensors.keys()) <= 1
    assert 1000 < refused < 2000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    files.save_tensors(tmp_path / "x", {"head.weight": torch.tensor([1.0, value]), "fine": torch.ones(1)}, {})
    with pytest.raises(WeightsError, match=r"1 of the 2 tensors.*\n.*\n.*\n +head\.weight"):
        files.load_tensors(tmp_path / "x")
    assert not files.load_tensors(tmp_path / "x", finite=False)[0]["head.weight"].isfinite().all()


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        for read in (files.load_tensors, files.read_metadata, files.load_foreign):
            with pytest.raises(WeightsError, match="cannot be read"):
                read(path)


# --- foreign files ---

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": []}, "args": argparse.Namespace(lr=0.1)},
        {"model_state_dict": STATE, "ema": {"decay": 0.9}},
        {"checkpoint": 1, "model": {"state_dict": STATE}},
        {"state_dict": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, "state_dict_ema": STATE},
        {f"module.{k}": v for k, v in STATE.items()},
        {"model_ema": {"n_averaged": torch.tensor(5), **{f"module._orig_mod.{k}": v for k, v in STATE.items()}}},
    ],
)
def test_a_foreign_state_dict_comes_out_of_its_wrappers(tmp_path: Path, content: object, zipped: bool) -> None:
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert_same(dict(STATE), files.load_foreign(tmp_path / "x.pth"))


def test_a_foreign_safetensors_file_is_told_by_its_content(tmp_path: Path) -> None:
    safetensors.torch.save_file({f"module.{k}": v for k, v in STATE.items()}, tmp_path / "x.bin")
    assert_same(dict(STATE), files.load_foreign(tmp_path / "x.bin"))


def test_imported_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.pth")
    tensors = files.load_foreign(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"")
    assert_same(dict(STATE), tensors)


def test_a_real_foreign_checkpoint(shared_data: Path) -> None:
    tensors = files.load_foreign(shared_data / "weights" / "tinyssd_d2l_net30.pkl")
    assert "blk_0.0.0.weight" in tensors and "cls_4.bias" in tensors
    trained = [t for name, t in tensors.items() if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert sum(t.numel() for t in trained) == 1_010_376


class Harmful:
    """Would run code on an unrestricted load."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(Harmful.mark),)

    mark = Path("unset")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, zipped: bool) -> None:
    Harmful.mark = tmp_path / "ran"
    torch.save({"model": STATE, "extra": Harmful()}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"Python objects \(\S*mkdir\)") as caught:
        files.load_foreign(tmp_path / "x.pth")
    assert not Harmful.mark.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice to load it unsafely is not passed on


def own_ouroboros() -> dict[str, object]:
    content: dict[str, object] = {"a": 1}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.nn.Linear(1, 1), r"Python objects \(torch.nn.modules.linear.Linear\)"),
        ("hello", "a str"),
        ([torch.ones(1)], "a list"),
        ({}, "no entries"),
        ({"epoch": 3, "lr": 0.1}, "entries epoch, lr"),
        (own_ouroboros(), "entries a, model"),
        ({"a": torch.ones(1).expand(10**13)}, "claims more numbers"),
        ({"a": torch.tensor([float("nan")])}, "NaN"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_an_error(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        files.load_foreign(tmp_path / "x.pth")
    assert str(tmp_path / "x.pth") in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_foreign_file_is_an_error(tmp_path: Path, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "x.pth").read_bytes()
    for end in [*range(0, len(data), 37), len(data) - 1]:
        (tmp_path / "x.pth").write_bytes(data[:end])
        with pytest.raises(WeightsError):
            files.load_foreign(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("contents", "message"), [(b"", "empty"), (b"<html>", "HTML"), (b"\x80\x04]\x94.", "other things than tensors")]
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(contents)
    with pytest.raises(WeightsError, match=message):
        files.load_foreign(tmp_path / "x.pth")
