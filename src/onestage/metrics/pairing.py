"""Detections and truths of the same pictures, side by side: what every metric starts from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from onestage.errors import DataError
from onestage.structures import Detections, Truth


class Pair(NamedTuple):
    """What was found in one picture, and what is known of it."""

    found: Detections
    truth: Truth


def pair_up(detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str]) -> list[Pair]:
    """Detections and truths joined by image_id, numbers before names and each ascending, whatever order they came in.

    The fixed order settles detections of equal score, so that no metric depends on how the pictures were read.
    Raises DataError when the two are not of exactly the same pictures, or a label is not one of the K ``classes``.
    """
    found = {d.image_id: _on_cpu(d) for d in detections}
    known = {t.image_id: t for t in truths}
    for what, unique, given in (("detections", found, detections), ("truths", known, truths)):
        if len(unique) != len(given):
            ids = [item.image_id for item in given]
            repeated = {i for i in ids if ids.count(i) > 1}
            raise DataError(
                f"some pictures have {what} twice", got=_name(repeated), fix="give each picture one entry, with one id"
            )
    if found.keys() != known.keys():
        raise DataError(
            "the detections and the truths are not of the same pictures",
            got=f"only in the detections: {_name(found.keys() - known.keys())}; "
            f"only in the truths: {_name(known.keys() - found.keys())}",
            expected="the same image ids in both; a picture without detections has an empty entry",
        )
    pairs = [Pair(found[i], known[i]) for i in sorted(found, key=lambda i: (isinstance(i, str), i))]
    for pair in pairs:
        _check_labels("detections", pair.found.image_id, pair.found.labels, len(classes))
        _check_labels("truth", pair.truth.image_id, pair.truth.labels, len(classes))
    return pairs


def _on_cpu(found: Detections) -> Detections:
    return replace(found, boxes=found.boxes.cpu(), scores=found.scores.cpu(), labels=found.labels.cpu())


def _name(ids: Iterable[Hashable]) -> str:
    """Ten of the ids and the count of the others."""
    names = sorted(repr(i) for i in ids)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) or "none") + more


def _check_labels(what: str, image_id: int | str, labels: Tensor, count: int) -> None:
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= count):
        raise DataError(
            f"the {what} of picture {image_id!r} carry a label that is none of the classes",
            got=f"labels from {int(labels.min())} to {int(labels.max())}",
            expected=f"0 to {count - 1}, for {count} classes",
            fix="evaluate with the class list that the model was trained on",
        )
