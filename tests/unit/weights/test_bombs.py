"""Small files that ask for much: each is refused with an error, before memory or time is spent."""

import io
import json
import zipfile

import pytest
import torch

import onestage
from onestage.errors import OnestageError, WeightsError
from onestage.model.limits import WEIGHTS_FILE
from onestage.weights.foreign_file import load_foreign
from onestage.weights.tensor_file import open_file

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0])}


def loaded(path):
    with open_file(path) as file:
        return load_foreign(file).tensors


def archive(path, pickle=None, *, method=zipfile.ZIP_STORED, content=STATE):
    """An archive of torch.save with another pickle in it, or stored in another way."""
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, pickle(data) if pickle and name.endswith("data.pkl") else data)
    return path


def doubled(levels):
    """A pickle of a dict whose key is a tuple of a tuple twice, and so on: its hash takes 2 ** levels steps."""
    steps = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))
    return b"\x80\x02}K\x01" + steps + b"K\x01s."


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tuple_that_grows_without_end(tmp_path, zipped):
    path = tmp_path / "x.pth"
    if zipped:
        archive(path, lambda _: doubled(200))
    else:
        stream = io.BytesIO()
        torch.save(STATE, stream, _use_new_zipfile_serialization=False)
        path.write_bytes(doubled(200) + stream.getvalue())
    with pytest.raises(WeightsError, match="grows without end"):
        loaded(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "make",
    [lambda: torch.eye(3).to_sparse(), lambda: torch.eye(3).to_sparse_csr(), lambda: torch.empty(10**6, 10**6, device="meta")],
    ids=["sparse", "rows", "meta"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_no_plain_numbers(tmp_path, make, zipped):
    torch.save({"a": make(), **STATE}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="no plain numbers"):
        loaded(tmp_path / "x.pth")


def test_a_compressed_archive(tmp_path):
    zeros = {"a": torch.zeros(10**6)}
    path = archive(tmp_path / "x.pth", method=zipfile.ZIP_DEFLATED, content=zeros)
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match="unpacks to more"):
        loaded(path)


@pytest.mark.parametrize("claimed", [b"J\xff\xff\xff\x7f", b"\x8a\x08" + (2**62).to_bytes(8, "little")])
def test_a_tensor_that_the_file_does_not_hold(tmp_path, claimed):
    """The number of numbers in the pickle is another one than the archive has bytes for."""
    path = archive(tmp_path / "x.pth", lambda data: data.replace(b"K\x06", claimed))
    with pytest.raises(WeightsError):
        loaded(path)


def test_many_tensors_that_share_their_numbers(tmp_path):
    one = torch.zeros(10_000)
    torch.save({f"a{i}": one for i in range(1000)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="claim more numbers"):
        loaded(tmp_path / "x.pth")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    for name, start in (("x.pth", b"PK\x03\x04"), ("x.safetensors", b"\x10\0\0\0\0\0\0\0{")):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(WEIGHTS_FILE.most + 1)  # it takes no place on the disk
        with pytest.raises(WeightsError, match="too many bytes of a weights file"):
            onestage.create("tinyssd", 1, weights=tmp_path / name)
        with pytest.raises(WeightsError, match="too many bytes of a weights file"):
            onestage.load(tmp_path / name)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = [
    {"a": ENTRY | {"shape": [10**12]}},
    {"a": ENTRY | {"shape": [-2]}},
    {"a": ENTRY | {"shape": [2.0]}},
    {"a": ENTRY | {"shape": ["2"]}},
    {"a": ENTRY | {"shape": [True, 2]}},
    {"a": ENTRY | {"data_offsets": [8, 0]}},
    {"a": ENTRY | {"data_offsets": [-8, 8]}},
    {"a": ENTRY | {"data_offsets": [0, 8, 8]}},
    {"a": ENTRY, "b": ENTRY},
    {"a": ENTRY | {"dtype": "F33"}},
    {"a": ENTRY | {"data_offsets": [0, 10**30]}},
    {"a": [1]},
    {"a": 3},
    {"__metadata__": 3, "a": ENTRY},
]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_headers_that_are_wrong(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    for read in (loaded, onestage.load):
        with pytest.raises(WeightsError):
            read(tmp_path / "x.safetensors")


OTHER_KINDS = [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float4_e2m1fn_x2]


@pytest.mark.parametrize("dtype", OTHER_KINDS)
def test_other_kinds_of_numbers_where_the_detector_has_real_ones(tmp_path, dtype):
    model = onestage.create("tinyssd", 1, size=(64, 64))
    names = [("backbone.stages.", "blk_"), ("head.cls.", "cls_"), ("head.box.", "bbox_")]
    state = {next(b + k.removeprefix(a) for a, b in names if k.startswith(a)): v for k, v in model.state_dict().items()}
    small = dtype.is_floating_point and dtype.itemsize == 1
    weight = state["blk_0.0.0.weight"].to(torch.uint8 if small else dtype).view(dtype)
    torch.save(state | {"blk_0.0.0.weight": weight}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="another kind of number"):
        onestage.create("tinyssd", 1, size=(64, 64), weights=tmp_path / "x.pth")
    model.backbone.stages[0][0][0].weight.requires_grad_(False)
    model.backbone.stages[0][0][0].weight.data = weight
    try:
        model.save(tmp_path / "x.safetensors")
    except KeyError:  # safetensors 0.6 writes no complex numbers
        return
    with pytest.raises(WeightsError, match=r"another kind of number|not understood"):
        onestage.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "a/" * 5000, "\udcff\ud800", "", 3, None, 2.5, b"x", ["x"]], ids=repr)
def test_paths_that_no_file_can_have(name):
    with pytest.raises(OnestageError):
        onestage.load(name)
    with pytest.raises(OnestageError):
        onestage.create("tinyssd", 1, size=(64, 64)).save(name)
    if name is not None:
        with pytest.raises(OnestageError):
            onestage.create("tinyssd", 1, weights=name)
        with pytest.raises(OnestageError):
            onestage.create("tinyssd", 1, backbone_weights=name)


PREFIXES = ["model.", "module.", "net.", "_orig_mod.", "ema.", "model.net.", "module._orig_mod.model.", "_fsdp_wrapped_module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_taken_off(tmp_path, prefix):
    tensors = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    for content in (tensors, {"state_dict": tensors, "pytorch-lightning_version": "2.5", "callbacks": {}}, {"module": tensors}):
        torch.save(content, tmp_path / "x.pth")
        assert loaded(tmp_path / "x.pth").keys() == STATE.keys()


def test_averaged_weights_are_taken_from_beside_the_others(tmp_path):
    both = {f"model.{k}": v for k, v in STATE.items()} | {f"ema.{k}": v + 1 for k, v in STATE.items()}
    torch.save({"state_dict": both}, tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth")["bias"].tolist() == [2.0, 3.0]
