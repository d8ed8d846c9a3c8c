"""The accuracy of a detector or of an exported file on labelled pictures, so that two of them can be compared.

Shape letters: P pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onestage.data import Dataset
from onestage.metrics.coco import coco_metrics
from onestage.model.detector import Detector
from onestage.predict.measure import Advance, evaluate_dataset
from onestage.predict.predictor import Predictor
from onestage.structures import Detections, Truth

FEW = 100
"""So few pictures are decoded by this process: for them, no other processes are started."""


@dataclass(frozen=True, eq=False)
class Accuracy:
    """COCO's AP, 0..1 (NaN without objects), and what it was computed from: the detections and the truth of each of P pictures,
    in the order of the data set. So row r is the same picture in two accuracies on one data set.
    """

    AP: float
    found: tuple[Detections, ...]
    truths: tuple[Truth, ...]
    classes: tuple[str, ...]

    def on(self, rows: Sequence[int]) -> float:
        """The AP on these pictures, 0..P-1. A picture may stand there several times, as in a bootstrap sample."""
        found = [replace(self.found[row], image_id=number) for number, row in enumerate(rows)]
        truths = [replace(self.truths[row], image_id=number) for number, row in enumerate(rows)]
        return coco_metrics(found, truths, self.classes).AP


def accuracy(model: Detector | Predictor, dataset: Dataset, *, batch_size: int = 8, advance: Advance | None = None) -> Accuracy:
    """Run the model on all pictures of a labelled data set. The AP is the one that ``onestage evaluate`` prints.

    Raise ConfigError if the classes of the data set are not those of the model, DataError if a picture cannot be read.
    """
    workers = 0 if len(dataset) <= FEW else None
    report, found = evaluate_dataset(model, dataset, batch_size=batch_size, workers=workers, advance=advance)
    truths = tuple(dataset.truth(row) for row in range(len(dataset)))
    return Accuracy(report.coco.AP, tuple(found), truths, tuple(dataset.classes))
