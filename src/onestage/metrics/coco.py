"""COCO's average precision and recall. faster-coco-eval computes them in memory; its figures equal those of pycocotools.

Shape letters: K classes, T = 10 IoU thresholds (.50, .55 ... .95), R = 101 recalls (0, .01 ... 1), Z = 4 size ranges (all,
small, medium, large), M = 3 limits on the detections of a class in a picture (1, 10, 100).
Definition: https://cocodataset.org/#detection-eval; pycocotools cocoeval.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from faster_coco_eval import COCOeval_faster
from numpy.typing import NDArray
from torch import Tensor

from onestage import boxes as box_ops
from onestage.metrics.pairing import Pair, pair_up
from onestage.structures import Detections, Truth

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve figures, in COCO's order."""

RECALLS = np.linspace(0, 1, 101)
"""(R,) the recalls at which precision is read."""

IOUS = tuple((50 + 5 * t) / 100 for t in range(10))
"""The T thresholds."""


@dataclass(frozen=True)
class CocoClass:
    """One class: the number of its objects (without crowds and ignored objects) and of its detections, and its figures.

    The figures are NaN for a class without objects.
    """

    name: str
    objects: int
    found: int
    AP: float
    AP50: float
    AR: float


@dataclass(frozen=True, eq=False)
class CocoMetrics:
    """The twelve figures, each 0..1. A figure is NaN if there is nothing to find; COCO prints -1 there.

    AP: the mean over IoU .50 to .95. AP50, AP75: at one IoU. s, m, l: objects of an area below 32 x 32 pixels, below 96 x 96,
    and above. AR1, AR10, AR100: recall with at most 1, 10 or 100 detections of a class in a picture.
    precision (T, R, K): the best precision at a recall of at least RECALLS[r], all sizes; NaN for a class without objects.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    pictures: int
    per_class: tuple[CocoClass, ...]
    precision: NDArray[np.float64] = field(repr=False)

    @property
    def objects(self) -> int:
        """The objects of all classes, without crowds and ignored objects."""
        return sum(row.objects for row in self.per_class)

    @property
    def figures(self) -> dict[str, float]:
        """The twelve figures by name, in COCO's order."""
        return {name: getattr(self, name) for name in FIGURES}

    def curve(self, iou: float | None = None, label: int | None = None) -> NDArray[np.float64]:
        """The precision at each of RECALLS, (R,).

        iou: one of IOUS; by default the mean over all of them. label: a class; by default the mean over those with objects.
        """
        precision = self.precision if iou is None else self.precision[[IOUS.index(iou)]]
        known = ~np.isnan(precision[0, 0]) if label is None else np.arange(precision.shape[2]) == label
        return precision[:, :, known].mean((0, 2)) if known.any() else np.full(len(RECALLS), np.nan)


def coco_metrics(detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str]) -> CocoMetrics:
    """Compute COCO's figures for detections against truths of the same pictures; ``classes`` are the K names, by label.

    A crowd region matches any number of detections, each by the share of its area inside the region. None of them counts.
    An ignored object matches one detection, which does not count either. (pycocotools loses that flag and counts it.)
    Raise DataError if the pictures are not the same, or if a label is none of the classes.
    """
    pairs = pair_up(detections, truths, classes)
    evaluator = _Evaluator(pairs, len(classes))
    evaluator.evaluate()
    shape = (len(IOUS), len(RECALLS), len(classes), 4, 3)
    precision = _unknown_as_nan(evaluator.eval["precision"]).reshape(shape)  # (T, R, K, Z, M)
    recall = _unknown_as_nan(evaluator.eval["recall"]).reshape(shape[:1] + shape[2:])  # (T, K, Z, M)
    aps = [precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2], *(precision[..., z, 2] for z in (1, 2, 3))]
    ars = [*(recall[..., 0, m] for m in range(3)), *(recall[..., z, 2] for z in (1, 2, 3))]
    return CocoMetrics(
        **dict(zip(FIGURES, map(_mean, aps + ars), strict=True)),
        pictures=len(pairs),
        per_class=tuple(_per_class(pairs, classes, precision[..., 0, 2], recall[..., 0, 2])),
        precision=precision[..., 0, 2],
    )


class _Evaluator(COCOeval_faster):
    """faster-coco-eval, fed from tensors: it reads no files, builds no index of the whole set, and keeps ``ignore``.

    The library's ``_prepare`` overwrites ``ignore`` with ``iscrowd``, as pycocotools does.
    """

    def __init__(self, pairs: Sequence[Pair], classes: int) -> None:
        super().__init__(iouType="bbox", print_function=lambda *_: None)
        self.pairs = pairs
        self.params.imgIds = list(range(len(pairs)))
        self.params.catIds = list(range(classes))

    def _prepare(self) -> None:
        # Ids start at 1: the library stores a match as the id of the partner, and 0 means no match.
        truth_id = found_id = 1
        for picture, (found, truth) in enumerate(self.pairs):
            columns = {"area": truth.area, "iscrowd": truth.crowd.int(), "ignore": (truth.ignore | truth.crowd).int()}
            for label, row in _rows(truth, columns, truth_id):
                self.gt_dataset.append(picture, label, row)
            for label, row in _rows(found, {"area": box_ops.area(found.boxes.double()), "score": found.scores}, found_id):
                self.dt_dataset.append(picture, label, row)
            truth_id, found_id = truth_id + len(truth.labels), found_id + len(found)


def _rows(
    objects: Detections | Truth, columns: dict[str, Tensor], first_id: int
) -> Iterator[tuple[int, dict[str, int | float | list[float]]]]:
    """Yield the label of each object and the annotation that the library reads: an id, a box in COCO's format, the columns."""
    table = {"bbox": box_ops.to_xywh(objects.boxes.double()), **columns}
    values = zip(*(column.tolist() for column in table.values()), strict=True)
    for number, (label, row) in enumerate(zip(objects.labels.tolist(), values, strict=True)):
        yield label, {"id": first_id + number, **dict(zip(table, row, strict=True))}


def _per_class(
    pairs: Sequence[Pair], classes: Sequence[str], precision: NDArray[np.float64], recall: NDArray[np.float64]
) -> Iterator[CocoClass]:
    """Yield a row for each class, from precision (T, R, K) and recall (T, K) for all sizes."""
    objects, found = np.zeros(len(classes), int), np.zeros(len(classes), int)
    for pair in pairs:
        counted = ~(pair.truth.ignore | pair.truth.crowd)
        objects += np.bincount(pair.truth.labels[counted], minlength=len(classes))
        found += np.bincount(pair.found.labels, minlength=len(classes))
    for k, name in enumerate(classes):
        aps = _mean(precision[..., k]), _mean(precision[0, :, k]), _mean(recall[:, k])
        yield CocoClass(name, int(objects[k]), int(found[k]), *aps)


def _unknown_as_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same values with NaN for -1, which the library writes if there is nothing to find."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(values < 0, np.nan, values)


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
