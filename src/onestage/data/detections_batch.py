"""Detections that ``onestage batch`` has found: a folder of Parquet files with a row for each picture.

A picture that could not be read has no detections, and neither has one whose part is not there yet; both are told.

Shape letters: P pictures of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onestage.data.batch_folder import HIDDEN, PICTURES, About, about, arrow, damaged, parts_of, read_part, shard_sizes
from onestage.data.dataset import Problem
from onestage.data.detections_rows import Rows
from onestage.errors import counted, shortened

COLUMNS = ("path", "status", "boxes", "scores", "names")


def read_batch(folder: Path) -> Rows:
    """The detections of all parts. Raise DataError if one is damaged, ConfigError without pyarrow or if a file is no part."""
    arrow()
    batch = about(folder)
    rows, failed, first, parts = Rows(folder, "batch", unit="row"), 0, 0, 0
    for path, _, is_whole in parts_of(folder, batch.digest, shard_sizes(folder / HIDDEN / PICTURES)):
        if not is_whole:
            raise damaged(path, "it is cut off")
        table = read_part(path, COLUMNS)
        try:
            columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
        except KeyError as error:
            raise damaged(path, error) from error
        counts = np.diff(np.asarray(columns["scores"].offsets))
        _add(rows, columns["path"].to_pylist(), counts, columns["names"].flatten().to_pylist(), first)
        rows.box.frombytes(np.asarray(columns["boxes"].flatten().flatten(), dtype=np.float64).tobytes())
        rows.score.frombytes(np.asarray(columns["scores"].flatten(), dtype=np.float64).tobytes())
        failed += columns["status"].to_pylist().count("error")
        first, parts = first + len(table), parts + 1
    found = {*rows.classes}
    never = [name for name in batch.classes if name not in found]
    rows.notes.extend(_notes(folder.name, batch, parts=parts, failed=failed, never=never))
    return rows


def _add(rows: Rows, paths: Sequence[str], counts: np.ndarray, names: Sequence[str], first: int) -> None:
    """Put the pictures and classes of a part into the columns. counts (P,): how many detections each picture has."""
    pictures = np.array([rows.pictures.add(path) for path in paths], dtype=np.int32)  # those without detections too
    labels = np.array([rows.classes.add(name) for name in names], dtype=np.int32)
    rows.picture.frombytes(np.repeat(pictures, counts).tobytes())
    rows.label.frombytes(labels.tobytes())
    rows.number.frombytes(np.repeat(np.arange(first + 1, first + 1 + len(paths), dtype=np.int64), counts).tobytes())


def _notes(name: str, batch: About, *, parts: int, failed: int, never: Sequence[str]) -> list[Problem]:
    """What to know of the results. never: classes of the model of which there is no object."""
    notes = []
    if failed:
        notes.append(Problem(name, f"{counted(failed, 'picture')} could not be read when the batch was made"))
    if parts < batch.shards:
        notes.append(Problem(name, f"the batch is not finished: {parts:,} of {batch.shards:,} parts are there"))
    if never:
        classes = f"{counted(len(never), 'class')} of the model: {shortened(', '.join(never), 200)}"
        notes.append(Problem(name, f"the batch has found no object of {classes}"))
    return notes
