"""Where the time from a JPEG file to boxes goes, for each model and engine, in milliseconds of one picture.

python benchmarks/stages.py --runtimes torch onnxruntime openvino --repeats 30

Stages: decode the JPEG file; resize the picture into a batch; the engine, which normalises, runs the network and, in an
exported file, decodes boxes and applies NMS; and boxes in pixels of the picture (for torch and ncnn with decoding and NMS).
``--profile`` adds what onnxruntime and OpenVINO themselves measure for each kind of operator (``operators.py``), and what a
plain product of matrices reaches on this machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from common import PEERS, Clock, environment, pair
from onestage.errors import OnestageError
from onestage.images import decode_image
from onestage.predict.predictor import Predictor
from operators import PROFILERS, peak, profiled
from runtimes import Engine, jpegs, open_engine, path_of

STAGES = ("decode", "resize", "engine", "boxes", "whole")


def stages(predictor: Predictor, files: Sequence[Path], *, repeats: int, clock: Clock = "wall") -> dict[str, float]:
    """The median milliseconds of each stage, and of predict() as a whole, for a picture."""
    now = time.perf_counter if clock == "wall" else time.process_time
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    predictor.predict(files[0])
    for turn in range(repeats):
        file = files[turn % len(files)]
        ticks = [now()]
        picture = decode_image(file)
        ticks.append(now())
        images, metas = predictor.config.preprocess.batch([picture])
        ticks.append(now())
        output = predictor.run(images, metas)
        ticks.append(now())
        predictor.decode(output, metas)
        ticks.append(now())
        for stage, start, end in zip(STAGES, ticks, ticks[1:], strict=False):
            times[stage].append(end - start)
        start = now()
        predictor.predict(file)
        times["whole"].append(now() - start)
    return {stage: 1000 * statistics.median(values) for stage, values in times.items()}


def main(
    *,
    models: tuple[str, ...] = tuple(PEERS),
    runtimes: tuple[str, ...] = ("torch", "onnxruntime", "openvino"),
    precision: tuple[str, ...] = ("fp32",),
    repeats: int = 20,
    clock: Clock = "wall",
    pictures: Path | None = None,
    files: Path | None = None,
    profile: bool = False,
) -> None:
    """Measure the stages of predict().

    Args:
        models: the detectors, by their names in torchvision or effdet (tf_*).
        runtimes: torch, onnxruntime, openvino, ncnn.
        precision: fp32, int8, of the files that the runtimes run.
        repeats: pictures for each engine.
        clock: wall time, or processor time on a busy machine.
        pictures: a folder of JPEG files; by default some are drawn.
        files: a folder in which exported files are kept; by default they are exported for this run.
        profile: print what onnxruntime and OpenVINO measure for each kind of operator.
    """
    table = Table(title=f"milliseconds, {clock} time", caption=", ".join(f"{k} {v}" for k, v in environment().items()))
    table.add_column()
    for stage in STAGES:
        table.add_column(stage, justify="right")
    with tempfile.TemporaryDirectory() as temporary:
        folder = files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        photos = jpegs(folder) if pictures is None else sorted(pictures.glob("*.jpg"))[:8]
        for name in models:
            model = pair(name)[0]
            for engine in (Engine(name, *row) for row in product(runtimes, precision)):
                try:
                    predictor = open_engine(engine, model, folder)
                except (OnestageError, LookupError) as error:
                    print(f"not measured: {engine}: {error}")
                    continue
                found = stages(predictor, photos, repeats=repeats, clock=clock)
                table.add_row(str(engine), *(f"{found[stage]:.2f}" for stage in STAGES))
                if profile and engine.runtime in PROFILERS:
                    place = path_of(engine, folder)
                    print(f"{engine}: {profiled(place, model, predictor, photos[0], repeats=repeats)}", flush=True)
    Console(width=128).print(table)
    if profile:
        print(peak(clock))


if __name__ == "__main__":
    tyro.cli(main)
