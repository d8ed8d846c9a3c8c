"""The folder of results of ``onestage batch``, and which files in it are parts of them.

part-000000.parquet ...     a row for each picture, a file for each shard
_batch/pictures.parquet     the pictures, a row group for each shard
_batch/manifest.json        what the batch is
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from onestage.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyarrow import Table

HIDDEN, MANIFEST, PICTURES = "_batch", "manifest.json", "pictures.parquet"
DIGEST, SHARD = b"onestage.batch", b"onestage.shard"
"""The keys of the metadata of a part: the digest of its manifest, and its number."""


def is_batch(folder: Path) -> bool:
    """Whether a folder holds the results of a batch."""
    return os.path.isfile(folder / HIDDEN / MANIFEST)  # noqa: PTH113  # which never raises


def arrow() -> Any:
    """The package pyarrow. Raise ConfigError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        what, fix = "results of a batch are Parquet files, and pyarrow is not installed", "pip install 'onestage[batch]'"
        raise ConfigError(what, got=error, fix=fix) from error
    return pyarrow


def part_path(folder: Path, shard: int) -> Path:
    """The place of the results of a shard."""
    return folder / f"part-{shard:06d}.parquet"


def part_paths(folder: Path) -> list[Path]:
    """The files that are named as parts, in the order of shards."""
    return sorted(folder.glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))


@dataclass(frozen=True)
class PartNote:
    """What the end of a part says, before its rows are read. pictures: its rows."""

    shard: int
    digest: str
    pictures: int


def note_of(path: Path) -> PartNote | None:
    """What a part says of itself; None if it is damaged or cut off, or was not written by a batch."""
    pa = arrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            noted = file.schema_arrow.metadata or {}
            return PartNote(int(noted[SHARD]), noted[DIGEST].decode(), file.metadata.num_rows)
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


class Part(NamedTuple):
    """A part of a batch. is_whole: whether its end can be read, and counts the rows that belong to its shard."""

    path: Path
    shard: int
    is_whole: bool


def parts_of(folder: Path, digest: str, sizes: Sequence[int]) -> Iterator[Part]:
    """The parts of a batch that are there, in order. digest: of its manifest; sizes: how many pictures each shard has.

    Raise ConfigError for any other file that is named as parts are: a copy would count twice.
    """
    places = {part_path(folder, shard): shard for shard in range(len(sizes))}
    for path in part_paths(folder):
        note, shard = note_of(path), places.get(path)
        if shard is None or (note is not None and (note.shard, note.digest) != (shard, digest)):
            what, fix = "a file in this folder is no part of this batch", "move it away"
            got = (
                None if note is None else f"a copy of part {note.shard}" if note.digest == digest else "a part of another batch"
            )
            raise ConfigError(what, where=path, got=got, expected="a part of this batch for each shard, once", fix=fix)
        yield Part(path, shard, note is not None and note.pictures == sizes[shard])


def read_part(path: Path, columns: Sequence[str] | None = None) -> Table:
    """The rows of a part, with all columns or some. Raise DataError if it is damaged."""
    pa = arrow()
    from pyarrow import parquet

    try:
        return parquet.read_table(path, columns=None if columns is None else [*columns], page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, str(error).partition("\n")[0]) from error


def damaged(path: Path, got: object) -> DataError:
    """The error for a part that cannot be read."""
    what, fix = "a part of these results is damaged", "run the same command again: it makes this part again"
    return DataError(what, where=path, got=got, fix=fix)


def shard_sizes(path: Path) -> list[int]:
    """How many pictures each shard has, by the list of pictures. Raise DataError if it cannot be read."""
    pa = arrow()
    from pyarrow import parquet

    try:
        about = parquet.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        what, fix = "the list of pictures of this batch cannot be read", "begin again in another folder: -o OTHER"
        raise DataError(what, where=path, got=str(error).partition("\n")[0], fix=fix) from error
    return [about.row_group(shard).num_rows for shard in range(about.num_row_groups)]


class About(NamedTuple):
    """What the manifest says of a batch to those who read its results. digest: that every part of it holds."""

    digest: str
    classes: tuple[str, ...]
    shards: int


def about(folder: Path) -> About:
    """What the manifest of a folder of results says. Raise DataError if it cannot be read."""
    path = folder / HIDDEN / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        names = tuple(str(name) for name in content["options"]["classes"] or content["model"]["classes"])
        return About(str(content["digest"]), names, int(content["pictures"]["shards"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what, fix = "the manifest of this batch is damaged", "run the batch in another folder"
        raise DataError(what, where=path, got=f"{type(error).__name__}: {error}", fix=fix) from error
