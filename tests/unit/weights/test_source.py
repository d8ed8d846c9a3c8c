"""One door for every file: it is opened once, whatever it is, and goes through memory once."""

import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import onestage
from onestage.cli.main import main
from onestage.errors import WeightsError
from onestage.weights import foreign_file
from onestage.weights.source import read_source
from onestage.weights.tensor_file import open_file
from tflite_files import small_ssd

opened: list[str] = []
"""Paths that Python opened, in order, while a test listens."""
listening = False
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if listening and event == "open" else None)


@pytest.fixture(scope="module")
def book():
    """The tensors of the d2l book's TinySSD for one class, under its names."""
    torch.manual_seed(0)
    names = {"backbone.stages.": "blk_", "head.cls.": "cls_", "head.box.": "bbox_"}
    ours = onestage.create("tinyssd", 1).state_dict()
    return {there + name.removeprefix(here): t for here, there in names.items() for name, t in ours.items() if here in name}


def write(kind, path, book):
    if kind == "ours":
        onestage.create("tinyssd", 1, size=(64, 64)).save(path)
    elif kind == "tflite":
        path.write_bytes(small_ssd())
    elif kind == "safetensors":
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in book.items()}, path)
    else:
        torch.save(book, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.fixture
def opens_of(monkeypatch):
    """Counts how often Python opens a file during a call. From the first time on it has no name: nobody opens it again."""

    def count(path, call):
        global listening
        original = Path.open

        def once(self, *arguments, **options):
            stream = original(self, *arguments, **options)
            if self == path:
                path.unlink()
            return stream

        monkeypatch.setattr(Path, "open", once)
        opened.clear()
        listening = True
        try:
            call()
        finally:
            listening = False
            monkeypatch.undo()
        return opened.count(str(path))

    return count


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors", "tflite", "ours"])
def test_a_file_is_opened_once(kind, book, tmp_path, opens_of):
    path = tmp_path / "weights"
    write(kind, path, book)
    name = read_source(path).model
    options = {} if kind == "tflite" else {"size": (64, 64)}
    assert opens_of(path, lambda: onestage.create(name, weights=path, **options)) == 1


def test_the_verbs_open_it_once(book, tmp_path, opens_of):
    theirs, ours = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    write("zip", theirs, book)
    assert opens_of(theirs, lambda: main(["import", str(theirs), "-o", str(ours)])) == 1
    assert opens_of(ours, lambda: onestage.load(ours)) == 1


def test_a_classifier_is_opened_once(tmp_path, opens_of):
    network = onestage.create("ssd", 1, backbone="resnet10t", size=(64, 64)).backbone.body.state_dict()
    torch.save(network, tmp_path / "classifier.pth")

    def build():
        path = tmp_path / "classifier.pth"
        onestage.create("ssd", 1, backbone="resnet10t", size=(64, 64), backbone_weights=path)

    assert opens_of(tmp_path / "classifier.pth", build) == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_not_copied_whole(zipped, tmp_path):
    """Tensors go from the file to their place: what Python holds meanwhile is less than one of them."""
    size = 8 * 2**20
    torch.save({name: torch.zeros(size // 4) for name in "abcd"}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    tracemalloc.start()
    try:
        with open_file(tmp_path / "x.pth") as file:
            tensors = foreign_file.load_foreign(file).tensors
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(tensors) == 4 and peak < size


def test_a_zip_that_unpacks_to_more_than_it_has_is_refused(tmp_path):
    import zipfile

    torch.save({"a": torch.zeros(2**20)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in whole.namelist():
            bomb.writestr(entry, whole.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="unpacks to more than its size"):
        read_source(tmp_path / "bomb.pth")


@pytest.mark.parametrize("name", ["arrays.npy", "arrays.npz"])
def test_files_of_numpy_are_named_as_such(name, tmp_path):
    array = np.zeros((2, 3), np.float32)
    np.save(tmp_path / name, array) if name.endswith("y") else np.savez(tmp_path / name, weight=array, bias=array)
    with pytest.raises(WeightsError, match="NumPy array") as error:
        read_source(tmp_path / name)
    assert "damaged" not in str(error.value) and "torch.save" in str(error.value)
    with pytest.raises(WeightsError, match=r"NumPy array|zip archive"):
        onestage.load(tmp_path / name)


@pytest.mark.parametrize(("written", "taken"), [(["best", "last"], "best"), (["last"], "last")])
def test_a_run_folder_stands_for_its_best_model(written, taken, tmp_path):
    for number, name in enumerate(written):
        torch.manual_seed(number)
        onestage.create("tinyssd", 1, size=(64, 64)).save(tmp_path / f"{name}.safetensors")
    loaded, expected = (onestage.load(path).state_dict() for path in (tmp_path, tmp_path / f"{taken}.safetensors"))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.items())


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(WeightsError, match="holds no trained model") as error:
        onestage.load(tmp_path)
    assert error.value.where == tmp_path and "best.safetensors or last.safetensors" in error.value.expected


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="not a file"):
        read_source(tmp_path / "pipe")


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.empty(3, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_numbers_are_refused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="no plain numbers"):
        read_source(tmp_path / "odd.pth")
