"""A shard of a batch: from its number to its part. What is done does not depend on who does it, nor on when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch

from onestage.data.workers import TIMEOUT
from onestage.errors import ConfigError, DataError
from onestage.predict.exported import is_exported, open_exported
from onestage.predict.pictures import PictureFile
from onestage.predict.pipeline import Outcome, Selection
from onestage.predict.predictor import Looker, Predictor
from onestage.predict.shard import Row, row_of, rows
from onestage.processes import choose_device
from onestage.scale.inputs import Listed
from onestage.scale.listing import read_shard
from onestage.scale.manifest import HIDDEN, PICTURES, Manifest
from onestage.scale.parts import OK, part_path, read_part, table_of, whole_note_of, write_part
from onestage.scale.reading import stored
from onestage.weights.detector_file import load_detector


class Advance(NamedTuple):
    """Pictures that are finished since this was last said, and how many of them failed."""

    pictures: int
    failures: int


class Done(NamedTuple):
    """A shard that is done: its pictures, how many failed and how many objects were found, by code and by class."""

    shard: int
    pictures: int
    failures: dict[str, int]
    objects: dict[str, int]


Tell = Callable[[Advance], None]


@dataclass(frozen=True)
class Conditions:
    """How the work is done; no result depends on it. timeout: seconds to wait for a picture. deaths: of processes that had all
    of a shard, after which it is given up.
    """

    timeout: float = TIMEOUT
    deaths: int = 5


@dataclass(frozen=True, eq=False)
class Worker:
    """A model that does shards of a batch."""

    folder: Path
    manifest: Manifest
    looker: Looker
    conditions: Conditions = field(default_factory=Conditions)

    @classmethod
    def begin(cls, folder: Path, device: str, conditions: Conditions) -> Worker:
        """The worker for a folder of results, on a device such as "cpu" or "cuda:1".

        Raise DataError if the folder is not there, as on a machine that does not share it.
        """
        try:
            manifest = Manifest.read(folder)
        except DataError as error:
            what = "a process that works at this batch does not see its folder, or its manifest"
            raise DataError.because(what, error, where=folder) from error
        return cls(folder, manifest, open_model(folder, manifest, device), conditions)

    def __call__(self, shard: int, tell: Tell, *, crashed: frozenset[int] = frozenset()) -> Done:
        """Do a shard, unless its part is there. crashed: pictures of it that end any process; they are not looked at.

        Raise WriteError if the part cannot be written.
        """
        part = part_path(self.folder, shard)
        pictures = read_shard(self.folder / HIDDEN / PICTURES, shard)
        note = whole_note_of(part) if part.exists() else None
        if note is not None and (note.digest, note.shard, note.pictures) == (self.manifest.digest, shard, len(pictures)):
            done = summary(shard, part)  # another process did it that was believed dead
            tell(Advance(done.pictures, sum(done.failures.values())))
            return done
        files = [_file(picture) for number, picture in enumerate(pictures) if number not in crashed]
        found = list(self._counted(files, tell))
        for number in sorted(crashed):
            found.insert(number, row_of(Outcome(_file(pictures[number]), _crash(pictures[number]))))
        if crashed:
            tell(Advance(len(crashed), len(crashed)))
        named = [row._replace(path=picture.path) for row, picture in zip(found, pictures, strict=True)]
        write_part(self.folder, shard, table_of(named, seconds=self.manifest.options.seconds), self.manifest.digest)
        failures = Counter(str(row.code) for row in named if row.status != OK)
        return Done(shard, len(named), dict(failures), dict(Counter(name for row in named for name in row.names)))

    def one_by_one(self, shard: int, first: int) -> Iterator[int]:
        """Look at each picture of a shard alone, from one on, and forget what is found. Yield its number before that."""
        for number, picture in enumerate(read_shard(self.folder / HIDDEN / PICTURES, shard)[first:], first):
            yield number
            for _ in self._counted([_file(picture)], lambda _: None):
                pass

    def _counted(self, files: list[PictureFile], tell: Tell) -> Iterator[Row]:
        """The rows of pictures. It tells after each group that went through the network."""
        options, conditions = self.manifest.options, self.conditions
        labels = tuple(self.looker.classes.index(name) for name in options.classes)
        selection = Selection(options.score, labels, options.top)
        each = partial(rows, batch_size=options.batch_size, gigabytes=options.picture_memory, timeout=conditions.timeout)
        pictures = failures = 0
        for row in each(self.looker, files, selection=selection):
            yield row
            pictures, failures = pictures + 1, failures + (row.status != OK)
            if pictures >= options.batch_size:
                tell(Advance(pictures, failures))
                pictures = failures = 0
        tell(Advance(pictures, failures))


def _file(picture: Listed) -> PictureFile:
    return PictureFile(cast(Path, stored(picture)), picture.id)  # the decoder takes any Stored


def _crash(picture: Listed) -> DataError:
    """The error of a picture that ends any process."""
    what, fix = "every process that read this picture died", "save it again, or give more memory if it is very large"
    return DataError(what, where=picture.path, fix=fix, code="crashed")


def summary(shard: int, part: Path) -> Done:
    """What a part holds, as the process that wrote it would have said."""
    table = read_part(part)
    codes = [code for code in table.column("code").to_pylist() if code is not None]
    names = Counter(name for names in table.column("names").to_pylist() for name in names or ())
    return Done(shard, len(table), dict(Counter(codes)), dict(names))


def open_model(folder: Path, manifest: Manifest, device: str) -> Looker:
    """The model of a batch. Raise WeightsError if its copy is damaged."""
    options, path = manifest.options, folder / HIDDEN / manifest.model.file
    if is_exported(path):
        return open_exported(path, options.runtime, trusted=True)  # the user said so when the batch began
    detector = load_detector(path).to(choose_device(device))
    if torch.device(device).type != options.device:
        what, expected = "this batch computes on another kind of device", options.device
        raise ConfigError(what, got=device, expected=expected, fix="begin again in another folder: -o OTHER")
    return Predictor.folded(detector, bf16=options.precision == "bf16")
