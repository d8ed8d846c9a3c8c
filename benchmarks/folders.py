"""A folder of pictures through ``predict``, whole: reading, the network, the result files; against the engine's time alone.

python benchmarks/folders.py --counts 500 2000 8000 --json folders.json
python benchmarks/folders.py --decoding

The peer is a plain loop over pictures that are decoded already: ``looker.predict`` for one batch after another, in this thread.
It is what the whole work would take if reading and writing cost nothing. Each turn of the loop is followed by a turn of the
pipeline over files, with each number of workers, so that other load on the machine slows all.

``--counts`` runs the command line in a separate process for each number of pictures. It prints pictures per second and the
most memory and threads of the process: neither grows with the number. ``--decoding`` compares how threads and processes read
the same files.
"""

from __future__ import annotations

import json as to_json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from PIL import Image
from torch import Tensor

import onestage
from common import environment, lively_pictures
from onestage.data.memory import Share
from onestage.data.synthetic import SyntheticConfig, generate
from onestage.data.threads import PatientThreads
from onestage.data.workers import Parcel, WorkerPool, Workers
from onestage.deploy.runtimes import run_by
from onestage.images import decode_image, decoding_cost
from onestage.predict.failures import Failures
from onestage.predict.pictures import PictureFile
from onestage.predict.pipeline import Resources, Selection, in_batches
from onestage.predict.predictor import Predictor
from onestage.predict.sinks import Results

SIZE = (480, 640)
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import folders; folders.child(*sys.argv[2:])"
DIFFERENT = 100
"""Pictures that are drawn; a folder repeats them."""


class Row(NamedTuple):
    """Milliseconds a picture in each turn. cpu: of processor time."""

    what: str
    wall: list[float]
    cpu: list[float]

    def line(self, first: Row) -> str:
        """The medians, and the median of the ratios to the first row of the same turn."""
        ratio = statistics.median(one / other for one, other in zip(self.wall, first.wall, strict=True))
        wall, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        return f"{self.what:<36} {wall:8.1f} ms  {cpu:8.1f} ms cpu  {100 * (ratio - 1):+6.1f} % against the first"


def write_pictures(folder: Path, count: int) -> list[PictureFile]:
    """So many JPEG files of 480x640 pixels with noise, as cameras make them: about 85 kB each."""
    folder.mkdir(parents=True)
    noise = torch.Generator().manual_seed(0)
    contents = []
    for number in range(min(count, DIFFERENT)):
        image = generate(number, SyntheticConfig(seed=7, size=SIZE)).image
        grain = (6 * torch.randn(image.shape, generator=noise)).round().short()
        pixels = (image.short() + grain).clamp(0, 255).byte()
        path = folder / "picture.jpg"
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path, quality=90)
        contents.append(path.read_bytes())
        path.unlink()
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(contents[number % len(contents)])
    return [PictureFile(path, path.name, path.name) for path in sorted(folder.iterdir())]


def processor_seconds() -> float:
    """Of this process, and of those of its processes that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(row: Row, action: Callable[[], object], count: int) -> None:
    """Add to a row the milliseconds a picture that an action for so many takes."""
    wall, cpu = time.perf_counter(), processor_seconds()
    action()
    row.wall.append(1000 * (time.perf_counter() - wall) / count)
    row.cpu.append(1000 * (processor_seconds() - cpu) / count)


def loop(looker: Predictor, pictures: Sequence[Tensor], count: int, batch: int) -> None:
    """The engine's time: pictures (3, H, W) in memory, one batch after another."""
    for start in range(0, count, batch):
        numbers = range(start, min(count, start + batch))
        looker.predict([pictures[number % len(pictures)] for number in numbers], score=0.3, batch_size=batch)


def whole(looker: Predictor, files: Sequence[PictureFile], out: Path, batch: int, workers: int | None) -> None:
    """The pipeline over files, with JSON lines and COCO results."""
    sinks = [Results(out / "found.jsonl", "jsonl"), Results(out / "found.json", "coco"), Failures(out / "failures.csv")]
    means = Resources(workers=workers)
    for outcomes in in_batches(looker, files, selection=Selection(score=0.3), batch_size=batch, resources=means):
        for outcome in outcomes:
            for sink in sinks:
                sink.add(outcome)
    for sink in sinks:
        sink.finish()


def compare(
    looker: Predictor, files: Sequence[PictureFile], out: Path, *, batch: int, workers: Sequence[int], repeats: int
) -> Iterator[Row]:
    """The loop and the pipeline with each number of workers, in turns; 0 workers: as many as pay."""
    pictures = [decode_image(picture.path) for picture in files[:DIFFERENT]]
    count = len(files)
    turns: dict[str, Callable[[], object]] = {"the engine in a plain loop": partial(loop, looker, pictures, count, batch)}
    for number in workers:
        name = f"the whole, workers {number or 'as many as pay'}"
        turns[name] = partial(whole, looker, files, out, batch, number or None)
    loop(looker, pictures, 2 * batch, batch)
    rows = {what: Row(what, [], []) for what in turns}
    for _ in range(repeats):
        for what, action in turns.items():
            timed(rows[what], action, count)
    yield from rows.values()


def _decoded(path: Path, share: Share) -> Parcel[None]:
    with share() as admit:
        admit(decoding_cost(path))
        return Parcel(decode_image(path), None)


def reading(files: Sequence[PictureFile], processes: int, repeats: int) -> Iterator[Row]:
    """Reading alone: in this thread, in threads, and in processes that send the pixels here."""
    paths, count = [picture.path for picture in files], len(files)

    def in_threads() -> None:
        with PatientThreads() as threads:
            for future in [threads.submit(partial(_shape, path)) for path in paths]:
                threads.result(future, "a picture")

    def in_processes() -> None:
        pool: WorkerPool[Path, None] = WorkerPool(_decoded, Workers(processes), name=str)
        for _ in pool.run(paths):
            pass
        pool.close()

    rows = [Row(what, [], []) for what in ("this thread", "threads", f"{processes} processes")]
    for _ in range(repeats):
        for row, action in zip(rows, (lambda: [_shape(path) for path in paths], in_threads, in_processes), strict=True):
            timed(row, action, count)
    yield from rows


def _shape(path: Path) -> tuple[int, ...]:
    return tuple(decode_image(path).shape)


def one_process(model: Path, folder: Path, out: Path) -> dict[str, float]:
    """The command line over a folder, in a separate process: pictures per second, megabytes and threads at most."""
    here = str(Path(__file__).parent)
    arguments = [sys.executable, "-c", CHILD, here, str(model), str(folder), str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found: dict[str, float] = to_json.loads(done.stdout.splitlines()[-1])
    return found


def child(model: str, folder: str, out: str) -> None:
    """What ``one_process`` runs. It prints JSON."""
    from onestage.cli.main import main as command

    over, most = threading.Event(), [0]

    def count() -> None:
        while not over.wait(0.2):
            most[0] = max(most[0], _threads())

    watching = threading.Thread(target=count)
    watching.start()
    began = time.perf_counter()
    code = command(["predict", model, folder, "--no-pictures", "--format", "jsonl", "--score", "0.3", "--out", out])
    seconds = time.perf_counter() - began
    over.set()
    watching.join()
    assert code == 0
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)
    pictures = sum(1 for _ in Path(folder).iterdir())
    print(to_json.dumps({"pictures": pictures, "a second": pictures / seconds, "megabytes": megabytes, "threads": most[0]}))


def _threads() -> int:
    """The threads of this process, those of runtimes included; only Linux tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()


def main(
    *,
    model: str = "ssdlite320_mobilenet_v3_large",
    runtime: str = "torch",
    pictures: int = 400,
    batch: int = 8,
    workers: tuple[int, ...] = (0, 1, 2),
    repeats: int = 3,
    counts: tuple[int, ...] = (),
    decoding: bool = False,
    json: Path | None = None,
) -> dict[str, object]:
    """Measure ``predict`` over a folder against the engine's time in a plain loop.

    Args:
        model: a run folder or the file of a model; or a recipe, whose random weights suit torch alone: in another runtime their
            rounding is too large for the check of the file.
        runtime: torch, onnxruntime, openvino.
        pictures: in the folder that is compared.
        batch: pictures that go through the network together.
        workers: numbers of batches at the same time; 0 is as many as pay.
        repeats: turns of each.
        counts: numbers of pictures for the memory, each in a separate process.
        decoding: compare threads and processes that only read.
        json: a file for all that was measured.
    """
    torch.manual_seed(0)
    known = Path(model).exists()
    detector = onestage.load(model) if known else lively(onestage.create(model, num_classes=20).eval())
    found: dict[str, object] = {"environment": environment(), "model": model, "runtime": runtime}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        files = write_pictures(root / "pictures", pictures)
        if decoding:
            rows = list(reading(files, 2, repeats))
        else:
            looker = Predictor.folded(detector) if runtime == "torch" else run_by(detector, runtime)
            rows = list(compare(looker, files, root, batch=batch, workers=workers, repeats=repeats))
        for row in rows:
            print(row.line(rows[0]), flush=True)
        found["rows"] = [row._asdict() for row in rows]
        detector.save(root / "model.safetensors")
        memory = []
        for count in counts:
            write_pictures(root / f"{count}", count)
            memory.append(one_process(root / "model.safetensors", root / f"{count}", root / "out"))
            print(", ".join(f"{key} {value:,.0f}" for key, value in memory[-1].items()), flush=True)
        found["counts"] = memory
    if json is not None:
        json.write_text(to_json.dumps(found, indent=1))
    return found


def lively(detector: onestage.Detector) -> onestage.Detector:
    """Give batch norms of random weights the statistics of pictures, so that outputs depend on what is seen, and class logits a
    standard deviation of 2, so that something is found.
    """
    images, _ = detector.prepare(lively_pictures(4))
    detector.train()
    with torch.no_grad():
        for _ in range(10):
            detector(images)
        detector.eval()
        scale = 2 / detector(images).logits.std()
        for name in detector.head.class_outputs():
            detector.get_parameter(f"head.{name}").mul_(scale)
    return detector


if __name__ == "__main__":
    tyro.cli(main)
