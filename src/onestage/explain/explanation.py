"""One picture's way through a detector: every step that a reader may want to look at, as data.

Shape letters: A anchors over all levels, N objects, S shapes per cell, K classes, D detections; H, W height and width of a
picture or of the network's input; Y, X rows and columns of a map's cells. Boxes are xyxy pixels of the input.
It uses only the interfaces that every family shares: anchors, assignment, class loss, postprocess.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.anchors.max_iou import BACKGROUND, IGNORED
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import HardNMS
from onestage.predict.predictor import Predictor, in_evaluation_mode, type_of_weights
from onestage.structures import Detections, HeadOutput, ImageMeta, Sample, Size, Targets

ALL_BOXES = 2000
"""The most boxes to show from before NMS."""


@dataclass(frozen=True)
class Level:
    """One feature map.

    number: from 1 on, fine to coarse. size: (rows, columns) of its cells. stride: (y, x) input pixels between cells.
    shapes: the S anchor shapes of a cell, (width, height) in input pixels. rows: the map's anchors among all A anchors.
    """

    number: int
    size: Size
    stride: tuple[float, float]
    shapes: tuple[tuple[float, float], ...]
    rows: slice

    @property
    def anchors(self) -> int:
        """The number of the map's anchors."""
        return self.rows.stop - self.rows.start


class Group(NamedTuple):
    """A kind of anchors: their number, and their share of the class loss, 0..1."""

    name: str
    anchors: int
    share: float


class ObjectRow(NamedTuple):
    """One object: its number, from 1 on, its class, its width and height in input pixels, the number of anchors that learn it,
    and the IoU of its best anchor.
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

    picture (3, H, W) uint8: the network's input as a person sees it. targets: the objects. They come from the labels, or, if
    ``guessed``, from the detector's confident detections. anchors (A, 4). matches (A,): object index, BACKGROUND or IGNORED.
    class_loss (A,): each anchor's part of the class loss. losses: the divided sums that training would minimise.
    mined: whether the loss leaves easy negatives out. mining: how many negatives count as hard: the numbers of the loss if it
    mines, SSD's numbers if not. before, after: the detections of at least ``score``, in input pixels, without NMS and with it;
    ``postprocess`` gives the latter.
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
        """(A,) bool: the negatives of the largest loss. ``mining`` says how many."""
        positives = int(self.positive.sum())
        due = int(self.mining.negative_ratio * positives) if positives else self.mining.min_negatives
        losses = self.class_loss.masked_fill(~self.negative, 0.0)
        values, rows = losses.topk(min(due, len(losses)))
        return torch.zeros_like(self.negative).index_fill(0, rows[values > 0], True)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Positives, hard negatives, easy negatives and ignored anchors. Their shares add up to 1."""
        hard = self.hard
        kinds = {
            "positives": self.positive,
            "hard negatives": hard,
            "easy negatives": self.negative & ~hard,
            "ignored": self.matches == IGNORED,
        }
        return tuple(Group(name, int(mask.sum()), self.share(mask)) for name, mask in kinds.items())

    def share(self, rows: Tensor | slice) -> float:
        """The share of the class loss, 0..1, that the anchors ``rows`` make: a mask (A,) or a slice."""
        total = float(self.class_loss.sum())
        return float(self.class_loss[rows].sum()) / total if total else 0.0

    def matched(self, level: Level) -> int:
        """The number of the level's anchors that learn an object."""
        return int(self.positive[level.rows].sum())

    def cell_loss(self, level: Level) -> Tensor:
        """The class loss of each cell of the level, (Y, X): the sum over its S shapes."""
        return self.class_loss[level.rows].view(*level.size, len(level.shapes)).sum(2)

    def objects(self) -> list[ObjectRow]:
        """A row for each of the N objects. The class of an ignored object is followed by "(ignored)"."""
        best = box_ops.iou(self.targets.boxes, self.anchors).amax(dim=1).tolist()
        counts = torch.bincount(self.matches[self.positive], minlength=len(best)).tolist()
        extents = box_ops.to_cxcywh(self.targets.boxes)[:, 2:].tolist()
        ignored = self.targets.ignore.tolist()
        names = [self.classes[k] + " (ignored)" * i for k, i in zip(self.targets.labels.tolist(), ignored, strict=True)]
        rows = enumerate(zip(names, extents, counts, best, strict=True), start=1)
        return [ObjectRow(number, name, w, h, count, iou) for number, (name, (w, h), count, iou) in rows]


@torch.no_grad()
def explain_sample(detector: Detector, sample: Sample, *, guessed: bool = False, score: float = 0.3) -> Explanation:
    """Follow one labelled picture through the detector.

    guessed: says that the labels are detections, not a person's labels. score: the least score of the detections to show.
    """
    config = detector.config
    images, (meta,) = detector.prepare([sample.image])
    with type_of_weights(detector.device):
        output: HeadOutput = in_evaluation_mode(detector)(images)
    targets = Targets(meta.apply(sample.boxes), sample.labels, sample.ignore)
    assignment = detector.assign([targets.to(detector.device)], output.input_size)
    losses = detector.loss(output, assignment)
    class_loss = config.loss.class_losses(output, assignment, config.coder)[0]
    postprocess = replace(config.postprocess, score_threshold=score)
    without_nms = replace(postprocess, nms=HardNMS(iou_threshold=1.0), detections=ALL_BOXES)
    return Explanation(
        name=config.name,
        classes=config.classes,
        loss_name=type(config.loss).__name__,
        source=sample.path or str(sample.image_id),
        original=meta.original,
        picture=_as_picture(images[0], config),
        targets=targets,
        guessed=guessed,
        levels=_levels(detector, output),
        anchors=assignment.anchors.cpu(),
        matches=assignment.matches[0].cpu(),
        class_loss=class_loss.double().cpu(),
        losses={name: float(value) for name, value in losses.items()},
        mined=isinstance(config.loss, MultiBoxLoss),
        mining=config.loss if isinstance(config.loss, MultiBoxLoss) else MultiBoxLoss(),
        postprocess=postprocess,
        before=_detections(detector, output, meta, without_nms),
        after=_detections(detector, output, meta, postprocess),
        score=score,
    )


def stand_ins(detector: Detector, image: Tensor, *, path: str = "", score: float = 0.3) -> Sample:
    """The detections of at least ``score`` in a picture, (3, H, W) uint8, in the place of labels."""
    (found,) = Predictor.of(detector).detect([image], score=score)  # with the scores that the page explains
    return Sample(image, found.boxes, found.labels, torch.zeros(len(found), dtype=torch.bool), path, path)


def _as_picture(image: Tensor, config: DetectorConfig) -> Tensor:
    """A normalised input, (3, H, W), as a person sees it: (3, H, W) uint8."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device="cpu").view(3, 1, 1)
        for values in (config.preprocess.mean, config.preprocess.std)
    )
    return ((image.cpu() * std + mean) * 255).round().clamp(0, 255).byte()


def _levels(detector: Detector, output: HeadOutput) -> tuple[Level, ...]:
    anchors = detector.decoder.anchors
    spans = pairwise(accumulate(anchors.counts(output.level_sizes), initial=0))
    return tuple(
        Level(number, size, level.steps(size, output.input_size), level.shapes, slice(*span))
        for number, (size, level, span) in enumerate(zip(output.level_sizes, anchors.levels, spans, strict=True), start=1)
    )


def _detections(detector: Detector, output: HeadOutput, meta: ImageMeta, postprocess: Postprocess) -> Detections:
    """What that postprocess finds, in pixels of the input."""
    decoder, size = detector.decoder, output.input_size
    (raw,) = decoder.raw(output, meta.frame[None], postprocess)
    return decoder.name(raw, ImageMeta.stretched(size, size))
