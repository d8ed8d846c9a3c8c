"""The cells of ``onestage benchmark``, measured one after another, and what is kept of a run that was interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onestage.analysis.plain import from_plain, to_plain
from onestage.cli.alone import ask, raised
from onestage.cli.cell import Answer, Order, Refusal
from onestage.cli.output import say
from onestage.deploy.benchmark import environment
from onestage.deploy.benchmark_wording import NO_DATA
from onestage.deploy.cache import PROGRAM, program
from onestage.deploy.cells import Cell, Row
from onestage.deploy.drawn import jpegs
from onestage.deploy.machine import instructions
from onestage.deploy.plan import versions
from onestage.deploy.runtimes import TORCH, format_for
from onestage.errors import DataError, OnestageError, counted
from onestage.files import Json, cache_folder, make_folder, write_file
from onestage.predict.exported import is_exported
from onestage.processes import choose_device
from onestage.training.other_work import read_ticks

AS_MADE = "as made"
"""What stands for the numbers of an exported file before it is opened."""
KEPT_FOR = 30 * 86400.0
"""Seconds that the figures of an interrupted run are kept."""

Tell = Callable[[Cell, Row], None]
"""A function that gets each cell as soon as it is measured, or could not be."""


@dataclass(frozen=True)
class Kept:
    """A cell as it was asked for, and what was found."""

    asked: Cell
    row: Row


@dataclass(frozen=True)
class Journal:
    """What an interrupted run has measured, in a file of the cache. It is there until the same command has measured all.

    place: the file, None if there is no place for one.
    """

    place: Path | None
    rows: dict[Cell, Row] = field(default_factory=dict)

    @classmethod
    def of(cls, *settings: object, fresh: bool) -> Journal:
        """What the same command measured on this machine, with these programs, models and data. fresh: forget it."""
        digest = hashlib.sha256("\n".join(map(str, settings)).encode(errors="surrogateescape")).hexdigest()[:32]
        try:
            place = make_folder(cache_folder("benchmarks")) / f"{digest}.json"
        except OnestageError:
            return cls(None)
        _forget_old(place.parent)
        if fresh:
            place.unlink(missing_ok=True)
        try:
            plain: list[Json] = json.loads(place.read_text(encoding="utf-8"))
            kept = [from_plain(Kept, entry) for entry in plain]
        except (OSError, ValueError, TypeError, AttributeError, DataError):  # there is none, or it is damaged
            return cls(place)
        return cls(place, {entry.asked: entry.row for entry in kept if entry.row.timing is not None})

    def add(self, cell: Cell, row: Row) -> None:
        """Keep what was found about a cell."""
        self.rows[cell] = row
        if self.place is not None:
            entries = [to_plain(Kept(*entry)) for entry in self.rows.items()]
            with contextlib.suppress(OnestageError):  # a full disk: the run itself has lost nothing
                write_file(self.place, json.dumps(entries))

    def finish(self) -> None:
        """Forget all: the next run with this command measures again."""
        if self.place is not None:
            with contextlib.suppress(OSError):
                self.place.unlink(missing_ok=True)


@dataclass(eq=False)
class Benchmark:
    """One run. base: what all orders share. timeout: seconds for each process. peaks, environment: what was found of the
    machine.
    """

    base: Order
    journal: Journal
    timeout: float
    peaks: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str | int] = field(default_factory=dict)
    _looked: dict[str, Answer] = field(default_factory=dict)
    _files: dict[tuple[str, str, str], Answer] = field(default_factory=dict)
    _accuracies: dict[tuple[str, str, str], Answer] = field(default_factory=dict)

    def look(self, cells: Sequence[Cell]) -> list[str]:
        """Look at the pictures for all cells that the journal does not have. Give notes of those that are left out. Raise
        OnestageError if the pictures cannot be used.
        """
        notes = dict[str, None]()
        for cell in cells:
            if cell not in self.journal.rows:
                found = self._look(self._order(cell))
                if found.left_out:
                    many, first = counted(len(found.left_out), "picture"), found.left_out[0]
                    notes[f"{many} that cannot be read, such as {first}: {found.unread}"] = None
        return list(notes)

    def run(self, cells: Sequence[Cell], tell: Tell) -> None:
        """Measure the cells that the journal does not have."""
        found = self._ask(replace(self.base, what="peaks"))
        self.peaks, self.environment = found.peaks, found.environment
        for cell in cells:
            row = self.journal.rows.get(cell)
            if row is None:
                row = self._row(cell)
                self.journal.add(cell, row)
            tell(cell, row)

    def _row(self, cell: Cell) -> Row:
        """What is found about a cell. Raise OnestageError if the pictures cannot be used: that is no matter of one cell."""
        order = self._order(cell)
        looked = self._look(order)
        order = replace(order, timed=looked.timed, left_out=looked.left_out)
        if cell.runtime != TORCH and not is_exported(cell.model):
            made = self._file(order)
            if made.refusal is not None:
                return Row(cell, reason=str(made.refusal))
            order = replace(order, file=made.file)
        before = read_ticks(os.getpid())
        timed = self._ask(replace(order, what="time"))
        after = read_ticks(os.getpid())
        if timed.refusal is not None:
            return Row(cell, reason=str(timed.refusal))
        others = math.nan if before is None or after is None else before.others(after)
        shown = replace(cell, numbers=timed.numbers) if cell.numbers == AS_MADE else cell
        row = Row.of(shown, timed, others=None if math.isnan(others) else round(others, 3))
        row = replace(row, no_ap=looked.no_ap)
        return row if looked.no_ap else self._with_ap(row, order)

    def _order(self, cell: Cell) -> Order:
        """What every process about a cell is to do."""
        return replace(self.base, model=cell.model, runtime=cell.runtime, numbers=cell.numbers, batch=cell.batch)

    def _look(self, order: Order) -> Answer:
        """The pictures to time a model on, and why it has no AP."""
        if order.model not in self._looked:
            if self.base.pictures.data is None:
                drawn = jpegs(Path(self.base.folder) / "pictures", size=self.base.pictures.drawn)
                found = Answer(timed=tuple(map(str, drawn)), no_ap=NO_DATA)
            else:
                found = self._ask(replace(order, what="look", runtime="auto", device="cpu"))
            if found.refusal is not None:
                raise raised(found.refusal)
            self._looked[order.model] = found
        return self._looked[order.model]

    def _file(self, order: Order) -> Answer:
        """The file that a runtime runs. Two runtimes may share it."""
        key = (order.model, format_for(order.runtime, order.numbers), order.numbers)
        if key not in self._files:
            self._files[key] = self._ask(replace(order, what="file"))
        return self._files[key]

    def _with_ap(self, row: Row, order: Order) -> Row:
        """The row with the AP, which does not depend on the number of pictures at once."""
        key = (order.model, order.runtime, order.numbers)
        if key not in self._accuracies:
            self._accuracies[key] = self._ask(replace(order, what="accuracy"))
        found = self._accuracies[key]
        return replace(row, ap=found.ap, measured=found.measured, no_ap=str(found.refusal or found.no_ap))

    def _ask(self, order: Order) -> Answer:
        if not order.timed and order.what == "time":
            return Answer(Refusal("DataError", "there are no pictures"))
        return ask(order, timeout=self.timeout)


def _forget_old(folder: Path) -> None:
    """Delete what runs have left that were never gone on with."""
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > KEPT_FOR:
                path.unlink()


def settings_of(base: Order, models: Sequence[str]) -> list[object]:
    """All that makes the figures of an earlier run those of this one: what is asked, the machine, the programs, and the files
    of models and data, by their sizes and times.
    """
    files = [path for name in (*models, base.pictures.data or "") if name for path in _files_of(Path(name))]
    stated = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    about = environment(choose_device(base.device)), instructions(), sorted(versions().items()), program(PROGRAM)
    return [replace(base, folder=""), *about, sorted(stated)]


def _files_of(path: Path) -> list[Path]:
    """The file, or the models in a run folder, or the folder itself; nothing for a name that is no path."""
    with contextlib.suppress(OSError):
        if path.is_file():
            return [path, *(p for p in (path.with_suffix(".bin"),) if p.is_file())]
        if path.is_dir():
            return [path, *sorted(path.glob("*.safetensors"))]
    return []


def say_what_is_known(cells: Sequence[Cell], journal: Journal) -> None:
    """Say that a run goes on, and with how many cells."""
    known = sum(cell in journal.rows for cell in cells)
    if known and journal.place is not None:
        with contextlib.suppress(OSError):
            age = time.time() - journal.place.stat().st_mtime
            say((f"going on: {known} of {len(cells)} cells were measured {_ago(age)}; --fresh measures all again", "dim"))


def _ago(seconds: float) -> str:
    """A time that has passed, in words."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
