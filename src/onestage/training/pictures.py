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
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from onestage.data import Dataset
from onestage.data.json_stream import items
from onestage.data.threads import PatientThreads
from onestage.data.workers import TIMEOUT
from onestage.errors import ConfigError, DataError, counted, first_ten, shortened
from onestage.files import write_atomically
from onestage.images import decode_image
from onestage.parts import Part, Row
from onestage.predict.stream import batched
from onestage.training.checkpoint import CHECKPOINTS

NAME = "pictures.json"
KILOBYTE = 1024
STAMP = re.compile(r"[0-9]{1,20}-[0-9a-f]{16}")
LARGEST_LIST = 2**30
"""Bytes: it lists some ten million pictures."""
SHOWN = 10
"""So many pictures that have changed and can be read are enough to know: the rest is not decoded."""
AT_ONCE = 1024
"""Looks that wait for a thread at the same time."""
TOGETHER = 64
"""Pictures inside a larger file that a thread looks at together."""

Stamps = Mapping[str, str]
"""Of each picture that is a file, by its path from the data set's folder: its size and checksum, as 1234-0011223344556677."""


class _Look(NamedTuple):
    """Pictures that a thread looks at together. names: of each, in the list. path: of the first, for messages."""

    names: list[str]
    path: str
    stamps: Callable[[], Sequence[str | None]]


def stamping(stamps: dict[str, str], *sets: Dataset, timeout: float = TIMEOUT) -> Iterator[int]:
    """Add the stamps of all pictures. A file that cannot be read has none.

    Yield the number of pictures done so far, so often that between two of them a process that waits as long as ``timeout``
    does not give up. Raise LostError if one look takes more than ``timeout`` seconds.
    """
    told, done = time.monotonic(), 0
    with PatientThreads(timeout=timeout, farewell=0.0) as threads:
        for looks in batched((look for data in sets for look in _looks(data)), AT_ONCE):
            for look, future in [(look, threads.submit(look.stamps)) for look in looks]:
                found = threads.result(future, look.path)
                stamps |= {name: stamp for name, stamp in zip(look.names, found, strict=True) if stamp is not None}
                done += len(look.names)
                if time.monotonic() - told > timeout / 20:
                    yield done
                    told = time.monotonic()


def _looks(data: Dataset) -> Iterator[_Look]:
    """The pictures of a data set: each file alone, and those inside a larger file some at a time. Those of a Parquet file that
    have to be read with a whole row group get no stamps.
    """
    rows = enumerate(zip(data.paths, data.names, strict=True))
    found = ((None if data.parts is None else data.parts.part(row, path), path, name) for row, (path, name) in rows)
    places = ((None if isinstance(part, Row) else part, path, name) for part, path, name in found)
    for file, together in groupby(places, key=lambda place: place[0] and place[0].file):
        for group in batched(together, 1 if file is None else TOGETHER):
            parts, names = [part for part, *_ in group if part is not None], [name for *_, name in group]
            path = group[0][1]
            yield _Look(names, path, partial(_stamps_inside, parts) if parts else partial(_stamp_alone, path))


def _stamp_alone(path: str) -> list[str | None]:
    return [_stamp(path)]


def stamps_of(*sets: Dataset) -> Stamps:
    """The stamps of all pictures at once."""
    stamps: dict[str, str] = {}
    for _ in stamping(stamps, *sets):
        pass
    return stamps


def _names(*sets: Dataset) -> dict[str, str]:
    """The path of each picture, and its name in the list: the path from its data set's folder."""
    return {path: name for data in sets for path, name in zip(data.paths, data.names, strict=True)}


def _stamp(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return f"{size}-{_checksum(file, 0, size)}"
    except OSError:
        return None


def _stamps_inside(parts: Sequence[Part]) -> list[str | None]:
    """As of files, of pictures inside one larger file."""
    try:
        with parts[0].opened() as file:
            return [f"{part.length}-{_checksum(file, part.offset, part.length)}" for part in parts]
    except (DataError, OSError):
        return [None] * len(parts)


def _checksum(file: BinaryIO, start: int, size: int) -> str:
    """Of the first and the last kilobyte of so many bytes of a file."""
    file.seek(start)
    digest = hashlib.blake2b(file.read(min(KILOBYTE, size)), digest_size=8)
    last = min(KILOBYTE, size)
    file.seek(start + size - last)
    digest.update(file.read(last))
    return digest.hexdigest()


def load(folder: Path) -> Stamps | None:
    """The stamps with which the run in ``folder`` began; None if it has none. Raise ConfigError if they cannot be read."""
    return dict(_listed(folder)) if is_listed(folder) else None


def is_listed(folder: Path) -> bool:
    """Whether there are stamps with which the run in ``folder`` began."""
    return _place(folder).exists()


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    """The names and the stamps, one by one; none if there is no list. Raise ConfigError as ``load`` does."""
    path = _place(folder)
    try:
        if not path.exists():
            return
        if path.stat().st_size > LARGEST_LIST:
            raise ValueError(f"more than {LARGEST_LIST:,} bytes")
        for name, _, stamp, alone in items(path):
            if not alone or not isinstance(stamp, str) or not STAMP.fullmatch(stamp):
                raise ValueError(f"{shortened(name or 'an entry', 100)}: {shortened(repr(stamp), 100)}")
            yield name, stamp
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            "the list of this run's pictures cannot be read, so a change of them cannot be noticed",
            where=path,
            got=error,
            expected="of each picture its size and checksum, such as 1234-0011223344556677",
            fix=f"put the list back, or go on with the pictures as they are: onestage train --resume {shlex.quote(str(folder))}"
            " --accept-changes",
        ) from error


def save(folder: Path, stamps: Stamps) -> None:
    """Keep them in the run's folder. Raise WeightsError if that is not possible. No file is made for none."""
    if stamps or is_listed(folder):
        write_atomically(_place(folder), _pieces(stamps))


def _pieces(stamps: Stamps) -> Iterator[bytes]:
    """The file, some lines at a time."""
    yield b"{"
    for number, lines in enumerate(batched(stamps.items(), TOGETHER)):
        text = ",".join(f"\n{json.dumps(name)}: {json.dumps(stamp)}" for name, stamp in lines)
        yield (("," if number else "") + text).encode()
    yield b"\n}" if stamps else b"}"


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
    before = {name: stamp for name, stamp in _listed(folder) if now.get(name) != stamp}
    unreadable = _unreadable(root, [*before]) if lost else []
    changed = [f"{name}: {_change(stamp, now.get(name))}" for name, stamp in before.items() if name not in unreadable]
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
    return folder / CHECKPOINTS / NAME
