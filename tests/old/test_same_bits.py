"""A run that c0fbafc began and the newest code ends has the bits of one that c0fbafc took to its end. Slow; one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
MODELS = {
    "tinyssd": 64,
    "ssdlite320_mobilenet_v3_large": 96,
    "ssd:timm/test_resnet": 96,
    "retinanet:timm/test_resnet": 96,
    "efficientdet_lite0": 128,
    "efficientdet_d0": 128,  # has drop_path
}


@pytest.fixture(scope="module")
def old_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of c0fbafc."""
    tree = tmp_path_factory.mktemp("c0fbafc")
    archive = subprocess.run(["git", "archive", "c0fbafc", "src"], cwd=HERE.parents[1], capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("needs the repository with its history")
    subprocess.run(["tar", "-x"], cwd=tree, input=archive.stdout, check=True)
    return tree / "src"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 pictures to train on, 2 to measure."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    options = ["--train", "8", "--val", "2", "--size", "64", "--classes", "cube", "ring"]
    python(SOURCE, "-m", "onestage", "data", "generate", out, *options)
    return out


def python(source: Path, *arguments: object) -> None:
    """Run Python with the onestage of that folder."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_four_old_steps_and_four_new_ones(model: str, old_source: Path, data: Path, tmp_path: Path) -> None:
    def train(source: Path, out: str, *how: str) -> None:
        python(source, HERE / "one_run.py", model, MODELS[model], data, tmp_path / out, *how)

    train(old_source, "old")
    train(old_source, "both", "--stop-after", "4")
    assert [path.name for path in (tmp_path / "both" / "checkpoints").iterdir()] == ["step-00000004"]
    train(SOURCE, "both", "--resume")
    train(SOURCE, "new")
    for name in ("both", "new"):
        assert results(tmp_path / name) == results(tmp_path / "old"), name


def results(run: Path) -> tuple[list[dict[str, float]], dict[str, bytes]]:
    """A run's figures without its times, and the bits of its weights and momenta."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figures = [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_s", "waiting")} for row in rows
    ]
    newest = max((run / "checkpoints").iterdir())
    files = [run / "last.safetensors", run / "best.safetensors", newest / "training.safetensors"]
    tensors = {f"{path.name} {key}": value for path in files for key, value in load_file(path).items()}
    return figures, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
