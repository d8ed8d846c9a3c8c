"""Exported files of detectors, kept between programs: a detector's file is exported once for each machine.

They are in ``cache_folder("exported")``, a folder for each file, named by a SHA-256 of all that the file depends on. The time
of a folder is that of its last use. Any of them can be deleted at any time. Damage is found when a file is opened, because each
holds a SHA-256 of its content.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from filelock import FileLock
from torch import Tensor

from onestage.deploy.benchmark import processor
from onestage.deploy.export import FORMATS, USUAL, Exported, export
from onestage.deploy.int8 import Int8Data
from onestage.deploy.plan import ExportConfig, fingerprint, versions
from onestage.errors import WeightsError, WriteError, warn_outside
from onestage.files import ABANDONED_AFTER, cache_folder, make_folder, temporary_folder, writing
from onestage.model.detector import Detector
from onestage.model.output.scores import Scores
from onestage.predict.exported import open_exported
from onestage.predict.predictor import Predictor

PROGRAM = Path(__file__).parents[1]
"""The source files of this package."""
MOST_BYTES = 4_000_000_000
"""Of all files and choices together. Those that were not used for the longest time go first."""


@dataclass(frozen=True, eq=False)
class Cached:
    """The exported files of a detector in a cache. source: the fingerprint of the detector, which must not change, and which
    says all that it computes (``is_as_built``). root: the folder of the cache.
    """

    detector: Detector
    source: str
    root: Path

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """The files of the detector as it is now. Raise WriteError if this user has no place for a cache."""
        return cls(detector, fingerprint(detector), cache_folder("exported"))

    @classmethod
    def without_cache(cls, detector: Detector, error: WriteError) -> Self:
        """As ``of``, in a temporary folder of this process, because the cache cannot be written. Warn, and say why."""
        cause = ": ".join(str(part) for part in (error.where, error.what, error.got) if part is not None)
        warn_outside([f"no exported file is kept for the next time, because the cache cannot be written: {cause}"])
        return cls(detector, fingerprint(detector), _temporary_root())

    @classmethod
    @contextlib.contextmanager
    def for_once(cls, detector: Detector) -> Iterator[Self]:
        """As ``of``, in a folder that is gone at the end of the block: for a detector that is not as it was built."""
        with temporary_folder(Path(tempfile.gettempdir()) / "onestage") as folder:
            yield cls(detector, fingerprint(detector), folder)

    def place(self, *settings: str) -> Path:
        """The place for what depends on the detector, this machine, the packages, this program, and further settings."""
        parts = [self.source, processor(), json.dumps(versions(), sort_keys=True), program(PROGRAM), *settings]
        return self.root / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def path(self, to: str, config: ExportConfig = USUAL, labelled: Int8Data | None = None) -> Path:
        """The place of the file of that format, and of what else ``export`` is told. There may be none yet."""
        settings = [] if config == USUAL else [repr(config)]
        settings += [] if labelled is None else [labelled.fingerprint]
        return self.place(to, *settings) / f"model{FORMATS[to].suffix}"

    def has(self, to: str, config: ExportConfig = USUAL) -> bool:
        """Whether there is a file of that format, exported so. It may be damaged."""
        return self.path(to, config).is_file()

    def open(
        self,
        to: str,
        runtime: str,
        *,
        pictures: Callable[[], Sequence[Tensor]] = tuple,
        config: ExportConfig = USUAL,
        labelled: Int8Data | None = None,
        bf16: bool = False,
    ) -> Predictor:
        """The file of the format ``to``, run by the ``runtime``. It is exported and checked if it is not there, or is damaged.
        Any number of processes may ask for the same file at once.

        pictures: gives some, (3, H, W) uint8 each, to check a new file with; without any, they are drawn. config, labelled: as
        for ``export``. bf16: compute in bfloat16. Raise what ``export`` and ``open_exported`` raise; WriteError if the cache
        cannot be written.
        """
        path = self.path(to, config, labelled)
        folder = path.parent
        open_it = partial(_open, path, runtime, self.detector.scores, bf16=bf16)
        with contextlib.suppress(WeightsError):  # there is none, or it is damaged, or just being deleted
            return open_it()
        make_folder(folder.parent)
        with _locked(folder.with_name(f".{folder.name}.lock")):
            with contextlib.suppress(WeightsError):  # another process made it while this one waited
                return open_it()
            _make(path, partial(export, self.detector, to=to, config=config, pictures=pictures() or None, labelled=labelled))
            _limit(folder)
            return open_it()


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Keep other processes that lock the file ``place`` out of the block. Raise WriteError if it cannot be written."""
    lock = FileLock(place)
    with writing(place):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@functools.cache
def _temporary_root() -> Path:
    """A folder that is deleted when this process ends. Raise WriteError if none can be made."""
    stack = contextlib.ExitStack()
    folder = stack.enter_context(temporary_folder(Path(tempfile.gettempdir()) / "onestage"))
    atexit.register(stack.close)
    return folder


@functools.cache
def program(folder: Path) -> str:
    """A SHA-256 of the source files below a folder. A file that another state of this program wrote may be wrong, though the
    version of the package is the same.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _open(path: Path, runtime: str, scores: Scores | None, *, bf16: bool) -> Predictor:
    """The file, opened. It may be older than what was measured about the scores of its detector, which is given. Raise
    WeightsError if it is damaged, or not there.
    """
    predictor = replace(open_exported(path, runtime, bf16=bf16), scores=scores)
    with contextlib.suppress(OSError):  # a cache that is only read serves too
        os.utime(path.parent)
    return predictor


def _make(path: Path, write: Callable[[Path], Exported]) -> None:
    """Export the file into a temporary folder, which then gets its name. write: exports it to a path."""
    folder = path.parent
    with temporary_folder(folder) as temporary:
        draft = make_folder(temporary / folder.name)
        made = write(draft / path.name)
        if made.vectors is not None:
            shutil.rmtree(made.vectors)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        with writing(folder):
            draft.replace(folder)


def _limit(kept: Path) -> None:
    """Delete the files that were not used for the longest time, as long as all together are too large. Delete old locks, which
    some versions of filelock leave.
    """
    for lock in kept.parent.glob(".*.lock"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > ABANDONED_AFTER:
                lock.unlink()
    total = 0
    for _, entry, size in sorted(_entries(kept.parent), reverse=True):
        total += size
        if total > MOST_BYTES and entry != kept:
            with contextlib.suppress(OSError):  # another process may do the same
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _entries(root: Path) -> Iterator[tuple[float, Path, int]]:
    """The time of the last use, the path, and the bytes of each folder of a file, and of each choice, in the cache."""
    for entry in root.glob("[!.]*"):
        with contextlib.suppress(OSError):  # another process may delete it
            yield entry.stat().st_mtime, entry, sum(path.stat().st_size for path in (entry, *entry.glob("*")))
