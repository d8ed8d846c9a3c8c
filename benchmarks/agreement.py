"""Whether ``onestage benchmark`` and ``inference.py`` find the same times, from JPEG files to boxes.

python benchmarks/agreement.py --runtimes torch onnxruntime openvino

Both run the same weights, the same exported files and the same pictures, and each engine runs alone in a process.
``inference.py`` takes turns with the peer, with a pause and some untimed turns before each; ``onestage benchmark`` has neither.
The same program is some per cent faster in one process than in the next, so each is measured in some processes, by turns. They
agree if the median of each lies within the range of nine tenths of the other's turns. The exit code is 1 if some pair does not
agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import tyro

import runtimes as by_runtime
from common import pair
from onestage.deploy.drawn import jpegs
from onestage.errors import OnestageError
from runtimes import Engine, open_engine, path_of

RANGE = 5, 95
"""Percentiles between which nine tenths of the turns lie."""


def agree(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the median of each lies within the range of nine tenths of the other."""
    ranges = [np.percentile(times, RANGE) for times in (one, other)]
    return all(low <= np.median(times) <= high for times, (low, high) in zip((other, one), ranges, strict=True))


def by_benchmark(engine: Engine, folder: Path, pictures: Path, repeats: int) -> list[float]:
    """Seconds of every turn, as ``onestage benchmark`` measures them. Raise LookupError with the reason if it does not."""
    model, found = folder / f"{engine.model}.safetensors", folder / "found.json"
    file = model if engine.runtime == "torch" else path_of(engine, folder)
    found.unlink(missing_ok=True)
    command = ["benchmark", str(file), "--runtime", engine.runtime, "--data", str(pictures), "--repeats", str(repeats)]
    words = [sys.executable, "-m", "onestage", *command, "--fresh", "--json", str(found)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if not found.is_file():
        raise LookupError((done.stderr.strip().splitlines() or ["?"])[-1])
    (row,) = json.loads(found.read_text())["timings"]
    return [decoding + rest for decoding, rest in zip(row["decode"], row["predict"], strict=True)]


def by_both(engine: Engine, folder: Path, pictures: Path, repeats: int, processes: int) -> tuple[list[float], list[float]]:
    """Seconds of every turn by ``inference.py`` and by ``onestage benchmark``, which take turns with their processes.

    Raise OnestageError or LookupError with the reason if there are none.
    """
    model = pair(engine.model)[0]
    model.save(folder / f"{engine.model}.safetensors")
    open_engine(engine, model, folder)
    ours, theirs = list[float](), list[float]()
    for _ in range(processes):
        (found,) = by_runtime.rows([engine], pictures, folder, repeats, "wall")
        if isinstance(found, str):
            raise LookupError(found)
        ours += found.ours
        theirs += by_benchmark(engine, folder, pictures, repeats)
    return ours, theirs


def main(
    *,
    models: tuple[str, ...] = ("ssdlite320_mobilenet_v3_large",),
    runtimes: tuple[str, ...] = ("torch", "onnxruntime", "openvino"),
    precision: tuple[str, ...] = ("fp32",),
    repeats: int = 40,
    processes: int = 3,
    files: Path | None = None,
) -> int:
    """Compare both.

    Args:
        models: the detectors, by their names in torchvision or effdet (tf_*).
        runtimes: torch, onnxruntime, openvino, ncnn.
        precision: fp32, int8, of the files that the runtimes run.
        repeats: timed turns in each process.
        processes: processes of each.
        files: a folder in which exported files are kept; by default they are exported for this run.
    """
    same = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = files or Path(temporary)
        pictures = folder / "pictures"
        jpegs(pictures)
        for engine in (Engine(*row) for row in product(models, runtimes, precision)):
            try:
                ours, theirs = by_both(engine, folder, pictures, repeats, processes)
            except (OnestageError, LookupError) as error:
                print(f"not measured: {engine}: {error}", flush=True)
                continue
            yes = agree(ours, theirs)
            same &= yes
            medians = [1000 * float(np.median(times)) for times in (ours, theirs)]
            words = "they agree" if yes else "they do NOT agree"
            told = (
                f"inference.py {medians[0]:.2f} ms, onestage benchmark {medians[1]:.2f} ms, {medians[1] / medians[0]:.2f} of it"
            )
            print(f"{engine}: {told}: {words}", flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
