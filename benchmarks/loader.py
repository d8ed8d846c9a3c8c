"""How fast training pictures come from JPEG files, and how long a training waits for them.

    python benchmarks/loader.py                     # 640x480 pictures
    python benchmarks/loader.py --size 3000 4000 --count 8

The first table has the processor time for one picture, from the file to the network's input, in this process alone: the
fastest of several epochs, and the settings take turns. The second one trains ssdlite320 with batches of 16 and one worker,
as ``onestage train`` does, and has the share of the time of an epoch that it spent waiting.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

import onestage
from common import environment
from onestage.data.dataset import Dataset
from onestage.data.loader import Feed, TrainLoader
from onestage.data.transforms import Augment, TrainTransform
from onestage.training.monitor import Monitor
from training import samples

MODEL, BATCH = "ssdlite320_mobilenet_v3_large", 16
FEEDS = {"pillow": Feed(), "fast": Feed(decoder="fast"), "fast, cached": Feed(decoder="fast", cache=2.0)}
AUGMENTS = {"plain": Augment(), "ssd": Augment.ssd(), "mosaic": replace(Augment.light(), mosaic=1.0, scale_jitter=0.5)}


def jpeg_data(folder: Path, count: int, size: tuple[int, int]) -> Dataset:
    """Grainy pictures as JPEG files of quality 90, with 7 objects each."""
    drawn = samples(count, size)
    generator = torch.Generator().manual_seed(3)
    for sample in drawn:
        grain = torch.randn(sample.image.shape[1:], generator=generator) * 4
        pixels = (sample.image + grain).clamp(0, 255).byte().permute(1, 2, 0).contiguous()
        Image.fromarray(pixels.numpy()).save(folder / f"{sample.image_id}.jpg", quality=90)
    labels = torch.cat([sample.labels for sample in drawn])
    flags = torch.zeros(len(labels), dtype=torch.bool)
    classes = tuple(f"class {number}" for number in range(int(labels.max()) + 1))
    return Dataset(
        root=folder,
        format="drawn",
        split=None,
        paths=tuple(str(folder / f"{sample.image_id}.jpg") for sample in drawn),
        image_ids=tuple(sample.image_id for sample in drawn),
        sizes=(size,) * count,
        offsets=torch.tensor([0, *(len(sample.boxes) for sample in drawn)]).cumsum(0),
        boxes=torch.cat([sample.boxes for sample in drawn]),
        labels=labels,
        ignore=flags,
        crowd=flags,
        area=torch.ones(len(labels)),
        classes=classes,
        category_ids=tuple(range(len(classes))),
    )


def milliseconds(data: Dataset, repeats: int) -> dict[tuple[str, str], float]:
    """The processor time of one picture for each augmentation and each way to feed, in milliseconds."""
    place = onestage.create(MODEL, num_classes=1).config.preprocess.place
    loaders = {
        (name, feed): TrainLoader(data, TrainTransform(place, augment), batch_size=len(data), feed=FEEDS[feed])
        for name, augment in AUGMENTS.items()
        for feed in FEEDS
    }
    found = dict.fromkeys(loaders, float("inf"))
    for turn in range(repeats + 1):  # the first one fills the caches
        for key, loader in loaders.items():
            begun = time.process_time()
            list(loader.epoch(0))
            if turn:
                found[key] = min(found[key], 1000 * (time.process_time() - begun) / len(data))
    return found


class Waiting(Monitor):
    """The rows of a training."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def epoch(self, record: dict[str, float]) -> None:
        """Keep the row."""
        self.rows.append(dict(record))


def trained(data: Dataset, feed: Feed, epochs: int) -> tuple[float, float]:
    """Pictures per second of a training, and the share of the time that it waited, in its last epoch."""
    torch.manual_seed(0)
    config = onestage.TrainConfig(
        epochs=epochs, batch_size=BATCH, workers=1, evaluate_every=0, decoder=feed.decoder, cache=feed.cache
    )
    monitor = Waiting()
    model = onestage.create(MODEL, num_classes=len(data.classes))
    with tempfile.TemporaryDirectory() as folder:
        onestage.train(model, data, out=folder, config=config, monitor=monitor)
    return monitor.rows[-1]["images_per_s"], monitor.rows[-1]["waiting"]


def main(
    *, size: tuple[int, int] = (480, 640), count: int = 96, repeats: int = 5, epochs: int = 3, json_file: Path | None = None
) -> None:
    """Measure the loader, and a training that it feeds.

    Args:
        size: height and width of the pictures.
        count: pictures; a training takes nine tenths of them.
        repeats: epochs that are timed for each row of the first table.
        epochs: of the training; the last one is told. 0: no training.
        json_file: where all numbers are stored.
    """
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        data = jpeg_data(Path(folder), count, size)
        times = milliseconds(data, repeats)
        table = Table("augmentation", *(f"{feed}, ms" for feed in FEEDS))
        for name in AUGMENTS:
            table.add_row(name, *(f"{times[name, feed]:.2f}" for feed in FEEDS))
        console.print(table)
        shares = {name: trained(data, feed, epochs) for name, feed in FEEDS.items()} if epochs else {}
    if shares:
        second = Table("feed", "pictures/s in training", "waiting")
        for name, (rate, waiting) in shares.items():
            second.add_row(name, f"{rate:.1f}", f"{waiting:.1%}")
        console.print(second)
    if json_file is not None:
        cells = {f"{name}, {feed}": value for (name, feed), value in times.items()}
        json_file.write_text(json.dumps({"environment": environment(), "milliseconds": cells, "training": shares}))


if __name__ == "__main__":
    tyro.cli(main)
