"""Boxes in another form, or another unit, than their format has, as their numbers tell.

Policy:
- Boxes have another form if at least ``MISTAKEN`` of them, and a quarter of all, are impossible in the format, and nine of ten
  are good in the other form. A stated area that fits the other form alone is as good as an impossible box.
- Two corners explain more than the other forms, because few other boxes happen to be two corners. Where both left, top and the
  centre fit, both are named.
- An area is at most that of its box. If most areas are larger, the boxes are not in the pixels in which the areas are.

Shape letters: M objects of the whole set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from onestage import boxes as box_ops

MISTAKEN = 3
"""Boxes that are impossible in a format, and not in another one: fewer are slips, and say nothing of the rest."""

SLACK = 2.0
"""Pixels by which a box may leave its picture: counting from 1 instead of 0 costs one, rounding up another."""

_QUARTER, _MOST, _NEARLY_ALL = 0.25, 0.5, 0.9
"""Shares of all boxes."""

_NEAR = 0.02
"""The share of an area by which another one may differ and still be the same, rounded."""

CORNERS, SIDES, CENTRE = "left, top, right, bottom", "left, top, width, height", "centre x, centre y, width, height"
_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    CORNERS: torch.clone,
    SIDES: box_ops.from_xywh,
    CENTRE: box_ops.from_cxcywh,
}
_CHANGES = {
    (CORNERS, SIDES): "write right - left and bottom - top as the last two numbers",
    (CENTRE, SIDES): "write centre x - width / 2 and centre y - height / 2 as the first two numbers",
    (SIDES, CORNERS): "write left + width and top + height as the last two numbers",
    (CENTRE, CORNERS): "write centre x - width / 2, centre y - height / 2, centre x + width / 2, centre y + height / 2",
    (CORNERS, CENTRE): "write (left + right) / 2, (top + bottom) / 2, right - left, bottom - top",
    (SIDES, CENTRE): "write left + width / 2 and top + height / 2 as the first two numbers",
}
"""What to do about boxes of the first form in a format with the second one."""


class Checks(NamedTuple):
    """given (M, 4) float64: the boxes in pixels. boxes (M, 4) float32: cut to their pictures. (M,) bool each: finite numbers,
    solid (a positive size), within the picture.
    """

    given: Tensor
    boxes: Tensor
    finite: Tensor
    solid: Tensor
    within: Tensor

    @property
    def good(self) -> Tensor:
        """(M,) bool: nothing is wrong with the box."""
        return self.finite & self.solid & self.within


def checked(boxes: Tensor, limits: Tensor) -> Checks:
    """What is right with boxes (M, 4), in pixels of pictures whose width and height are ``limits`` (M, 4), twice."""
    cut = box_ops.clip(boxes, limits[:, [1, 0]].double()).float()
    finite = boxes.isfinite().all(dim=1)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    within = ((boxes >= -SLACK) & (boxes <= limits + SLACK)).all(dim=1) & (cut[:, 2:] > cut[:, :2]).all(dim=1)
    return Checks(boxes, cut, finite, solid, within)


class OtherForm(NamedTuple):
    """What boxes look like. written: the form, or two. meant: that of the format. first: a box that shows it. more: how many
    others there are. fix: what to do.
    """

    written: str
    meant: str
    first: int
    more: int
    fix: str


def other_form(numbers: Tensor, limits: Tensor, area: Tensor, to_xyxy: Callable[[Tensor], Tensor]) -> OtherForm | None:
    """The form of boxes that have another one than their format; None if their numbers do not tell.

    numbers (M, 4): as the file has them, in pixels. limits (M, 4): width and height of the pictures, twice. area (M,): as
    stated, or nan. to_xyxy: what the format means by the numbers.
    """
    meant = next((name for name, form in _FORMS.items() if form is to_xyxy), None)
    if meant is None or not len(numbers):
        return None
    now = checked(to_xyxy(numbers), limits)
    impossible = (numbers[:, 2:] < numbers[:, :2]).any(dim=1) if meant == CORNERS else ~now.within
    found: dict[str, list[int]] = {}
    for name, form in _FORMS.items():
        then = checked(form(numbers), limits)
        stated = _same(area, then.given) & ~_same(area, now.given)
        wrong = ((impossible | stated) & now.finite).nonzero().flatten().tolist()
        many = len(wrong) >= max(MISTAKEN, _QUARTER * len(numbers))
        if name != meant and many and int(then.good.sum()) >= _NEARLY_ALL * len(numbers):
            found[name] = wrong
    names = [CORNERS] if CORNERS in found else [*found]
    if not names:
        return None
    fix = " or, for centres, ".join(_CHANGES[name, meant] for name in names)
    wrong = found[names[0]]
    return OtherForm(", or ".join(names), meant, wrong[0], len(wrong) - 1, fix)


def too_large(boxes: Tensor, area: Tensor) -> list[int]:
    """The boxes (M, 4), xyxy, that are smaller than their stated area (M,), if they are most; none otherwise. An area that is
    not stated is nan.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    larger = (area > (1 + _NEAR) * (width + SLACK) * (height + SLACK)) & (width > 0) & (height > 0)
    found = larger.nonzero().flatten().tolist()
    return found if len(found) >= max(MISTAKEN, _MOST * len(boxes)) else []


def are_per_cent(boxes: Tensor, area: Tensor, limits: Tensor) -> bool:
    """Whether boxes (M, 4) are in per cent of pictures with the sides ``limits`` (M, 4): so their areas (M,) tell."""
    same = _same(area, boxes * limits / 100)
    return int(same.sum()) >= _NEARLY_ALL * len(boxes)


def _same(area: Tensor, boxes: Tensor) -> Tensor:
    """(M,) bool: an area (M,) is that of its box (M, 4), xyxy. False if it is nan."""
    of_box = box_ops.area(boxes)
    return (area - of_box).abs() <= _NEAR * of_box
