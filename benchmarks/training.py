"""Whole training steps, ours against torchvision's: forward, loss, backward and SGD.

    python benchmarks/training.py --repeats 5 --json training.json

"step" starts from a normalised batch and its targets. "augment + step" starts from decoded 640x480 pictures: SSD's
augmentations (photometric, zoom-out, IoU crop, flip) one picture after the other in the same process, ours as
``onestage train`` does them, torchvision's as its reference script does them (references/detection/presets.py, "ssd").

Each way of ours is compared with torchvision's default step, in fp32 with channels first in memory. "machine" is the way that
``measure_machine`` chooses here.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

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
from onestage.training.machine import measure_machine
from onestage.training.memory import keep_freed_memory
from onestage.training.network import DepthwiseInFp32

WayName = Literal["fp32", "contiguous", "bf16", "fused", "machine"]


@dataclass(frozen=True)
class Way:
    """How a step computes: its arithmetic, the order in memory, whether one pass changes all weights, and whether depthwise
    convolutions stay in fp32.
    """

    precision: str = "fp32"
    channels_last: bool = True
    fused: bool = False
    fp32_depthwise: bool = False


WAYS = {"fp32": Way(), "contiguous": Way(channels_last=False), "bf16": Way("bf16"), "fused": Way("bf16", fused=True)}
"""Each by name; "machine" is none of them, but measured."""


def chosen_way(name: WayName, model: onestage.Detector) -> Way:
    """The way with that name for this model on this machine."""
    if name != "machine":
        return WAYS[name]
    machine = measure_machine(model.device)
    return Way(machine.precision(model), machine.channels_last(model), fused=True, fp32_depthwise=machine.fp32_depthwise(model))


def samples(count: int, size: Size = (480, 640), *, objects: int = 7) -> list[Sample]:
    """Decoded pictures with so many objects each; COCO's have about 7."""
    generator = torch.Generator().manual_seed(2)
    height, width = size
    limits = torch.tensor([width, height, width, height])
    made = []
    for i, image in enumerate(pictures(count, size)):
        corners = torch.rand(objects, 2, generator=generator) * 0.7
        extents = 0.05 + torch.rand(objects, 2, generator=generator) * 0.25
        boxes = torch.cat([corners, corners + extents], dim=1) * limits
        labels = torch.randint(CLASSES, (objects,), generator=generator)
        made.append(Sample(image, boxes, labels, torch.zeros(objects, dtype=torch.bool), image_id=i, path=""))
    return made


class OurStep:
    """One step of our training from a batch or from samples."""

    def __init__(self, model: onestage.Detector, way: Way = WAYS["fp32"]) -> None:
        self.model, self.way = model.train(), way
        self.order = torch.channels_last if way.channels_last else torch.contiguous_format
        self.optimizer = sgd(model, fused=way.fused)
        self.augment = TrainTransform(stretch(model.config.preprocess.size), Augment.ssd())
        self.generator = torch.Generator().manual_seed(0)

    def from_samples(self, batch: Sequence[Sample]) -> None:
        images, targets, _ = zip(*(self.augment(sample, self.generator) for sample in batch), strict=True)
        self.from_batch(self.model.config.preprocess.normalize(torch.stack(images)), targets)

    def from_batch(self, images: Tensor, targets: Sequence[Targets]) -> None:
        self.model.to(memory_format=self.order)
        self.optimizer.zero_grad()
        depthwise = DepthwiseInFp32() if self.way.fp32_depthwise else contextlib.nullcontext()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.way.precision == "bf16"), depthwise:
            output = self.model(images.contiguous(memory_format=self.order))
        sum(self.model.loss(output, targets).values()).backward()
        self.optimizer.step()

    def assign_ms(self, targets: Sequence[Targets], repeats: int) -> float:
        """The median milliseconds in which the targets find their anchors."""
        times = []
        for _ in range(1 + repeats):
            start = time.perf_counter()
            self.model.assign(targets, self.model.config.preprocess.size)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times[1:])


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


def sgd(model: nn.Module, *, fused: bool = False) -> torch.optim.SGD:
    """An optimiser with a tiny learning rate, so that the weights stay finite after any number of steps."""
    return torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=fused or None)


def main(
    *,
    models: tuple[str, ...] = MODELS,
    batch: int = 8,
    repeats: int = 5,
    ways: tuple[WayName, ...] = ("fp32", "machine"),
    objects: int = 7,
    augment: bool = True,
    clock: Clock = "wall",
    json: Path | None = None,
) -> list[Comparison]:
    """Compare training steps.

    Args:
        models: torchvision's detectors, by name.
        batch: pictures per step.
        repeats: timed turns of each.
        ways: how ours compute; torchvision's always do as by default.
        objects: in each picture.
        augment: measure from decoded pictures too, augmentation included.
        clock: wall time, or processor time on a busy machine.
        json: a file for all that was measured.
    """
    keep_freed_memory()  # as ``onestage train`` does; it serves both
    results, notes = [], []
    for name in models:
        ours, theirs = pair(name)
        decoded = samples(batch, objects=objects)
        images, metas = ours.prepare([s.image for s in decoded])
        targets = [Targets(meta.apply(s.boxes), s.labels) for s, meta in zip(decoded, metas, strict=True)]
        other = TheirStep(theirs)
        for way in ways:
            mine = OurStep(ours, chosen_way(way, ours))
            turns = partial(mine.from_batch, images, targets), partial(other.from_batch, images.contiguous(), targets)
            step = compare(f"{name}, step of {batch}, {way}", *turns, repeats=repeats, warmup=1, clock=clock)
            share = mine.assign_ms(targets, repeats) / (10 * statistics.median(step.ours))
            notes.append(f"{step.what}: {mine.way}; assigning {objects} objects a picture takes {share:.1f} % of it")
            results.append(step)
            if augment:
                turns = partial(mine.from_samples, decoded), partial(other.from_samples, decoded)
                what = f"{name}, augment + step of {batch}, {way}"
                results.append(compare(what, *turns, repeats=repeats, warmup=1, clock=clock))
    report(f"training, {clock} time", results, path=json)
    print(*notes, sep="\n")
    return results


if __name__ == "__main__":
    tyro.cli(main)
