"""What takes the outcomes of pictures in their order, and writes them: COCO results, CSV, JSON lines, counts.

A sink can be killed at any time and go on: ``sync`` gives its state, and ``go_on`` of a new sink undoes all that came after.
A sink holds little: what it must know to go on is in its state, and this is small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from onestage.data.predictions import FORMATS, Format, csv_line, encoded
from onestage.files import GrowingFile
from onestage.predict.pipeline import Outcome
from onestage.predict.zones import Spot, Zone, count_in_zones, in_words
from onestage.structures import Detections

COUNT_COLUMNS = ("image", "zone", "objects")
"""The first columns of counts.csv. One for each class follows."""

State: TypeAlias = dict[str, int]
"""What a sink needs to go on, such as the bytes of its file."""


class Sink(Protocol):
    """Takes the outcomes of all pictures. Raise WriteError, from any method, if the disk takes no more."""

    @property
    def path(self) -> Path:
        """The file or folder that it writes."""

    def add(self, outcome: Outcome) -> None:
        """Write what became of the next picture."""

    def sync(self) -> State:
        """Put everything on the disk. Return the state to go on from."""

    def go_on(self, state: State) -> None:
        """Undo what another sink of this kind wrote after that state, and go on from there. Call it before anything else."""

    def finish(self) -> None:
        """Write the end, and give the files their names."""

    def close(self) -> None:
        """Let go of the files as they are. After ``finish`` there are none left."""


@contextmanager
def closing(sinks: Sequence[Sink]) -> Iterator[None]:
    """Let go of the sinks' files at the end of the block, whatever ends it."""
    try:
        yield
    finally:
        for sink in sinks:
            sink.close()


class Results:
    """A sink for one file of all detections, in one of FORMATS. Pictures that could not be read are not in it."""

    def __init__(self, path: Path, format: Format) -> None:
        self.path = path
        self._form, self._file = FORMATS[format], GrowingFile(path)
        self._head, self._between = encoded(self._form.head), ""

    def add(self, outcome: Outcome) -> None:
        """Write the detections of the next picture."""
        if isinstance(outcome.found, Detections):
            for entry in self._form.entries(outcome.found):
                self._write(encoded(self._between + entry))
                self._between = self._form.between

    def sync(self) -> State:
        """Put everything on the disk. Return the bytes so far."""
        self._write(b"")
        return {"bytes": self._file.sync()}

    def go_on(self, state: State) -> None:
        """Cut off what was written after that state."""
        self._file.go_on(state["bytes"])
        self._between = self._form.between if state["bytes"] > len(self._head) else ""
        self._head = b""

    def finish(self) -> None:
        """Write the end, and give the file its name."""
        self._write(encoded(self._form.tail))
        self._file.finish()

    def close(self) -> None:
        """Let go of the file as it is."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        """Write the bytes, after the head if it is not there yet."""
        self._file.write(self._head + content)
        self._head = b""


class Counts:
    """A sink for counts.csv: a row for each picture, and one for each zone of it, with the number of objects of each class.

    classes: all names, by label. shown: the labels of the classes that have a column.
    """

    def __init__(
        self, path: Path, classes: Sequence[str], *, shown: Sequence[int], zones: Sequence[Zone] = (), spot: Spot = "foot"
    ) -> None:
        self.path = path
        self._classes, self._shown, self._zones, self._spot = classes, shown, zones, spot
        self._file, self._head = GrowingFile(path), csv_line((*COUNT_COLUMNS, *(classes[label] for label in shown)))
        self._totals: Counter[tuple[int, int]] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Write the counts of the next picture."""
        found = outcome.found
        if not isinstance(found, Detections):
            return
        counts = count_in_zones(found, self._zones, self._classes, spot=self._spot)
        for row, (zone, numbers) in enumerate(counts.items()):
            shown = [numbers[label] for label in self._shown]
            self._write(csv_line((found.path or found.image_id, zone, sum(shown), *shown)))
            self._totals.update({(row, label): numbers[label] for label in self._shown if numbers[label]})

    def sync(self) -> State:
        """Put everything on the disk. Return the bytes so far, and the sum for each zone and class that has some objects."""
        self._write("")
        return {"bytes": self._file.sync()} | {f"{zone}/{label}": count for (zone, label), count in self._totals.items()}

    def go_on(self, state: State) -> None:
        """Cut off what was written after that state."""
        self._file.go_on(state["bytes"])
        self._head = ""
        for key, count in state.items():
            zone, slash, label = key.partition("/")
            if slash:
                self._totals[int(zone), int(label)] = count

    def finish(self) -> None:
        """Give the file its name."""
        self._write("")
        self._file.finish()

    def close(self) -> None:
        """Let go of the file as it is."""
        self._file.close()

    def summary(self) -> Sequence[str]:
        """How many objects there were in each zone, over all pictures."""
        lines = []
        for row, zone in enumerate(self._zones, start=1):
            counts = [self._totals[row, label] for label in range(len(self._classes))]
            lines.append(f"in {zone.name}: {in_words(counts, self._classes)}")
        return lines

    def _write(self, text: str) -> None:
        """Write the text, after the head if it is not there yet."""
        self._file.write(encoded(self._head + text))
        self._head = ""
