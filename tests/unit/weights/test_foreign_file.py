"""Other programs' files: state_dicts come out of their wrappers, nothing is run, and every bad file is one clear error."""

import argparse
import os
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from onestage.errors import WeightsError
from onestage.weights import foreign_file
from onestage.weights.tensor_file import open_file


def load_foreign(path: Path) -> dict[str, torch.Tensor]:
    with open_file(path) as file:
        return foreign_file.load_foreign(file).tensors


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(tensor, right[name]) and tensor.dtype == right[name].dtype for name, tensor in left.items())


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
    assert_same(dict(STATE), load_foreign(tmp_path / "x.pth"))


def test_a_foreign_safetensors_file_is_told_by_its_content(tmp_path: Path) -> None:
    safetensors.torch.save_file({f"module.{k}": v for k, v in STATE.items()}, tmp_path / "x.bin")
    assert_same(dict(STATE), load_foreign(tmp_path / "x.bin"))


def test_imported_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.pth")
    tensors = load_foreign(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"")
    assert_same(dict(STATE), tensors)


def test_a_real_foreign_checkpoint(shared_data: Path) -> None:
    tensors = load_foreign(shared_data / "weights" / "tinyssd_d2l_net30.pkl")
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
    content = {"model": STATE, "args": argparse.Namespace(lr=0.1), "extra": Harmful()}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"Python objects \(\S*mkdir\)") as caught:
        load_foreign(tmp_path / "x.pth")
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
        load_foreign(tmp_path / "x.pth")
    assert str(tmp_path / "x.pth") in str(caught.value)


def test_a_torchscript_program_is_told_by_its_entries(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch advise against TorchScript
        torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="a TorchScript program"):
        load_foreign(tmp_path / "x.pt")


@pytest.mark.parametrize("text", ["GLOBAL os.mkdir is in the text", "TorchScript"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_fault_is_not_told_by_the_words_of_an_exception(
    tmp_path: Path, text: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(STATE, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(WeightsError, match=r"contents that PyTorch cannot read \(RuntimeError\)"):
        load_foreign(tmp_path / "x.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_foreign_file_is_an_error(tmp_path: Path, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "x.pth").read_bytes()
    for end in [*range(0, len(data), 37), len(data) - 1]:
        (tmp_path / "x.pth").write_bytes(data[:end])
        with pytest.raises(WeightsError):
            load_foreign(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("contents", "message"), [(b"", "empty"), (b"<html>", "HTML"), (b"\x80\x04]\x94.", "holds more than tensors")]
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(contents)
    with pytest.raises(WeightsError, match=message):
        load_foreign(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "entry", "prefixes"),
    [
        (STATE, "", ()),
        ({"state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()}}, "state_dict", ("model.",)),
        ({"model": STATE, "ema": {f"module.{name}": tensor for name, tensor in STATE.items()}}, "ema", ("module.",)),
        ({f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}, "", ("module.", "_orig_mod.")),
        ({"checkpoint": 1, "model": {"state_dict": STATE}}, "model/state_dict", ()),
        ({f"{kind}.{name}": tensor for kind in ("ema", "net") for name, tensor in STATE.items()}, "", ("ema.",)),
    ],
)
def test_what_is_taken_off_is_named(content, entry, prefixes, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with open_file(tmp_path / "x.pth") as file:
        found = foreign_file.load_foreign(file)
    assert_same(dict(STATE), found.tensors)
    assert (found.entry, found.prefixes) == (entry, prefixes)
    note = found.note(tmp_path / "x.pth")
    assert all(f"'{part}'" in note for part in (*filter(None, [entry]), *prefixes)) and bool(note) == bool(entry or prefixes)


def test_the_user_of_wrapped_weights_is_told(tmp_path):
    import onestage

    plain = onestage.create("ssdlite320_mobilenet_v3_large", 2, size=(64, 64))
    other = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=plain.config.logits
    )
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in other.state_dict().items()}}, tmp_path / "x.ckpt")
    with pytest.warns(UserWarning, match=r"entry 'state_dict', and 'model\.' is taken off"):
        onestage.create("ssdlite320_mobilenet_v3_large", 2, weights=tmp_path / "x.ckpt")


def test_threads_read_at_the_same_time_and_leave_no_trace(tmp_path: Path) -> None:
    file, trusted, filters = tmp_path / "a.pth", set(torch.serialization.get_safe_globals()), list(warnings.filters)
    torch.save({"state_dict": {"w": torch.ones(2)}, "args": argparse.Namespace(x=1)}, file)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(load_foreign, [file] * 64))
    assert all(tensors["w"].tolist() == [1, 1] for tensors in found)
    assert set(torch.serialization.get_safe_globals()) == trusted and warnings.filters == filters
