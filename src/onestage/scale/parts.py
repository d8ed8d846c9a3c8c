"""The results of a shard: one Parquet file, a row for each picture. It is there whole, or it is not there.

| column  | type                  | what it is                                                                     |
|---------|-----------------------|--------------------------------------------------------------------------------|
| id      | text                  | of the picture, unlike all others of the batch                                 |
| path    | text                  | of the picture, or its address; of a tar file, then the name in it             |
| size    | height, width         | of the picture, in pixels; null if it could not be read                        |
| status  | text                  | "ok" or "error"                                                                |
| code    | text                  | the kind of error, such as "broken"; null if there is none                     |
| message | text                  | the error in words; null if there is none                                      |
| boxes   | list of 4 floats      | x1, y1, x2, y2 in pixels of the picture, best first                            |
| scores  | list of floats        | 0..1                                                                           |
| labels  | list of whole numbers | 0..K-1                                                                         |
| names   | list of texts         | the classes by name                                                            |
| seconds | float                 | that the picture took; its share of the batch it went through the network with |

Equal rows make equal bytes. Shape letters: D detections of all pictures of a shard.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onestage.errors import ConfigError, DataError
from onestage.files import atomic_file
from onestage.predict.shard import Row

if TYPE_CHECKING:
    from pyarrow import Array, Schema, Table

OK = "ok"
CHECKED = {"write_page_checksum": True}
"""Damage of a page is then noticed when it is read."""
DIGEST, SHARD = b"onestage.batch", b"onestage.shard"
"""The keys of the metadata of a part: the digest of its manifest, and its number."""


def part_path(folder: Path, shard: int) -> Path:
    """The place of the results of a shard."""
    return folder / f"part-{shard:06d}.parquet"


def part_paths(folder: Path) -> list[Path]:
    """The parts that are there, in the order of shards."""
    return sorted(folder.glob("part-*.parquet"))


def arrow() -> Any:
    """The package pyarrow. Raise ConfigError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        what, fix = "results of a batch are Parquet files, and pyarrow is not installed", "pip install 'onestage[batch]'"
        raise ConfigError(what, got=error, fix=fix) from error
    return pyarrow


@cache
def schema(*, seconds: bool) -> Schema:
    """The columns of a part."""
    pa = arrow()
    size = pa.struct([("height", pa.int32()), ("width", pa.int32())])
    texts = [(name, pa.string()) for name in ("status", "code", "message")]
    boxes = ("boxes", pa.list_(pa.list_(pa.float32(), 4)))
    others = [("scores", pa.list_(pa.float32())), ("labels", pa.list_(pa.int32())), ("names", pa.list_(pa.string()))]
    columns = [("id", pa.string()), ("path", pa.string()), ("size", size), *texts, boxes, *others]
    return pa.schema(columns + ([("seconds", pa.float32())] if seconds else []))


def table_of(rows: Sequence[Row], *, seconds: bool) -> Table:
    """The rows of a shard as a table."""
    pa, columns = arrow(), schema(seconds=seconds)
    counts = [len(row.scores) for row in rows]
    ends = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))

    def listed(values: Array) -> Array:
        return pa.ListArray.from_arrays(ends, values)

    boxes = np.concatenate([np.zeros((0, 4)), *(row.boxes for row in rows)]).astype(np.float32)
    sizes = [None if row.size is None else {"height": row.size[0], "width": row.size[1]} for row in rows]
    made = {
        "size": pa.array(sizes, columns.field("size").type),
        "boxes": listed(pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1)), 4)),
        "scores": listed(pa.array(np.concatenate([np.zeros(0), *(row.scores for row in rows)]).astype(np.float32))),
        "labels": listed(pa.array(np.concatenate([np.zeros(0), *(row.labels for row in rows)]).astype(np.int32))),
        "names": listed(pa.array([name for row in rows for name in row.names], pa.string())),
    }
    for name in columns.names:
        if name not in made:
            made[name] = pa.array([getattr(row, name) for row in rows], columns.field(name).type)
    return pa.Table.from_arrays([made[name].cast(columns.field(name).type) for name in columns.names], schema=columns)


def write_part(folder: Path, shard: int, table: Table, digest: str) -> None:
    """Put the results of a shard into their place, durably. Raise WriteError if that is not possible; nothing is left then."""
    arrow()
    from pyarrow import parquet

    noted, whole = table.replace_schema_metadata({DIGEST: digest, SHARD: str(shard)}), io.BytesIO()
    parquet.write_table(noted, whole, compression="zstd", row_group_size=max(1, len(table)), **CHECKED)
    with atomic_file(part_path(folder, shard), durable=True) as file:
        file.write(whole.getbuffer())


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


def whole_note_of(path: Path) -> PartNote | None:
    """As ``note_of``, and None if any of its rows cannot be read."""
    note = note_of(path)
    try:
        return note if note is not None and len(read_part(path)) == note.pictures else None
    except DataError:
        return None


def finished(folder: Path, digest: str, sizes: Sequence[int]) -> Iterator[int]:
    """The shards whose parts are there, whole. sizes: how many pictures each shard has.

    One that is damaged is left out, so that it is made again. Raise ConfigError if a part belongs to another batch.
    """
    for path in part_paths(folder):
        note = whole_note_of(path)
        if note is None:
            continue
        if note.digest != digest or path != part_path(folder, note.shard) or not 0 <= note.shard < len(sizes):
            what, fix = "a part in this folder is of another batch", "move it away, or choose another folder with -o"
            raise ConfigError(what, where=path, expected="parts of this batch alone", fix=fix)
        if note.pictures == sizes[note.shard]:
            yield note.shard


def read_part(path: Path) -> Table:
    """The rows of a part. Raise DataError if it is damaged."""
    pa = arrow()
    from pyarrow import parquet

    try:
        return parquet.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        what, fix = "a part of these results is damaged", "run the same command again: it makes this part again"
        raise DataError(what, where=path, got=str(error).partition("\n")[0], fix=fix) from error
