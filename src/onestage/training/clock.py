"""How many steps fit into a number of minutes, and when the rest of a training has to be cut.

All times are seconds. docs/training.md has the rules in words.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

MEASURING = 0.1
"""The largest part of the time that measurements and their checkpoints take, except for the last one."""
MEASUREMENTS = 10
"""Measurements in a training of fewer epochs than these; others are measured after every epoch, if time allows."""
TRUSTED = 0.5
"""The part of the time, or of the steps, before which nothing is changed: other work on the machine may end by itself."""
SLACK = 0.04
"""A rest that ends this part of the time too late is cut, so that it ends as much too early: then one cut is mostly enough. One
that ends more than twice as much too early is made longer in the same way.
"""
RECENT = 0.1
"""The speed is that of the steps within this last part of the time."""
PROOF = 0.05
"""A rest that seems to end at a wrong time is changed after this part of the time, or half of what is left, by the speed from
then on.
"""
FIRST = 3
"""Steps of a process before its speed is known."""


def now() -> float:
    """The time of a clock that only runs forward. Tests put another clock in its place."""
    return time.monotonic()


def running() -> float:
    """Seconds since this process was started, its imports included; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # field 22, starttime: man proc
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0


@dataclass(frozen=True)
class Costs:
    """Seconds for one optimiser step, for the measurement of one picture, and for one checkpoint."""

    step: float
    picture: float
    save: float


@dataclass(frozen=True)
class Length:
    """The length of a training: steps in all, steps between two measurements, and pictures for each measurement."""

    steps: int
    evaluate_steps: int
    evaluate_pictures: int


def length_for(left: float, costs: Costs, *, epoch: int, pictures: int, fixed: bool = False) -> Length:
    """The training that fits into ``left`` seconds. epoch: steps of one. pictures: to measure on.

    The last measurement takes at most a tenth of the time, by leaving out pictures if it has to, unless their number is
    ``fixed``; so do all others together.
    It is measured after every epoch, or ten times in a training of fewer epochs, or as often as time allows.
    """
    if not fixed:
        pictures = max(1, min(pictures, int(MEASURING * left / costs.picture)))
    each = pictures * costs.picture + costs.save
    most = max(1, int((left - each) / costs.step))
    wanted = max(MEASUREMENTS, most / epoch)
    count = max(1.0, min(wanted, MEASURING * left / each))
    every = math.ceil(most / count)
    if every > epoch:
        every = math.ceil(every / epoch) * epoch
    steps = max(1, int((left - each) / (costs.step + each / every)))
    return Length(steps, min(every, steps), pictures)


class Pace:
    """The speed of the latest steps, and whether the rest of the training still fits into ``budget`` seconds."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._taken: deque[float] = deque()
        self._sum = 0.0
        self._seen = 0
        self._doubted: float | None = None

    def add(self, seconds: float) -> None:
        """Count a step of so many seconds. The first one of a process is left out: it waits for the first pictures."""
        self._seen += 1
        if self._seen > 1:
            self._taken.append(seconds)
            self._sum += seconds
        while len(self._taken) > FIRST and self._sum - self._taken[0] > RECENT * self.budget:
            self._sum -= self._taken.popleft()

    def fitting(self, step: int, steps: int, *, elapsed: float, lap: int, overhead: float) -> int:
        """The number of steps in all that fits with some room: ``steps`` unless the end would come too late, or much too early.

        step: steps done, in ``elapsed`` seconds. overhead: seconds for each measurement with its checkpoint, after every
        ``lap`` steps.
        """
        if max(elapsed / self.budget, step / steps) < TRUSTED or len(self._taken) < FIRST:
            return steps
        pace = self._sum / len(self._taken)
        measurements = math.ceil(steps / lap) - step // lap
        end = elapsed + (steps - step) * pace + measurements * overhead
        if (1 - 2 * SLACK) * self.budget <= end <= (1 + SLACK) * self.budget:
            self._doubted = None
            return steps
        if self._doubted is None:  # the steps until now were of two speeds
            self._doubted, self._sum = elapsed, 0.0
            self._taken.clear()
        if elapsed - self._doubted < min(PROOF * self.budget, (self.budget - self._doubted) / 2):
            return steps
        self._doubted = None
        more = int(((1 - SLACK) * self.budget - elapsed - overhead) / (pace + overhead / lap))
        return min(steps, step + max(1, more)) if end > self.budget else max(steps, step + more)
