"""What batch work takes more than the plain loop that it could be: decode, predict, throw away.

    python benchmarks/batch.py --pictures 20000 --workers 2 --json batch.json

Generated pictures 320 x 240, 500 of them under many names, go through an ssdlite320 with random weights, whose least score is
chosen so that a picture has some objects. The loop runs in as many processes as the engines, each with one thread and its share
of the pictures; nothing is written. Every turn is a new program, so its time has the start of Python and of Ray in it; a second
column leaves out what comes before the first picture of the loop, or before the first of an engine is begun. Memory is the
peak of what all processes of a turn hold in RAM, shared pages counted once (PSS), looked at twice a second.
"""

from __future__ import annotations

import json as json_format
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

import onestage
from common import environment, pictures
from onestage.data.synthetic import SyntheticConfig, generate

MODEL = "ssdlite320_mobilenet_v3_large"
DISTINCT = 500
LIMITS = {"local": 0.10, "ray": 0.25}
"""The largest overhead that is wanted, as a part of the loop's time."""
LOOP = """
import sys, torch, onestage, time
from pathlib import Path
from onestage.images import decode_image
from onestage.predict.predictor import Predictor
torch.set_num_threads(1)
model, folder, score, number, count = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
predictor = Predictor.folded(onestage.load(model))
paths = sorted(folder.rglob('*.jpg'))[number::count]
began, objects = time.time(), 0
for start in range(0, len(paths), 8):
    found = predictor.predict([decode_image(path) for path in paths[start : start + 8]], score=score)
    objects += sum(map(len, found))
print(time.time() - began, objects)
"""


@dataclass(frozen=True)
class Turn:
    """What one program took: seconds in all, seconds of its work alone, and the peak of its memory in bytes."""

    engine: str
    seconds: float
    work: float
    memory: int

    def overhead(self, loop: Turn) -> float:
        """What it takes more than the loop, as a part of the loop's time."""
        return self.seconds / loop.seconds - 1


def write_inputs(root: Path, count: int) -> tuple[Path, Path, float]:
    """The pictures and the model in a folder, and the score that some objects of a picture reach."""
    config = SyntheticConfig(size=(240, 320), seed=3)
    for number in range(count):
        path = root / "pictures" / f"{number // 1000:03d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < DISTINCT:
            Image.fromarray(generate(number, config).image.permute(1, 2, 0).numpy()).save(path, quality=90)
        else:
            first = number % DISTINCT
            os.link(root / "pictures" / "000" / f"{first:07d}.jpg", path)
    torch.manual_seed(0)
    detector = onestage.create(MODEL, num_classes=20).eval()
    detector.save(root / "model.safetensors")
    scores = torch.cat([found.scores for found in detector.predict(pictures(8), score=0.01)])
    return root / "pictures", root / "model.safetensors", round(float(scores.sort(descending=True).values[8 * 5]), 4)


def memory_of(pid: int) -> int:
    """Bytes of RAM that a process and all that came from it hold, Ray's processes included."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            children.setdefault(int((place / "stat").read_text().rpartition(")")[2].split()[1]), []).append(int(place.name))
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        todo += children.get(one, [])
        with suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                total += 1024 * int(line.split()[1]) if line.startswith("Pss:") else 0
    return total


def watched(engine: str, commands: list[list[str]]) -> tuple[float, int, list[str]]:
    """Run programs side by side. Return the seconds, the peak of their memory, and what each printed."""
    before, peak = time.perf_counter(), 0
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=variables) for words in commands]
    while any(process.poll() is None for process in running):
        peak = max(peak, sum(memory_of(process.pid) for process in running))
        time.sleep(0.5)
    seconds = time.perf_counter() - before
    if any(process.returncode for process in running):
        raise RuntimeError(f"{engine} ended with {[process.returncode for process in running]}")
    return seconds, peak, [process.stdout.read() if process.stdout else "" for process in running]


def loop(folder: Path, model: Path, score: float, workers: int) -> Turn:
    """The plain loop in so many processes."""
    words = [[sys.executable, "-c", LOOP, str(model), str(folder), str(score), str(n), str(workers)] for n in range(workers)]
    seconds, memory, said = watched("loop", words)
    return Turn("loop", seconds, max(float(text.split()[0]) for text in said), memory)


def engine(name: str, folder: Path, model: Path, score: float, workers: int) -> Turn:
    """A batch by an engine."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-m", "onestage", "batch", str(folder), "-o", f"{out}/found", "--model", str(model)]
        words += ["--score", str(score), "--engine", name, "--workers", str(workers)]
        seconds, memory, said = watched(name, [words])
    work = float(said[0].partition(" in ")[2].split()[0])
    return Turn(name, seconds, work, memory)


def main(
    *,
    pictures: int = 20_000,
    workers: int = 2,
    engines: tuple[Literal["local", "ray"], ...] = ("local", "ray"),
    json: Path | None = None,
) -> None:
    """Compare the engines with the loop, and print a table. The exit code is 1 if an engine takes more than its limit.

    Args:
        pictures: how many
        workers: processes of each
        engines: which engines
        json: also write the figures to this file
    """
    root = Path(tempfile.mkdtemp())
    try:
        given = write_inputs(root, pictures)
        turns = [loop(*given, workers), *(engine(name, *given, workers) for name in engines)]
    finally:
        shutil.rmtree(root)
    table = Table("engine", "seconds", "pictures/s", "of its work", "overhead", "peak memory, GB")
    for turn in turns:
        over = "" if turn.engine == "loop" else f"{100 * turn.overhead(turns[0]):+.1f} %"
        figures = [f"{turn.seconds:.1f}", f"{pictures / turn.seconds:.1f}", f"{pictures / turn.work:.1f}", over]
        table.add_row(turn.engine, *figures, f"{turn.memory / 1e9:.2f}")
    Console().print(table)
    if json is not None:
        content = {"environment": environment(), "pictures": pictures, "workers": workers, "turns": [asdict(t) for t in turns]}
        json.write_text(json_format.dumps(content, indent=1) + "\n")
    if any(turn.overhead(turns[0]) > LIMITS[turn.engine] for turn in turns[1:]):
        raise SystemExit(1)


if __name__ == "__main__":
    tyro.cli(main)
