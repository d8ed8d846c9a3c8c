"""Tensors on disk: exact round trips, and every kind of bad file as one clear error."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from onestage.errors import WeightsError
from onestage.weights.safetensors_file import FORMAT_KEY, pack_tensors, save_tensors
from onestage.weights.tensor_file import Header, open_file, read_bytes, unpack_tensors
from tensor_files import load_tensors

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


def header_of(path: Path) -> Header:
    with open_file(path) as file:
        return file.header


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save_tensors(path, some_tensors(), METADATA)
    return path


def test_tensors_and_metadata_come_back_exactly(good: Path) -> None:
    tensors, metadata = load_tensors(good)
    assert_same(some_tensors(), tensors)
    assert metadata == {**METADATA, FORMAT_KEY: "1"}


def test_the_header_is_read_without_the_tensors(good: Path) -> None:
    header = header_of(good)
    assert header.shapes == {name: tuple(t.shape) for name, t in some_tensors().items()}
    assert header.metadata == {**METADATA, FORMAT_KEY: "1"}


def test_the_file_is_plain_safetensors(good: Path) -> None:
    assert_same(some_tensors(), safetensors.torch.load_file(good))


def test_shared_and_non_contiguous_tensors_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base, "row": base[1], "t": base.t(), "expanded": torch.ones(1).expand(4)}
    tensors["parameter"] = torch.nn.Parameter(base)
    save_tensors(tmp_path / "x.safetensors", tensors, {})
    assert_same({k: v.detach() for k, v in tensors.items()}, load_tensors(tmp_path / "x.safetensors")[0])


def test_the_same_input_gives_the_same_bytes() -> None:
    """The library orders metadata by a hash drawn anew in each process, so the order is ours."""
    metadata = {str(i): "x" for i in range(9)}
    packed = pack_tensors(some_tensors(), metadata)
    header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
    assert list(header["__metadata__"]) == [*metadata, FORMAT_KEY]
    assert packed == pack_tensors(dict(reversed(some_tensors().items())), dict(reversed(metadata.items())))


def test_loaded_tensors_do_not_depend_on_the_file(good: Path) -> None:
    """A memory-mapped file that is cut afterwards would kill the process with a bus error."""
    tensors, _ = load_tensors(good)
    good.write_bytes(b"")
    assert_same(some_tensors(), tensors)


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
    "later version": (with_header({"__metadata__": {FORMAT_KEY: "2"}}), "later onestage"),
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
        load_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", [n for n in BAD if BAD[n][1] != "damaged"])
def test_the_header_alone_shows_the_same_faults(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad").write_bytes(BAD[name][0])
    with pytest.raises(WeightsError, match=BAD[name][1]):
        header_of(tmp_path / "bad")


def test_a_file_cut_anywhere_is_refused(good: Path) -> None:
    data = good.read_bytes()
    for end in range(len(data)):
        with pytest.raises(WeightsError):
            unpack_tensors(data[:end], "x")


@pytest.mark.parametrize("change", [-1, 1])
def test_cut_and_trailing_bytes_are_told_apart(good: Path, change: int) -> None:
    data = good.read_bytes()
    good.write_bytes(data[:-1] if change < 0 else data + b"\0")
    with pytest.raises(WeightsError, match="cut short" if change < 0 else "after its end") as caught:
        load_tensors(good)
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
            tensors, _ = unpack_tensors(bytes(damaged), "x")
        except WeightsError:
            refused += 1
        else:  # a letter of a name or of the metadata: then all tensors are there
            assert len(tensors) == len(names) and len(names - tensors.keys()) <= 1
    assert 1000 < refused < 2000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    save_tensors(tmp_path / "x", {"head.weight": torch.tensor([1.0, value]), "fine": torch.ones(1)}, {})
    with pytest.raises(WeightsError, match=r"1 of the 2 tensors.*\n.*\n +got: +head\.weight"):
        load_tensors(tmp_path / "x")
    assert not load_tensors(tmp_path / "x", finite=False)[0]["head.weight"].isfinite().all()


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        for read in (load_tensors, header_of, read_bytes):
            with pytest.raises(WeightsError, match="no such file" if path.name == "missing" else "not a file"):
                read(path)
