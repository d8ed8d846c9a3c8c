"""Checksums of what a data set says, by which the processes of a training compare it. No picture is opened.

Shape letters: P pictures, M objects. A million pictures take about a second: of columns, the bytes are taken as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

import numpy as np

from onestage.data.columns import Array, Chosen, Texts
from onestage.data.dataset import Dataset
from onestage.data.shard_columns import before

_PIECE = 4096
"""Names that are taken at a time. Their checksum depends on it."""
_BYTES = 8


def checksum_of_names(data: Dataset) -> str:
    """Of the paths of all P pictures from the data set's folder, in their order."""
    digest = hashlib.blake2b(digest_size=_BYTES)
    for blob, ends in _pieces(data):
        digest.update(np.diff(ends).tobytes())
        digest.update(blob.tobytes())
    return digest.hexdigest()


def checksum_of_objects(data: Dataset) -> str:
    """Of all M objects, and of the pictures and the classes to which they belong."""
    digest = hashlib.blake2b(repr((data.classes, data.category_ids)).encode(), digest_size=_BYTES)
    for column in (data.offsets, data.boxes, data.labels, data.ignore, data.crowd):
        digest.update(column.contiguous().numpy().data)
    return digest.hexdigest()


def _pieces(data: Dataset) -> Iterator[tuple[Array, Array]]:
    """The names, packed, some at a time: the same bytes for columns and for any other sequence of the same names."""
    paths, rows = (data.paths.column, data.paths.rows) if isinstance(data.paths, Chosen) else (data.paths, None)
    if isinstance(paths, Texts) and paths.before == before(data.root):
        for first in range(0, len(data), _PIECE):
            stop = min(first + _PIECE, len(data))
            yield paths.packed_rows(np.arange(first, stop) if rows is None else rows[first:stop])
        return
    names = data.names
    while piece := [*islice(names, _PIECE)]:
        yield Texts.packed(piece)
