"""One small model and its exported file for all tests of this folder."""

import pytest

import exported_files


@pytest.fixture(scope="session")
def model():
    return exported_files.model()


@pytest.fixture(scope="session")
def folder():
    """A folder with the model, its ONNX file, vectors and example."""
    pytest.importorskip("onnx", reason="pip install 'onestage[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")
    return exported_files.checked_folder()
