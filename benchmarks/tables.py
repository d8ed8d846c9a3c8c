"""How long a data set of a million pictures takes to open, and how much memory it takes, over all processes that load it.

python benchmarks/tables.py                        # 1,000,000 pictures with 7,000,000 boxes in tars, made in a temporary folder
python benchmarks/tables.py --format parquet
python benchmarks/tables.py --folder /data/tables  # keep the shards for the next time
python benchmarks/tables.py --train                # and begin a training on them

The pictures are one tiny JPEG over and over, because tables do not depend on pixels. Printed are the seconds of the first
reading, which makes the columns; of opening them afterwards, in a new process; and the memory of that process and its workers
after some batches, as Linux shares it out (Pss in /proc/PID/smaps_rollup: of a page that n processes share each has 1/n), and
its peak until then, looked at five times a second. With --fit: what fitting anchors to all objects takes.
With --train: the seconds until a new training, which lists its pictures and their checksums, takes its first step; until one
that goes on does, which compares them; and the peak of the memory of all its processes until the end, five steps later.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = [f"class {number:02d}" for number in range(80)]
SIDE = 64
BATCHES = 64


def main() -> None:
    """Make the shards unless they are there, then measure in a new process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--boxes", type=int, default=7, help="of each picture")
    parser.add_argument("--format", choices=["wds", "parquet"], default="wds")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the shards and the columns stay")
    parser.add_argument("--train", action="store_true", help="begin a training, and go on with it")
    parser.add_argument("--fit", action="store_true", help="fit anchors to the objects")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        begin(arguments.measure, arguments.run, arguments.workers)
        return
    if arguments.measure is not None and arguments.fit:
        fit(arguments.measure)
        return
    if arguments.measure is not None:
        measure(arguments.measure, arguments.workers)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)) / f"{arguments.format}-{arguments.pictures}-{arguments.boxes}"
        if not (folder / "made").exists():
            seconds = time.perf_counter()
            make(folder / "data", arguments.pictures, arguments.boxes, arguments.format)
            (folder / "made").touch()
            print(f"made {arguments.pictures:,} pictures in {time.perf_counter() - seconds:.0f} s", flush=True)
        command = [sys.executable, __file__, "--measure", str(folder / "data"), "--workers", str(arguments.workers)]
        for text in ("first reading, which makes the columns", "opening the columns"):
            print(f"\n{text}", flush=True)
            watch(command, folder / "cache")
        if arguments.fit:
            print("\nfitting anchors", flush=True)
            watch([*command, "--fit"], folder / "cache")
        if arguments.train:
            shutil.rmtree(folder / "run", ignore_errors=True)
            for text in ("a new training", "a training that goes on"):
                print(f"\n{text}", flush=True)
                watch([*command, "--run", str(folder / "run")], folder / "cache")


def make(folder: Path, pictures: int, boxes: int, form: str) -> None:
    """Write the shards, 10,000 pictures in each."""
    folder.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (90, 120, 60)).save(file, "JPEG")
    generator = np.random.default_rng(0)
    write = make_tar if form == "wds" else make_parquet
    for first in range(0, pictures, 10_000):
        count = min(10_000, pictures - first)
        corners = (generator.random((count, boxes, 4)) * SIDE / 2).round(2) + np.array([0, 0, 1, 1])
        labels = generator.integers(0, len(CLASSES), (count, boxes))
        rows = [
            {"image_id": first + n, "height": SIDE, "width": SIDE, "objects": objects(corners[n].tolist(), labels[n].tolist())}
            for n in range(count)
        ]
        write(folder / f"train-{first // 10_000:06d}", file.getvalue(), rows)


def objects(corners: list[list[float]], labels: list[int]) -> list[dict[str, object]]:
    return [{"bbox": box, "category": CLASSES[label]} for box, label in zip(corners, labels, strict=True)]


def make_tar(path: Path, picture: bytes, rows: list[dict[str, object]]) -> None:
    with tarfile.open(f"{path}.tar", "w") as tar:
        for row in rows:
            for suffix, content in (("jpg", picture), ("json", json.dumps(row).encode())):
                entry = tarfile.TarInfo(f"{row['image_id']:09d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def make_parquet(path: Path, picture: bytes, rows: list[dict[str, object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([row | {"image": picture, "name": f"{row['image_id']:09d}.jpg"} for row in rows])
    image = table.schema.get_field_index("image")
    table = table.cast(table.schema.set(image, pyarrow.field("image", pyarrow.binary(), nullable=False)))
    pyarrow.parquet.write_table(table, f"{path}.parquet", compression="NONE", use_dictionary=False, row_group_size=1000)


def measure(folder: Path, workers: int) -> None:
    """Open the data set, load some batches with workers, and print the seconds and the memory."""
    from onestage.data import open_data
    from onestage.data.loader import TrainLoader
    from onestage.data.transforms import TrainTransform, stretch

    memory = {"Python and torch alone": proportional([os.getpid()])}
    begun = time.perf_counter()
    data = open_data(folder).load("train")
    opened = time.perf_counter() - begun
    memory["the data set open"] = proportional([os.getpid()])
    loader = TrainLoader(data, TrainTransform(stretch((SIDE, SIDE))), batch_size=32, workers=workers)
    begun = time.perf_counter()
    count = sum(1 for _ in islice(loader.epoch(0), BATCHES))
    first = time.perf_counter() - begun
    memory[f"this process and {workers} workers after {count} batches of 32"] = proportional(
        [os.getpid(), *children(os.getpid())]
    )
    print(f"{len(data):,} pictures, {len(data.boxes):,} boxes: open in {opened:.2f} s; {count} batches in {first:.2f} s")
    for text, size in memory.items():
        print(f"{size / 1e6:8,.0f} MB  {text}")


def fit(folder: Path) -> None:
    """Fit anchors to the objects, and print the seconds."""
    from onestage import create
    from onestage.data import open_data
    from onestage.training.anchors import fit_anchors
    from onestage.training.coverage import coverage_of

    model, data = create("tinyssd", classes=CLASSES, size=(SIDE, SIDE)), open_data(folder).load("train")
    begun = time.perf_counter()
    fit_anchors(model, data)
    print(f"{time.perf_counter() - begun:8.1f} s  to fit them", flush=True)
    begun = time.perf_counter()
    coverage_of(model, data)
    print(f"{time.perf_counter() - begun:8.1f} s  to compute what they reach", flush=True)


def begin(folder: Path, run: Path, workers: int) -> None:
    """Train for five steps, and print the seconds until the first one."""
    from onestage import create
    from onestage.training.config import TrainConfig
    from onestage.training.loop import train
    from onestage.training.monitor import Monitor

    begun = time.perf_counter()

    class Five(Monitor):
        """Stops after five steps of this process."""

        done = 0

        def say(self, text: str) -> None:
            print(f"{time.perf_counter() - begun:8.1f} s  {text}", flush=True)

        def step(self, *told: object) -> None:
            Five.done += 1
            if Five.done == 1:
                self.say("the first step is done")
            if Five.done == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    model = create("tinyssd", classes=CLASSES, size=(SIDE, SIDE))
    config = TrainConfig(epochs=2, batch_size=32, workers=workers, device="cpu")
    train(model, folder, out=run, config=config, resume=run.exists(), monitor=Five())


def watch(command: list[str], cache: Path) -> None:
    """Run a command, and print the peak of the memory of all its processes."""
    peak, begun = 0, time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"ONESTAGE_HOME": str(cache)})
    at = 0.0
    while process.poll() is None:
        size = proportional([process.pid, *children(process.pid)])
        if size > peak:
            peak, at = size, time.perf_counter() - begun
        time.sleep(0.2)
    print(f"{peak / 1e6:8,.0f} MB  peak of all its processes, {at:.0f} s after it began", flush=True)
    if process.returncode:
        sys.exit(process.returncode)


def proportional(processes: list[int]) -> int:
    """Bytes of memory that some processes have, each page shared out among those that have it."""
    size = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        size += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return size


def children(parent: int) -> list[int]:
    """The processes that a process has begun, and those that they have."""
    try:
        tasks = [*Path(f"/proc/{parent}/task").iterdir()]
        found = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*found, *(below for child in found for below in children(child))]


if __name__ == "__main__":
    main()
