"""One picture's way through a detector, kept at every step that a reader may want to look at.

Shape letters: A anchors over all levels, N objects, S shapes per cell, K classes, D detections. Boxes are xyxy pixels of the
network's input. Only the interfaces that every family shares are used: anchors, assignment, class loss, postprocess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.anchors.max_iou import BACKGROUND, IGNORED
from onestage.model.detector import Detector
from onestage.model.features import evaluating
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.output.postprocess import Postprocess, RawDetections
from onestage.model.output.suppress import HardNMS
from onestage.structures import Detections, HeadOutput, Sample, Size, Targets

ALL_BOXES = 2000
"""At most so many boxes are shown from before NMS."""


@dataclass(frozen=True)
class Level:
    """One feature map. size: (rows, columns) of its cells; stride: (y, x) input pixels between them; shapes: S pairs (width,
    height) in input pixels; rows: which of the A anchors are its own.
    """

    number: int
    size: Size
    stride: tuple[float, float]
    shapes: tuple[tuple[float, float], ...]
    rows: slice

    @property
    def anchors(self) -> int:
        return self.rows.stop - self.rows.start


class Group(NamedTuple):
    """A kind of anchors: how many there are, and the part of the class loss that they make, 0..1."""

    name: str
    anchors: int
    share: float


class ObjectRow(NamedTuple):
    """One object: its number, from 1 on, its class, width and height in input pixels, how many anchors learn it, and its best
    anchor's IoU.
    """

    number: int
    name: str
    width: float
    height: float
    anchors: int
    best_iou: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """What happens to one picture.

    picture (3, h, w) uint8: the network's input as a person sees it. targets: the objects, by the labels or, where ``guessed``,
    the detector's own confident detections. anchors (A, 4); matches (A,): object index, BACKGROUND or IGNORED; class_loss
    (A,): each anchor's part of the class loss; losses: the divided sums that training would minimise. mined: whether the loss
    leaves easy negatives out. mining: how many negatives count as hard, the loss's own numbers if it mines, else SSD's.
    before, after: detections in input pixels of at least ``score``, without NMS and with it, as ``postprocess`` does it.
    """

    name: str
    classes: tuple[str, ...]
    loss_name: str
    source: str
    original: Size
    picture: Tensor
    targets: Targets
    guessed: bool
    levels: tuple[Level, ...]
    anchors: Tensor
    matches: Tensor
    class_loss: Tensor
    losses: dict[str, float]
    mined: bool
    mining: MultiBoxLoss
    postprocess: Postprocess
    before: Detections
    after: Detections
    score: float

    @property
    def positive(self) -> Tensor:
        """(A,) bool: the anchors that learn an object."""
        return self.matches >= 0

    @property
    def negative(self) -> Tensor:
        """(A,) bool: the anchors that learn background."""
        return self.matches == BACKGROUND

    @property
    def hard(self) -> Tensor:
        """(A,) bool: the negatives of largest loss, as many as ``mining`` takes."""
        positives = int(self.positive.sum())
        due = int(self.mining.negative_ratio * positives) if positives else self.mining.min_negatives
        losses = self.class_loss.masked_fill(~self.negative, 0.0)
        values, rows = losses.topk(min(due, len(losses)))
        return torch.zeros_like(self.negative).index_fill(0, rows[values > 0], True)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Positives, hard negatives, the other negatives and the ignored anchors; their shares add up to 1."""
        hard = self.hard
        kinds = {
            "positives": self.positive,
            "hard negatives": hard,
            "easy negatives": self.negative & ~hard,
            "ignored": self.matches == IGNORED,
        }
        return tuple(Group(name, int(mask.sum()), self.share(mask)) for name, mask in kinds.items())

    def share(self, rows: Tensor | slice) -> float:
        """The part of the class loss that those anchors make, 0..1."""
        total = float(self.class_loss.sum())
        return float(self.class_loss[rows].sum()) / total if total else 0.0

    def matched(self, level: Level) -> int:
        """How many anchors of the level learn an object."""
        return int(self.positive[level.rows].sum())

    def cell_loss(self, level: Level) -> Tensor:
        """(rows, columns): the class loss of the level's cells, over their shapes."""
        return self.class_loss[level.rows].view(*level.size, len(level.shapes)).sum(2)

    def objects(self) -> list[ObjectRow]:
        """A row for each object; those that are not to be counted say so instead of their class."""
        best = box_ops.iou(self.targets.boxes, self.anchors).amax(dim=1).tolist()
        counts = torch.bincount(self.matches[self.positive], minlength=len(best)).tolist()
        extents = box_ops.to_cxcywh(self.targets.boxes)[:, 2:].tolist()
        ignored = self.targets.ignore.tolist()
        names = [self.classes[k] + " (ignored)" * i for k, i in zip(self.targets.labels.tolist(), ignored, strict=True)]
        rows = enumerate(zip(names, extents, counts, best, strict=True), start=1)
        return [ObjectRow(number, name, w, h, count, iou) for number, (name, (w, h), count, iou) in rows]


@torch.no_grad()
def explain_sample(detector: Detector, sample: Sample, *, guessed: bool = False, score: float = 0.3) -> Explanation:
    """Follow one labelled picture through the detector. ``guessed`` only says that the labels are no person's.

    score: the least of the detections that are kept for showing.
    """
    images, metas = detector.prepare([sample.image])
    with evaluating(detector):
        output: HeadOutput = detector(images)
    config, meta = detector.config, metas[0]
    targets = Targets(meta.apply(sample.boxes), sample.labels, sample.ignore)
    assignment = detector.assign([targets.to(detector.device)], output.input_size)
    losses = {name: float(value) for name, value in detector.loss(output, assignment).items()}
    class_loss = config.loss.class_losses(output, assignment, config.coder)[0]
    without_nms = replace(config.postprocess, nms=HardNMS(iou_threshold=1.0), detections=ALL_BOXES, score_threshold=score)
    kept = replace(config.postprocess, score_threshold=score)

    levels = _levels(detector, output)

    def found(postprocess: Postprocess) -> Detections:
        counts, activation = [level.anchors for level in levels], config.loss.activation
        frames = meta.frame[None].to(detector.device)
        boxes = postprocess(output, assignment.anchors, config.coder, activation=activation, levels=counts, frames=frames)[0]
        return _named(boxes, config.classes, size=output.input_size)

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.preprocess.mean, config.preprocess.std))
    return Explanation(
        name=config.name,
        classes=config.classes,
        loss_name=type(config.loss).__name__,
        source=sample.path or str(sample.image_id),
        original=meta.original,
        picture=((images[0].cpu() * std + mean) * 255).round().clamp(0, 255).byte(),
        targets=targets,
        guessed=guessed,
        levels=levels,
        anchors=assignment.anchors.cpu(),
        matches=assignment.matches[0].cpu(),
        class_loss=class_loss.double().cpu(),
        losses=losses,
        mined=isinstance(config.loss, MultiBoxLoss),
        mining=config.loss if isinstance(config.loss, MultiBoxLoss) else MultiBoxLoss(),
        postprocess=kept,
        before=found(without_nms),
        after=found(kept),
        score=score,
    )


def stand_ins(detector: Detector, image: Tensor, *, path: str = "", score: float = 0.3) -> Sample:
    """The detector's own detections of a picture, (3, H, W) uint8, in the place of labels; those of at least ``score``."""
    found = detector.predict(image, score=score)[0]
    return Sample(image, found.boxes, found.labels, torch.zeros(len(found), dtype=torch.bool), path, path)


def _levels(detector: Detector, output: HeadOutput) -> tuple[Level, ...]:
    configured = detector.config.levels
    counts = [h * w * len(level.shapes) for (h, w), level in zip(output.level_sizes, configured, strict=True)]
    spans = pairwise(accumulate(counts, initial=0))
    return tuple(
        Level(number, size, level.steps(size, output.input_size), level.shapes, slice(*span))
        for number, (size, level, span) in enumerate(zip(output.level_sizes, configured, spans, strict=True), start=1)
    )


def _named(found: RawDetections, classes: Sequence[str], *, size: Size) -> Detections:
    labels = found.labels.cpu()
    names, ids = tuple(classes[i] for i in labels.tolist()), tuple(labels.tolist())
    return Detections(found.boxes.cpu(), found.scores.cpu(), labels, names, ids, size)
