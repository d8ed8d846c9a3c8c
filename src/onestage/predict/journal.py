"""How far a run over many pictures has come, so that another process can go on with it after any end, a power cut included.

The notes are in a folder of the results, ``.going-on``, until the run is finished:

| file           | what it holds                                                                                         |
|----------------|-------------------------------------------------------------------------------------------------------|
| `run.json`     | what the results follow from: the model, the options, and a digest of the list of pictures            |
| `pictures.txt` | the pictures, a line for each                                                                         |
| `state.json`   | how many pictures are done, and the state of each sink when they were; written again every few seconds |

The state is written after everything that it speaks of is on the disk. What came later is done again. Both files of JSON end
with a SHA-256 of the rest: numbers that were damaged would begin at another place, and nothing would show it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onestage.errors import ConfigError, DataError, OnestageError, first_ten
from onestage.files import Json, atomic_file, make_folder, writing
from onestage.predict.pictures import PictureFile
from onestage.predict.sinks import Sink, State

FOLDER, RUN, PICTURES, STATE = ".going-on", "run.json", "pictures.txt", "state.json"
SEAL = "seal"
"""The name of the SHA-256 in a file of notes."""
SECONDS = 5.0
"""Between two notes. So much work is lost at most."""
RESTART = "start again without --resume, or choose another folder with --out"


@dataclass(frozen=True)
class About:
    """All that the results of a run follow from. settings: names and values, such as of options, as plain data."""

    settings: Mapping[str, Json]
    pictures: Sequence[PictureFile] = field(repr=False)

    def lines(self) -> Iterator[str]:
        """A line for each picture: its path and its id."""
        for picture in self.pictures:
            yield json.dumps([os.fspath(picture.path), picture.image_id])

    def digest(self) -> str:
        """A SHA-256 of the list of pictures."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class Point:
    """A moment of a run. done: pictures, from the first one. sinks: the state of each. counts: what else is counted."""

    done: int = 0
    sinks: Mapping[str, State] = field(default_factory=dict)
    counts: Mapping[str, Json] = field(default_factory=dict)


def earlier(results: Path) -> dict[str, Json] | None:
    """What the run that was interrupted in this folder gave to ``begin``; None if there was no such run."""
    path = results / FOLDER / RUN
    return _part(_read(path), "notes", path.parent) if path.exists() else None


class Journal:
    """The notes of a run in the folder of its results. Every method raises WriteError if the disk takes no more."""

    def __init__(self, results: Path, about: About) -> None:
        self.folder = results / FOLDER
        self._about = about
        self._last = time.monotonic()

    @property
    def exists(self) -> bool:
        """Whether a run was interrupted in this folder, or is at work."""
        return (self.folder / RUN).exists()

    def begin(self, notes: Mapping[str, Json]) -> None:
        """Forget an earlier run, and note what this one is about. notes: what ``earlier`` gives to who goes on with it."""
        self.remove()
        make_folder(self.folder)
        whole = "".join(line + "\n" for line in self._about.lines())
        self._write(PICTURES, whole)
        run: dict[str, Json] = {"settings": dict(self._about.settings), "digest": self._about.digest(), "notes": dict(notes)}
        self._write(RUN, json.dumps(_sealed(run), indent=1))

    def go_on(self, sinks: Mapping[str, Sink]) -> Point:
        """Set the sinks back to the last note. Return it."""
        path = self.folder / STATE
        if not path.exists():  # it ended before its first note
            return Point()
        plain = _read(path)
        try:
            point = Point(int(plain["done"]), plain["sinks"], plain["counts"])  # type: ignore[arg-type]
            states = {name: {str(key): int(value) for key, value in point.sinks[name].items()} for name in sinks}
            if not (0 <= point.done <= len(self._about.pictures) and isinstance(point.counts, dict)):
                raise _damaged(path)
            for name, sink in sinks.items():
                sink.go_on(states[name])
        except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError) as error:
            if isinstance(error, OnestageError):
                raise
            raise _damaged(path) from error
        return point

    def note(self, done: int, sinks: Mapping[str, Sink], counts: Mapping[str, Json], *, now: bool = False) -> None:
        """Note that so many pictures are done, if the last note is some seconds old, or ``now``."""
        if not now and time.monotonic() - self._last < SECONDS:
            return
        point = Point(done, {name: sink.sync() for name, sink in sinks.items()}, counts)
        self._write(STATE, json.dumps(_sealed(asdict(point))))
        self._last = time.monotonic()

    def remove(self) -> None:
        """Forget the run: it is finished."""
        with writing(self.folder, "the notes of an earlier run cannot be removed"), suppress(FileNotFoundError):
            (self.folder / RUN).unlink(missing_ok=True)  # first: without it the rest means nothing
            shutil.rmtree(self.folder)

    def _write(self, name: str, text: str) -> None:
        with atomic_file(self.folder / name, durable=True) as file:
            file.write(text.encode())

    def compare(self) -> None:
        """Raise ConfigError, which says what has changed, if the interrupted run was about something else."""
        before = _read(self.folder / RUN)
        settings = _part(before, "settings", self.folder)
        changed = [
            f"{name}: {_short(settings.get(name))}, now {_short(self._about.settings.get(name))}"
            for name in dict.fromkeys([*settings, *self._about.settings])
            if settings.get(name) != json.loads(json.dumps(self._about.settings.get(name)))
        ]
        if before.get("digest") != self._about.digest():
            changed += self._changed_pictures()
        if changed:
            what = "the interrupted run cannot go on, because something has changed since\n" + first_ten(changed)
            raise ConfigError(what, where=self.folder.parent, fix=f"give the same model, options and pictures; or {RESTART}")

    def _changed_pictures(self) -> Iterator[str]:
        """What differs between the lists of pictures."""
        path = self.folder / PICTURES
        try:
            before = path.read_text().splitlines()
        except (OSError, ValueError) as error:
            raise _damaged(path) from error
        now = list(self._about.lines())
        old, new = set(before), set(now)
        for what, lines, others in (("new", now, old), ("gone", before, new)):
            names = [_name(line) for line in lines if line not in others]
            if names:
                yield f"pictures that are {what}: {len(names):,}, such as {names[0]}"
        if old == new:
            yield "the order of the pictures"


def _name(line: str) -> str:
    """The path in a line of the list of pictures."""
    try:
        return str(json.loads(line)[0])
    except (ValueError, LookupError, TypeError):
        return line


def _read(path: Path) -> dict[str, Json]:
    """What a file of notes holds. Raise DataError if it is damaged."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(plain, dict) or plain.pop(SEAL, None) != _seal(plain):
        raise _damaged(path)
    return plain


def _sealed(plain: dict[str, Json]) -> dict[str, Json]:
    """What a file of notes holds, with what shows damage."""
    return plain | {SEAL: _seal(plain)}


def _seal(plain: dict[str, Json]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _part(plain: dict[str, Json], name: str, folder: Path) -> dict[str, Json]:
    """A part of what the file about a run holds. Raise DataError if it is damaged."""
    part = plain.get(name)
    if not isinstance(part, dict):
        raise _damaged(folder / RUN)
    return part


def _damaged(path: Path) -> DataError:
    return DataError("the notes of the interrupted run are damaged", where=path, fix=RESTART)


def _short(value: Json) -> str:
    """A setting, for people."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
