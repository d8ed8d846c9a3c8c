"""What one evaluation measured, as data. The views of it are in files of their room: terminal, report_page, report_files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from onestage.errors import counted
from onestage.files import Json
from onestage.metrics.book import BookMetrics
from onestage.metrics.coco import CocoClass, CocoMetrics
from onestage.metrics.voc import VocMetrics


@dataclass(frozen=True)
class ClassRow(CocoClass):
    """One class: COCO's figures and VOC's AP."""

    voc07: float
    voc10: float


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """The figures of one model on one set of pictures.

    model, data: their names, for the reader. losses: the validation loss and its parts, by name. book: the d2l book's class
    error and box MAE. Both need the network's logits: they are None (or empty) if an engine or a file gives boxes alone.
    """

    coco: CocoMetrics
    voc07: VocMetrics
    voc10: VocMetrics
    model: str = ""
    data: str = ""
    losses: Mapping[str, float] | None = None
    book: BookMetrics | None = None

    def __repr__(self) -> str:
        """Short: every class has many figures."""
        counts = f"{counted(self.coco.pictures, 'picture')}, {counted(self.coco.objects, 'object')}"
        return f"{type(self).__name__}(AP {self.coco.AP:.3f}, AP50 {self.coco.AP50:.3f}, {counts})"

    @property
    def rows(self) -> list[ClassRow]:
        """The classes, best AP first, classes without objects last."""
        three = zip(self.coco.per_class, self.voc07.per_class, self.voc10.per_class, strict=True)
        rows = [ClassRow(**vars(coco), voc07=voc07.AP, voc10=voc10.AP) for coco, voc07, voc10 in three]
        return sorted(rows, key=lambda row: (-row.AP if row.objects else 1, row.name))

    @property
    def not_measured(self) -> tuple[str, ...]:
        """The names of the figures that the engine could not give, as ``to_dict`` names them."""
        losses = () if self.losses else ("losses",)
        return losses if self.book else (*losses, "class_error", "box_mae")

    def to_dict(self) -> dict[str, Json]:
        """Plain data for JSON. None stands for a figure with nothing to measure, or one that "not_measured" names."""
        content: dict[str, Json] = {
            "model": self.model,
            "data": self.data,
            "pictures": self.coco.pictures,
            "objects": self.coco.objects,
            "coco": dict(self.coco.figures),
            "voc2007": self.voc07.mAP,
            "voc2010": self.voc10.mAP,
            "losses": dict(self.losses) if self.losses else None,
            "class_error": self.book.class_error if self.book else None,
            "box_mae": self.book.box_mae if self.book else None,
            "not_measured": list(self.not_measured),
            "classes": [asdict(row) for row in self.rows],
        }
        return {key: nan_as_none(value) for key, value in content.items()}


def nan_as_none(value: Json) -> Json:
    """The same content with lists for tuples, and None for every number that is not finite: JSON has no value for those."""
    if isinstance(value, Mapping):
        return {key: nan_as_none(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_as_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
