"""torchvision's ssdlite320_mobilenet_v3_large, trained from scratch by the recipe of its references for some minutes.

    python benchmarks/torchvision_ssdlite.py PICTURES_IN_YOLO_FORM --minutes 10 --out found.json

``time_to_accuracy.py`` starts this program. The recipe is that of references/detection/train.py: augmentation "ssd" at the full
size of the pictures, SGD with momentum 0.9 and weight decay 4e-5, batches of 16 with the learning rate 0.15 for 192 pictures
scaled down to them, a cosine. The cosine follows the clock, so that it ends in time. Nothing is spent on validation: the last
weights count.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from onestage import boxes as box_ops
from onestage.data import Dataset, load_dataset
from split_pictures import Found
from training import reference_augmentation, their_sample

BATCH, PEAK, WARMUP = 16, 0.15 * 16 / 192, 1000
"""Pictures of a step, its learning rate, and the steps over which the references raise it, in their first epoch at most."""
Pair = tuple[Tensor, dict[str, Tensor]]


class Augmented(torch.utils.data.Dataset[Pair]):
    """The pictures of a data set, augmented as in torchvision's references."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.augment = dataset, reference_augmentation()

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        """Picture ``index``: (3, H, W) float32 in 0..1, and its boxes and labels from 1."""
        image, target = self.augment(*their_sample(self.dataset[index]))
        return image, target


def train(model: nn.Module, pictures: Dataset, *, begun: float, seconds: float) -> float:
    """Train the model until ``seconds`` after ``begun``, on the clock of ``time.monotonic``. Return the epochs done."""
    loader = DataLoader(
        Augmented(pictures),
        BATCH,
        shuffle=True,
        num_workers=1,
        drop_last=len(pictures) >= BATCH,
        collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)),
        persistent_workers=True,
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], PEAK, momentum=0.9, weight_decay=4e-5)
    first = time.monotonic()
    warmup = min(WARMUP, len(loader) - 1)
    model.train()
    for step, (images, targets) in enumerate(_endless(loader)):
        done = (time.monotonic() - first) / max(1e-9, begun + seconds - first)
        if done >= 1:
            break
        rise = min(1.0, (step + 1) / (warmup + 1))
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rise * (1 + math.cos(math.pi * done)) / 2
        optimizer.zero_grad()
        sum(model([*images], [*targets]).values()).backward()
        optimizer.step()
    return step / len(loader)


def _endless(loader: DataLoader[Pair]) -> Iterator[tuple[tuple[Tensor, ...], tuple[dict[str, Tensor], ...]]]:
    while True:
        yield from loader


@torch.inference_mode()
def find(model: nn.Module, pictures: Dataset) -> Iterator[Found]:
    """What the model detects on the pictures."""
    model.eval()
    for row in range(len(pictures)):
        (found,) = model([pictures[row].image / 255])
        boxes = box_ops.to_xywh(found["boxes"]).tolist()
        for box, label, score in zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True):
            yield Found(int(Path(pictures.paths[row]).stem), label - 1, box, score)


def main(
    data: tyro.conf.Positional[Path], /, *, minutes: float, out: Path, split: Literal["val", "test"] = "test", seed: int = 0
) -> None:
    """Train, and write what the model finds.

    Args:
        data: a data set with the splits train, val and test.
        minutes: from the start of the program to the last step.
        out: a JSON file for the seconds, the epochs and the detections.
        split: the pictures to find objects on.
        seed: of the random numbers.
    """
    begun = time.monotonic()
    torch.manual_seed(seed)
    pictures = load_dataset(data, split="train", on_bad="skip")
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(pictures.classes) + 1)
    epochs = train(model, pictures, begun=begun, seconds=60 * minutes)
    seconds = time.monotonic() - begun
    found = find(model, load_dataset(data, split=split, classes=pictures.classes, on_bad="skip"))
    out.write_text(json.dumps({"seconds": seconds, "epochs": round(epochs, 2), "found": [asdict(one) for one in found]}))


if __name__ == "__main__":
    tyro.cli(main)
