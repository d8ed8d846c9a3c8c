"""``onestage benchmark``: how fast detectors are on this machine.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

import json as json_format
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich import box
from rich.table import Table

from onestage.cli.output import progress, say, stdout
from onestage.console import words
from onestage.errors import require
from onestage.files import write_file

if TYPE_CHECKING:
    from torch import Tensor

    from onestage.deploy.benchmark import Timing
    from onestage.model.detector import Detector

PIXELS = 1_000_000_000
MOST = 100_000
"""Of pictures at once, repeats and classes."""

Environment = Mapping[str, str | int]
"""Versions, threads and processor: what the times depend on."""


def benchmark(
    models: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    *,
    batch: int = 1,
    repeats: int = 10,
    picture: str = "480x640",
    classes: int = 80,
    device: str | None = None,
    json: Path | None = None,
) -> int:
    """Time detectors on this machine: whole predict(), from decoded pictures to boxes, and the network alone.

    onestage benchmark ssd300_vgg16 efficientdet_d0

    onestage benchmark runs/first --batch 8 --repeats 30 --json speed.json

    A name of the zoo means that model with random weights. Its network takes as long as a trained one. But the time of the
    postprocessing depends on the number of detections, so measure your trained model for that.

    Args:
        models: names of the zoo, run folders or files; the whole zoo if left out
        batch: pictures at once; times are per picture
        repeats: how often each model is timed; the median counts
        picture: height x width of the pictures for predict()
        classes: number of classes of the zoo's models; COCO has 80
        device: "cpu" or "cuda"; by default cuda if there is one
        json: a file for all single times, with the names as you gave them and the models' names
    """
    from onestage.cli.common import find_or_create
    from onestage.cli.results import BENCHMARK, check_replaceable
    from onestage.weights.names import numbered_classes
    from onestage.zoo.table import list_models

    given = (batch, repeats, classes)
    require(1 <= min(given) <= max(given) <= MOST, f"--batch, --repeats, --classes: 1 or more, at most {MOST:,}", got=given)
    images = _images(batch, picture)
    check_replaceable(json, BENCHMARK)
    names = models or tuple(list_models())
    make = partial(find_or_create, classes=numbered_classes(classes), device=device)
    timings, measured_on = _time_all(names, make, images, repeats=repeats, json=json)
    stdout().print(_table(names, timings, batch))
    say((", ".join(f"{key} {value}" for key, value in measured_on.items()), "dim"))
    return 0


def _images(batch: int, picture: str) -> list[Tensor]:
    """So many pictures (3, H, W) of that size."""
    from onestage.cli.generate import parse_size
    from onestage.deploy.benchmark import pictures

    height, width = parse_size(picture, option="--picture")
    require(batch * height * width <= PIXELS, f"all pictures of a --batch have at most {PIXELS:,} pixels", got=picture)
    return pictures(batch, (height, width))


def _time_all(
    names: Sequence[str], make: Callable[[str], Detector], images: Sequence[Tensor], *, repeats: int, json: Path | None
) -> tuple[list[Timing], Environment]:
    """The timings of the detectors, each made just before its measurement, and what they depend on. images: (3, H, W) each."""
    from onestage.deploy.benchmark import WARM_UP, environment, time_detector

    timings: list[Timing] = []
    measured_on: Environment = {}
    with progress("timing", len(names) * (WARM_UP + repeats) * len(images)) as bar:
        for name in names:
            detector = make(name)
            timings.append(time_detector(detector, images, repeats=repeats, advance=bar.advance))
            measured_on = environment(detector.device)
            if json is not None:  # after every model: an interruption loses one, not all
                _write(json, measured_on, names, timings)
    return timings, measured_on


def _write(file: Path, measured_on: Environment, names: Sequence[str], timings: Sequence[Timing]) -> None:
    """Every single time, with the name as the user gave it."""
    rows = [{"given": name, **asdict(timing)} for name, timing in zip(names, timings, strict=False)]
    write_file(file, json_format.dumps({"environment": measured_on, "timings": rows}, indent=1))


def _table(names: Sequence[str], timings: Sequence[Timing], batch: int) -> Table:
    """The medians. names: as the user gave them, since two files may hold models of the same name."""
    together = f", {batch} at once" if batch > 1 else ""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=f"milliseconds per picture{together}")
    table.add_column("model", overflow="fold")
    for column in ("input", "predict()", "network", "pictures/s"):
        table.add_column(column, justify="right")
    for name, timing in zip(names, timings, strict=True):
        whole, network = timing.median("predict"), timing.median("network")
        size = "x".join(map(str, timing.input))
        table.add_row(words((name, "bold")), size, f"{whole:.1f}", f"{network:.1f}", f"{1000 / whole:.1f}")
    return table
