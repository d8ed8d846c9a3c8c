"""Makes images/mosaic.jpg: built-in pictures as a training sees them in mosaics, with their objects.

python docs/make_mosaics.py
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from onestage.data import load_dataset
from onestage.data.loader import TrainLoader
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.data.transforms import Augment, TrainTransform, stretch
from onestage.data.writers import write_coco
from onestage.draw import draw_detections
from onestage.structures import Detections

OUT = Path(__file__).resolve().parent / "images" / "mosaic.jpg"
COUNT, SIDE, GAP = 3, 256, 8


def main() -> None:
    """Draw the pictures, and write three mosaics side by side."""
    config = SyntheticConfig(count=12, seed=5)
    augment = replace(Augment.light(), mosaic=1.0, scale_jitter=0.5)
    with tempfile.TemporaryDirectory() as folder:
        write_coco(
            (generate(index, config) for index in range(config.count)), Path(folder), classes=config.classes, split="train"
        )
        data = load_dataset(folder, split="train")
        loader = TrainLoader(data, TrainTransform(stretch((SIDE, SIDE)), augment), batch_size=COUNT)
        batch = next(loader.epoch(0))
    sheet = Image.new("RGB", (COUNT * (SIDE + GAP) - GAP, SIDE), "white")
    for number, (image, targets) in enumerate(zip(batch.images, batch.targets, strict=True)):
        labels = targets.labels
        names = tuple(data.classes[label] for label in labels.tolist())
        shown = Detections(targets.boxes, torch.ones(len(labels)), labels, names, tuple(labels.tolist()), (SIDE, SIDE))
        sheet.paste(draw_detections(image, shown), (number * (SIDE + GAP), 0))
    sheet.save(OUT, quality=88)


if __name__ == "__main__":
    main()
