"""What the list of a batch takes: seconds and memory from the words of a user to the first shard, without any picture.

    python benchmarks/batch_list.py --pictures 1000000

A text, a CSV and a Parquet list with so many paths, and a folder with so many files, each in a new process. "begin" writes the
list of the batch and its manifest, "go on" compares the list with the one that is there, and "a shard" is the mean time in
which a process reads what one shard of 500 pictures is. Memory is how far the peak of the process lies above the one of
its imports. The files are names for a few real ones, so the disk is asked for each, as it is for real pictures.
"""

from __future__ import annotations

import json as json_format
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import tyro
from rich.console import Console
from rich.table import Table

import onestage
from common import environment
from onestage.data.batch_folder import HIDDEN, PICTURES
from onestage.scale.batch import Wanted, begun
from onestage.scale.listing import read_shard
from onestage.scale.manifest import Options

NAMES = 1000
"""Files of a folder, and folders."""
KINDS = ("text", "csv", "parquet", "folder")
SHARDS = 20
"""That are read, to take the mean."""


def peak() -> int:
    """Bytes that this process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(word: str, out: Path) -> dict[str, float]:
    """In a new process: seconds and bytes of a batch that is begun and goes on, up to its first picture."""
    wanted = Wanted("tinyssd", onestage.create("tinyssd", num_classes=2), (word,), Options())
    before, found = peak(), dict[str, float]()
    for name in ("begin", "go on"):
        began = time.perf_counter()
        with begun(out, wanted, note=print) as batch:
            found[name] = time.perf_counter() - began
            found["pictures"] = batch.pictures_left
    found["memory"] = peak() - before
    began, shards = time.perf_counter(), range(0, len(batch.sizes), max(1, len(batch.sizes) // SHARDS))
    for shard in shards:
        read_shard(out / HIDDEN / PICTURES, shard)
    return found | {"a shard": (time.perf_counter() - began) / len(shards)}


def paths(root: Path, count: int) -> Iterator[str]:
    """The paths of so many pictures, which are made: names of a few files in links to one folder."""
    (root / "real").mkdir(parents=True)
    for number in range(min(NAMES, count)):
        (root / "real" / f"{number:04d}.jpg").write_bytes(b"no picture")
    for folder in range(-(-count // NAMES)):
        (root / f"{folder:05d}").symlink_to(root / "real")
        yield from (f"{folder:05d}/{number:04d}.jpg" for number in range(min(NAMES, count - folder * NAMES)))


def write_input(kind: str, root: Path, count: int) -> Path:
    """What a user would name, with so many pictures."""
    if kind == "folder":
        source = root / "source.jpg"
        source.write_bytes(b"no picture")
        for number in range(count):
            place = root / "photos" / f"{number // NAMES:05d}" / f"{number % NAMES:04d}.jpg"
            if number % NAMES == 0:
                place.parent.mkdir(parents=True)
            if number % 50_000 == 49_999:  # a file system takes so many names for one file, and not more
                source = root / f"source-{number}.jpg"
                source.write_bytes(b"no picture")
            os.link(source, place)
        return root / "photos"
    names = list(paths(root, count))
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.table({"path": names}), root / "list.parquet")
        return root / "list.parquet"
    place = root / f"list.{'csv' if kind == 'csv' else 'txt'}"
    place.write_text("\n".join((["path"] if kind == "csv" else []) + names) + "\n")
    return place


def main(
    *, pictures: int = 1_000_000, kinds: tuple[str, ...] = KINDS, json: Path | None = None, inside: tuple[str, ...] = ()
) -> None:
    """Measure lists of a million pictures, and print a table.

    Args:
        pictures: how many
        kinds: of input: text, csv, parquet, folder
        json: also write the figures to this file
        inside: used by the program itself, for the process that is measured
    """
    if inside:
        print(json_format.dumps(measured(inside[0], Path(inside[1]))))
        return
    table, rows = Table("input", "begin, s", "go on, s", "a shard, ms", "memory, MB", "bytes a picture"), {}
    for kind in kinds:
        root = Path(tempfile.mkdtemp())
        try:
            words = [sys.executable, __file__, "--inside", str(write_input(kind, root, pictures)), str(root / "found")]
            found = json_format.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        finally:
            shutil.rmtree(root)
        rows[kind] = found
        assert found["pictures"] == pictures, found
        figures = [f"{found['begin']:.1f}", f"{found['go on']:.1f}", f"{1000 * found['a shard']:.1f}"]
        table.add_row(kind, *figures, f"{found['memory'] / 1e6:.0f}", f"{found['memory'] / pictures:.0f}")
    Console().print(table)
    if json is not None:
        json.write_text(json_format.dumps({"environment": environment(), "pictures": pictures, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
