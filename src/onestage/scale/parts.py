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
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onestage.data.batch_folder import DIGEST, SHARD, arrow, note_of, part_path, read_part
from onestage.errors import DataError
from onestage.files import atomic_file
from onestage.predict.shard import Row

if TYPE_CHECKING:
    from pyarrow import Array, Schema, Table

OK = "ok"
CHECKED = {"write_page_checksum": True}
"""Damage of a page is then noticed when it is read."""


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


def is_done(path: Path, shard: int, digest: str, pictures: int) -> bool:
    """Whether the part of a shard is there, of this batch, and all of its rows can be read."""
    note = note_of(path)
    try:
        return note is not None and (note.shard, note.digest) == (shard, digest) and len(read_part(path)) == pictures
    except DataError:
        return False
