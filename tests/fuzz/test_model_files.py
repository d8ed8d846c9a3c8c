"""Broken files of models: each is read, or refused with an error, in bounded time and memory."""

import io
import json
import resource
import zipfile

import pytest
import safetensors.torch
import torch

import onestage
from fuzz.harness import fuzz, mutated
from onestage.model.config import DetectorConfig
from onestage.weights.foreign_file import load_foreign
from onestage.weights.source import read_source
from onestage.weights.tensor_file import open_file
from onestage.zoo.table import recipe
from tflite_files import convert_backbone, read, small_ssd

TOKENS = (
    b"\0",
    b"-1",
    b"1e999",
    b"\xff\xfe",
    b"9" * 30,
    b"9" * 5000,
    b"null",
    b"[[[[",
    b"NaN",
    b"{}",
    b'"F64"',
    b"I8",
    b"R",
    b"t",
    b"\x86",
    b"h\x00",
)
MOST_KB = 3 * 2**20
"""Of the whole process, in kB."""


@pytest.fixture(autouse=True)
def bounded():
    """No try takes memory without bound."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KB


def tiny():
    changes = {"backbone.base": (4, 4, 4), "backbone.width": 4}
    torch.manual_seed(0)
    return onestage.build(recipe("tinyssd", ["a", "b"], size=(64, 64)).replace(changes))


def of_the_book(model):
    names = [("backbone.stages.", "blk_"), ("head.cls.", "cls_"), ("head.box.", "bbox_")]
    return {
        next(b + name.removeprefix(a) for a, b in names if name.startswith(a)): tensor
        for name, tensor in model.state_dict().items()
    }


def saved(tensors, **options):
    stream = io.BytesIO()
    torch.save(tensors, stream, **options)
    return stream.getvalue()


def test_our_detectors(tmp_path):
    path = tmp_path / "ours.safetensors"
    tiny().save(path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")

    def attempt(random):
        if random.random() < 0.7:  # the header alone, with its true length
            text = mutated(random, data[8:header], tokens=TOKENS)
            path.write_bytes(len(text).to_bytes(8, "little") + text + data[header:])
        else:
            path.write_bytes(mutated(random, data, tokens=TOKENS))
        onestage.load(path)
        return "detector"

    fuzz("our detectors", attempt)


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "theirs.safetensors"
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in of_the_book(tiny()).items()})

    def attempt(random):
        path.write_bytes(mutated(random, data[: random.choice((len(data), 4000))], tokens=TOKENS))
        return read_source(path).origin

    fuzz("foreign safetensors", attempt)


def test_foreign_pickles(tmp_path):
    """The bytes of the archive, the pickle inside of it, and files of before the archives."""
    path = tmp_path / "theirs.pth"
    tensors = {"model": of_the_book(tiny()), "args": {"lr": 0.1, "betas": (0.9, 0.99)}, "epoch": 3}
    data, old = saved(tensors), saved(tensors, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}

    def attempt(random):
        kind = random.choice(("archive", "pickle", "old"))
        if kind == "pickle":
            with zipfile.ZipFile(path, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
                for name, entry in entries.items():
                    archive.writestr(name, mutated(random, entry, tokens=TOKENS) if name.endswith("data.pkl") else entry)
        else:
            path.write_bytes(mutated(random, data if kind == "archive" else old, tokens=TOKENS))
        with open_file(path) as file:
            load_foreign(file)
        return kind

    fuzz("foreign pickles", attempt)


def test_tensorflow_lite_files(tmp_path):
    path = tmp_path / "model.tflite"
    data = small_ssd()
    config = recipe("ssd300_mobilenet_v1", ["a"], size=(64, 64))

    def attempt(random):
        path.write_bytes(mutated(random, data))
        if random.random() < 0.2:
            convert_backbone(path, config)
            return "backbone"
        read(path)
        return "detector"

    fuzz("TensorFlow Lite files", attempt)


def test_configs():
    texts = [recipe(name, ["a", "b"], size=(64, 64)).to_json().encode() for name in ("tinyssd", "retinanet_r18_fpn", "ssd")]

    def attempt(random):
        text = mutated(random, random.choice(texts), tokens=TOKENS).decode(errors="surrogateescape")
        config = DetectorConfig.from_json(text)
        assert DetectorConfig.from_json(config.to_json()) == config
        return json.loads(text)["name"]

    fuzz("configs", attempt)
