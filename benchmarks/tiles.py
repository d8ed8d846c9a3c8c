"""What tiles find in a drawn picture of 6,000 x 4,000 pixels with 500 objects of 20 pixels, and what that costs.

It trains a small detector on drawn pictures first, with all cores (about 5 minutes on two; kept in --out and taken from there
next time). Then it looks at two pictures plainly, in tiles, and in tiles and mirrored, with one core (about 4 minutes). One has
500 small objects, in the other six objects are much larger than a tile. AP counts all detections of a class in a picture, not
the best hundred as COCO does, because there are more objects than that.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor

import onestage
from onestage import boxes as box_ops
from onestage.data.synthetic import SyntheticConfig, generate, synthetic_dataset
from onestage.deploy.benchmark import processor
from onestage.metrics.ap import average_precision
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate
from onestage.predict.predictor import Looker, Predictor
from onestage.structures import Detections, Truth

CLASSES = ("ball", "cube", "star")
INPUT = 128
PICTURES = 800
DONE = "done.txt"
"""The file in the run folder that says that the training ended, and how long it took."""
CELL, LARGE = 400, 1200
ROWS, COLUMNS = 10, 15
SIDE = 20
"""Pixels of the ball around an object."""


class Scene(NamedTuple):
    """A picture (3, H, W) and its objects."""

    image: Tensor
    truth: Truth


def detector(out: Path, epochs: int) -> onestage.Detector:
    """A TinySSD trained on drawn pictures of 128 x 128 pixels, from ``out`` if it is there. Objects have 9 to 64 pixels: some
    are smaller than the smallest anchors, as in tiles of size "auto".
    """
    file = out / "best.safetensors"
    if not (out / DONE).exists():
        config = SyntheticConfig(CLASSES, (INPUT, INPUT), count=PICTURES, objects=(2, 7), scale=(0.07, 0.5), min_visible=0.9)
        model = onestage.create("tinyssd", classes=CLASSES, size=(INPUT, INPUT), box_sizes=[14, 24, 38, 54, 74, 100])
        settings = {"epochs": epochs, "workers": 0, "evaluate_every": 4}
        result = onestage.train(model, synthetic_dataset(config), out=out, config=settings, resume=file.exists())
        if result.interrupted:
            raise SystemExit("interrupted: the same command goes on")
        (out / DONE).write_text(f"{epochs} epochs in {result.seconds:.0f} s, AP {result.best_ap:.3f} on held out pictures\n")
    model = onestage.load(file)
    assert isinstance(model, onestage.Detector)
    return model


def scene(*, large: bool) -> Scene:
    """A patchwork of 150 drawn fields with 500 objects. With ``large``, six fields of one object each, about 1,000 pixels high,
    cover a third of it.
    """
    picture = torch.zeros(3, ROWS * CELL, COLUMNS * CELL, dtype=torch.uint8)
    spots = [(y, x) for y in (0, 4, 7) for x in (1, 10)] if large else []
    covered = {(y + i, x + j) for y, x in spots for i in range(3) for j in range(3)}
    boxes, labels = [], []

    def paste(index: int, config: SyntheticConfig, row: int, column: int) -> None:
        sample = generate(index, config)
        side = config.size[0]
        top, left = row * CELL, column * CELL
        picture[:, top : top + side, left : left + side] = sample.image
        boxes.append(sample.boxes + torch.tensor([left, top, left, top]))
        labels.append(sample.labels)

    for number in range(ROWS * COLUMNS):
        if (place := divmod(number, COLUMNS)) not in covered:
            count = 3 + (number % 3 == 0)
            scale = SIDE / CELL
            paste(number, SyntheticConfig(CLASSES, (CELL, CELL), 1, (count, count), 0, (scale, scale * 1.1), seed=7), *place)
    for number, place in enumerate(spots):
        paste(number, SyntheticConfig(CLASSES, (LARGE, LARGE), 1, (1, 1), 0, (0.8, 0.9), seed=8), *place)
    box, label = torch.cat(boxes), torch.cat(labels)
    no = torch.zeros(len(label), dtype=torch.bool)
    return Scene(picture, Truth(box, label, no, no, box_ops.area(box), "picture", size=(picture.shape[1], picture.shape[2])))


def ap(found: Detections, truth: Truth) -> tuple[float, float]:
    """AP over COCO's IoUs, and at 0.5, of all detections."""
    matches = match(tabulate([replace(found, image_id=truth.image_id)], [truth], CLASSES, limit=100_000))
    every = average_precision(matches)
    return every.mean, every.at(matches.at(0.5))


def whole(found: Detections, truth: Truth) -> tuple[int, int, int]:
    """Of the objects above 500 pixels: how many there are, how many were found with an IoU of 0.5, and how many boxes above a
    score of 0.3 lie mostly inside one without being it: pieces.
    """
    large = box_ops.area(truth.boxes) > 500**2
    sure = found.select(found.scores > 0.3)
    overlap = box_ops.iou(truth.boxes[large], sure.boxes)
    inside = box_ops.cover(sure.boxes, truth.boxes[large])
    pieces = ((inside > 0.8).any(dim=1) & (overlap.amax(dim=0) < 0.5) & (box_ops.area(sure.boxes) > 60**2)).sum()
    return int(large.sum()), int((overlap.amax(dim=1) >= 0.5).sum()), int(pieces)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiles"), help="the run folder of the detector")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1, help="how often each look is timed")
    options = parser.parse_args()
    model = Predictor.of(detector(options.out, options.epochs))
    torch.set_num_threads(1)
    looks: list[tuple[str, Looker]] = [
        ("plain", model),
        ("--tiles auto", onestage.look(model, tiles="auto")),
        ("--tiles 400x400", onestage.look(model, tiles=(400, 400))),
        ("--tiles auto --flip", onestage.look(model, tiles="auto", flip=True)),
    ]
    small, mixed = scene(large=False), scene(large=True)
    size = small.image.shape[1], small.image.shape[2]
    console, first = Console(width=150), 0.0
    console.print(f"trained: {(options.out / DONE).read_text().strip()}")
    console.print(f"{len(small.truth.labels)} objects in {size[1]} x {size[0]} pixels, seconds of one core of {processor()}\n")
    console.print(
        "| look | passes | seconds | times the plain call | AP | AP50 | large objects | found whole | pieces of them |"
    )
    console.print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, look in looks:
        seconds = []
        for _ in range(options.repeats):
            began = time.perf_counter()
            (found,) = look.detect([small.image])
            seconds.append(time.perf_counter() - began)
        took = statistics.median(seconds)
        first = first or took
        (also,) = look.detect([mixed.image])
        cells = [name, f"{look.passes(size):,}", f"{took:.2f}", f"{took / first:.0f}"]
        cells += [f"{figure:.3f}" for figure in ap(found, small.truth)] + [*map(str, whole(also, mixed.truth))]
        console.print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
