"""Whether the pictures of a run are still those with which it began.

checkpoints/pictures.json has the size of each file and a checksum of its first and last kilobyte. Runs of earlier versions
have no such file; they get it when they go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from onestage.data import Dataset
from onestage.data.threads import PatientThreads
from onestage.data.workers import TIMEOUT
from onestage.errors import ConfigError, DataError, counted, first_ten, shortened
from onestage.files import write_atomically
from onestage.images import Stored, decode_image
from onestage.parts import Part

NAME = "pictures.json"
KILOBYTE = 1024
STAMP = re.compile(r"[0-9]{1,20}-[0-9a-f]{16}")
LARGEST_LIST = 2**30
"""Bytes: it lists some ten million pictures."""
SHOWN = 10
"""So many pictures that have changed and can be read are enough to know: the rest is not decoded."""
AT_ONCE = 1024
"""Pictures that wait for a thread at the same time."""

Stamps = Mapping[str, str]
"""Of each picture that is a file, by its path from the data set's folder: its size and checksum, as 1234-0011223344556677."""


def stamping(stamps: dict[str, str], *sets: Dataset, timeout: float = TIMEOUT) -> Iterator[int]:
    """Add the stamps of all pictures, each once. A file that cannot be read has none.

    Yield the number of pictures done so far, so often that between two of them a process that waits as long as ``timeout``
    does not give up. Raise LostError if one picture takes more than ``timeout`` seconds.
    """
    told, places = time.monotonic(), [*_names(*sets).items()]
    inside = {path: (data, row) for data in sets if data.parts is not None for row, path in enumerate(data.paths)}
    with PatientThreads(timeout=timeout, farewell=0.0) as threads:
        for first in range(0, len(places), AT_ONCE):
            part = places[first : first + AT_ONCE]
            stored = [inside[path][0].stored(inside[path][1]) if path in inside else path for path, _ in part]
            futures = [threads.submit(partial(_stamp, place)) for place in stored]
            for done, ((path, name), future) in enumerate(zip(part, futures, strict=True), start=first + 1):
                stamp = threads.result(future, path)
                if stamp is not None:
                    stamps[name] = stamp
                if time.monotonic() - told > timeout / 20:
                    yield done
                    told = time.monotonic()


def stamps_of(*sets: Dataset) -> Stamps:
    """The stamps of all pictures at once."""
    stamps: dict[str, str] = {}
    for _ in stamping(stamps, *sets):
        pass
    return stamps


def _names(*sets: Dataset) -> dict[str, str]:
    """The path of each picture, and its name in the list: the path from its data set's folder."""
    return {path: os.path.relpath(path, data.root) for data in sets for path in data.paths}


def _stamp(path: Stored) -> str | None:
    if isinstance(path, Part):
        return _stamp_inside(path)
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(file.read(KILOBYTE), digest_size=8)
            file.seek(max(0, size - KILOBYTE))
            digest.update(file.read(KILOBYTE))
    except OSError:
        return None
    return f"{size}-{digest.hexdigest()}"


def _stamp_inside(part: Part) -> str | None:
    """As of a file, of a picture inside a larger one."""
    first = max(0, part.length - KILOBYTE)
    try:
        digest = hashlib.blake2b(part.read(KILOBYTE), digest_size=8)
        digest.update(replace(part, offset=part.offset + first, length=part.length - first).read())
    except (DataError, OSError):
        return None
    return f"{part.length}-{digest.hexdigest()}"


def load(folder: Path) -> Stamps | None:
    """The stamps with which the run in ``folder`` began; None if it has none. Raise ConfigError if they cannot be read."""
    path = _place(folder)
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise ValueError(f"more than {LARGEST_LIST:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
        for name, stamp in found.items():
            if not isinstance(stamp, str) or not STAMP.fullmatch(stamp):
                raise ValueError(f"{shortened(name, 100)}: {shortened(repr(stamp), 100)}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            "the list of this run's pictures cannot be read, so a change of them cannot be noticed",
            where=path,
            got=error,
            expected="of each picture its size and checksum, such as 1234-0011223344556677",
            fix=f"put the list back, or go on with the pictures as they are: onestage train --resume {shlex.quote(str(folder))}"
            " --accept-changes",
        ) from error
    return found


def save(folder: Path, stamps: Stamps) -> None:
    """Keep them in the run's folder. Raise WeightsError if that is not possible. No file is made for none."""
    if stamps or _place(folder).exists():
        write_atomically(_place(folder), json.dumps(stamps, indent=0).encode())


def forget(folder: Path, paths: Container[str], *sets: Dataset) -> None:
    """Let the run in ``folder`` go on whatever became of those pictures of its data sets that are at the ``paths``."""
    stamps = load(folder)
    forgotten = {name for path, name in _names(*sets).items() if path in paths}
    if stamps is not None and not forgotten.isdisjoint(stamps):
        save(folder, {name: stamp for name, stamp in stamps.items() if name not in forgotten})


def check(folder: Path, now: Stamps, *, root: Path, go_on: str, lost: bool = False) -> list[str]:
    """Raise ConfigError if pictures have changed since the run began. go_on: the command that resumes the run.

    lost: pictures that cannot be read any more are no change; return their names.
    """
    before = load(folder) or {}
    names = [name for name, stamp in before.items() if now.get(name) != stamp]
    unreadable = _unreadable(root, names) if lost else []
    changed = [f"{name}: {_change(before[name], now.get(name))}" for name in names if name not in unreadable]
    if changed:
        pictures = counted(len(changed), "picture")
        raise ConfigError(
            f"{pictures} {'has' if len(changed) == 1 else 'have'} changed since this run began",
            where=root,
            got="\n" + first_ten(changed),
            fix=f"put them back, or go on with them as they are: {go_on} --accept-changes",
        )
    return unreadable


def come_and_gone(folder: Path, *sets: Dataset) -> list[str]:
    """The pictures with which the run in ``folder`` began and that its data sets lack, and those that are new, a line each."""
    before, now = load(folder) or {}, {*_names(*sets).values()}
    gone = [f"{name}: it is gone" for name in before if name not in now]
    return gone + [f"{name}: it is new" for name in sorted(now) if before and name not in before]


def _unreadable(root: Path, names: Sequence[str]) -> list[str]:
    """The pictures that cannot be decoded; only the first of them if too many others can."""
    found, others = [], 0
    for name in names:
        try:
            decode_image(root / name)
            others += 1
        except DataError:
            found.append(name)
        if others == SHOWN:
            break
    return found


def _change(before: str, now: str | None) -> str:
    if now is None:
        return "it cannot be read any more"
    sizes = [int(stamp.partition("-")[0]) for stamp in (before, now)]
    return "other content" if sizes[0] == sizes[1] else f"{sizes[0]:,} bytes -> {sizes[1]:,}"


def _place(folder: Path) -> Path:
    return folder / "checkpoints" / NAME
