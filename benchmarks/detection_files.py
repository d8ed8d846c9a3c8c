"""How long evaluation of very large files of detections takes, and how much memory, in each form that is read.

The truth: 5,000 pictures, 80 classes, 37,000 objects. A file repeats a block of 100,000 detections. Peak memory is counted
above what the program had when it was ready to read, and needs Linux.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import torch
import tyro
from rich.console import Console
from rich.table import Table

from evaluation import Pictures, draw_pictures
from onestage.analysis import AnalysisSettings, analyse
from onestage.boxes import to_xywh
from onestage.data import open_data
from onestage.data.detections import open_detections
from onestage.evaluation import measure_detections

BLOCK = 100_000
"""Detections that a file repeats."""

Result = TypeVar("Result")
Row: TypeAlias = tuple[int, int, list[float], float]
"""Picture, class, x1, y1, x2, y2 and score."""


class Used(NamedTuple):
    """What a piece of work took."""

    seconds: float
    megabytes: int


def memory(kind: str) -> int:
    """Megabytes of this process: VmRSS, what it has now; VmHWM, the most since ``work`` began to count."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) // 1024


def work(task: Callable[[], Result], *, above: int) -> tuple[Result, Used]:
    """Do something, and tell its processor time and its peak memory, less ``above`` megabytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    start = time.process_time()
    result = task()
    return result, Used(time.process_time() - start, memory("VmHWM") - above)


def write_truth(data: Pictures, file: Path) -> None:
    """A COCO file of the labels; picture 7 is 000000000007.jpg, and class 1 is called c1."""
    ids = [t.image_id + 1 for t in data.truths]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in ids]
    rows: list[dict[str, object]] = []
    for t in data.truths:
        for k, box in zip(t.labels.tolist(), to_xywh(t.boxes.double()).tolist(), strict=True):
            shared = {"id": len(rows) + 1, "image_id": t.image_id + 1, "category_id": k + 1, "iscrowd": 0}
            rows.append(shared | {"bbox": box, "area": box[2] * box[3]})
    categories = [{"id": k + 1, "name": f"c{k + 1}"} for k in range(len(data.classes))]
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))


def block_of(data: Pictures, rows: int) -> list[Row]:
    """The first detections."""
    found: list[Row] = []
    for d in data.detections:
        columns = zip(d.labels.tolist(), d.boxes.double().round(decimals=2).tolist(), d.scores.tolist(), strict=True)
        found += [(d.image_id + 1, k + 1, box, round(score, 4)) for k, box, score in columns]
    return found[:rows]


def repeated(texts: list[str], rows: int, between: str) -> Iterator[str]:
    """The texts over and over, ``rows`` of them."""
    block = between.join(texts)
    whole, rest = divmod(rows, len(texts))
    for i in range(whole):
        yield (between if i else "") + block
    if rest:
        yield (between if whole else "") + between.join(texts[:rest])


def write_coco(block: list[Row], rows: int, folder: Path) -> Path:
    """COCO's results."""
    texts = [
        json.dumps({"image_id": i, "category_id": k, "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)], "score": s})
        for i, k, (x1, y1, x2, y2), s in block
    ]
    with (folder / "results.json").open("w") as file:
        file.writelines(("[", *repeated(texts, rows, ",\n"), "]"))
    return folder / "results.json"


def write_lines(block: list[Row], rows: int, folder: Path) -> Path:
    """JSON lines; for brevity each picture has one detection in a line."""
    texts = [
        json.dumps({"path": f"{i:012d}.jpg", "detections": [{"box": box, "score": s, "class_name": f"c{k}"}]})
        for i, k, box, s in block
    ]
    with (folder / "results.jsonl").open("w") as file:
        file.writelines(repeated(texts, rows, "\n"))
    return folder / "results.jsonl"


def write_csv(block: list[Row], rows: int, folder: Path) -> Path:
    """CSV."""
    texts = [f"{i:012d}.jpg,c{k},{','.join(map(str, box))},{s}" for i, k, box, s in block]
    with (folder / "results.csv").open("w") as file:
        file.writelines(("image,label,xmin,ymin,xmax,ymax,score\n", *repeated(texts, rows, "\n")))
    return folder / "results.csv"


def write_voc(block: list[Row], rows: int, folder: Path) -> Path:
    """A file for each class, as VOC's development kit writes them."""
    (folder / "comp4").mkdir()
    for label in sorted({k for _, k, _, _ in block}):
        texts = [f"{i:012d} {s} {' '.join(map(str, box))}\n" for i, k, box, s in block if k == label]
        with (folder / "comp4" / f"comp4_det_val_c{label}.txt").open("w") as file:
            file.writelines(repeated(texts, rows * len(texts) // len(block), ""))
    return folder / "comp4"


WRITERS = {"COCO results": write_coco, "JSON lines": write_lines, "CSV": write_csv, "VOC's files": write_voc}


def measure(file: Path, truth: Path, draws: int) -> tuple[int, list[Used]]:
    """The rows of a file; and what it takes to read it, to compute the figures, and to analyse it."""
    torch.set_num_threads(1)
    dataset = open_data(truth, labels_alone=True).load()
    start = memory("VmRSS")
    opened, reading = work(lambda: open_detections(file), above=start)
    measured, figures = work(lambda: measure_detections(opened, dataset), above=start)
    truths = [dataset.truth(row) for row in range(len(dataset))]
    detections, settings = measured.objects.detections, AnalysisSettings(draws=draws)
    _, analysis = work(lambda: analyse(detections, truths, dataset.classes, settings=settings), above=start)
    return len(opened.rows), [reading, figures, analysis]


def main(
    *,
    rows: int = 10_000_000,
    forms: tuple[str, ...] = tuple(WRITERS),
    draws: int = 1000,
    pictures: int = 5000,
    folder: Path | None = None,
) -> dict[str, tuple[int, list[Used]]]:
    """Evaluate large files of detections.

    Args:
        rows: detections in each file.
        forms: of the files.
        draws: of the bootstrap.
        pictures: with labels.
        folder: for the files, of 3 GB by default; they are deleted in the end.
    """
    data = draw_pictures(pictures=pictures, classes=80, objects=37 * pictures // 5, detections=100)
    title = f"files of {rows:,} detections in {pictures:,} pictures, {draws:,} draws; processor time, most memory at any time"
    columns = [f"{what}, {unit}" for what in ("read", "figures", "analysis") for unit in ("s", "MB")]
    table = Table("", "file, MB", *columns, title=title)
    done: dict[str, tuple[int, list[Used]]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_truth(data, Path(place) / "truth.json")
        block = block_of(data, min(rows, BLOCK))
        for name in forms:
            (into := Path(place) / name).mkdir()
            file = WRITERS[name](block, rows, into)
            parts = [part for part in into.rglob("*") if part.is_file()]
            size = sum(part.stat().st_size for part in parts) // 10**6
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:  # no memory of another form
                done[name] = alone.submit(measure, file, Path(place) / "truth.json", draws).result()
            numbers = [text for used in done[name][1] for text in (f"{used.seconds:.0f}", f"{used.megabytes:,}")]
            table.add_row(name, f"{size:,}", *numbers)
            for part in parts:
                part.unlink()
    Console(width=128).print(table)
    return done


if __name__ == "__main__":
    tyro.cli(main)
