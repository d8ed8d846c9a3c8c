"""Detections and truths of the same pictures, side by side: what every metric starts from.

Shape letters: K classes, N labels of one picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from torch import Tensor

from onestage.errors import DataError
from onestage.structures import Detections, Truth

Item = TypeVar("Item", Detections, Truth)


class Pair(NamedTuple):
    """The detections in one picture, and its labels."""

    found: Detections
    truth: Truth


def pair_up(detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str]) -> list[Pair]:
    """Join detections and truths by image_id, in ascending order: first the numbers, then the names.

    The order is always the same. It settles detections of equal score, so no metric depends on how the pictures were read.
    Raise DataError if the two are not of exactly the same pictures, or if a label is not one of the K ``classes``.
    """
    found = _by_id("detections", [_on_cpu(d) for d in detections])
    known = _by_id("truths", truths)
    if found.keys() != known.keys():
        only_found, only_known = _name(found.keys() - known.keys()), _name(known.keys() - found.keys())
        raise DataError(
            "the detections and the truths are not of the same pictures",
            got=f"only in the detections: {only_found}; only in the truths: {only_known}",
            expected="the same image ids in both; a picture without detections has an empty entry",
        )
    pairs = [Pair(found[i], known[i]) for i in sorted(found, key=lambda i: (isinstance(i, str), i))]
    for pair in pairs:
        _check_labels("detections", pair.found.image_id, pair.found.labels, len(classes))
        _check_labels("truth", pair.truth.image_id, pair.truth.labels, len(classes))
    return pairs


def _by_id(what: str, items: Sequence[Item]) -> dict[int | str, Item]:
    """The items by their picture. Raise DataError if a picture has two."""
    counts = Counter(item.image_id for item in items)
    if repeated := [image_id for image_id, count in counts.items() if count > 1]:
        fix = "give each picture one entry, with one id"
        raise DataError(f"some pictures have {what} twice", got=_name(repeated), fix=fix)
    return {item.image_id: item for item in items}


def _on_cpu(found: Detections) -> Detections:
    return replace(found, boxes=found.boxes.cpu(), scores=found.scores.cpu(), labels=found.labels.cpu())


def _name(ids: Iterable[int | str]) -> str:
    """Ten of the ids, and how many more there are."""
    names = sorted(map(repr, ids))
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) or "none") + more


def _check_labels(what: str, image_id: int | str, labels: Tensor, classes: int) -> None:
    """Raise DataError unless the labels (N,) lie in 0..classes - 1."""
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise DataError(
            f"the {what} of picture {image_id!r} carry a label that is none of the classes",
            got=f"labels from {int(labels.min())} to {int(labels.max())}",
            expected=f"0 to {classes - 1}, for {classes} classes",
            fix="evaluate with the class list that the model was trained on",
        )
