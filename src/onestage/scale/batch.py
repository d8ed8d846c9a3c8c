"""A batch from its words to its parts: what is asked for, what is there already, and what is left.

An engine does the shards that are left. It gives back how it advances, and each shard that is done; the parts are in the folder
by then.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from onestage.deploy.plan import fingerprint
from onestage.errors import ConfigError, DataError, warn_outside
from onestage.files import atomic_file, make_folder, remove_leftovers, writing
from onestage.model.codec import encode
from onestage.model.detector import Detector
from onestage.predict.exported import open_exported
from onestage.scale.inputs import Note, pictures_of
from onestage.scale.listing import compare, shard_sizes, write_listing
from onestage.scale.manifest import (
    HIDDEN,
    LOCK,
    NEW_PICTURES,
    PICTURES,
    Manifest,
    ModelNote,
    Options,
    changes,
    check_folder,
    holds_batch,
    refuse,
)
from onestage.scale.parts import arrow, finished, part_path, part_paths, whole_note_of
from onestage.scale.work import Done, summary

PATIENCE = 5.0
"""Seconds to wait for the lock: the processes of a killed batch may hold it for a moment longer than it lived."""


@dataclass(frozen=True)
class Wanted:
    """What a user asks for. name: of the model, as it was written. model: a detector on the CPU, or the path of an exported
    file. given: the words for the pictures.
    """

    name: str
    model: Detector | Path
    given: tuple[str, ...]
    options: Options


@dataclass(frozen=True)
class Batch:
    """A batch whose manifest is written. sizes: how many pictures each shard has. ready: the shards that were done before."""

    folder: Path
    manifest: Manifest
    sizes: list[int] = field(repr=False)
    ready: list[int] = field(repr=False)

    @cached_property
    def left(self) -> list[int]:
        """The shards that are to be done, in order."""
        return sorted({*range(len(self.sizes))} - {*self.ready})

    @property
    def pictures_left(self) -> int:
        """How many pictures they have."""
        return sum(self.sizes[shard] for shard in self.left)

    def earlier(self) -> Iterator[Done]:
        """What the shards hold that were done before."""
        for shard in self.ready:
            yield summary(shard, part_path(self.folder, shard))


@contextmanager
def begun(folder: Path, wanted: Wanted, *, note: Note) -> Iterator[Batch]:
    """A batch in a folder, new or going on, for the block, which alone may work at it.

    note: is told what a user should know about the input. Raise ConfigError if another batch, another process or foreign files
    have the folder; DataError if the input cannot be used; WriteError if nothing can be written.
    """
    arrow()
    folder = folder.absolute()
    check_folder(folder)
    with ExitStack() as stack:
        hidden = make_folder(folder / HIDDEN)
        _lock(hidden / LOCK, stack)
        _tidy(folder)
        stack.callback(_tidy, folder)  # processes may have been killed
        manifest = _prepared(folder, wanted, note)
        sizes = shard_sizes(hidden / PICTURES)
        for part in part_paths(folder):
            if whole_note_of(part) is None:
                note(f"{part}: this part is damaged; it is made again")
        yield Batch(folder, manifest, sizes, [*finished(folder, manifest.digest, sizes)])


def _tidy(folder: Path) -> None:
    """Remove the temporary files of dead processes."""
    for place in (folder, folder / HIDDEN):
        remove_leftovers(place)


def _lock(path: Path, stack: ExitStack) -> None:
    """Take the lock of a folder until the stack ends."""
    lock, timeout = FileLock(path, timeout=PATIENCE), None
    try:
        with writing(path):
            try:
                lock.acquire()
            except Timeout as error:  # which is an OSError too
                timeout = error
    except NotImplementedError:
        warn_outside([f"files cannot be locked in {path.parent.parent}: see that no other command works at this batch"])
        return
    if timeout is not None:
        what, fix = "another process works at this batch", "wait until it ends, stop it, or choose another folder: -o OTHER"
        raise ConfigError(what, where=path.parent.parent, fix=fix) from timeout
    stack.callback(lock.release)


def _prepared(folder: Path, wanted: Wanted, note: Note) -> Manifest:
    """The manifest, which is written now unless it is there. Raise ConfigError if another one is there."""
    before = Manifest.read(folder) if holds_batch(folder) else None
    hidden = folder / HIDDEN
    listing = hidden / (PICTURES if before is None else NEW_PICTURES)
    try:
        pictures = partial(pictures_of, wanted.given, results=folder, note=note)
        found = write_listing(listing, pictures, wanted.options.shard_size)
        if found.repeated:
            note(f"{found.repeated:,} pictures that are named twice are taken once")
        model = _noted(wanted)
        made = Manifest(model, wanted.options, wanted.given, replace(found, repeated=0), _versions())
        if before is None:
            _copy(wanted.model, hidden / model.file)
            made.write(folder)
            return made
        same = before.pictures.digest == made.pictures.digest
        if lines := changes(before, made, "" if same else str(compare(hidden / PICTURES, listing))):
            raise refuse(folder, lines)
        if before.made_by != made.made_by:
            note(f"this batch was begun with {_told(before.made_by)}, and goes on with {_told(made.made_by)}")
        return before
    finally:
        if before is not None:
            listing.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    return {"onestage": version("onestage"), "torch": version("torch"), "python": platform.python_version()}


def _told(versions: object) -> str:
    return ", ".join(f"{name} {number}" for name, number in dict(versions).items())  # type: ignore[call-overload]


def _noted(wanted: Wanted) -> ModelNote:
    """What the manifest says of the model. Its digest covers the weights, the config, and what was measured about scores."""
    model = wanted.model
    if isinstance(model, Detector):
        about = json.dumps(None if model.scores is None else encode(model.scores), sort_keys=True)
        digest = hashlib.sha256(f"{fingerprint(model)} {about}".encode()).hexdigest()
        return ModelNote(wanted.name, "model.safetensors", digest, tuple(model.classes))
    total = hashlib.sha256()
    for path in _files(model):
        total.update(path.read_bytes())
    classes = open_exported(model, wanted.options.runtime, trusted=True).classes  # the caller has opened it before
    return ModelNote(wanted.name, "model." + model.name.partition(".")[2], total.hexdigest(), classes)


def _files(exported: Path) -> list[Path]:
    """An exported file and those that belong to it, such as the weights of OpenVINO and ncnn."""
    return [
        exported,
        *(path for end in (".bin", ".json") if (path := exported.with_suffix(end)).is_file() and path != exported),
    ]


def _copy(model: Detector | Path, place: Path) -> None:
    """Put a copy of the model into the folder, durably."""
    if isinstance(model, Detector):
        try:
            model.save(place)
        except DataError:
            raise
        return
    for path in _files(model):
        with atomic_file(place if path == model else place.with_suffix(path.suffix), durable=True) as file:
            file.write(path.read_bytes())


@dataclass
class Tally:
    """What the shards of a batch hold, added up."""

    pictures: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)

    def add(self, done: Done) -> None:
        """Count a shard."""
        self.pictures += done.pictures
        self.failures.update(done.failures)
        self.objects.update(done.objects)


def sized(workers: int | None, usual: int, shards: Sequence[int]) -> int:
    """How many processes work: those that were asked for, or the usual number, but no more than there are shards."""
    return max(1, min(workers or usual, len(shards)))
