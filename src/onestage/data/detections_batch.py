"""Detections that ``onestage batch`` has found: a folder of Parquet files with a row for each picture.

A picture that could not be read has no detections, and neither has one whose part is not there yet; both are told.

Shape letters: P pictures of a part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onestage.data.dataset import Problem
from onestage.data.detections_rows import Rows
from onestage.errors import ConfigError, DataError, counted

PARTS, MANIFEST = "part-*.parquet", Path("_batch") / "manifest.json"
COLUMNS = ("path", "status", "boxes", "scores", "names")


def is_batch(folder: Path) -> bool:
    """Whether a folder holds the results of a batch."""
    return (folder / MANIFEST).is_file()


def read_batch(folder: Path) -> Rows:
    """The detections of all parts. Raise DataError if one is damaged, ConfigError without pyarrow."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        what, fix = "results of a batch are Parquet files, and pyarrow is not installed", "pip install 'onestage[batch]'"
        raise ConfigError(what, where=folder, got="no pyarrow", fix=fix) from error
    rows, failed, first = Rows(folder, "batch", unit="row"), 0, 0
    parts = sorted(folder.glob(PARTS))
    for part in parts:
        try:
            table = parquet.read_table(part, columns=list(COLUMNS), page_checksum_verification=True)
            columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
        except (ArrowException, OSError, KeyError) as error:
            what, fix = "a part of these results is damaged", "run the batch again: it makes a new part"
            raise DataError(what, where=part, got=str(error).partition("\n")[0], fix=fix) from error
        counts = np.diff(np.asarray(columns["scores"].offsets))
        _add(rows, columns["path"].to_pylist(), counts, columns["names"].flatten().to_pylist(), first)
        rows.box.frombytes(np.asarray(columns["boxes"].flatten().flatten(), dtype=np.float64).tobytes())
        rows.score.frombytes(np.asarray(columns["scores"].flatten(), dtype=np.float64).tobytes())
        failed += columns["status"].to_pylist().count("error")
        first += len(table)
    rows.notes.extend(_notes(folder, parts, failed))
    return rows


def _add(rows: Rows, paths: Sequence[str], counts: np.ndarray, names: Sequence[str], first: int) -> None:
    """Put the pictures and classes of a part into the columns. counts (P,): how many detections each picture has."""
    pictures = np.array([rows.pictures.add(path) for path in paths], dtype=np.int32)  # those without detections too
    labels = np.array([rows.classes.add(name) for name in names], dtype=np.int32)
    rows.picture.frombytes(np.repeat(pictures, counts).tobytes())
    rows.label.frombytes(labels.tobytes())
    rows.number.frombytes(np.repeat(np.arange(first + 1, first + 1 + len(paths), dtype=np.int64), counts).tobytes())


def _notes(folder: Path, parts: Sequence[Path], failed: int) -> list[Problem]:
    notes = []
    if failed:
        notes.append(Problem(folder.name, f"{counted(failed, 'picture')} could not be read when the batch was made"))
    try:
        shards = int(json.loads((folder / MANIFEST).read_bytes())["pictures"]["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what, fix = "the manifest of this batch is damaged", "run the batch in another folder"
        raise DataError(what, where=folder / MANIFEST, got=f"{type(error).__name__}: {error}", fix=fix) from error
    if len(parts) < shards:
        notes.append(Problem(folder.name, f"the batch is not finished: {len(parts):,} of {shards:,} parts are there"))
    return notes
