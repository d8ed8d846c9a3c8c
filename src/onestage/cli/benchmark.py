"""``onestage benchmark``: how fast detectors are on this machine, and which one to deploy."""

from __future__ import annotations

import math
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from onestage.cli.output import progress, say, stdout, tell
from onestage.errors import ConfigError, DataError, absent, counted, require
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.cli.benchmark_run import Benchmark
    from onestage.cli.cell import Order
    from onestage.deploy.benchmark_views import Findings
    from onestage.deploy.cells import Cell, Row, Wish

PIXELS = 1_000_000_000
MOST = 100_000
"""Of pictures at once, repeats and classes."""
USUAL_REPEATS = 10, 300
"""The fewest and the most turns of a cell, unless a user says how many."""
PEAK_PART = 0.1
"""The part of the seconds for a cell that each plain product gets, by which the machine is measured; one second at most."""
UNITS = {"ms": 0.001, "s": 1.0}


@dataclass(frozen=True)
class Engines:
    """What runs the models: every combination is a cell."""

    HEADING: ClassVar[str] = "runtime"
    runtime: tuple[Literal["auto", "torch", "onnxruntime", "openvino", "ncnn", "litert"], ...] = ()
    """What runs the models, by default torch, or what is usual for the file; auto: all that are installed."""
    precision: tuple[Literal["fp32", "bf16", "fp16", "int8"], ...] = ("fp32",)
    """What the networks are computed in. bf16: by torch and openvino, if the processor can. fp16: a file of half the size, by
    onnxruntime and openvino; and by torch on a GPU. int8: by onnxruntime and openvino; a trained model needs labelled --data.
    An exported file has its precision."""
    batch: tuple[int, ...] = (1,)
    """Pictures at once, one number or several."""
    device: str | None = None
    """"cpu" or "cuda"; by default cuda if there is one, and the CPU if another runtime than torch is named."""
    threads: int | None = None
    """Threads of each cell; by default as many as torch takes."""
    trusted: bool = False
    """Open a .pt2 file, which could run code."""

    @property
    def on_gpu(self) -> bool:
        """Whether torch runs on a GPU. Raise ConfigError if there is no such device."""
        from onestage.processes import choose_device

        if self.device is None and set(self.runtime) - {"torch"}:
            return False
        return choose_device(self.device).type == "cuda"

    def __post_init__(self) -> None:
        for option, given, usual in (("--batch", self.batch, "1"), ("--precision", self.precision, "fp32")):
            require(bool(given), f"{option} takes one value or several", got="none", fix=f"such as {option} {usual}")
        for number in self.batch:
            Range(least=1, most=MOST).check(number, "batch")
        Range(least=1, most=1024).check(self.threads, "threads")


@dataclass(frozen=True)
class Measuring:
    """How a cell is measured."""

    HEADING: ClassVar[str] = "timing"
    repeats: int | None = None
    """How often each cell is timed; by default 300 times, or as often as fits in --seconds, but 10 times at least. A 90th
    percentile takes 29 times, a 99th 299."""
    seconds: float = 10.0
    """The time for a cell, unless --repeats says how often."""
    warm_up: int = 3
    """Turns before these that do not count."""
    picture: str = "480x640"
    """Height x width of the drawn pictures; with --data its pictures are taken."""
    classes: int = 80
    """Number of classes of the zoo's models; COCO has 80."""
    cell_timeout: float = 7200.0
    """Seconds after which a cell is given up. An int8 file takes many minutes to make."""
    fresh: bool = False
    """Measure all cells again, also those that the same command measured before it was interrupted."""

    def __post_init__(self) -> None:
        for name, number in (("repeats", self.repeats), ("classes", self.classes), ("warm_up", self.warm_up)):
            Range(least=1, most=MOST).check(number, name)
        for name, seconds in (("seconds", self.seconds), ("cell_timeout", self.cell_timeout)):
            Range(above=0, below=1e6).check(seconds, name)


@dataclass(frozen=True)
class Labelled:
    """What the models look at."""

    HEADING: ClassVar[str] = "picture"
    data: Path | None = None
    """Pictures to measure with: a data set, on which the AP of each cell is measured, too; or a folder of pictures."""
    split: str | None = None
    """The split of --data that measures; by default as onestage evaluate takes it."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What to do about a bad annotation or picture in --data: stop, or leave it out."""


@dataclass(frozen=True)
class Wished:
    """What is asked of the model to deploy."""

    HEADING: ClassVar[str] = "deployment"
    at_most: str | None = None
    """The longest time from a picture's file to boxes, such as 30ms: the last sentence names the best cell that keeps to it."""
    least_ap: float | None = None
    """The least AP, 0..1, on --data."""

    def __post_init__(self) -> None:
        Range(least=0, most=1).check(self.least_ap, "least_ap")


def benchmark(
    models: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    *,
    engine: Engines = Engines(),
    measuring: Measuring = Measuring(),
    pictures: Labelled = Labelled(),
    deploy: Wished = Wished(),
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    json: Path | None = None,
) -> int:
    """Time detectors on this machine, from picture files to boxes, and say which to deploy: models x runtimes x precisions x
    pictures at once, each in a process that does nothing more, with percentiles, memory, the share of what this machine can do,
    and, with labelled pictures, what it costs in AP.

    onestage benchmark ssd300_vgg16 efficientdet_d0

    onestage benchmark runs/first --runtime auto --precision fp32 int8 --data pictures/ --at-most 30ms --out speed/

    onestage benchmark runs/first first.xml --batch 1 8 --repeats 300 --json speed.json

    A name of the zoo means that model with random weights. Its network takes as long as a trained one. But the time of the
    postprocessing depends on the number of detections, and int8 on the weights, so measure your trained model for that.
    Ctrl-C shows what was measured; the same command then goes on with the rest.

    Args:
        models: names of the zoo, run folders, files and exported files; the whole zoo if left out
        out: a folder for benchmark.json, benchmark.csv, benchmark.png (AP against latency) and index.html, a page of all
        json: a file for all single times, with the names as you gave them and the models' names
    """
    from onestage.zoo.table import list_models

    wish = _wish(deploy, pictures)
    _check_places(out, json)
    names = list(dict.fromkeys(models)) or list_models()
    cells = _cells(names, engine)
    _check_data(cells, pictures)
    order = _order(engine, measuring, pictures, cells)
    findings, complete = _measured(cells, order, wish, measuring)
    _finish(findings, cells, pictures, out, json)
    if not complete:
        raise KeyboardInterrupt
    failed = [row for row in findings.rows if row.timing is None]
    return 1 if failed and "auto" not in engine.runtime else 0


def _wish(wished: Wished, labelled: Labelled) -> Wish:
    """What is asked of the model. Raise ConfigError if it cannot be told."""
    from onestage.deploy.cells import Wish

    if wished.least_ap is not None and labelled.data is None:
        what, fix = "an AP is measured on labelled pictures", "--data FOLDER, or leave --least-ap out"
        raise ConfigError(what, got="no --data", fix=fix)
    if wished.at_most is None:
        return Wish(None, wished.least_ap)
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s)\s*", wished.at_most)
    seconds = float(found[1]) * UNITS[found[2]] if found else math.nan
    require(seconds > 0, "--at-most is a time with its unit", got=wished.at_most, fix="--at-most 30ms, or 0.5s")
    return Wish(seconds, wished.least_ap)


def _check_places(out: Path | None, json: Path | None) -> None:
    """Raise an error if the results cannot be written there: now, because an hour later it would be too late."""
    from onestage.cli.results import BENCHMARK, check_replaceable, results_folder
    from onestage.deploy.benchmark_views import FILES

    check_replaceable(json, BENCHMARK)
    if out is not None:
        results_folder(out, FILES)


def _cells(names: Sequence[str], engines: Engines) -> list[Cell]:
    """Every combination that there can be. Say which there cannot. Raise ConfigError if none is left, WeightsError if there is
    no such model.
    """
    from onestage.cli.benchmark_run import AS_MADE
    from onestage.cli.common import check_model_name
    from onestage.deploy.cells import Cell
    from onestage.deploy.runtimes import computes_in
    from onestage.predict.exported import is_exported

    cells, without = list[Cell](), dict[str, None]()
    for name in names:
        check_model_name(name)
        for runtime in _programs(name, engines.runtime):
            able = (AS_MADE,) if is_exported(name) else computes_in(runtime, gpu=engines.on_gpu)
            asked = (AS_MADE,) if is_exported(name) else dict.fromkeys(engines.precision)
            cells += [
                Cell(name, runtime, kind, batch) for kind in asked if kind in able for batch in dict.fromkeys(engines.batch)
            ]
            without |= dict.fromkeys(f"{runtime} in {kind}" for kind in asked if kind not in able)
    if not cells:
        what, fix = "no runtime that is asked for computes so", "choose another --precision, or another --runtime"
        raise ConfigError(what, got=", ".join(without), expected="such as openvino in int8", fix=fix)
    if without:
        say(("left out:", "bold yellow"), f" {', '.join(without)}, which is not possible")
    return cells


def _programs(name: str, asked: Sequence[str]) -> list[str]:
    """The runtimes that run a model, by name. asked: by the user."""
    from onestage.deploy.runtimes import AUTO, RUNTIMES, TORCH
    from onestage.predict.exported import OPENERS, is_exported

    openers = OPENERS[Path(name).suffix.lower()] if is_exported(name) else None
    if AUTO not in asked:
        return list(dict.fromkeys(asked)) or [TORCH if openers is None else next(iter(openers))]
    installed = [TORCH, *(runtime for runtime, about in RUNTIMES.items() if about.installed)]
    return [runtime for runtime in installed if openers is None or runtime in openers]


def _check_data(cells: Sequence[Cell], labelled: Labelled) -> None:
    """Raise an error if --data is not there, or is missing for int8."""
    from onestage.cli.common import is_recipe

    if labelled.data is not None and not labelled.data.exists():
        raise DataError(absent(labelled.data), where=f"--data {labelled.data}", fix="correct the path")
    if labelled.data is None:
        given = [f"--split {labelled.split}"] if labelled.split is not None else []
        require(not given, "--split is of --data", got=given, fix="add --data FOLDER, or leave --split out")
        if trained := [cell.model for cell in cells if cell.numbers == "int8" and not is_recipe(cell.model)]:
            what, fix = (
                "int8 needs labelled pictures: its AP is measured on them",
                "--data FOLDER, a data set that evaluate takes",
            )
            raise ConfigError(what, where=trained[0], got="no --data", fix=fix)


def _order(engines: Engines, measuring: Measuring, labelled: Labelled, cells: Sequence[Cell]) -> Order:
    """What all cells share. Raise ConfigError for pictures that are too large."""
    from onestage.cli.cell import Order, Pictures
    from onestage.cli.generate import parse_size
    from onestage.deploy.benchmark import Repeats
    from onestage.deploy.runtimes import TORCH

    height, width = parse_size(measuring.picture, option="--picture")
    most = max(cell.batch for cell in cells)
    require(most * height * width <= PIXELS, f"all pictures of a --batch have at most {PIXELS:,} pixels", got=measuring.picture)
    given = measuring.repeats
    repeats = Repeats(*USUAL_REPEATS, measuring.seconds) if given is None else Repeats(given, given, measuring.seconds)
    data, int8 = labelled.data, any(cell.numbers == "int8" for cell in cells)
    others = any(cell.runtime != TORCH for cell in cells)
    return Order(
        "peaks",
        folder="",
        pictures=Pictures(None if data is None else str(data), labelled.split, labelled.on_bad, (height, width), int8=int8),
        repeats=repeats,
        warm_up=measuring.warm_up,
        device=engines.device or ("cpu" if others else None),
        threads=engines.threads or 0,
        classes=measuring.classes,
        trusted=engines.trusted,
    )


def _measured(cells: Sequence[Cell], order: Order, wish: Wish, measuring: Measuring) -> tuple[Findings, bool]:
    """What was found, and whether all cells were measured: Ctrl-C ends this early."""
    from dataclasses import replace

    from onestage.cli.benchmark_run import Benchmark, Journal, say_what_is_known, settings_of
    from onestage.files import temporary_folder

    models = list(dict.fromkeys(cell.model for cell in cells))
    journal = Journal.of(*settings_of(order, models), *cells, fresh=measuring.fresh)
    say_what_is_known(cells, journal)
    rows: list[Row] = []
    with temporary_folder(Path(tempfile.gettempdir()) / "onestage-benchmark") as folder:
        run = Benchmark(replace(order, folder=str(folder)), journal, measuring.cell_timeout)
        try:
            for note in run.look(cells):
                say(("left out:", "bold yellow"), f" {note}")
            _run(run, cells, rows)
            journal.finish()
            complete = True
        except KeyboardInterrupt:
            complete = False
    return _findings(run, rows, wish, order), complete


def _run(run: Benchmark, cells: Sequence[Cell], rows: list[Row]) -> None:
    """Measure the cells, and put what is found into ``rows``. A line tells of each."""
    from onestage.deploy.benchmark_wording import engine, milliseconds, rate

    with progress("timing", len(cells), unit="cells") as bar:

        def told(cell: Cell, row: Row) -> None:
            rows.append(row)
            if row.timing is None:
                bar.say(("not measured:", "bold yellow"), f" {cell}: {row.reason}")
            else:
                what = f"{row.cell.model} by {engine(row)}, {row.cell.batch} at once"
                bar.say((f"{what}: {milliseconds(row.median)} ms, {rate(row.rate)} pictures/s", "dim"))
            bar.advance(1)

        bar.say(("measuring what this machine can do at best, then the cells", "dim"))  # half a minute without a word else
        run.run(cells, told)


def _findings(run: Benchmark, rows: Sequence[Row], wish: Wish, order: Order) -> Findings:
    """All that was found, and what it depends on."""
    from onestage.deploy.benchmark import environment
    from onestage.deploy.benchmark_views import Findings
    from onestage.deploy.machine import instructions
    from onestage.processes import choose_device

    about = dict(run.environment or environment(choose_device(order.device)))
    about["instructions"] = " ".join(instructions()) or "unknown"
    asked = order.pictures
    drawn = f"drawn pictures of {asked.drawn[0]}x{asked.drawn[1]}"
    data = drawn if asked.data is None else " ".join(filter(None, (Path(asked.data).name or asked.data, asked.split)))
    typed = shlex.join(["onestage", *sys.argv[1:]]) if sys.argv[1:2] == ["benchmark"] else ""
    return Findings(list(rows), wish, dict(run.peaks), about, data, typed)


def _finish(findings: Findings, cells: Sequence[Cell], labelled: Labelled, out: Path | None, json: Path | None) -> None:
    """Show and write what was found. Raise the reason if no cell could be measured."""
    from onestage.cli.benchmark_table import show
    from onestage.cli.common import is_recipe
    from onestage.deploy.benchmark_views import save, to_json
    from onestage.deploy.benchmark_wording import command
    from onestage.deploy.cells import Wish, best
    from onestage.files import write_file

    if not findings.measured:
        if findings.rows:
            reason = findings.rows[0].reason
            raise ConfigError("no cell could be measured", where=findings.rows[0].cell, got=reason, fix="see the reasons above")
        return
    if json is not None:
        write_file(json, to_json(findings))
    if out is not None:
        save(findings, out)
    show(stdout(), findings)
    left = len(cells) - len(findings.rows)
    if left:
        say(("interrupted:", "bold yellow"), f" the same command goes on with the other {counted(left, 'cell')}")
    found = best(findings.measured, findings.wish)
    if found is not None and findings.wish != Wish():
        tell(("to use it: ", "bold"), command(found, labelled.data, is_recipe=is_recipe(found.cell.model)))
    if out is not None:
        tell(f"the page: {out / 'index.html'}")
