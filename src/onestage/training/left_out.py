"""What a training leaves out, pictures and annotations, up to a limit, and the list of it in the run folder."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from onestage.data.dataset import Problem
from onestage.data.problems import left_out_of, most_left_out, too_many
from onestage.errors import OnestageError, counted
from onestage.files import write_atomically
from onestage.images import decode_image
from onestage.training.folder import LEFT_OUT
from onestage.training.monitor import Monitor
from onestage.training.run import Run

_KINDS = {"picture": "picture", "box": "box without area", None: "other annotation"}
"""What is left out, for people, by its kind."""


class _Row(NamedTuple):
    """A line of the list. place: the file with the line or object in it."""

    place: str
    kind: str
    reason: str


class LeftOut:
    """What was left out when the data was read, and the pictures that turn out unreadable later.

    most: how many may be left out; None: any number. Pictures of a data set that was made in Python count only once they turn
    out unreadable: the rest is not this training's choice. Those that an earlier process of the run has listed count from the
    beginning, unless they were mended since.
    """

    def __init__(self, run: Run) -> None:
        data, share = run.data, run.config.bad_share
        self._run = run
        self.most = None if share is None else most_left_out(share, data.train, data.val)
        self._read = left_out_of(data.train, data.val)
        self._counted = len(self._read) if data.path is not None else 0
        self._earlier = _listed(run.folder)
        self._later = self._still_unreadable() if run.config.on_bad != "stop" else {}
        self._seen, self._said = 0, len(self._later)

    @property
    def all(self) -> tuple[Problem, ...]:
        """All that is left out so far."""
        return (*self._read, *self._later.values())

    @property
    def unreadable(self) -> frozenset[str]:
        """The paths of the pictures that turned out unreadable, as far as this process knows."""
        return frozenset(self._later)

    def _still_unreadable(self) -> dict[str, Problem]:
        """The pictures that an earlier process has listed and that cannot be read today either, by path."""
        data, found = self._run.data, dict[str, Problem]()
        places = {row.place for row in self._earlier} - {problem.where for problem in self._read}
        for path in dict.fromkeys((*data.train.paths, *data.val.paths)) if places else ():
            if (place := os.path.relpath(path, data.train.root)) in places:
                try:
                    decode_image(path)
                except OnestageError as error:
                    found[path] = Problem.of(place, error, fault="picture")
        return found

    def add(self, errors: Mapping[str, OnestageError]) -> None:
        """Count pictures that cannot be read. errors: why not, by path."""
        root = self._run.data.train.root
        for path, error in errors.items():
            if path not in self._later:
                self._later[path] = Problem.of(os.path.relpath(path, root), error, fault="picture")

    def look(self, lost: int) -> None:
        """Count what no process could read, if that has become more. Raise DataError if it is more than the limit.

        lost: the pictures of all processes until now, each counted by itself: the same number in all processes.
        """
        if lost > self._seen:
            self._seen = lost
            self._gather()
            self.check()

    def _gather(self) -> None:
        for errors in self._run.group.gather_objects(dict(self._run.loader.skipped)):
            self.add(errors)

    def tell(self, monitor: Monitor) -> None:
        """Say what no process could read so far, and list it, if that is more than was said before. Raise DataError if it is
        more than the limit.
        """
        run = self._run
        if run.config.on_bad == "stop":
            return
        self._gather()
        if len(self._later) > self._said:
            pictures, first = counted(len(self._later), "picture"), min(self._later)
            others = "another stood in for it" if len(self._later) == 1 else "others stood in for them"
            most = "" if self.most is None else f"; left out in all: {self}"
            monitor.say(f"{pictures} could not be read, such as {first}; {others}{most}. See {run.folder / LEFT_OUT}")
            self._said = len(self._later)
            self.save()
            self.check()

    def check(self) -> None:
        """Raise DataError if more is left out than the limit says."""
        if self.most is not None and self._counted + len(self._later) > self.most:
            self.save()
            data, share = self._run.data, self._run.config.bad_share or 0.0
            raise too_many(self.all, data.train, data.val, share=share, go_on=self._run.go_on)

    def __str__(self) -> str:
        """As a line for people; empty if nothing is left out: 2 boxes without area, 1 picture (at most 10)."""
        counts = summary(self.all)
        return counts + (f" (at most {self.most})" if counts and self.most is not None else "")

    def save(self) -> None:
        """Write the list into the run folder. Pictures that an earlier process of the run has left out stay in it. No file is
        made for nothing. Raise WeightsError if it cannot be written.
        """
        path = self._run.folder / LEFT_OUT
        if not self._run.group.is_main or not (self.all or path.exists()):
            return
        rows = [_Row(problem.where, _KINDS[problem.fault], problem.reason) for problem in self.all]
        places = {row.place for row in rows}
        text = io.StringIO()
        csv.writer(text).writerows([_Row._fields, *rows, *(row for row in self._earlier if row.place not in places)])
        write_atomically(path, text.getvalue().encode("utf-8", "replace"))


def _listed(folder: Path) -> list[_Row]:
    """The pictures that an earlier process of the run in ``folder`` has listed; none if there is no list, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, csv.Error):
        text = (folder / LEFT_OUT).read_text(encoding="utf-8")
        rows = [_Row(*cells) for cells in csv.reader(io.StringIO(text, newline="")) if len(cells) == len(_Row._fields)]
        return [row for row in rows if row.kind == _KINDS["picture"]]
    return []


def summary(problems: Sequence[Problem]) -> str:
    """The number of problems of each kind: ``2 boxes without area, 1 picture``; empty for none."""
    kinds = Counter(problem.fault for problem in problems)
    return ", ".join(_counted(number, _KINDS[kind]) for kind, number in kinds.items())


def _counted(number: int, kind: str) -> str:
    """``2 boxes without area``."""
    first, space, rest = kind.partition(" ")
    if first == "box":
        return f"{number:,} {'box' if number == 1 else 'boxes'}{space}{rest}"
    return counted(number, kind)
