"""A batch from its words to its parts: what is asked for, what is there already, and what is left.

An engine does the shards that are left. It gives back how it advances, and each shard that is done; the parts are in the folder
by then.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from onestage.data.batch_folder import HIDDEN, PICTURES, arrow, is_batch, parts_of, shard_sizes
from onestage.errors import ConfigError, DataError, counted, warn_outside
from onestage.files import make_folder, remove_leftovers, writing
from onestage.model.detector import Detector
from onestage.scale.inputs import Note, pictures_of
from onestage.scale.listing import SECRETS, Summary, compare, write_listing
from onestage.scale.manifest import LOCK, NEW_PICTURES, Manifest, Options, changes, check_folder, refuse
from onestage.scale.model_copy import copy_model, is_same, note_model
from onestage.scale.stores import masked
from onestage.scale.work import Done, summary

PATIENCE = 5.0
"""Seconds to wait for the lock: a command that was told to end may need a moment for that."""


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
    """A batch whose manifest is written. sizes: how many pictures each shard has. earlier: what the shards hold that were done
    before.
    """

    folder: Path
    manifest: Manifest
    sizes: list[int] = field(repr=False)
    earlier: list[Done] = field(repr=False)

    @cached_property
    def left(self) -> list[int]:
        """The shards that are to be done, in order."""
        return sorted({*range(len(self.sizes))} - {done.shard for done in self.earlier})

    @property
    def pictures_left(self) -> int:
        """How many pictures they have."""
        return sum(self.sizes[shard] for shard in self.left)

    @property
    def pictures_done(self) -> int:
        """How many pictures were done before."""
        return sum(done.pictures for done in self.earlier)


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
        is_new, hidden = not folder.exists(), make_folder(folder / HIDDEN)
        _lock(hidden / LOCK, stack)
        stack.callback(_undo, folder, is_new=is_new)
        _tidy(folder)
        stack.callback(_tidy, folder)  # processes may have been killed
        stack.callback((hidden / SECRETS).unlink, missing_ok=True)
        manifest = _prepared(folder, wanted, note)
        sizes = shard_sizes(hidden / PICTURES)
        yield Batch(folder, manifest, sizes, [*_finished(folder, manifest, sizes, note)])


def _finished(folder: Path, manifest: Manifest, sizes: Sequence[int], note: Note) -> Iterator[Done]:
    """What the parts hold that are there, whole. Raise ConfigError if a file is in the way."""
    for path, shard, is_whole in parts_of(folder, manifest.digest, sizes):
        try:
            found = summary(shard, path) if is_whole else None
        except DataError:
            found = None
        if found is None:
            note(f"{path}: this part is damaged; it is made again")
        else:
            yield found


def _undo(folder: Path, *, is_new: bool) -> None:
    """Leave nothing behind if no batch was begun. is_new: whether the folder was made for it."""
    if is_batch(folder):
        return
    with suppress(OSError):
        for place in (folder / HIDDEN).iterdir():
            place.unlink()
        (folder / HIDDEN).rmdir()
        if is_new:
            folder.rmdir()


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
    before = Manifest.read(folder) if is_batch(folder) else None
    hidden = folder / HIDDEN
    listing = hidden / (PICTURES if before is None else NEW_PICTURES)
    try:
        found = _listed(listing, wanted, folder, note)
        model = note_model(wanted.name, wanted.model, wanted.options.runtime)
        made = Manifest(model, wanted.options, tuple(map(masked, wanted.given)), found, _versions())
        if before is None:
            copy_model(wanted.model, hidden / model.file)
            made.write(folder)
            return made
        same = before.pictures.digest == made.pictures.digest
        if lines := changes(before, made, "" if same else str(compare(hidden / PICTURES, listing))):
            raise refuse(folder, lines)
        if before.made_by != made.made_by:
            note(f"this batch was begun with {_told(before.made_by)}, and goes on with {_told(made.made_by)}")
        if not is_same(hidden / before.model.file, before.model):
            note(f"{hidden / before.model.file}: this copy of the model was changed; it is made again")
            copy_model(wanted.model, hidden / before.model.file)
        with writing(hidden / PICTURES):  # the same list, and whole, whatever happened to the one before
            listing.replace(hidden / PICTURES)
        return before
    finally:
        if before is not None:
            listing.unlink(missing_ok=True)


def _listed(listing: Path, wanted: Wanted, folder: Path, note: Note) -> Summary:
    """Write the list of the pictures. Return what it is, without what was left out, which is told."""
    told = set[str]()

    def once(text: str) -> None:  # the list is written twice if ids come twice
        if text not in told:
            note(text)
        told.add(text)

    pictures = partial(pictures_of, wanted.given, results=folder, note=once)
    found = write_listing(listing, pictures, wanted.options.shard_size)
    if found.repeated:
        note(f"{counted(found.repeated, 'picture')} named twice: each is taken once")
    if found.clashes:
        what = f"{counted(found.clashes, 'picture')} left out, because another one before has the same id"
        note(f"{what}: {found.clash}, for example")
    return replace(found, repeated=0, clashes=0, clash="")


def _versions() -> dict[str, str]:
    return {"onestage": version("onestage"), "torch": version("torch"), "python": platform.python_version()}


def _told(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


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
