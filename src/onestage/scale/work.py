"""A shard of a batch: from its number to its part. What is done does not depend on who does it, nor on when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast

from onestage.data.batch_folder import HIDDEN, PICTURES, part_path, read_part
from onestage.data.workers import TIMEOUT
from onestage.errors import DataError, LostError
from onestage.predict.pictures import PictureFile
from onestage.predict.pipeline import Outcome, Selection
from onestage.predict.predictor import Looker
from onestage.predict.shard import Row, row_of, rows
from onestage.scale.inputs import Listed
from onestage.scale.listing import read_shard
from onestage.scale.manifest import Manifest
from onestage.scale.model_copy import open_copy
from onestage.scale.parts import OK, is_done, table_of, write_part
from onestage.scale.reading import stored


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


class SlowError(Exception):
    """A picture of a shard was not read in time. number: of it; error: that says so."""

    def __init__(self, number: int, error: LostError) -> None:
        super().__init__(str(error))
        self.number, self.error = number, error


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
    def begin(cls, folder: Path, digest: str, device: str, conditions: Conditions) -> Worker:
        """The worker for a batch, on a device such as "cpu" or "cuda:1". digest: of the manifest.

        Raise DataError if the folder is not there, as on a machine that does not share it, or holds another manifest.
        """
        try:
            manifest = Manifest.read(folder)
        except DataError as error:
            what = "a process that works at this batch does not see its folder, or its manifest"
            raise DataError.because(what, error, where=folder) from error
        if manifest.digest != digest:
            what, fix = "the manifest of this batch was changed while the batch went on", "run the same command again"
            raise DataError(what, where=folder, got=manifest.digest[:12], expected=digest[:12], fix=fix)
        return cls(folder, manifest, open_copy(folder, manifest, device), conditions)

    def __call__(self, shard: int, tell: Tell, *, left_out: Mapping[int, str] = MappingProxyType({})) -> Done:
        """Do a shard, unless its part is there. left_out: pictures of it that are not looked at, each with the code of its row.

        Raise WriteError if the part cannot be written, SlowError if a picture is not read in time.
        """
        part = part_path(self.folder, shard)
        pictures = read_shard(self.folder / HIDDEN / PICTURES, shard)
        if is_done(part, shard, self.manifest.digest, len(pictures)):
            done = summary(shard, part)  # another process did it that was believed dead
            tell(Advance(done.pictures, sum(done.failures.values())))
            return done
        files = {number: _file(picture) for number, picture in enumerate(pictures)}
        looked = {number: file for number, file in files.items() if number not in left_out}
        found = list(self._counted(looked, tell))
        for number, code in sorted(left_out.items()):
            found.insert(number, row_of(Outcome(files[number], self._reason(code, pictures[number]))))
        if left_out:
            tell(Advance(len(left_out), len(left_out)))
        named = [row._replace(path=picture.path) for row, picture in zip(found, pictures, strict=True)]
        write_part(self.folder, shard, table_of(named, seconds=self.manifest.options.seconds), self.manifest.digest)
        failures = Counter(str(row.code) for row in named if row.status != OK)
        return Done(shard, len(named), dict(failures), dict(Counter(name for row in named for name in row.names)))

    def one_by_one(self, shard: int, first: int, slow: Sequence[int] = ()) -> Iterator[int]:
        """Look at each picture of a shard alone, from one on, but not at slow ones, and forget what is found. Yield its number
        before that.
        """
        for number, picture in enumerate(read_shard(self.folder / HIDDEN / PICTURES, shard)[first:], first):
            if number in slow:
                continue
            yield number
            for _ in self._counted({number: _file(picture)}, lambda _: None):
                pass

    def _reason(self, code: str, picture: Listed) -> DataError:
        """Why a picture was not looked at."""
        if code == "timeout":
            what, fix = (
                "this picture was not read in time",
                "is its disk or network slow? --worker-timeout SECONDS waits longer",
            )
            got = f"more than {self.conditions.timeout:g} s"
            return DataError(what, where=picture.path, got=got, fix=fix, code=code)
        what, fix = "every process that read this picture died", "save it again, or give more memory if it is very large"
        return DataError(what, where=picture.path, fix=fix, code=code)

    def _counted(self, files: Mapping[int, PictureFile], tell: Tell) -> Iterator[Row]:
        """The rows of pictures by their numbers. It tells after each group that went through the network."""
        options, conditions = self.manifest.options, self.conditions
        labels = tuple(self.looker.classes.index(name) for name in options.classes)
        selection = Selection(options.score, labels, options.top)
        each = partial(rows, batch_size=options.batch_size, gigabytes=options.picture_memory, timeout=conditions.timeout)
        pictures = failures = 0
        try:
            for row in each(self.looker, list(files.values()), selection=selection):
                yield row
                pictures, failures = pictures + 1, failures + (row.status != OK)
                if pictures >= options.batch_size:
                    tell(Advance(pictures, failures))
                    pictures = failures = 0
        except LostError as error:
            slow = next((number for number, file in files.items() if str(file.path) == error.where), None)
            if slow is None:
                raise
            raise SlowError(slow, error) from error
        tell(Advance(pictures, failures))


def _file(picture: Listed) -> PictureFile:
    return PictureFile(cast(Path, stored(picture)), picture.id)  # the decoder takes any Stored


def summary(shard: int, part: Path) -> Done:
    """What a part holds, as the process that wrote it would have said."""
    table = read_part(part)
    codes = [code for code in table.column("code").to_pylist() if code is not None]
    names = Counter(name for names in table.column("names").to_pylist() for name in names or ())
    return Done(shard, len(table), dict(Counter(codes)), dict(names))
