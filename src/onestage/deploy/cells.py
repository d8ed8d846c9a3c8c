"""What a benchmark measures, cell by cell, and what follows from the figures: which model to deploy, and how.

A cell is a model, what runs it, its numbers, and how many pictures go through it at once. Each is measured in a process that
ends with it: engines that share a process disturb each other, and memory could not be told apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from onestage.deploy.benchmark import Timing

Numbers = Literal["fp32", "bf16", "fp16", "int8"]
"""What a network is computed in."""
PERCENTILES = (50, 90, 99)
SURE = 0.95
"""A percentile is given if the largest of the times lies above it with this probability. Fewer times say nothing of it."""
EQUAL = 0.005
"""Cells that differ by no more AP than this, 0..1, count as equally good, and the faster one is better: as much as an int8 file
may cost by default.
"""
BUSY = 0.05
"""The share of the processors that other programs may use while a cell is timed. With more, the times are too long."""


@dataclass(frozen=True)
class Cell:
    """model: as the user gave it. runtime: the program that runs it. numbers: what the network is computed in, or the file
    holds. batch: pictures at once.
    """

    model: str
    runtime: str
    numbers: str
    batch: int = 1

    @property
    def engine(self) -> str:
        """What runs it, in words."""
        return f"{self.runtime} {self.numbers}"

    def __str__(self) -> str:
        return f"{self.model} by {self.engine}, {self.batch} at once"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a model that one program runs. timing: None if it was not timed.

    memory: the most bytes that the process had. before: those that it had before it opened the model (Python, torch, this
    package). gpu_memory: the most bytes on a GPU. multiply_adds: of the network for one picture, at the size of its input. ap:
    0..1 on ``measured`` pictures, None if it was not measured; ``no_ap`` says why.
    """

    timing: Timing | None = None
    memory: int | None = None
    before: int | None = None
    gpu_memory: int | None = None
    multiply_adds: int | None = None
    ap: float | None = None
    measured: int = 0
    no_ap: str = ""


@dataclass(frozen=True)
class Row(Measured):
    """What was found about a cell. If it has no timing, it could not be measured, and ``reason`` says why. others: the share of
    the processors that other programs used meanwhile, 0..1.
    """

    cell: Cell
    others: float | None = None
    reason: str = ""

    @classmethod
    def of(cls, cell: Cell, found: Measured, *, others: float | None) -> Row:
        """The row of a cell that was measured."""
        return cls(cell, others, **{field.name: getattr(found, field.name) for field in fields(Measured)})

    def percentile(self, percent: float) -> float | None:
        """Of the seconds of a turn, from files to boxes: so many percent of the turns take at most this. None if there are too
        few turns to say so (``turns_for``).
        """
        if self.timing is None or len(self.timing.whole) < turns_for(percent):
            return None
        return float(np.percentile(self.timing.whole, percent))

    @property
    def median(self) -> float:
        """Of the seconds of a turn, however few there are; infinite if the cell was not measured."""
        return math.inf if self.timing is None else statistics.median(self.timing.whole)

    @property
    def latency(self) -> float:
        """The seconds that 90 % of the turns take at most; with too few turns to say so, those of the slowest one."""
        if self.timing is None:
            return math.inf
        found = self.percentile(90)
        return max(self.timing.whole) if found is None else found

    @property
    def spread(self) -> float:
        """The range of the middle half of the turns, as a share of the median. NaN if the cell was not measured."""
        if self.timing is None:
            return math.nan
        low, high = np.percentile(self.timing.whole, (25, 75))
        return float(high - low) / self.median

    @property
    def rate(self) -> float:
        """Pictures per second, turn after turn; 0 if the cell was not measured."""
        return 0.0 if self.timing is None else self.timing.batch * len(self.timing.whole) / sum(self.timing.whole)

    @property
    def operations(self) -> float | None:
        """Thousand million operations a second of the engine: two for each multiply-add of the network. None if unknown."""
        if self.timing is None or self.multiply_adds is None:
            return None
        return 2e-9 * self.multiply_adds * self.timing.batch / statistics.median(self.timing.network)

    def share(self, peaks: dict[str, float]) -> float | None:
        """``operations`` as a share of the machine's peak for these numbers. None if one of both is unknown."""
        peak, found = peaks.get(self.cell.numbers), self.operations
        return None if not peak or found is None else found / peak


def turns_for(percent: float) -> int:
    """The fewest times of which the largest lies above that percentile with the probability SURE: 5 for the median, 29 for the
    90th percentile, 299 for the 99th.
    """
    return math.ceil(math.log(1 - SURE) / math.log(percent / 100))


@dataclass(frozen=True)
class Wish:
    """What is asked of a model. at_most: seconds that 90 % of the turns may take. least_ap: 0..1."""

    at_most: float | None = None
    least_ap: float | None = None

    def fits(self, row: Row) -> bool:
        """Whether a cell was measured and is as wished. A cell without AP is not, if an AP is wished."""
        fast = self.at_most is None or row.latency <= self.at_most
        good = self.least_ap is None or (row.ap is not None and row.ap >= self.least_ap)
        return row.timing is not None and fast and good


def best(rows: Sequence[Row], wish: Wish) -> Row | None:
    """The cell to deploy: of those that are as wished the one with the most AP, and of those with hardly less the fastest per
    turn. Without a latency that is wished, the fastest counts alone. None if none fits.
    """
    fit = [row for row in rows if wish.fits(row)]
    if not fit:
        return None
    if wish.at_most is not None:
        known = [row.ap for row in fit if row.ap is not None]
        fit = [row for row in fit if not known or (row.ap is not None and row.ap >= max(known) - EQUAL)]
    return min(fit, key=lambda row: (row.latency, -row.rate))


def reference(rows: Sequence[Row], row: Row) -> Row | None:
    """The cell of the same model against whose AP a cell's is held: torch in fp32, or else another one in fp32. None if there
    is none, or it is the cell itself.
    """
    same = [r for r in rows if r.cell.model == row.cell.model and r.cell.numbers == "fp32" and r.ap is not None]
    found = next((r for r in same if r.cell.runtime == "torch"), next(iter(same), None))
    return None if found is None or found.cell == row.cell else found


def lost(rows: Sequence[Row], row: Row) -> float | None:
    """How much AP a cell costs against its reference, 0..1; negative if it is better. None if either is unknown."""
    held = reference(rows, row)
    return None if held is None or held.ap is None or row.ap is None else held.ap - row.ap


def front(rows: Sequence[Row]) -> list[Row]:
    """The cells that no other one beats in both, AP and latency, the fastest first; those with AP alone."""
    known = sorted(
        (row for row in rows if row.timing is not None and row.ap is not None), key=lambda row: (row.latency, -(row.ap or 0.0))
    )
    kept: list[Row] = []
    for row in known:
        if not kept or (row.ap or 0.0) > (kept[-1].ap or 0.0):
            kept.append(row)
    return kept
