"""Pairs of rows that belong together, such as each detection with each object of its picture, in blocks of bounded size.

Shape letters: N left rows, G right rows, M pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from onestage import boxes as box_ops
from onestage.metrics.matches import overlap
from onestage.metrics.tables import Bools, Floats, Ints, Table

BLOCK = 1 << 20
"""About so many pairs are held at a time."""


def pairs(left: Ints, right: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield the numbers (M,), (M,) of all pairs of a left row and a right row of the same group, about BLOCK at a time.

    left (N,), right (G,): the group of each row. All pairs of one left row come together, its right rows in ascending order.
    """
    order = np.argsort(right, kind="stable")
    ascending = right[order]
    first, stop = np.searchsorted(ascending, left, "left"), np.searchsorted(ascending, left, "right")
    rows = np.flatnonzero(stop > first)
    if not len(rows):
        return
    rows = rows[np.argsort(left[rows], kind="stable")]  # those of one picture together: its boxes stay in the cache
    count = (stop - first)[rows]
    cuts = np.flatnonzero(np.diff(np.cumsum(count) // BLOCK)) + 1
    for part, counts in zip(np.split(rows, cuts), np.split(count, cuts), strict=True):
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        yield np.repeat(part, counts), order[np.repeat(first[part], counts) + place]


def best_of(mine: Ints, value: Floats, allowed: Bools, *, best: Floats, at: Ints, theirs: Ints) -> None:
    """Write the highest allowed value of each left row into ``best`` (N,), and the right row that has it into ``at`` (N,).

    mine, theirs (M,): pairs as ``pairs`` yields them, with a value (M,) each. Of equal values the first right row counts.
    """
    rows = np.flatnonzero(allowed)
    if not len(rows):
        return
    mine, value, theirs = mine[rows], value[rows], theirs[rows]
    head = np.flatnonzero(np.diff(mine, prepend=-1))
    highest = np.maximum.reduceat(value, head)
    best[mine[head]] = highest
    equal = np.flatnonzero(value == np.repeat(highest, np.diff(head, append=len(mine))))[::-1]
    at[mine[equal]] = theirs[equal]  # the first of equal ones is written last


def in_one_picture(table: Table, found: Ints, true: Ints, *, same_class: bool = False) -> Iterator[tuple[Ints, Ints]]:
    """Yield the pairs (M,), (M,) of chosen detections and objects, rows of the table, that are in one picture, in blocks."""
    groups = table.found.picture[found], table.true.picture[true]
    if same_class:
        classes = len(table.classes)
        groups = groups[0] * classes + table.found.label[found], groups[1] * classes + table.true.label[true]
    for mine, theirs in pairs(*groups):
        yield found[mine], true[theirs]


def overlapping(table: Table, found: Ints, true: Ints, least: float, *, same_class: bool = False) -> tuple[Ints, Ints, Floats]:
    """The pairs (M,), (M,) of ``in_one_picture`` whose overlap (M,), as ``overlap`` has it, is at least that."""
    parts: list[tuple[Ints, Ints, Floats]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for mine, theirs in in_one_picture(table, found, true, same_class=same_class):
        value = overlap(table, mine, theirs)
        near = value >= least
        parts.append((mine[near], theirs[near], value[near]))
    mine, theirs, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return mine, theirs, value


def neighbours(table: Table, objects: Ints, group: Ints) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Yield the pairs (M,), (M,) of two different ones of the chosen objects that are of one group, and their IoU (M,).

    objects (N,): rows of the table; group (N,). All pairs of one object come together, and each pair comes twice.
    """
    boxes = torch.from_numpy(table.true.box)
    for mine, theirs in pairs(group, group):
        different = mine != theirs
        mine, theirs = objects[mine[different]], objects[theirs[different]]
        yield mine, theirs, box_ops.paired_iou(boxes[mine], boxes[theirs]).numpy()


def one_to_one(mine: Ints, theirs: Ints) -> Ints:
    """The numbers of the pairs (M,), (M,) that are kept, if each in turn is taken unless a taken one has one of its rows."""
    kept, used_mine, used_theirs = [], set(), set()
    for i, (m, t) in enumerate(zip(mine.tolist(), theirs.tolist(), strict=True)):
        if m not in used_mine and t not in used_theirs:
            kept.append(i)
            used_mine.add(m)
            used_theirs.add(t)
    return np.array(kept, np.int64)
