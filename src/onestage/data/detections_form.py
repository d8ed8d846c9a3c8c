"""The form of boxes and scores in files of detections, as their numbers tell.

Policy:
- COCO's results and JSON lines state their form: pixels. Boxes that look like another form are an error, as for labels.
- In CSV and plain text, boxes that all lie within 0-1 and are not whole are parts of their pictures.
- In plain text nothing states the form. The score is the first number, or the last, and the box is two corners, left, top,
  width and height, or the centre, width and height. That form counts in which the boxes lie within their pictures, by nine
  tenths of their area on average; two corners count before others, because few other boxes happen to be two corners. Of
  several forms that count, one has to have at most a third of the others' bad boxes; if none has, it is an error.
- Scores that reach beyond 1, and lie from 0 to 100, are per cent if at least a quarter of them does.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data.box_forms import CENTRE, CORNERS, MISTAKEN, SIDES, Checks, checked, other_form
from onestage.data.detections_rows import Rows
from onestage.data.table import WHOLE, in_parts
from onestage.errors import DataError

SAMPLED = 100_000
"""Rows that tell the form; more are not looked at."""
AT_LEAST = 0.9
"""The share of the boxes that lies within the pictures in the form that counts, and of the scores that lie within 0-1."""
CLEARLY = 3
"""So many times as many bad boxes as the best form a worse one has, and ``MISTAKEN`` at least."""
ROUNDING = 1e-6
"""By so much a score may leave 0-1."""

_FORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    CORNERS: torch.clone,
    SIDES: box_ops.from_xywh,
    CENTRE: box_ops.from_cxcywh,
}
_STATED = {"coco": SIDES, "coco set": SIDES, "jsonl": CORNERS, "csv": CORNERS, "batch": CORNERS}
_SCORE_LAST, _SCORE_FIRST = (0, 1, 2, 3, 4), (1, 2, 3, 4, 0)


class Columns(NamedTuple):
    """boxes (N, 4) float64 xyxy pixels; scores (N,) float64; notes: how they were understood."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    notes: tuple[str, ...]


def understood(rows: Rows, picture: NDArray[np.int64], sizes: Tensor) -> Columns:
    """The boxes and scores of a file. picture (N,): the row of each one's picture, negative for none. sizes (P, 2): height and
    width of the pictures.

    Raise DataError if the form is not the stated one, or if nothing tells it.
    """
    numbers, scores = torch.from_numpy(rows.boxes()), rows.scores()
    known = np.flatnonzero((picture >= 0) & np.isfinite(rows.boxes()).all(axis=1))
    some = torch.from_numpy(known[:: max(1, len(known) // SAMPLED)])
    limits = _limits(sizes, torch.from_numpy(picture)[some])
    notes: list[str] = []
    form = _STATED.get(rows.kind)
    if form is None:
        order, form = _told(numbers[some], limits, file=rows.file)
        numbers, scores = numbers[:, list(order[:4])], numbers[:, order[4]].numpy()
        notes.append(f"the {'first' if order == _SCORE_FIRST else 'last'} number is the score, and the others are {form}")
    relative = len(some) > 0 and _is_relative(numbers[some])
    if relative and rows.kind not in ("csv", "text"):
        what = "all boxes lie within 0-1, as parts of the picture; this format has them in pixels"
        fix = "multiply x and widths by the picture's width, y and heights by its height"
        raise DataError(what, where=rows.file, got=_shown(numbers[some[0]]), fix=fix)
    if relative:
        numbers = numbers * _limits(sizes, torch.from_numpy(picture.clip(0)))
    if rows.kind != "text":
        _check_form(numbers[some], limits, form, file=rows.file)
    scores, note = _fractions(scores)
    return Columns(_FORMS[form](numbers).numpy(), scores, (*notes, *note))


def _limits(sizes: Tensor, picture: Tensor) -> Tensor:
    """(N, 4): width and height of the pictures (N,), twice."""
    return sizes[picture][:, [1, 0, 1, 0]]


def _check_form(boxes: Tensor, limits: Tensor, form: str, *, file: Path) -> None:
    """Raise DataError if boxes (N, 4), in pixels, look like another form than their file states."""
    if found := other_form(boxes, limits, torch.full((len(boxes),), torch.nan, dtype=torch.float64), _FORMS[form]):
        what = f"these boxes look like {found.written}; this format has {found.meant}"
        raise DataError(what, where=file, got=_shown(boxes[found.first]), expected=found.meant, fix=found.fix)


def _is_relative(boxes: Tensor) -> bool:
    """Whether boxes (N, 4) are parts of their pictures, 0-1: none reaches beyond 1.5, and most within 0-1 are not whole."""
    return bool((boxes.abs() <= WHOLE).all()) and int(in_parts(boxes).sum()) * 2 > len(boxes)


def _told(rows: Tensor, limits: Tensor, *, file: Path) -> _Way:
    """Where the box and the score stand in rows (N, 5), and the form of the box. Raise DataError if that is unclear."""
    fits = _fitting(rows, limits)
    best = {way: bad for way, bad in fits.items() if way.form == CORNERS} or fits
    most = max(MISTAKEN, CLEARLY * min(best.values(), default=0))
    rivals = sorted((way for way, bad in best.items() if bad < most), key=lambda way: best[way])
    if len(rivals) == 1 or (rivals and not len(rows)):
        return rivals[0]
    what, got = "nothing tells which numbers of a line are the box, and in which form", _shown(rows[0])
    if rivals:
        what, got = "these lines can be read in several ways", "; ".join(map(str, rivals))
    fix = "write COCO's results, CSV with a header, or lines of name, score, left, top, right, bottom in pixels"
    raise DataError(what, where=file, got=got, fix=fix)


class _Way(NamedTuple):
    """How five numbers are read. order: the places of the box's four numbers and of the score. form: of the box."""

    order: tuple[int, ...]
    form: str

    def __str__(self) -> str:
        return f"score, {self.form}" if self.order == _SCORE_FIRST else f"{self.form}, score"


def _fitting(rows: Tensor, limits: Tensor) -> dict[_Way, int]:
    """The ways in which rows (N, 5) make sense, each with the number of bad boxes. limits (N, 4): see ``_limits``."""
    fits: dict[_Way, int] = {}
    for order in (_SCORE_FIRST, _SCORE_LAST):
        boxes, scores = rows[:, list(order[:4])], rows[:, order[4]]
        if len(rows) and float(((scores >= 0) & (scores <= 1)).double().mean()) < AT_LEAST:
            continue
        pixels = boxes * limits if _is_relative(boxes) else boxes
        for name, form in _FORMS.items():
            checks = checked(form(pixels), limits)
            if _within(checks) >= AT_LEAST:
                fits[_Way(order, name)] = int((~checks.good).sum())
    return fits


def _within(checks: Checks) -> float:
    """How much of N boxes lies within their pictures: the mean share of their areas, where a box of no area counts 0. 1 if
    there are no boxes.
    """
    inside = torch.where(checks.solid, box_ops.area(checks.boxes.double()) / box_ops.area(checks.given), 0.0)
    return float(inside.mean()) if len(inside) else 1.0


def _fractions(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Scores (N,) as fractions of 1, those that rounding took outside 0-1 cut to it, and a note if they were per cent."""
    finite = scores[np.isfinite(scores)]
    above = int((finite > 1 + ROUNDING).sum())
    note: tuple[str, ...] = ()
    if above >= MISTAKEN and 4 * above >= len(finite) and finite.min() >= 0 and finite.max() <= 100:
        scores, note = scores / 100, (f"the scores reach {finite.max():g}: they are taken for per cent, and divided by 100",)
    near = (scores >= -ROUNDING) & (scores <= 1 + ROUNDING)
    return np.where(near, scores.clip(0, 1), scores), note


def _shown(numbers: Tensor) -> str:
    """The numbers of a row, for a message."""
    return ", ".join(f"{number:g}" for number in numbers.tolist())
