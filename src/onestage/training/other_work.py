"""How much of the processors other programs use: all that is busy, without this program and the processes that it began."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
WINDOW = 5.0
"""Seconds over which it is measured: a shorter time shows chance."""


@dataclass(frozen=True)
class Ticks:
    """Clock ticks until now, of the processors that this process may use. all: those that passed. busy: those of any program.
    ours: those of our processes.
    """

    all: int
    busy: int
    ours: int

    def others(self, later: Ticks) -> float:
        """The share of the processors that other programs used until ``later``, 0..1; NaN if no tick has passed."""
        passed = later.all - self.all
        if passed <= 0:
            return math.nan
        return min(1.0, max(0.0, (later.busy - self.busy - later.ours + self.ours) / passed))


class OtherWork:
    """Watches the processors from its beginning on. root: the process that began all of ours."""

    def __init__(self, root: int) -> None:
        self._root, self._began = root, time.monotonic()
        self._first = read_ticks(root)

    def share(self) -> float | None:
        """The share of the processors that other programs use, 0..1; NaN if the system does not tell. None if it has not been
        watched for WINDOW seconds yet.
        """
        if time.monotonic() - self._began < WINDOW:
            return None
        now = read_ticks(self._root)
        return math.nan if self._first is None or now is None else self._first.others(now)


def read_ticks(root: int, proc: Path = PROC) -> Ticks | None:
    """The ticks until now; None where the system does not tell. See man proc, /proc/stat and /proc/pid/stat."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    names = {f"cpu{number}" for number in usable}
    try:
        rows = [line.split() for line in (proc / "stat").read_text(encoding="ascii").splitlines()]
        columns = [[int(cell) for cell in row[1:9]] for row in rows if row[:1] and row[0] in names]
    except (OSError, ValueError):
        return None
    user, nice, system, idle, waiting, interrupts, soft, stolen = map(sum, zip(*columns, strict=True)) if columns else [0] * 8
    busy = user + nice + system + interrupts + soft
    return Ticks(busy + idle + waiting + stolen, busy, _ours(root, proc))


def _ours(root: int, proc: Path) -> int:
    """Ticks of a process, of those that it began, and of theirs, with those of such processes that have ended."""
    parents, ticks = dict[int, int](), dict[int, int]()
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                cells = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                parents[int(entry.name)], ticks[int(entry.name)] = int(cells[1]), sum(map(int, cells[11:15]))
            except (OSError, ValueError, IndexError):  # it has ended
                continue
    return sum(ticks[process] for process in ticks if root in _line(process, parents))


def _line(process: int, parents: dict[int, int]) -> set[int]:
    """A process, its parent, the parent of that, and so on."""
    line = set[int]()
    while process in parents and process not in line:
        line.add(process)
        process = parents[process]
    return line
