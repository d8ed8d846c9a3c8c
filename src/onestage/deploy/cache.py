"""Exported files of detectors, kept between programs: a detector's file is exported once for each machine.

They are in ``cache_folder("exported")``, a folder for each file, named by a SHA-256 of all that the file depends on. Any of
them can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock
from torch import Tensor

from onestage.deploy.benchmark import processor
from onestage.deploy.export import FORMATS, export
from onestage.deploy.plan import fingerprint, versions
from onestage.errors import WeightsError
from onestage.files import cache_folder, make_folder, temporary_folder, write_file, writing
from onestage.model.detector import Detector
from onestage.predict.exported import open_exported
from onestage.predict.predictor import Predictor

PROGRAM = Path(__file__).parents[1]
"""The source files of this package."""
MOST_BYTES = 4_000_000_000
"""Of all files and choices together. Those that were not used for the longest time go first."""
DIGESTS = "sha256.json"
"""In each folder: the SHA-256 of each file there. It is written last, and its time is that of the last use."""


@dataclass(frozen=True, eq=False)
class Cached:
    """The exported files of a detector in the cache. source: the fingerprint of the detector, which must not change."""

    detector: Detector
    source: str

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """The files of the detector as it is now."""
        return cls(detector, fingerprint(detector))

    def place(self, *settings: str) -> Path:
        """The place for what depends on the detector, this machine, the packages, this program, and further settings."""
        parts = [self.source, processor(), json.dumps(versions(), sort_keys=True), program(PROGRAM), *settings]
        return cache_folder("exported") / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def has(self, to: str) -> bool:
        """Whether there is a file of that format. It may be damaged."""
        return (self.place(to) / DIGESTS).is_file()

    def open(self, to: str, runtime: str, *, pictures: Callable[[], Sequence[Tensor]] = tuple) -> Predictor:
        """The file of the format ``to``, run by the ``runtime``. It is exported and checked if it is not there, or is damaged.
        Any number of processes may ask for the same file at once.

        pictures: gives some, (3, H, W) uint8 each, to check a new file with; without any, they are drawn. Raise what ``export``
        raises; WriteError if the cache cannot be written.
        """
        folder = self.place(to)
        path = folder / f"model{FORMATS[to].suffix}"
        with contextlib.suppress(WeightsError, OSError):  # there is none, or it is damaged, or just being deleted
            return _open(path, runtime)
        make_folder(folder.parent)
        with writing(folder), FileLock(folder.with_name(f".{folder.name[0]}.lock")):  # 16 at most: they stay
            with contextlib.suppress(WeightsError, OSError):  # another process made it while this one waited
                return _open(path, runtime)
            _make(self.detector, to, path, pictures() or None)
            _limit(folder)
            return _open(path, runtime)


@functools.cache
def program(folder: Path) -> str:
    """A SHA-256 of the source files below a folder. A file that another state of this program wrote may be wrong, though the
    version of the package is the same.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _open(path: Path, runtime: str) -> Predictor:
    """The file, opened. Raise WeightsError if it is damaged, OSError if it is not there."""
    digests = path.with_name(DIGESTS)
    if digests.read_bytes() != _digests(path.parent):
        raise WeightsError("a file in the cache is damaged", where=path)
    with contextlib.suppress(OSError):  # a cache that is only read serves too
        os.utime(digests)
    return open_exported(path, runtime)


def _digests(folder: Path) -> bytes:
    """The SHA-256 of each file in the folder, as JSON."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != DIGESTS:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return json.dumps(found, indent=1).encode()


def _make(detector: Detector, to: str, path: Path, pictures: Sequence[Tensor] | None) -> None:
    """Export the file into a temporary folder, which then gets its name."""
    folder = path.parent
    with temporary_folder(folder) as temporary:
        draft = temporary / folder.name
        draft.mkdir()
        made = export(detector, draft / path.name, to=to, pictures=pictures)
        if made.vectors is not None:
            shutil.rmtree(made.vectors)
        write_file(draft / DIGESTS, _digests(draft))
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        draft.replace(folder)


def _limit(kept: Path) -> None:
    """Delete the files that were not used for the longest time, as long as all together are too large."""
    total = 0
    for _, entry, size in sorted(_entries(kept.parent), reverse=True):
        total += size
        if total > MOST_BYTES and entry != kept:
            with contextlib.suppress(OSError):  # another process may do the same
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _entries(root: Path) -> Iterator[tuple[float, Path, int]]:
    """The time of the last use, the path, and the bytes of each folder of a file, and of each choice, in the cache."""
    for used in (*root.glob(f"*/{DIGESTS}"), *root.glob("*.json")):
        entry = used.parent if used.name == DIGESTS else used
        with contextlib.suppress(OSError):  # another process may delete it
            yield used.stat().st_mtime, entry, sum(path.stat().st_size for path in (entry, *entry.glob("*")))
