"""Whether the pictures of a run are still those with which it began.

checkpoints/pictures.json has the size of each file and a checksum of its first and last kilobyte. Runs of earlier versions
have no such file; they get it when they go on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from onestage.data import Dataset
from onestage.errors import ConfigError, counted, first_ten
from onestage.files import write_atomically

NAME = "pictures.json"
KILOBYTE = 1024

Stamps = Mapping[str, str]
"""Of each picture that is a file, by its path from the data set's folder: its size and checksum, as 1234-0011223344556677."""


def stamps_of(*sets: Dataset) -> Stamps:
    """The stamps of all pictures, each once. A file that cannot be read has none."""
    places = {path: os.path.relpath(path, data.root) for data in sets for path in data.paths}
    with ThreadPoolExecutor() as pool:
        stamps = dict(zip(places.values(), pool.map(_stamp, places), strict=True))
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}


def _stamp(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(file.read(KILOBYTE), digest_size=8)
            file.seek(max(0, size - KILOBYTE))
            digest.update(file.read(KILOBYTE))
    except OSError:
        return None
    return f"{size}-{digest.hexdigest()}"


def load(folder: Path) -> Stamps | None:
    """The stamps with which the run in ``folder`` began; None if it has none, or none that can be read."""
    try:
        found = json.loads(_place(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return {str(name): str(stamp) for name, stamp in found.items()} if isinstance(found, dict) else None


def save(folder: Path, stamps: Stamps) -> None:
    """Keep them in the run's folder. Raise WriteError if that is not possible."""
    if stamps:
        write_atomically(_place(folder), json.dumps(stamps, indent=0).encode())


def forget(folder: Path, paths: Iterable[str] | None = None) -> None:
    """Let the run in ``folder`` go on whatever became of its pictures; or of those whose paths end with one of the names."""
    stamps = load(folder)
    if paths is None:
        _place(folder).unlink(missing_ok=True)
    elif stamps is not None:
        save(folder, {name: stamp for name, stamp in stamps.items() if not any(path.endswith(name) for path in paths)})


def check(folder: Path, now: Stamps, *, root: Path, go_on: str) -> None:
    """Raise ConfigError if pictures have changed since the run began. go_on: the command that resumes the run."""
    before = load(folder)
    changed = [f"{name}: {_change(stamp, now.get(name))}" for name, stamp in (before or {}).items() if now.get(name) != stamp]
    if changed:
        pictures = counted(len(changed), "picture")
        raise ConfigError(
            f"{pictures} {'has' if len(changed) == 1 else 'have'} changed since this run began",
            where=root,
            got="\n" + first_ten(changed),
            fix=f"put them back, or go on with them as they are: {go_on} --accept-changes",
        )


def _change(before: str, now: str | None) -> str:
    if now is None:
        return "it cannot be read any more"
    sizes = [int(stamp.partition("-")[0]) for stamp in (before, now)]
    return "other content" if sizes[0] == sizes[1] else f"{sizes[0]:,} bytes -> {sizes[1]:,}"


def _place(folder: Path) -> Path:
    return folder / "checkpoints" / NAME
