"""``onestage benchmark``: how fast detectors are on this machine.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

import json as json_format
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich import box
from rich.table import Table

from onestage.cli.output import progress, say, stdout, tell
from onestage.console import words
from onestage.errors import ConfigError, WeightsError, require
from onestage.files import write_file
from onestage.model.codec import Range

if TYPE_CHECKING:
    from torch import Tensor

    from onestage.deploy.benchmark import Timing
    from onestage.model.detector import Detector
    from onestage.predict.predictor import Predictor

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
    runtime: tuple[Literal["auto", "torch", "onnxruntime", "openvino", "ncnn", "litert"], ...] = (),
    precision: Literal["fp32", "bf16"] = "fp32",
    trusted: bool = False,
    json: Path | None = None,
) -> int:
    """Time detectors on this machine: whole predict(), from decoded pictures to boxes, and the network alone.

    onestage benchmark ssd300_vgg16 efficientdet_d0

    onestage benchmark runs/first first.xml --runtime auto --batch 8 --repeats 30 --json speed.json

    A name of the zoo means that model with random weights. Its network takes as long as a trained one. But the time of the
    postprocessing depends on the number of detections, so measure your trained model for that.

    Args:
        models: names of the zoo, run folders, files and exported files; the whole zoo if left out
        batch: pictures at once; times are per picture
        repeats: how often each model is timed; the median counts
        picture: height x width of the pictures for predict()
        classes: number of classes of the zoo's models; COCO has 80
        device: "cpu" or "cuda"; by default cuda if there is one
        runtime: what runs the models, by default torch or what is usual for the file; auto: all that are installed
        precision: bf16: torch computes in bfloat16, if the processor can; an exported file has its precision
        trusted: open a .pt2 file, which could run code
        json: a file for all single times, with the names as you gave them and the models' names
    """
    from onestage.zoo.table import list_models

    _check({"batch": batch, "repeats": repeats, "classes": classes}, json)
    images = _images(batch, picture)
    runs = [(name, program) for name in models or list_models() for program in _programs(name, runtime)]
    make = partial(_model, classes=classes, device=device, bf16=precision == "bf16", trusted=trusted)
    names, timings, measured_on = _time_all(runs, make, images, repeats=repeats, json=json, asked=runtime)
    _show(names, timings, batch)
    say((", ".join(f"{key} {value}" for key, value in measured_on.items()), "dim"))
    return 0


def _check(numbers: Mapping[str, int], json: Path | None) -> None:
    """Raise ConfigError if one of the numbers is out of bounds, or the file cannot be written there."""
    from onestage.cli.results import BENCHMARK, check_replaceable

    for name, number in numbers.items():
        Range(least=1, most=MOST).check(number, name)
    check_replaceable(json, BENCHMARK)


def _programs(name: str, asked: Sequence[str]) -> list[str]:
    """The runtimes that run a model, by name; "" is the usual one. asked: by the user."""
    from onestage.deploy.runtimes import AUTO, RUNTIMES, TORCH
    from onestage.predict.exported import OPENERS, is_exported

    if AUTO not in asked:
        return list(dict.fromkeys(asked)) or [""]
    installed = [TORCH, *(runtime for runtime, about in RUNTIMES.items() if about.installed)]
    return [runtime for runtime in installed if not is_exported(name) or runtime in OPENERS[Path(name).suffix.lower()]]


def _model(name: str, runtime: str, *, classes: int, device: str | None, bf16: bool, trusted: bool) -> Detector | Predictor:
    """The model that a user names, run by the runtime of that name; "" is the usual one. classes: of a recipe. bf16: torch
    computes in bfloat16. Raise ConfigError if torch does not run the model then.
    """
    from onestage.cli.common import Numbers, find_any_model, find_or_create, is_recipe, run_model
    from onestage.deploy.runtimes import TORCH, run_by, run_unchecked
    from onestage.predict.exported import is_exported
    from onestage.weights.tensor_file import numbered_classes

    numbers: Numbers = "bf16" if bf16 else "exact"
    run = partial(run_model, runtime=runtime or None, pictures=tuple, total=0, numbers=numbers)
    if is_exported(name):
        return run(find_any_model(name, device=device, runtime=runtime or None, trusted=trusted))
    detector = find_or_create(name, numbered_classes(classes), device=device)
    if bf16:
        return run(detector)
    if runtime in ("", TORCH):
        return detector
    return run_unchecked(detector, runtime) if is_recipe(name) else run_by(detector, runtime)


def _images(batch: int, picture: str) -> list[Tensor]:
    """So many pictures (3, H, W) of that size."""
    from onestage.cli.generate import parse_size
    from onestage.deploy.benchmark import pictures

    height, width = parse_size(picture, option="--picture")
    require(batch * height * width <= PIXELS, f"all pictures of a --batch have at most {PIXELS:,} pixels", got=picture)
    return pictures(batch, (height, width))


def _time_all(
    runs: Sequence[tuple[str, str]],
    make: Callable[[str, str], Detector | Predictor],
    images: Sequence[Tensor],
    *,
    repeats: int,
    json: Path | None,
    asked: Sequence[str],
) -> tuple[list[str], list[Timing], Environment]:
    """The names of the models, their timings, and what they depend on. images: (3, H, W) each.

    runs: names of models and of what runs them. Each model is made just before its measurement and is gone before the next:
    the threads of two would disturb each other. asked: what the user named; with "auto", a runtime that cannot run a model is
    left out, if it is not the first one of the model.
    """
    from onestage.deploy.benchmark import WARM_UP, environment, time_detector
    from onestage.deploy.runtimes import AUTO

    names: list[str] = []
    timings: list[Timing] = []
    measured_on: Environment = {}
    with progress("timing", len(runs) * (WARM_UP + repeats) * len(images)) as bar:
        for run in runs:
            try:
                model = make(*run)
            except (ConfigError, WeightsError) as error:
                if AUTO not in asked or run == next(usual for usual in runs if usual[0] == run[0]):
                    raise
                bar.say(("left out:", "bold yellow"), f" {run[0]} by {run[1]}: {error.what}")
                continue
            names.append(run[0])
            timings.append(time_detector(model, images, repeats=repeats, advance=bar.advance))
            measured_on = environment(model.device)
            del model
            if json is not None:  # after every model: an interruption loses one, not all
                _write(json, measured_on, names, timings)
    return names, timings, measured_on


def _write(file: Path, measured_on: Environment, names: Sequence[str], timings: Sequence[Timing]) -> None:
    """Every single time, with the name as the user gave it."""
    rows = [{"given": name, **asdict(timing)} for name, timing in zip(names, timings, strict=False)]
    write_file(file, json_format.dumps({"environment": measured_on, "timings": rows}, indent=1))


def _table(names: Sequence[str], timings: Sequence[Timing], batch: int) -> Table:
    """The medians. names: as the user gave them, since two files may hold models of the same name."""
    together = f", {batch} at once" if batch > 1 else ""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=f"milliseconds per picture{together}")
    table.add_column("model", overflow="fold")
    table.add_column("runtime")
    for column in ("input", "predict()", "network", "pictures/s"):
        table.add_column(column, justify="right")
    for name, timing in zip(names, timings, strict=True):
        whole, network = timing.median("predict"), timing.median("network")
        size = "x".join(map(str, timing.input))
        table.add_row(words((name, "bold")), timing.runtime, size, f"{whole:.1f}", f"{network:.1f}", f"{1000 / whole:.1f}")
    return table


def _show(names: Sequence[str], timings: Sequence[Timing], batch: int) -> None:
    """The medians, and for each model of several runtimes the one with the least median of predict()."""
    stdout().print(_table(names, timings, batch))
    for name in dict.fromkeys(names):
        rows = sorted((t.median("predict"), t.runtime) for given, t in zip(names, timings, strict=True) if given == name)
        if len(rows) > 1:
            (least, fastest), (most, slowest) = rows[0], rows[-1]
            tell(f"{name}: {fastest} is the fastest, {most / least:.2f} times as fast as {slowest}")
