"""Whole training steps, ours against torchvision's: forward, loss, backward and SGD.

    python benchmarks/training.py --repeats 5 --json training.json

"step" starts from a normalised batch and its targets. "augment + step" starts from decoded 640x480 pictures: SSD's
augmentations (photometric, zoom-out, IoU crop, flip) one picture after the other in the same process, ours as
``onestage train`` does them, torchvision's as its reference script does them (references/detection/presets.py, "ssd").
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms import v2

import onestage
from common import CLASSES, MODELS, Clock, Comparison, compare, pair, pictures, report
from onestage.data.transforms import Augment, TrainTransform, stretch
from onestage.structures import Sample, Size, Targets


def samples(count: int, size: Size = (480, 640)) -> list[Sample]:
    """Decoded pictures with 7 objects each, about as many as COCO's have."""
    generator = torch.Generator().manual_seed(2)
    height, width = size
    limits = torch.tensor([width, height, width, height])
    made = []
    for i, image in enumerate(pictures(count, size)):
        corners = torch.rand(7, 2, generator=generator) * 0.7
        extents = 0.05 + torch.rand(7, 2, generator=generator) * 0.25
        boxes = torch.cat([corners, corners + extents], dim=1) * limits
        labels = torch.randint(CLASSES, (7,), generator=generator)
        made.append(Sample(image, boxes, labels, torch.zeros(7, dtype=torch.bool), image_id=i, path=""))
    return made


class OurStep:
    """One step of our training from a batch or from samples."""

    def __init__(self, model: onestage.Detector) -> None:
        self.model = model.train()
        self.optimizer = sgd(model)
        self.augment = TrainTransform(stretch(model.config.preprocess.size), Augment.ssd())
        self.generator = torch.Generator().manual_seed(0)

    def from_samples(self, batch: Sequence[Sample]) -> None:
        images, targets, _ = zip(*(self.augment(sample, self.generator) for sample in batch), strict=True)
        self.from_batch(self.model.config.preprocess.normalize(torch.stack(images)), targets)

    def from_batch(self, images: Tensor, targets: Sequence[Targets]) -> None:
        self.optimizer.zero_grad()
        sum(self.model.loss(self.model(images), targets).values()).backward()
        self.optimizer.step()


class TheirStep:
    """The same with torchvision's model; its labels start at 1."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.train()
        self.optimizer = sgd(model)
        self.transform = model.transform
        self.augment = reference_augmentation()

    def from_samples(self, batch: Sequence[Sample]) -> None:
        pairs = [self.augment(*their_sample(sample)) for sample in batch]
        self.model.transform = self.transform
        self._step(*zip(*pairs, strict=True))

    def from_batch(self, images: Tensor, targets: Sequence[Targets]) -> None:
        self.model.transform = _Ready()
        self._step(images, [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets])

    def _step(self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]]) -> None:
        self.optimizer.zero_grad()
        sum(self.model(images, targets).values()).backward()
        self.optimizer.step()


class _Ready(nn.Module):
    """A replacement for torchvision's transform, for a batch that is already resized and normalised."""

    def forward(self, images: Tensor, targets: object) -> tuple[ImageList, object]:
        return ImageList(images, [tuple(images.shape[2:])] * len(images)), targets


def reference_augmentation() -> v2.Compose:
    """What torchvision's references do to a picture and its target before an SSD learns from them."""
    mean = {tv_tensors.Image: (123.0, 117.0, 104.0), "others": 0}
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=mean),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToDtype(torch.float, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )


def their_sample(sample: Sample) -> tuple[Tensor, dict[str, Tensor]]:
    """A picture and its objects in torchvision's form; its labels start at 1."""
    size = (sample.image.shape[1], sample.image.shape[2])
    boxes = tv_tensors.BoundingBoxes(sample.boxes.clone(), format="XYXY", canvas_size=size)
    return tv_tensors.Image(sample.image), {"boxes": boxes, "labels": sample.labels + 1}


def sgd(model: nn.Module) -> torch.optim.SGD:
    """An optimiser with a tiny learning rate, so that the weights stay finite after any number of steps."""
    return torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)


def main(
    *,
    models: tuple[str, ...] = MODELS,
    batch: int = 8,
    repeats: int = 5,
    augment: bool = True,
    clock: Clock = "wall",
    json: Path | None = None,
) -> list[Comparison]:
    """Compare training steps in fp32.

    Args:
        models: torchvision's detectors, by name.
        batch: pictures per step.
        repeats: timed turns of each.
        augment: measure from decoded pictures too, augmentation included.
        clock: wall time, or processor time on a busy machine.
        json: a file for all that was measured.
    """
    results = []
    for name in models:
        ours, theirs = pair(name)
        mine, other = OurStep(ours), TheirStep(theirs)
        decoded = samples(batch)
        images, metas = ours.prepare([s.image for s in decoded])
        targets = [Targets(meta.apply(s.boxes), s.labels) for s, meta in zip(decoded, metas, strict=True)]
        turns = partial(mine.from_batch, images, targets), partial(other.from_batch, images.contiguous(), targets)
        results.append(compare(f"{name}, step of {batch}", *turns, repeats=repeats, warmup=1, clock=clock))
        if augment:
            turns = partial(mine.from_samples, decoded), partial(other.from_samples, decoded)
            results.append(compare(f"{name}, augment + step of {batch}", *turns, repeats=repeats, warmup=1, clock=clock))
    report(f"training, {clock} time", results, path=json)
    return results


if __name__ == "__main__":
    tyro.cli(main)
