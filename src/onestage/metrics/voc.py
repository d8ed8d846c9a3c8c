"""Pascal VOC's average precision, as its development kit computes it (VOCevaldet.m, VOCap.m of VOC2007 and VOC2010).

Shape letters: D detections and N objects, of one picture or (with "all") of the whole set, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import ConfigError
from onestage.metrics.pairing import Pair, pair_up
from onestage.structures import Detections, Truth

Floats = NDArray[np.float64]
Style = Literal["2007", "2010"]

CELLS = 1 << 20
"""So many pairs of a detection and an object are held at a time."""


@dataclass(frozen=True, eq=False)
class VocClass:
    """One class: the number of its objects (without difficult ones), its AP in 0..1 (NaN without objects), and its curve.

    precision, recall (D,): after each detection that counts, best score first.
    """

    name: str
    objects: int
    AP: float
    precision: Floats = field(repr=False)
    recall: Floats = field(repr=False)


@dataclass(frozen=True, eq=False)
class VocMetrics:
    """mAP in 0..1: the mean AP of the classes with objects; NaN if there are none."""

    mAP: float
    iou: float
    style: Style
    per_class: tuple[VocClass, ...]


def voc_metrics(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    iou: float = 0.5,
    style: Style = "2010",
    inclusive: bool = False,
) -> VocMetrics:
    """Compute VOC's AP for detections against truths of the same pictures; ``classes`` are the K names, by label.

    A detection belongs to the object of its class that it overlaps most. It is right if their IoU is at least ``iou`` and no
    detection of higher score was right about that object. It does not count if the object is difficult (ignored, or a crowd).
    style: "2007" reads precision at 11 recalls; "2010" takes the area under the curve.
    inclusive: box corners are the first and the last pixel, so that a width is x2 - x1 + 1. The development kit and most
    published figures do so. Boxes of this package are edges in float pixels, for which x2 - x1 is right.
    Raise ConfigError for an ``iou`` outside 0..1, DataError if the pictures are not the same or a label is no class.
    """
    if not 0 < iou <= 1:
        raise ConfigError("voc_metrics: this IoU cannot decide a match", got=iou, expected="above 0, at most 1")
    pairs = pair_up(detections, truths, classes)
    table = _match(pairs, inclusive)
    rows = tuple(_one_class(name, table, k, iou, style) for k, name in enumerate(classes))
    known = [row.AP for row in rows if row.objects]
    return VocMetrics(float(np.mean(known)) if known else float("nan"), iou, style, rows)


class _Matches(NamedTuple):
    """All detections and objects of the set, as columns.

    scores, labels (all D,). best (all D,): the row of the object of its class that a detection overlaps most. overlap (all D,):
    their IoU; where it is 0, ``best`` means nothing. truth_labels, difficult (all N,).
    """

    scores: Floats
    labels: NDArray[np.int64]
    best: NDArray[np.int64]
    overlap: Floats
    truth_labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]


def _match(pairs: Sequence[Pair], inclusive: bool) -> _Matches:
    grow = torch.tensor([0, 0, 1, 1], device="cpu") * inclusive
    best, overlap, before = [np.zeros(0, np.int64)], [np.zeros(0)], 0
    for found, truth in pairs:
        rows = max(1, CELLS // max(1, len(truth.labels)))
        for boxes, labels in zip(found.boxes.split(rows), found.labels.split(rows), strict=True):
            same = labels[:, None] == truth.labels
            ious = (box_ops.iou(boxes.double() + grow, truth.boxes.double() + grow) * same).numpy()
            ious = np.pad(ious, ((0, 0), (0, 1)))  # a last column of zeros, so that there is a best even without objects
            best.append(ious.argmax(1) + before)
            overlap.append(ious.max(1))
        before += len(truth.labels)
    return _Matches(
        scores=_column([p.found.scores.double() for p in pairs], torch.float64).numpy(),
        labels=_column([p.found.labels for p in pairs], torch.int64).numpy(),
        best=np.concatenate(best),
        overlap=np.concatenate(overlap),
        truth_labels=_column([p.truth.labels for p in pairs], torch.int64).numpy(),
        difficult=_column([p.truth.ignore | p.truth.crowd for p in pairs], torch.bool).numpy(),
    )


def _column(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The parts one after the other, (all D,) or (all N,); empty without pictures."""
    return torch.cat([torch.zeros(0, dtype=dtype, device="cpu"), *parts])


def _one_class(name: str, table: _Matches, label: int, iou: float, style: Style) -> VocClass:
    rows = np.flatnonzero(table.labels == label)
    rows = rows[np.argsort(-table.scores[rows], kind="stable")]
    rows = rows[~_on_difficult(table, rows, iou)]
    hits = np.flatnonzero(table.overlap[rows] >= iou)
    right = np.zeros(len(rows), bool)
    right[hits[np.unique(table.best[rows][hits], return_index=True)[1]]] = True  # the first to claim an object
    objects = int((table.truth_labels == label)[~table.difficult].sum())
    if not objects:
        return VocClass(name, 0, float("nan"), np.full(len(rows), np.nan), np.full(len(rows), np.nan))
    recall = right.cumsum() / objects
    precision = right.cumsum() / np.arange(1, len(rows) + 1)
    average = _eleven_points if style == "2007" else _area_under
    return VocClass(name, objects, average(precision, recall), precision, recall)


def _on_difficult(table: _Matches, rows: NDArray[np.int64], iou: float) -> NDArray[np.bool_]:
    """Whether each of the detections ``rows`` (D,) lies on a difficult object: then it is neither right nor wrong."""
    on_object = table.overlap[rows] >= iou
    on_object[on_object] = table.difficult[table.best[rows][on_object]]
    return on_object


def _eleven_points(precision: Floats, recall: Floats) -> float:
    """VOC2007: the mean of the best precision at a recall of at least 0, .1 ... 1, for precision and recall (D,).

    It computes k * 0.1, not k / 10. In the kit and the programs after it the points .3, .6 and .7 lie one rounding error
    higher, so that a recall of exactly .6 misses its point. Published figures are computed this way.
    """
    return float(np.mean([precision[recall >= k * 0.1].max(initial=0) for k in range(11)]))


def _area_under(precision: Floats, recall: Floats) -> float:
    """VOC2010: the area under the curve of the best precision at a recall of at least r, for precision and recall (D,)."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * best).sum())
