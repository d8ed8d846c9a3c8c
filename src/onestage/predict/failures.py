"""The pictures that could not be read, as a file that programs and people can work with."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from onestage.data.predictions import csv_line, encoded
from onestage.errors import DataError
from onestage.files import PART, GrowingFile, writing
from onestage.predict.pipeline import Outcome
from onestage.predict.sinks import State

NAME, HEAD = "failures.csv", "image,what,got\n"


class Failures:
    """A sink for the pictures that could not be read: a row for each, with what is wrong. Without any there is no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: GrowingFile | None = None

    def add(self, outcome: Outcome) -> None:
        """Write a picture that could not be read. All others are left out."""
        if not isinstance(outcome.found, DataError):
            return
        if self._file is None:
            self._file = GrowingFile(self.path)
            self._file.write(encoded(HEAD))
        error = outcome.found.to_dict()
        self._file.write(encoded(csv_line((str(outcome.picture.path), error["what"] or "", error["got"] or ""))))

    def sync(self) -> State:
        """Put everything on the disk. Return the bytes so far."""
        return {"bytes": 0 if self._file is None else self._file.sync()}

    def go_on(self, state: State) -> None:
        """Cut off what was written after that state."""
        if state["bytes"]:
            self._file = GrowingFile(self.path)
            self._file.go_on(state["bytes"])

    def finish(self) -> None:
        """Give the file its name. Without a failure, remove that of an earlier run."""
        if self._file is not None:
            self._file.finish()
            self._file = None
            return
        for path in (self.path, self.path.with_name(self.path.name + PART)):
            with writing(path, "the list of failures of an earlier run cannot be removed"), suppress(FileNotFoundError):
                path.unlink()

    def close(self) -> None:
        """Let go of the file as it is."""
        if self._file is not None:
            self._file.close()
