"""One small model and its exported file for all tests of this folder."""

import pytest
import torch

import onestage
from lively import lively


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    return lively(onestage.create("tinyssd", classes=["ball", "red box", "x"], size=(96, 128)))


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """A folder with the model, its ONNX file, vectors and example."""
    pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")
    folder = tmp_path_factory.mktemp("exported")
    model.save(folder / "model.safetensors")
    onestage.export(model, folder / "model.onnx", example=True)
    return folder
