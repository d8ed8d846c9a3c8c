"""A small data set and a detector for the tests of the command line."""

from pathlib import Path

import pytest
import torch

from onestage import create
from onestage.data.synthetic import SyntheticConfig, synthetic_dataset
from onestage.data.writers import Split, write_coco

CLASSES = ("ball", "ring")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pictures 64 x 64 in COCO form: 8 to train on, 4 to validate, 4 to test."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    counts: dict[Split, int] = {"train": 8, "val": 4, "test": 4}
    first = 0
    for split, count in counts.items():
        data = synthetic_dataset(SyntheticConfig(classes=CLASSES, size=(64, 64), count=count), first)
        write_coco((data[i] for i in range(count)), root, classes=CLASSES, split=split)
        first += count
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose best model is a TinySSD with fresh weights: it finds much, all of it with scores around 0.3."""
    folder = tmp_path_factory.mktemp("runs") / "x"
    folder.mkdir()
    torch.manual_seed(0)
    create("tinyssd", classes=CLASSES, size=(64, 64)).save(folder / "best.safetensors")
    return folder
