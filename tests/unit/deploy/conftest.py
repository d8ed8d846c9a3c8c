"""One small model and its exported file for all tests of this folder, and real pictures."""

import os

import pytest

import exported_files
from onestage.images import decode_image

PICTURES = int(os.environ.get("EXPORT_PICTURES", "50"))


@pytest.fixture(scope="session")
def model():
    return exported_files.model()


@pytest.fixture(scope="session")
def folder():
    """A folder with the model, its ONNX file, vectors and example."""
    pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")
    return exported_files.checked_folder()


@pytest.fixture(scope="module")
def photos(shared_data):
    """Things of all kinds, blood cells, and a few portraits and animals: (3, H, W) uint8 each."""
    paths = [
        *sorted((shared_data / "photos").glob("*.*g")),
        *sorted((shared_data / "coco_tiny").rglob("*.jpg"))[:35],
        *sorted((shared_data / "bccd").rglob("*.jpg")),
    ]
    return [decode_image(path) for path in paths[:PICTURES]]
