"""Everything that an analysis of detections found: one tree of plain data. Views read it; nothing else computes on it.

Shape letters: K classes, N objects of one picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onestage.analysis.bootstrap import DRAWS, Sureness, how_sure
from onestage.analysis.calibration import Calibrated, Method, calibrate
from onestage.analysis.confusion import Confusion, confusion
from onestage.analysis.errors import Errors, errors_of
from onestage.analysis.kinds import kinds_of
from onestage.analysis.labels import Labels, find_suspects
from onestage.analysis.losses import PictureLoss, losses_by_picture
from onestage.analysis.olrp import OlrpFigures, optimal_lrp
from onestage.analysis.plain import from_plain, to_plain
from onestage.analysis.reach import Overlaps, Reach, reach_of
from onestage.analysis.reliability import LocalisationReliability, Reliability, localisation_reliability, reliability
from onestage.analysis.slices import Slices, slices_of
from onestage.analysis.thresholds import Thresholds, Want, find_thresholds
from onestage.errors import DataError, check_number
from onestage.files import Json
from onestage.metrics.matches import Matches, match
from onestage.metrics.tables import tabulate
from onestage.structures import Detections, Truth


@dataclass(frozen=True)
class AnalysisSettings:
    """What is analysed, and how.

    want: what the thresholds are for. score: detections of at least this score are those that a user would see; they fill the
    confusion matrix, and say which objects are found in the slices. None: the threshold for all classes together, or, if no
    score has what is wanted, that of the best F1. sure: from this score on, a detection is believed against the labels.
    calibrate: a method to fit scores with; None: they are left. draws, seed: of the data sets that say how sure a figure is; 0
    draws: all intervals are NaN.
    """

    want: Want = field(default_factory=Want)
    score: float | None = None
    sure: float = 0.95
    calibrate: Method | None = None
    draws: int = DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("sure", self.sure, least=0, most=1)
        if self.score is not None:
            check_number("score", self.score, least=0, most=1)


@dataclass(frozen=True)
class Analysis:
    """What detections of one set of pictures are worth, and where they fail. A part that is not there is None.

    classes: the K names, by label. AP: AP and AP50, and how sure they are. olrp: one error and its three parts. thresholds: the
    scores to cut at. reliability, localisation: whether scores can be believed. calibrated: what fitting the scores gives.
    errors: by type, and what each costs. slices: which objects are not found. confusion: which class is taken for which.
    losses: the pictures, the one that costs most first. labels: those that are probably wrong. reach: which objects an anchor
    reaches.
    """

    classes: tuple[str, ...]
    AP: Sureness | None = None
    olrp: OlrpFigures | None = None
    thresholds: Thresholds | None = None
    reliability: Reliability | None = None
    localisation: LocalisationReliability | None = None
    calibrated: Calibrated | None = None
    errors: Errors | None = None
    slices: Slices | None = None
    confusion: Confusion | None = None
    losses: tuple[PictureLoss, ...] | None = None
    labels: Labels | None = None
    reach: Reach | None = None

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
    settings: AnalysisSettings = AnalysisSettings(),
    brightness: Mapping[int | str, Sequence[float]] | None = None,
    overlaps: Mapping[int | str, Overlaps] | None = None,
) -> Analysis:
    """Analyse the detections in some pictures against the truth of the same pictures; ``classes`` are the K names, by label.

    brightness: of each of the N objects of a picture, by its image_id, as ``slices.brightness_of`` measures it. overlaps: how
    the anchors of the detector lie to these objects; without it, ``reach`` is None. Raise DataError if the pictures are not the
    same, or if a label is none of the classes.
    """
    table = tabulate(detections, truths, classes)
    matches = match(table)
    kinds = kinds_of(matches)
    draws, seed = settings.draws, settings.seed
    thresholds = find_thresholds(matches, settings.want, draws=draws, seed=seed)
    score = _shown_score(matches, thresholds) if settings.score is None else settings.score
    return Analysis(
        classes=table.classes,
        AP=how_sure(matches, draws=draws, seed=seed),
        olrp=optimal_lrp(matches),
        thresholds=thresholds,
        reliability=reliability(matches),
        localisation=localisation_reliability(table),
        calibrated=calibrate(matches, method=settings.calibrate, seed=seed) if settings.calibrate else None,
        errors=errors_of(table, kinds),
        slices=slices_of(table, kinds, score=score, brightness=brightness),
        confusion=confusion(table, score=score),
        losses=losses_by_picture(matches),
        labels=find_suspects(table, sure=settings.sure),
        reach=reach_of(table, kinds, overlaps, score=score) if overlaps is not None else None,
    )


def _shown_score(matches: Matches, thresholds: Thresholds) -> float:
    """The threshold for all classes together, or that of the best F1; 0 if nothing is hit."""
    best = thresholds.overall.score.value
    if math.isnan(best):
        best = find_thresholds(matches, draws=0).overall.score.value
    return 0.0 if math.isnan(best) else best
