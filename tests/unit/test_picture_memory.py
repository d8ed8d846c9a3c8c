"""Heavy pictures: the memory of all processes together is bounded, in the doctor, in training and in prediction."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onestage.creation import create
from onestage.data.check import check_dataset
from small_runs import CONFIG, run, same_bits, write_pictures

BASE = 1.5e9
"""Bytes for Python, torch and all that is no picture, of a process with its workers."""


def write_heavy(root: Path, count: int, side: int) -> Path:
    """As COCO: RGBA pictures that are small on disk."""
    (root / "train").mkdir(parents=True)
    pixels = np.full((side, side, 4), 128, np.uint8)
    for number in range(count):
        pixels[number] = number  # no two are the same
        Image.fromarray(pixels).save(root / "train" / f"{number}.png", compress_level=1)
    box = {"category_id": 1, "bbox": [10, 10, side // 2, side // 2], "area": side**2 // 4, "iscrowd": 0}
    boxes = [box | {"id": i + 1, "image_id": i} for i in range(count)]
    images = [{"id": i, "file_name": f"{i}.png", "height": side, "width": side} for i in range(count)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return root


def tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(inner for child in children for inner in tree(int(child)))]


def memory_of(pid: int) -> int:
    """Bytes of a process; what it shares with others counts in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def peak(arguments: list[str], folder: Path) -> float:
    process = subprocess.Popen([sys.executable, "-m", "onestage", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(memory_of, tree(process.pid))))
        time.sleep(0.05)
    assert process.returncode == 0, arguments
    return most


VERBS = {
    "data check": ["data", "check", "pictures"],
    "train": [
        "train",
        "pictures",
        *["--model", "tinyssd", "--epochs", "1", "--batch-size", "2", "--augment", "none", "--workers", "6"],
    ],
    "predict": ["predict", "model.safetensors", "pictures/train"],
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_the_peak_of_six_giants(verb: str, tmp_path: Path) -> None:
    """Six pictures of 10,900 x 10,900 with transparency took 10.9 GB at commit c0fbafc."""
    write_heavy(tmp_path / "pictures", 6, 10_900)
    create("tinyssd", classes=["thing"]).save(tmp_path / "model.safetensors")
    most = peak(VERBS[verb], tmp_path)
    print(f"\n{verb}: a peak of {most / 1e9:.2f} GB, all processes together")
    assert most < 2e9 + BASE


def test_a_small_limit_holds_and_changes_nothing(tmp_path: Path) -> None:
    """The doctor's findings and a run's bits are the same if only one picture at a time has room."""

    data = write_pictures(tmp_path / "data")
    assert check_dataset(data, gigabytes=1e-9) == check_dataset(data)
    config = replace(CONFIG, epochs=1)
    run(data, tmp_path / "a", config)
    run(data, tmp_path / "b", replace(config, workers=2, picture_memory=1e-9))
    assert same_bits(tmp_path / "a", tmp_path / "b")
