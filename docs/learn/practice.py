"""The small detectors that the pages of this folder look into: trained on the built-in pictures, in minutes, on any machine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from onestage import Detector, TrainConfig, create, load, train
from onestage.creation import build
from onestage.data.synthetic import MemoryDataset, SyntheticConfig, synthetic_dataset
from onestage.model.losses.focal import FocalLoss
from onestage.model.losses.multibox import MultiBoxLoss

CLASSES = ("ball", "cube", "cone", "ring")
PICTURES = SyntheticConfig(classes=CLASSES, size=(160, 160), count=160, objects=(2, 4), scale=(0.25, 0.6))
TEST = replace(PICTURES, count=16, empty=0.0)
PARTS = {
    "mining": {"loss": MultiBoxLoss()},
    "focal": {"loss": FocalLoss()},
}
TRAINING = TrainConfig(epochs=14, batch_size=8, workers=0, device="cpu", augment="light", evaluate_every=0, lr=2e-3)


def fresh(kind: str) -> Detector:
    """A TinySSD with the parts of that kind, as it is before its first step."""
    config = create("tinyssd", classes=PICTURES.classes, size=PICTURES.size).config
    torch.manual_seed(0)
    return build(replace(config, **PARTS[kind])).eval()


def trained(kind: str, folder: Path) -> Detector:
    """The same after training; kept in ``folder``, and taken from there the next time."""
    file = folder / kind / "last.safetensors"
    if not file.is_file():
        train(fresh(kind), synthetic_dataset(PICTURES), out=folder / kind, config=TRAINING)
    return load(file)


@cache
def test_pictures() -> MemoryDataset:
    """Pictures that the detectors have not seen."""
    return synthetic_dataset(TEST, first=10_000)
