"""The pictures that cost most AP, drawn: hits, missed objects and false alarms differ in colour and in the style of the line.

Shape letters: D detections, N true objects of one picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from onestage.analysis.analysis import Analysis
from onestage.analysis.errors import PictureErrors
from onestage.analysis.losses import PictureLoss
from onestage.draw import Stroke, draw_strokes
from onestage.errors import DataError, counted
from onestage.images import decode_image
from onestage.metrics.report_files import as_jpeg
from onestage.metrics.wording import figure
from onestage.structures import Detections, Truth

HIT, MISSED, FALSE = Stroke((47, 155, 255)), Stroke((255, 196, 0), (5, 3)), Stroke((255, 60, 130), (2, 2))
"""The line around a hit (solid), a missed object (dashed) and a false alarm (dotted), told apart by colour-blind people too."""
SIDE = 480
"""Pixels of the longer side of a picture on the page."""
MOST = 24
"""So many pictures are drawn at most."""
BUDGET = 4_000_000
"""Bytes that the drawn pictures may take together; on a page they take a third more."""


class Outcome(NamedTuple):
    """What came of one picture at a score: the rows of its Detections that are hits and false alarms, and of its Truth that are
    missed.
    """

    hits: list[int]
    false: list[int]
    missed: list[int]


@dataclass(frozen=True)
class Drawn:
    """A picture for the page: its caption, what it shows in words, and the drawing as a JPEG."""

    caption: str
    words: str
    jpeg: bytes


def outcome_of(picture: PictureErrors, found: Detections, score: float) -> Outcome:
    """Tell hits and false alarms among the detections of at least that score, and the objects that none of them hits.

    Detections that have no part in AP, and objects that do not count, are none of these.
    """
    shown = [row for row, value in enumerate(found.scores.tolist()) if value >= score]
    hits = [row for row in shown if picture.found[row] == "T"]
    false = [row for row in shown if picture.found[row] in "CLODB"]
    taken = {picture.targets[row] for row in hits}
    return Outcome(hits, false, [row for row, letter in enumerate(picture.true) if letter != "i" and row not in taken])


def worst_pictures(
    analysis: Analysis, pairs: Iterable[tuple[Detections, Truth]], *, most: int = MOST, budget: int = BUDGET
) -> Iterator[Drawn]:
    """Yield the pictures that cost most, the worst first, as long as their JPEGs fit into ``budget`` bytes.

    pairs: of the pictures that can be read; one that cannot is passed over.
    """
    by_id = {found.image_id: (found, truth) for found, truth in pairs}
    letters = {picture.image_id: picture for picture in analysis.errors.pictures} if analysis.errors else {}
    score, number = analysis.slices.score if analysis.slices else 0.0, 0
    for loss in analysis.losses or ():
        if number == most or loss.lost <= 0:
            return
        if loss.image_id not in by_id or loss.image_id not in letters:
            continue
        found, truth = by_id[loss.image_id]
        outcome = outcome_of(letters[loss.image_id], found, score)
        try:
            picture = draw_outcome(found, truth, outcome, names=analysis.classes)
        except DataError:
            continue
        jpeg = as_jpeg(picture, side=SIDE)
        budget -= len(jpeg)
        if budget < 0:
            return
        number += 1
        yield Drawn(Path(truth.path).name or str(loss.image_id), _words(outcome, loss), jpeg)


def draw_outcome(found: Detections, truth: Truth, outcome: Outcome, *, names: Sequence[str]) -> Image.Image:
    """The picture with the boxes of its outcome. Missed objects have their class, detections their class and score.

    Raise DataError if the picture cannot be read.
    """
    rows, missed = [*outcome.false, *outcome.hits], outcome.missed
    boxes = torch.cat([truth.boxes[missed].float().cpu(), found.boxes[rows].float().cpu()])
    labels, scores = found.labels.tolist(), found.scores.tolist()
    captions = [names[label] for label in truth.labels[missed].tolist()]
    captions += [f"{names[labels[row]]} {scores[row]:.2f}" for row in outcome.false]
    captions += [""] * len(outcome.hits)
    strokes = [MISSED] * len(missed) + [FALSE] * len(outcome.false) + [HIT] * len(outcome.hits)
    return draw_strokes(decode_image(truth.path), boxes, strokes=strokes, captions=captions, side=SIDE)


def _words(outcome: Outcome, loss: PictureLoss) -> str:
    """The counts of an outcome, and the AP that the picture costs."""
    objects = len(outcome.hits) + len(outcome.missed)
    alarms = counted(len(outcome.false), "false alarm")
    return f"{len(outcome.hits):,} of {counted(objects, 'object')} found, {alarms}; it costs {figure(loss.lost)} AP"
