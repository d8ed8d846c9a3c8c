"""Which labels are probably wrong, by the three scores of ObjectLab (arXiv 2309.00832, section 3) as cleanlab 2.9.0 has them.

Shape letters: N detections, G true objects, P pictures, M pairs. A quality is 0..1: the lower it is, the more likely the label
is wrong. Similarity of two boxes: .9 IoU + .1 exp(-.1 d), where d is the distance of their centres in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from onestage.analysis.pairs import best_of, in_one_picture, neighbours
from onestage.metrics.matches import overlap
from onestage.metrics.tables import Bools, Floats, Ints, Table

Reason: TypeAlias = Literal["overlooked", "badly placed", "swapped"]
Box: TypeAlias = tuple[float, float, float, float]

PLACED: Reason = "badly placed"
REASONS: tuple[Reason, ...] = ("overlooked", PLACED, "swapped")

IOU_WEIGHT, DISTANCE_RATE = 0.9, 0.1
"""Of the IoU in the similarity, and of the distance, per pixel."""

TWICE = 0.95
"""Two objects of different classes with at least this IoU are one object that was labelled twice."""

TEMPERATURE = 0.1
"""Of the soft minimum: the lower, the more the worst label of a picture decides its quality."""

SUSPECT = 0.5
"""A label of a lower quality is listed."""


@dataclass(frozen=True)
class Suspect:
    """A label that is probably wrong, and what a detection says instead.

    image_id: its picture. overlooked: box and label are a detection's, and ``row`` is -1: there is no object. badly placed,
    swapped: they are those of the object, whose number in its picture is ``row``. suggested_box, suggested_label, score: of the
    detection. Boxes are xyxy pixels of the picture; labels are 0..K-1.
    """

    reason: Reason
    quality: float
    image_id: int | str
    row: int
    box: Box
    label: int
    suggested_box: Box
    suggested_label: int
    score: float


@dataclass(frozen=True)
class PictureQuality:
    """The quality of all labels of one picture: the geometric mean of the soft minima of its three scores."""

    image_id: int | str
    quality: float


@dataclass(frozen=True)
class Labels:
    """The labels that are probably wrong, the worst first, and the quality of each picture's labels, the worst first.

    sure: from this score on, a detection is believed against the labels. confident: how many detections have such a score.
    counts: how many labels of each reason are below SUSPECT; ``suspects`` may list fewer.
    """

    sure: float
    confident: int
    counts: dict[str, int]
    suspects: tuple[Suspect, ...]
    pictures: tuple[PictureQuality, ...]


class Scores(NamedTuple):
    """The three scores, and which detection each one is based on.

    overlooked (N,): NaN for a detection that is not sure, or that overlaps an object. placed (G,), swapped (G,): NaN for an
    object that does not count. better (G,), other (G,): the detection that a low score of placed or swapped comes from, or -1.
    """

    overlooked: Floats
    placed: Floats
    swapped: Floats
    better: Ints
    other: Ints


def label_scores(table: Table, *, sure: float = 0.95, likely: float = 0.5) -> Scores:
    """Rate all labels by the detections.

    overlooked: a detection of a score of at least ``sure`` that overlaps no object has the highest similarity with the objects
    of its class; if there are none, the least similarity of any two boxes in the data times (1 - score). placed: the highest
    similarity with detections of the class, of a score above ``likely``, that overlap the object; 1 if there are none. swapped:
    1 less the highest similarity with detections of other classes, of a score above ``sure``; the least similarity for an
    object that was labelled twice. Crowds and ignored objects are not rated, but what overlaps one is not overlooked.
    """
    found, true = table.found, table.true
    least, touching = math.inf, np.zeros(len(found), np.bool_)
    of_class, placed, other = np.full(len(found), -1.0), np.full(len(true), -1.0), np.full(len(true), -1.0)
    better, swapper, unused = np.full(len(true), -1), np.full(len(true), -1), np.full(len(found), -1)
    objects = np.flatnonzero(~true.ignore)
    for mine, theirs, iou, similar in _similarities(table, objects):
        least = min(least, float(similar.min()))
        touching[mine[iou > 0]] = True
        same, score = found.label[mine] == true.label[theirs], found.score[mine]
        best_of(mine, similar, same, best=of_class, at=unused, theirs=theirs)
        _best_for(theirs, similar, same & (score > likely) & (iou > 0), best=placed, at=better, mine=mine)
        _best_for(theirs, similar, ~same & (score > sure), best=other, at=swapper, mine=mine)
    least = least if math.isfinite(least) else 0.0
    for mine, theirs in in_one_picture(table, np.arange(len(found)), np.flatnonzero(true.ignore)):
        touching[mine[overlap(table, mine, theirs) > 0]] = True
    overlooked = np.where(of_class >= 0, of_class, least * (1 - found.score))
    overlooked[touching | (found.score < sure)] = math.nan
    placed = np.where(placed >= 0, placed, 1.0)
    swapped = np.where(_labelled_twice(table) >= 0, least, np.where(other >= 0, 1 - other, 1.0))
    placed[true.ignore] = swapped[true.ignore] = math.nan
    return Scores(overlooked, placed, swapped, better, swapper)


def find_suspects(table: Table, *, sure: float = 0.95, likely: float = 0.5, most: int = 1000) -> Labels:
    """List the labels that are probably wrong, the worst first: those below SUSPECT, and at most so many of them."""
    scores, partner = label_scores(table, sure=sure, likely=likely), _labelled_twice(table)
    every = [*_overlooked(table, scores), *_doubtful(table, scores, partner)]
    every.sort(key=lambda suspect: suspect.quality)
    counts: dict[str, int] = {reason: sum(s.reason == reason for s in every) for reason in REASONS}
    quality = picture_quality(table, scores).tolist()
    pictures = [PictureQuality(image_id, value) for image_id, value in zip(table.image_ids, quality, strict=True)]
    confident = int((table.found.score >= sure).sum())
    return Labels(sure, confident, counts, tuple(every[:most]), tuple(sorted(pictures, key=lambda p: p.quality)))


def picture_quality(table: Table, scores: Scores) -> Floats:
    """(P,) the quality of the labels of each picture; a score with nothing to rate is 1."""
    result = np.ones(len(table.image_ids))
    for score, picture in (
        (scores.overlooked, table.found.picture),
        (scores.placed, table.true.picture),
        (scores.swapped, table.true.picture),
    ):
        rated = ~np.isnan(score)
        weight = np.exp(-score[rated] / TEMPERATURE)
        total = np.bincount(picture[rated], weight, minlength=len(result))
        part = np.bincount(picture[rated], weight * score[rated], minlength=len(result))
        result *= np.divide(part, total, out=np.ones(len(result)), where=total > 0)
    return np.cbrt(result)


def _overlooked(table: Table, scores: Scores) -> Iterator[Suspect]:
    """The sure detections for which there is no object."""
    found = table.found
    for n in np.flatnonzero(scores.overlooked < SUSPECT).tolist():
        box, label = _box(found.box[n]), int(found.label[n])
        where = table.image_ids[found.picture[n]]
        quality, score = float(scores.overlooked[n]), float(found.score[n])
        yield Suspect("overlooked", quality, where, -1, box, label, box, label, score)


def _doubtful(table: Table, scores: Scores, partner: Ints) -> Iterator[Suspect]:
    """The objects that are badly placed or of a wrong class, as a detection says, or another object that is the same one."""
    true, found = table.true, table.found
    reasons: tuple[tuple[Reason, Floats, Ints], ...] = (
        ("badly placed", scores.placed, scores.better),
        ("swapped", scores.swapped, scores.other),
    )
    for reason, quality, detection in reasons:
        for g in np.flatnonzero(quality < SUSPECT).tolist():
            box, label = _box(true.box[g]), int(true.label[g])
            what = (reason, float(quality[g]), table.image_ids[true.picture[g]], int(true.row[g]), box, label)
            if reason == "swapped" and (other := int(partner[g])) >= 0:
                yield Suspect(
                    *what, suggested_box=_box(true.box[other]), suggested_label=int(true.label[other]), score=math.nan
                )
            else:
                n = int(detection[g])
                yield Suspect(
                    *what,
                    suggested_box=_box(found.box[n]),
                    suggested_label=int(found.label[n]),
                    score=float(found.score[n]),
                )


def _box(row: Floats) -> Box:
    x1, y1, x2, y2 = row.tolist()
    return x1, y1, x2, y2


def _similarities(table: Table, objects: Ints) -> Iterator[tuple[Ints, Ints, Floats, Floats]]:
    """Yield pairs of a detection and an object of a picture (M,), (M,), their IoU (M,) and their similarity (M,), in blocks."""
    centres = [(rows.box[:, :2] + rows.box[:, 2:]) / 2 for rows in (table.found, table.true)]
    for mine, theirs in in_one_picture(table, np.arange(len(table.found)), objects):
        iou = overlap(table, mine, theirs)
        distance = np.hypot(*(centres[0][mine] - centres[1][theirs]).T)
        yield mine, theirs, iou, IOU_WEIGHT * iou + (1 - IOU_WEIGHT) * np.exp(-DISTANCE_RATE * distance)


def _best_for(theirs: Ints, value: Floats, allowed: Bools, *, best: Floats, at: Ints, mine: Ints) -> None:
    """As ``best_of``, for objects: write the highest allowed value of each into ``best`` (G,), its detection into ``at``."""
    rows = np.flatnonzero(allowed)
    rows = rows[np.lexsort((mine[rows], -value[rows], theirs[rows]))]
    rows = rows[np.flatnonzero(np.diff(theirs[rows], prepend=-1))]
    rows = rows[value[rows] > best[theirs[rows]]]  # another block may have had a better one
    best[theirs[rows]], at[theirs[rows]] = value[rows], mine[rows]


def _labelled_twice(table: Table) -> Ints:
    """(G,) for each object that counts, one of another class that is the same one, or -1."""
    objects = np.flatnonzero(~table.true.ignore)
    partner = np.full(len(table.true), -1)
    for mine, theirs, iou in neighbours(table, objects, table.true.picture[objects]):
        twice = (iou >= TWICE) & (table.true.label[mine] != table.true.label[theirs])
        partner[mine[twice]] = theirs[twice]
    return partner
