"""Who worked at a shard and died, so that a picture that ends every process becomes a row and the rest goes on.

While a process works at shard 12, ``_batch/.attempt-000012`` is there. The next process that gets the shard finds it if the
first one died: a file tells that on any machine, and no scheduler has to.

1. Some deaths may have any reason: the shard is done again.
2. After ``SUSPECT`` of them, its pictures are looked at one by one, and the file says which one is next. A picture that ends
   ``PROVEN`` processes alone is left out, and gets a row with the code "crashed".
3. The shard is done without these. If processes die all the same, or at too many pictures, the batch ends: then it is not the
   pictures.

A picture that is not read within the timeout ends no process: it is left out too, with the code "timeout", and the same process
does the shard without it. If that goes on from picture to picture, the batch ends: then it is the disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from onestage.data.batch_folder import HIDDEN
from onestage.errors import LostError, counted
from onestage.files import atomic_file
from onestage.scale.work import Advance, Conditions, Done, SlowError, Tell, Worker

SUSPECT, PROVEN, MOST = 2, 2, 10
"""Deaths at a shard before its pictures are looked at alone; deaths at a picture alone; pictures of a shard that may."""
SLOW_IN_A_ROW = 5
"""Pictures side by side that are not read within the timeout: nothing is read any more."""
PERIOD = 1.0
"""Seconds between two notes of how a shard advances."""
_NAME = ".attempt-"


@dataclass(frozen=True)
class Attempt:
    """What the file of a shard says. deaths: of processes that had all of it. alone: the picture that a process has alone; None
    if it has all. next: the first one that was not looked at alone. times: deaths at that one. crashed: those left out, and
    slow: those left out because they were not read in time, in this order. pictures, failures: how far the shard is.
    """

    deaths: int = 0
    alone: int | None = None
    next: int = 0
    times: int = 0
    crashed: tuple[int, ...] = ()
    slow: tuple[int, ...] = ()
    pictures: int = 0
    failures: int = 0

    def died(self) -> Attempt:
        """What is known after the process that wrote this has died."""
        if self.alone is None:
            return replace(self, deaths=self.deaths + 1, pictures=0, failures=0)
        if self.times + 1 < PROVEN:
            return replace(self, alone=None, next=self.alone, times=self.times + 1)
        return replace(self, alone=None, next=self.alone + 1, times=0, crashed=(*self.crashed, self.alone))

    @property
    def left_out(self) -> dict[int, str]:
        """The pictures that are not looked at, each with its code."""
        return dict.fromkeys(self.slow, "timeout") | dict.fromkeys(self.crashed, "crashed")

    def without(self, slow: SlowError) -> Attempt:
        """What is known after a picture was not read in time. Raise LostError if nothing is read any more."""
        last = (*self.slow, slow.number)[-SLOW_IN_A_ROW:]
        if len(last) == SLOW_IN_A_ROW and all(after - before == 1 for before, after in pairwise(last)):
            raise slow.error
        return replace(self, slow=(*self.slow, slow.number), alone=None, pictures=0, failures=0)

    def check(self, shard: int, most: int) -> None:
        """Raise LostError if it makes no sense to try again. most: deaths of processes that had all of the shard."""
        pictures = len(self.crashed)
        if self.deaths < most and pictures <= MOST:
            return
        what, fix = "all processes that worked at a shard died", "often too little memory: fewer --workers, or a larger machine"
        got = counted(self.deaths, "time") + (f", and at {counted(pictures, 'picture')} alone" if pictures else "")
        raise LostError(what, where=f"shard {shard}", got=got, fix=f"{fix}; all other shards are kept")


def _path(folder: Path, shard: int) -> Path:
    return folder / HIDDEN / f"{_NAME}{shard:06d}"


def _read(path: Path) -> Attempt | None:
    """What a file says; None if it is not there, or is being replaced."""
    try:
        content = json.loads(path.read_text())
        return Attempt(**content | {name: tuple(content[name]) for name in ("crashed", "slow")})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, attempt: Attempt) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(asdict(attempt)).encode())


def forget_attempts(folder: Path) -> None:
    """Remove what an earlier command left: it was perhaps killed as a whole, and no shard is to blame."""
    for path in (folder / HIDDEN).glob(f"{_NAME}*"):
        path.unlink(missing_ok=True)


def progress_of(folder: Path) -> dict[int, Advance]:
    """How far the shards are that processes work at."""
    found = {int(path.name.removeprefix(_NAME)): _read(path) for path in (folder / HIDDEN).glob(f"{_NAME}*")}
    return {shard: Advance(attempt.pictures, attempt.failures) for shard, attempt in found.items() if attempt is not None}


@dataclass(eq=False)
class Hand:
    """A process that does shards. Its model is opened with the first one. digest: of the manifest. noting: whether the files
    say how a shard advances, for an engine that has no other way to hear it.
    """

    folder: Path
    digest: str
    device: str
    conditions: Conditions
    noting: bool = False
    _worker: Worker | None = field(default=None, init=False)

    def __call__(self, shard: int, tell: Tell) -> Done:
        """Do a shard. Raise LostError if too many processes died of it, or nothing is read any more."""
        path = _path(self.folder, shard)
        before = _read(path)
        attempt = Attempt() if before is None else before.died()
        try:
            attempt.check(shard, self.conditions.deaths)
            _write(path, attempt)
            if self._worker is None:
                self._worker = Worker.begin(self.folder, self.digest, self.device, self.conditions)
            if attempt.deaths >= SUSPECT:
                attempt = self._looked(self._worker, shard, attempt, tell)
                _write(path, attempt)
            while True:
                said = _Counted(_Noted(path, attempt, tell) if self.noting else tell)
                try:
                    return self._worker(shard, said, left_out=attempt.left_out)
                except SlowError as slow:
                    attempt = attempt.without(slow)
                    _write(path, attempt)
                    tell(Advance(-said.pictures, -said.failures))
        finally:  # after any end but death
            path.unlink(missing_ok=True)

    def _looked(self, worker: Worker, shard: int, attempt: Attempt, tell: Tell) -> Attempt:
        """Look at each picture alone that no process looked at so far."""
        while True:
            try:
                for number in worker.one_by_one(shard, attempt.next, attempt.slow):
                    times = attempt.times if number == attempt.next else 0
                    attempt = replace(attempt, alone=number, next=number, times=times)
                    _write(_path(self.folder, shard), attempt)
                    tell(Advance(0, 0))
            except SlowError as slow:
                attempt = replace(attempt.without(slow), next=slow.number + 1, times=0)
                continue
            return replace(attempt, alone=None, next=attempt.next + 1, times=0) if attempt.alone is not None else attempt


@dataclass(eq=False)
class _Counted:
    """Takes how a shard advances, and keeps how much was told."""

    inner: Tell
    pictures: int = 0
    failures: int = 0

    def __call__(self, more: Advance) -> None:
        self.pictures, self.failures = self.pictures + more.pictures, self.failures + more.failures
        self.inner(more)


@dataclass(eq=False)
class _Noted:
    """Takes how a shard advances, and now and then puts it into the file."""

    path: Path
    attempt: Attempt
    inner: Tell
    _last: float = field(default_factory=time.monotonic)

    def __call__(self, more: Advance) -> None:
        pictures, failures = self.attempt.pictures + more.pictures, self.attempt.failures + more.failures
        self.attempt = replace(self.attempt, pictures=pictures, failures=failures)
        if time.monotonic() - self._last >= PERIOD:
            self._last = time.monotonic()
            _write(self.path, self.attempt)
        self.inner(more)


def advances(folder: Path, told: dict[int, Advance]) -> Iterator[Advance]:
    """How far the shards came since ``told``, which is brought up to date. Less than 0 takes back what died."""
    for shard, now in progress_of(folder).items():
        before = told.get(shard, Advance(0, 0))
        if now != before:
            told[shard] = now
            yield Advance(now.pictures - before.pictures, now.failures - before.failures)
