"""What takes the outcomes of pictures in their order, and writes them: COCO results, CSV, JSON lines.

A sink can be killed at any time and go on: ``sync`` gives its state, and ``go_on`` of a new sink undoes all that came after.
A sink holds little: what it must know to go on is in its state, and this is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from onestage.data.predictions import FORMATS, Format, encoded
from onestage.files import GrowingFile
from onestage.predict.pipeline import Outcome
from onestage.structures import Detections

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
