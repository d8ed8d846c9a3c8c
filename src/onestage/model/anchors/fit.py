"""Anchor shapes that fit the objects of a data set: a start by k-means, differential evolution, and a pattern search.

Shape letters: N objects, L levels, S anchor shapes of a level, Q shapes of all levels, R rows of numbers to choose, P members
of a population, T trials, ... any dimensions. Shapes and distances are input pixels. A row holds the logarithms of a width and
a height.

The number of shapes per level stays, and so do the cells of the levels: the tensors of a head fit as before. The same objects
in any order give the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.reach import REACHED, overlaps

SOFTNESS = 0.05
"""The measure of an object rises around an IoU of 0.5 over about that much, so that a small change of a shape counts too."""
MOST_OBJECTS, MOST_IN_EVOLUTION = 3000, 1500
"""Of more objects, so many are drawn: for the search, and for the evolution before it."""
ROUNDS, MEMBERS = 30, 16
"""Of the evolution."""
SPREAD, MIXED = 0.15, 0.3
"""How far the first members lie apart, in logarithms of pixels; and the part of its rows that a trial takes from its mutant."""
STEPS, SWEEPS = (0.2, 0.1, 0.05, 0.025, 0.0125), 6
"""Of the pattern search, in logarithms of pixels; and how often each step is tried on all rows at most."""
SMALLER, LARGER = 4.0, 2.0
"""How far shapes may leave the sizes of their level: its map sees neither much finer nor much farther than it was made for."""
NEGLIGIBLE = 2e-4
"""A row that adds less to the measure goes back to its usual numbers."""
COMPASS = ((0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Where the pattern search looks; it stays unless it finds better."""


@dataclass(frozen=True, eq=False)
class Objects:
    """What anchors are fitted to.

    extents (N, 2): width and height. apart (N, L, 2): from the nearest cell of each level, across and down. weights (N,): how
    much each object counts; the sum is 1.
    """

    extents: Tensor
    apart: Tensor
    weights: Tensor

    @classmethod
    def of(cls, extents: Tensor, apart: Tensor, labels: Tensor) -> Objects:
        """Sort the objects, so that their order does not matter, and weight them: a class counts as the square root of the
        number of its objects, between by object and by class. labels (N,).
        """
        table = torch.cat([labels[:, None].double(), extents.double(), apart.flatten(1).double()], dim=1)
        order = torch.from_numpy(np.lexsort(table.numpy().T[::-1]))
        _, number, count = labels[order].unique(return_inverse=True, return_counts=True)
        weights = count[number].double().rsqrt()
        return cls(extents[order], apart[order], weights / weights.sum())

    def drawn(self, most: int, generator: torch.Generator) -> Objects:
        """At most that many objects, drawn in proportion to their weights. Then all count the same."""
        if len(self.weights) <= most:
            return self
        rows = torch.multinomial(self.weights, most, generator=generator).sort().values
        return Objects(self.extents[rows], self.apart[rows], self.weights.new_full((most,), 1 / most))

    def measure(self, best: Tensor) -> Tensor:
        """How well objects are reached, (...) 0..1: the share with an IoU of 0.5 or more, with a soft step.

        best (N, ...): the largest IoU of each object with an anchor.
        """
        weights = self.weights.view(-1, *[1] * (best.ndim - 1))
        return (((best - REACHED) / SOFTNESS).sigmoid() * weights).cumsum(0)[-1]  # in one order, whatever the threads


@dataclass(frozen=True, eq=False)
class Slots:
    """Which rows make which shapes. level (Q,): the level of a shape. unit (Q,): the logarithm of the pixels that its row is
    relative to. row (Q,): the row that it takes. group (R,): rows of one group are alternatives.
    """

    level: Tensor
    unit: Tensor
    row: Tensor
    group: Tensor

    @classmethod
    def of(cls, levels: Sequence[AnchorLevel], *, shared: bool) -> Slots:
        """Each level has its rows; or all levels share theirs, relative to the mean size of each level's shapes."""
        counts = torch.tensor([len(level.shapes) for level in levels])
        level = torch.repeat_interleave(counts)
        if not shared:
            return cls(level, torch.zeros(len(level)).double(), torch.arange(len(level)), level)
        means = torch.stack([logarithms([one]).mean() for one in levels])
        first = int(counts[0])
        return cls(level, means[level], torch.arange(first).repeat(len(levels)), torch.zeros(first, dtype=torch.int64))

    def rows(self, levels: Sequence[AnchorLevel]) -> Tensor:
        """(R, 2): the rows that make the shapes of these levels; the mean over levels that share them."""
        total = torch.zeros(len(self.group), 2).double().index_add(0, self.row, logarithms(levels) - self.unit[:, None])
        return total / torch.bincount(self.row)[:, None]

    def shapes(self, rows: Tensor) -> tuple[Tensor, ...]:
        """(R, 2) -> (S, 2) for each level, pixels."""
        shapes = (rows[self.row] + self.unit[:, None]).exp()
        return tuple(shapes[self.level == level] for level in self.level.unique())

    def reach(self, row: int, trials: Tensor, objects: Objects) -> Tensor:
        """trials (T, 2) for one row -> (N, T): the largest IoU of each object with a shape that the row makes."""
        shapes = (self.row == row).nonzero()[:, 0]
        parts = [
            overlaps(objects.extents, objects.apart[:, self.level[q]], (trials + self.unit[q]).exp()) for q in shapes.tolist()
        ]
        return torch.stack(parts).amax(0)

    def bounds(self, usual: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest values of every row, (R, 1) each. usual (R, 2)."""
        size = usual.mean(1)
        low = torch.stack([size[self.group == g].min() for g in self.group]) - math.log(SMALLER)
        high = torch.stack([size[self.group == g].max() for g in self.group]) + math.log(LARGER)
        return low.minimum(usual.amin(1))[:, None], high.maximum(usual.amax(1))[:, None]


def logarithms(levels: Sequence[AnchorLevel]) -> Tensor:
    """(Q, 2): the logarithms of the widths and heights of all shapes."""
    return torch.tensor([shape for level in levels for shape in level.shapes], dtype=torch.float64).log()


def measure(shapes: Sequence[Tensor], objects: Objects) -> Tensor:
    """How well anchors reach the objects, () 0..1. shapes: (S, 2) of each level."""
    parts = [overlaps(objects.extents, objects.apart[:, i], level).amax(1) for i, level in enumerate(shapes)]
    return objects.measure(torch.stack(parts).amax(0))


def measure_levels(levels: Sequence[AnchorLevel], objects: Objects) -> float:
    """How well the anchors of these levels reach the objects, 0..1."""
    return float(measure([torch.tensor(level.shapes, dtype=torch.float64) for level in levels], objects))


def fit(
    levels: Sequence[AnchorLevel], objects: Objects, *, shared: bool, seed: int = 0, advance: Callable[[int], object] = int
) -> tuple[AnchorLevel, ...]:
    """The levels with shapes that reach the objects better; as they are if none were found.

    shared: all levels have the same shapes in units of their size, because they share a head. advance: is called with 1 after
    each of the ROUNDS of the evolution.
    """
    generator = torch.Generator().manual_seed(seed)
    objects_all, objects = objects, objects.drawn(MOST_OBJECTS, generator)
    slots = Slots.of(levels, shared=shared)
    usual = slots.rows(levels)
    bounds = slots.bounds(usual)
    few = objects.drawn(MOST_IN_EVOLUTION, generator)
    start = torch.stack([usual, kmeans(slots, usual, few, generator)]).clamp(*bounds)
    rows = evolved(start, slots, few, bounds, generator=generator, advance=advance)
    rows = searched(rows, slots, objects, bounds)
    rows = without_idle(in_slots(rows, usual, slots.group), usual, slots, objects)
    fitted = tuple(with_shapes(level, shapes) for level, shapes in zip(levels, slots.shapes(rows), strict=True))
    return fitted if measure_levels(fitted, objects_all) > measure_levels(levels, objects_all) else tuple(levels)


def with_shapes(level: AnchorLevel, shapes: Tensor) -> AnchorLevel:
    """The level with these shapes (S, 2), in hundredths of a pixel."""
    return replace(level, shapes=tuple((round(w, 2), round(h, 2)) for w, h in shapes.tolist()))


def kmeans(slots: Slots, usual: Tensor, objects: Objects, generator: torch.Generator, *, rounds: int = 20) -> Tensor:
    """(R, 2): the medians of clusters of objects by 1 - IoU (YOLO9000, arXiv 1612.08242, section 2). usual (R, 2).

    An object belongs to the level with the shape that it overlaps most, both centred. A group with fewer objects than rows
    keeps its rows.
    """
    alike = [overlaps(objects.extents, torch.zeros_like(objects.extents), shapes).amax(1) for shapes in slots.shapes(usual)]
    first = torch.stack([(slots.level == level).nonzero()[0, 0] for level in slots.level.unique()])
    shape = first[torch.stack(alike).argmax(0)]  # (N,): any shape of the object's level
    numbers, groups = objects.extents.log() - slots.unit[shape, None], slots.group[slots.row[shape]]
    rows = usual.clone()
    for group in slots.group.unique().tolist():
        mine, wanted = numbers[groups == group], slots.group == group
        count = int(wanted.sum())
        if len(mine) < count:
            continue
        centres = mine[torch.randperm(len(mine), generator=generator)[:count]]
        for _ in range(rounds):
            nearest = overlaps(mine.exp(), torch.zeros_like(mine), centres.exp()).argmax(1)
            clusters = [mine[nearest == k] for k in range(count)]
            centres = torch.stack([c.median(0).values if len(c) else centres[k] for k, c in enumerate(clusters)])
        rows[wanted] = centres
    return rows


def evolved(
    start: Tensor,
    slots: Slots,
    objects: Objects,
    bounds: tuple[Tensor, Tensor],
    *,
    generator: torch.Generator,
    advance: Callable[[int], object],
) -> Tensor:
    """start (T, R, 2) -> (R, 2): the best member after ROUNDS rounds of differential evolution (Storn and Price, Journal of
    Global Optimization 11, 1997) in the form current-to-best/1/bin, with a random step. bounds: as ``Slots.bounds`` gives them.
    """
    quick = replace(objects, extents=objects.extents.float(), apart=objects.apart.float())

    def values(members: Tensor) -> Tensor:
        return torch.stack([measure([shapes.float() for shapes in slots.shapes(rows)], quick) for rows in members])

    members = start.repeat(MEMBERS // len(start), 1, 1)
    members = members + SPREAD * torch.randn(members.shape, generator=generator).double()
    members[: len(start)] = start
    members = members.clamp(*bounds)
    fitness = values(members)
    for _ in range(ROUNDS):
        best = members[fitness.argmax()]
        one, other = (members[torch.randperm(len(members), generator=generator)] for _ in range(2))
        step = 0.4 + 0.5 * torch.rand(len(members), 1, 1, generator=generator).double()
        mutants = members + step * (best - members) + step * (one - other)
        mixed = torch.rand(*members.shape[:2], 1, generator=generator) < MIXED  # width and height of a shape together
        trials = torch.where(mixed, mutants, members).clamp(*bounds)
        found = values(trials)
        better = found >= fitness
        members, fitness = torch.where(better[:, None, None], trials, members), torch.where(better, found, fitness)
        advance(1)
    return members[fitness.argmax()]


def searched(rows: Tensor, slots: Slots, objects: Objects, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """(R, 2) -> (R, 2): each row in turn takes a step in the best direction, while any does; then with smaller steps."""
    rows, (low, high) = rows.clone(), bounds
    directions = torch.tensor(COMPASS, dtype=torch.float64)
    reach = torch.cat([slots.reach(row, rows[row : row + 1], objects) for row in range(len(rows))], dim=1)  # (N, R)
    for step in STEPS:
        for _ in range(SWEEPS):
            before = rows.clone()
            for row in range(len(rows)):
                trials = (rows[row] + step * directions).clamp(low[row], high[row])
                found = slots.reach(row, trials, objects)
                value = objects.measure(without(reach, row)[:, None].maximum(found))
                best = int(value.argmax())
                if value[best] > value[0]:
                    rows[row], reach[:, row] = trials[best], found[:, best]
            if rows.equal(before):
                break
    return rows


def without(reach: Tensor, row: int) -> Tensor:
    """reach (N, R) -> (N,): the largest of all rows but one; 0 if there is no other."""
    others = torch.cat([reach[:, :row], reach[:, row + 1 :], torch.zeros_like(reach[:, :1])], dim=1)
    return others.amax(1)


def in_slots(rows: Tensor, usual: Tensor, group: Tensor) -> Tensor:
    """The rows of each group in the order of the usual rows that they are nearest to, the nearest pair first: a head that has
    learned keeps most of what it knows. rows and usual (R, 2), group (R,) -> (R, 2).
    """
    away = (rows[:, None] - usual[None]).abs().sum(2).masked_fill(group[:, None] != group[None], math.inf)
    result = rows.clone()
    for _ in range(len(rows)):
        row, slot = divmod(int(away.argmin()), len(usual))
        result[slot] = rows[row]
        away[row], away[:, slot] = math.inf, math.inf
    return result


def without_idle(rows: Tensor, usual: Tensor, slots: Slots, objects: Objects) -> Tensor:
    """Let rows that add next to nothing go back to the usual ones, one after another. (R, 2) each."""
    rows, least = rows.clone(), float(measure(slots.shapes(rows), objects)) - NEGLIGIBLE
    for row in range(len(rows)):
        trial = rows.clone()
        trial[row] = usual[row]
        if measure(slots.shapes(trial), objects) >= least:
            rows = trial
    return rows
