"""The example program where nothing but what it names is installed: a new environment with onnxruntime, numpy and Pillow."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import exported_files
from onestage.deploy.check import drawn_pictures

pytest.importorskip("onnxruntime", reason="pip install 'onestage[onnx]'")

pytestmark = pytest.mark.slow

CONSTRAINTS = Path(__file__).resolve().parents[3] / "constraints.txt"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with these three packages alone."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, "onnxruntime", "numpy", "pillow"]
    if subprocess.run(install, check=False, capture_output=True).returncode:
        pytest.skip("pip cannot install onnxruntime, numpy and Pillow here")
    return python


@pytest.mark.parametrize("package", ["torch", "onestage", "onnx"])
def test_the_environment_has_no_more(python, package):
    done = subprocess.run([python, "-I", "-c", f"import {package}"], check=False, capture_output=True, text=True)
    assert "ModuleNotFoundError" in done.stderr


def test_the_example_finds_what_the_model_finds(python, tmp_path):
    folder = exported_files.checked_folder()
    picture = drawn_pictures(1)[0]
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "picture.png")
    command = [python, "-I", folder / "model_example.py", tmp_path / "picture.png"]
    told = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()
    found = exported_files.model().predict(picture, score=0.5)[0]
    assert len(told) == len(found) > 0
    told_numbers = [[float(word) for word in line.split()[-5:]] for line in told]
    for detection in found:
        assert any(row == pytest.approx((detection.score, *detection.box), abs=0.2) for row in told_numbers), detection
