"""What batch work takes more than the plain loop that it could be: decode, predict, throw away.

    python benchmarks/batch.py --pictures 20000 --workers 2 --json batch.json

Generated pictures 320 x 240, 500 of them under many names, go through an ssdlite320 with random weights, whose least score is
chosen so that a picture has some objects. The loop runs in as many processes as the engines, each with one thread and its share
of the pictures; nothing is written. Every turn is a new program, so its time has the start of Python and of Ray in it; a second
column leaves out what comes before the first picture of the loop, or before the first of an engine is begun. Processor time is
that of all processes of a turn; "others" are those that do no shards: the command itself and, with Ray, its services. Memory is
the peak of what all processes of a turn hold in RAM, shared pages counted once (PSS), looked at twice a second.

The last row is a Ray cluster of this machine that does nothing for a while.
"""

from __future__ import annotations

import json as json_format
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
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


IDLE = """
import os, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray, ray.data
ray.init(address="local", num_cpus=3, num_gpus=0, include_dashboard=False, log_to_driver=False)
time.sleep(10)
print(time.time())
time.sleep(float({seconds}))
print(time.time())
ray.shutdown()
"""
IDLE_SECONDS = 60
"""Of a cluster that does nothing, besides those of its start."""


@dataclass(frozen=True)
class Turn:
    """What one program took: seconds in all, seconds of its work alone, processor seconds of all its processes and of those
    that do no shards, and the peak of its memory in bytes.
    """

    engine: str
    seconds: float
    work: float
    processor: float
    others: float
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


@dataclass
class Seen:
    """What was seen of programs while they ran. processor: the last number of seconds of each process; working: those that do
    shards; peak: the most memory of all at once, in bytes.
    """

    processor: dict[int, float] = field(default_factory=dict)
    working: set[int] = field(default_factory=set)
    peak: int = 0

    def look(self, roots: Sequence[int]) -> None:
        """Look at these processes and all that came from them, Ray's processes included."""
        tick, children = os.sysconf("SC_CLK_TCK"), dict[int, list[int]]()
        now = dict[int, float]()
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(place.name))
                now[int(place.name)] = (int(fields[11]) + int(fields[12])) / tick
        memory, todo = 0, [*roots]
        while todo:
            one = todo.pop()
            todo += children.get(one, [])
            self.processor[one] = max(now.get(one, 0.0), self.processor.get(one, 0.0))
            with suppress(OSError):
                memory += sum(1024 * int(line.split()[1]) for line in _rollup(one) if line.startswith("Pss:"))
                words = Path(f"/proc/{one}/cmdline").read_bytes()
                if b"MapWorker" in words or (b"onestage" in words and one not in roots):
                    self.working.add(one)
        self.peak = max(self.peak, memory)

    @property
    def others(self) -> float:
        """Processor seconds of the processes that do no shards."""
        return sum(seconds for process, seconds in self.processor.items() if process not in self.working)


def _rollup(process: int) -> list[str]:
    return Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()


def watched(engine: str, commands: list[list[str]]) -> tuple[float, Seen, list[str]]:
    """Run programs side by side. Return the seconds, what was seen of them, and what each printed."""
    before, seen = time.perf_counter(), Seen()
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=variables) for words in commands]
    while any(process.poll() is None for process in running):
        seen.look([process.pid for process in running])
        time.sleep(0.5)
    seconds = time.perf_counter() - before
    if any(process.returncode not in (0, None) for process in running):
        raise RuntimeError(f"{engine} ended with {[process.returncode for process in running]}")
    return seconds, seen, [process.stdout.read() if process.stdout else "" for process in running]


def loop(folder: Path, model: Path, score: float, workers: int) -> Turn:
    """The plain loop in so many processes."""
    words = [[sys.executable, "-c", LOOP, str(model), str(folder), str(score), str(n), str(workers)] for n in range(workers)]
    seconds, seen, said = watched("loop", words)
    return Turn("loop", seconds, max(float(text.split()[0]) for text in said), sum(seen.processor.values()), 0.0, seen.peak)


def engine(name: str, folder: Path, model: Path, score: float, workers: int) -> Turn:
    """A batch by an engine."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-m", "onestage", "batch", str(folder), "-o", f"{out}/found", "--model", str(model)]
        words += ["--score", str(score), "--engine", name, "--workers", str(workers)]
        seconds, seen, said = watched(name, [words])
    work = float(said[0].partition(" in ")[2].split()[0])
    return Turn(name, seconds, work, sum(seen.processor.values()), seen.others, seen.peak)


def idle(seconds: float) -> tuple[float, int]:
    """What a Ray cluster takes that does nothing: processors, and the peak of its memory in bytes."""
    spent, peaks = [], []
    for pause in (0.0, seconds):
        _, seen, _ = watched("ray that is idle", [[sys.executable, "-c", IDLE.format(seconds=pause)]])
        spent.append(sum(seen.processor.values()))
        peaks.append(seen.peak)
    return (spent[1] - spent[0]) / seconds, max(peaks)


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
    table = Table("engine", "seconds", "pictures/s", "of its work", "overhead", "processor s", "of others", "peak memory, GB")
    for turn in turns:
        over = "" if turn.engine == "loop" else f"{100 * turn.overhead(turns[0]):+.1f} %"
        figures = [f"{turn.seconds:.1f}", f"{pictures / turn.seconds:.1f}", f"{pictures / turn.work:.1f}", over]
        table.add_row(turn.engine, *figures, f"{turn.processor:.1f}", f"{turn.others:.1f}", f"{turn.memory / 1e9:.2f}")
    content = {"environment": environment(), "pictures": pictures, "workers": workers, "turns": [asdict(t) for t in turns]}
    if "ray" in engines:
        share, memory = idle(IDLE_SECONDS)
        table.add_row("ray, idle", "", "", "", "", f"{share:.3f} per s", "", f"{memory / 1e9:.2f}")
        content["idle"] = {"processors": share, "memory": memory}
    Console().print(table)
    if json is not None:
        json.write_text(json_format.dumps(content, indent=1) + "\n")
    if any(turn.overhead(turns[0]) > LIMITS[turn.engine] for turn in turns[1:]):
        raise SystemExit(1)


if __name__ == "__main__":
    tyro.cli(main)
