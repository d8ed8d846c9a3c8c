"""Everything that an analysis of detections found: one tree of plain data. Views read it; nothing else computes on it.

Shape letters: K classes, N objects of one picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onestage.analysis.confusion import Confusion, confusion
from onestage.analysis.errors import Errors, errors_of
from onestage.analysis.kinds import kinds_of
from onestage.analysis.labels import Labels, find_suspects
from onestage.analysis.losses import PictureLoss, losses_by_picture
from onestage.analysis.matches import match
from onestage.analysis.plain import from_plain, to_plain
from onestage.analysis.slices import Slices, slices_of
from onestage.analysis.tables import tabulate
from onestage.errors import DataError
from onestage.files import Json
from onestage.structures import Detections, Truth


@dataclass(frozen=True)
class Analysis:
    """What detections of one set of pictures are worth, and where they fail. A part that was not asked for is None.

    classes: the K names, by label. errors: by type, and what each costs. slices: which objects are not found. confusion: which
    class is taken for which. losses: the pictures, the one that costs most first. labels: those that are probably wrong.
    """

    classes: tuple[str, ...]
    errors: Errors | None = None
    slices: Slices | None = None
    confusion: Confusion | None = None
    losses: tuple[PictureLoss, ...] | None = None
    labels: Labels | None = None

    def to_json(self) -> str:
        """The analysis as JSON text; null stands for a figure that is NaN."""
        return json.dumps(to_plain(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Analysis:
        """The analysis that ``to_json`` wrote. Raise DataError if the text is none."""
        try:
            content: Json = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                "this is not the content of an analysis", got=error, expected="JSON, as to_json writes it"
            ) from None
        return from_plain(cls, content)


def analyse(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    score: float = 0.3,
    sure: float = 0.95,
    brightness: Mapping[int | str, Sequence[float]] | None = None,
) -> Analysis:
    """Analyse the detections in some pictures against the truth of the same pictures; ``classes`` are the K names, by label.

    score: which detections a user would see, for the confusion matrix and for what is found. sure: from this score on, a
    detection is believed against the labels. brightness: of each of the N objects of a picture, by its image_id, as
    ``slices.brightness_of`` measures it. Raise DataError if the pictures are not the same, or if a label is none of the
    classes.
    """
    table = tabulate(detections, truths, classes)
    matches = match(table)
    kinds = kinds_of(matches)
    return Analysis(
        classes=table.classes,
        errors=errors_of(table, kinds),
        slices=slices_of(table, kinds, score=score, brightness=brightness),
        confusion=confusion(table, score=score),
        losses=losses_by_picture(matches),
        labels=find_suspects(table, sure=sure),
    )
