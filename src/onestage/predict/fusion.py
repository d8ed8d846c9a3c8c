"""Several looks at a picture fused into one, by weighted boxes fusion: mirrored, in several scales, or by several models.

Solovyev, Wang and Gabruseva, "Weighted boxes fusion: ensembling boxes from different object detection models", Image and
Vision Computing 107 (2021), arXiv 1910.13302, section 3. NMS keeps one of the boxes that show the same object. Fusion takes
their mean, and its score falls with each model that does not see the object.

Shape letters: B pictures, H and W of one, N detections of all looks, K classes, M fused. Boxes are xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestage.errors import ConfigError, counted
from onestage.model.codec import Range
from onestage.model.output.scores import Scores
from onestage.predict.predictor import Looker
from onestage.structures import ClassSet, Detections, Size

MATCH = 0.55
"""The IoU above which a box belongs to a fused one (section 4: 0.55 was best on most data sets)."""
Floats = NDArray[np.float64]


class Fusion(NamedTuple):
    """boxes (M, 4) xyxy; scores (M,), best first; labels (M,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def weighted_boxes(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    weights: Sequence[float],
    known: Sequence[Sequence[bool]] | None = None,
    match: float = MATCH,
) -> Fusion:
    """The boxes (N, 4), scores (N,) and labels (N,) of each of several models -> the fused ones.

    From the best score down, each box joins the fused box of its class with which its IoU is highest, if that is above
    ``match``, or begins a new one. A fused box is the mean of its T boxes, weighted by their scores (equations 2 and 3). Its
    score is the mean of theirs (equation 1) times min(T, models) / models (equation 5).

    weights: how much each model counts, as if it were so many models. known: which classes each model knows, K each; a model
    does not count against an object of a class that it does not know.
    """
    heavy = [torch.full_like(score, weight, dtype=torch.float64) for score, weight in zip(scores, weights, strict=True)]
    box, score, label, weight = (torch.cat(list(column)).cpu().numpy() for column in (boxes, scores, labels, heavy))
    parts: list[tuple[Floats, Floats, NDArray[np.int64]]] = []
    for k in np.unique(label).tolist():
        mine = label == k
        total = sum(w for i, w in enumerate(weights) if known is None or known[i][k])
        fused, certain = _of_class(box[mine].astype(np.float64), score[mine].astype(np.float64), weight[mine], total, match)
        parts.append((fused, certain, np.full(len(certain), k)))
    if not parts:
        return Fusion(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    columns = [torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)]
    order = columns[1].argsort(descending=True, stable=True)
    return Fusion(columns[0][order].float(), columns[1][order].float(), columns[2][order])


def _of_class(boxes: Floats, scores: Floats, weights: Floats, total: float, match: float) -> tuple[Floats, Floats]:
    """The fused boxes (M, 4) and scores (M,) of one class, from N of each. total: the weight of all models."""
    mass = scores * weights
    order = np.argsort(-mass, kind="stable")
    count = len(order)
    fused, areas = np.zeros((count, 4)), np.zeros(count)
    sums, masses, heavy = np.zeros((count, 4)), np.zeros(count), np.zeros(count)
    made = 0
    for row in order.tolist():
        box = boxes[row]
        corners = fused[:made]
        width = np.minimum(corners[:, 2], box[2]) - np.maximum(corners[:, 0], box[0])
        height = np.minimum(corners[:, 3], box[3]) - np.maximum(corners[:, 1], box[1])
        shared = width.clip(min=0) * height.clip(min=0)
        union = areas[:made] + (box[2] - box[0]) * (box[3] - box[1]) - shared
        ious = np.divide(shared, union, out=np.zeros(made), where=union > 0)
        place = int(ious.argmax()) if made else 0
        if not made or ious[place] <= match:
            place, made = made, made + 1
        sums[place] += mass[row] * box
        masses[place] += mass[row]
        heavy[place] += weights[row]
        fused[place] = sums[place] / masses[place] if masses[place] > 0 else box
        areas[place] = (fused[place, 2] - fused[place, 0]) * (fused[place, 3] - fused[place, 1])
    return fused[:made], masses[:made] / heavy[:made] * np.minimum(heavy[:made], total) / total


def united(several: Iterable[ClassSet]) -> ClassSet:
    """The classes of several models, matched by name: those of the first, then those that only later ones know. Each has the
    id of the first model that knows it, or a new one if another class has that.
    """
    ids: dict[str, int] = {}
    for classes in several:
        for name, number in zip(*classes, strict=True):
            if name not in ids:
                taken = set(ids.values())
                ids[name] = number if number not in taken else max(taken) + 1
    return ClassSet(tuple(ids), tuple(ids.values()))


@dataclass(frozen=True, eq=False, repr=False)
class Fused(Looker):
    """Several lookers as one: what each finds, with calibrated scores if its file has a calibration, goes through
    ``weighted_boxes``.

    Its classes are all that a looker knows (``united``). weights: of each looker; equal by default. title: a name for reports,
    by default the names of all. Thresholds that files of models hold are of the plain call, so they are not applied.
    """

    lookers: tuple[Looker, ...]
    weights: tuple[float, ...] = ()
    title: str = ""
    _classes: ClassSet = field(default=ClassSet((), ()), init=False)
    _labels: tuple[Tensor, ...] = field(default=(), init=False)
    """Of each looker (K,): the labels here of its classes."""
    _known: tuple[tuple[bool, ...], ...] = field(default=(), init=False)
    """Of each looker: which of these classes it knows."""

    def __post_init__(self) -> None:
        """Raise ConfigError for weights that are not one for each looker, or not above 0."""
        object.__setattr__(self, "weights", self.weights or (1.0,) * len(self.lookers))
        fix = f"such as weights=({', '.join('1' * len(self.lookers))}), or leave them out"
        if len(self.weights) != len(self.lookers) or not self.lookers:
            got, expected = counted(len(self.weights), "weight"), f"one for each of {counted(len(self.lookers), 'model')}"
            raise ConfigError("the weights do not suit the models", got=got, expected=expected, fix=fix)
        for weight in self.weights:
            Range(above=0, most=1e6).check_number(weight, "weights", fix=fix)
        classes = united(ClassSet(looker.classes, looker.category_ids) for looker in self.lookers)
        place = {name: label for label, name in enumerate(classes.names)}
        labels = tuple(torch.tensor([place[name] for name in looker.classes], dtype=torch.int64) for looker in self.lookers)
        known = tuple(tuple(torch.isin(torch.arange(len(place)), of).tolist()) for of in labels)
        for name, value in {"_classes": classes, "_labels": labels, "_known": known}.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The names of all lookers, with their weights if they differ."""
        same = len(set(self.weights)) == 1
        names = (one.name + ("" if same else f" (weight {w:g})") for one, w in zip(self.lookers, self.weights, strict=True))
        return self.title or " + ".join(names)

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the first looker, then those that only later ones know."""
        return self._classes.names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Of each class the id that the first looker with that class has, or a new one if another class has that."""
        return self._classes.ids

    @property
    def scores(self) -> Scores | None:
        """Nothing: each looker's scores are calibrated before they are fused."""
        return None

    @property
    def threshold(self) -> float:
        """The least of the lookers' thresholds."""
        return min(looker.threshold for looker in self.lookers)

    @property
    def device(self) -> torch.device:
        """Where the first looker computes."""
        return self.lookers[0].device

    def passes(self, size: Size) -> int:
        """Those of all lookers together."""
        return sum(looker.passes(size) for looker in self.lookers)

    def detect(self, pictures: Sequence[Tensor], *, score: float | None = None) -> list[Detections]:
        """The fused detections of B pictures, (3, H, W) each."""
        found = [self._seen(looker, pictures, score) for looker in self.lookers]
        fused = [self._fuse(of_picture) for of_picture in zip(*found, strict=True)]
        return fused if score is None else [one.select(one.scores > score) for one in fused]

    def _seen(self, looker: Looker, pictures: Sequence[Tensor], score: float | None) -> list[Detections]:
        """What one looker finds in B pictures, (3, H, W) each. Weak boxes change fused ones, so ``score`` does not cut them."""
        least = None
        if score is not None:
            score = score if looker.scores is None else looker.scores.before(score)
            least = score if score < looker.threshold else None
        return [looker.believed(one) for one in looker.detect(pictures, score=least)]

    def _fuse(self, found: Sequence[Detections]) -> Detections:
        """One Detections of those of all lookers for one picture."""
        boxes, scores, labels = weighted_boxes(
            [one.boxes for one in found],
            [one.scores for one in found],
            [of[one.labels] for of, one in zip(self._labels, found, strict=True)],
            weights=self.weights,
            known=self._known,
        )
        names, ids = self.classes, self.category_ids
        return replace(
            found[0],
            boxes=boxes,
            scores=scores,
            labels=labels,
            class_names=tuple(names[label] for label in labels.tolist()),
            category_ids=tuple(ids[label] for label in labels.tolist()),
        )
