"""The program of the processes in which ``onestage benchmark`` measures: it does one order and ends. See ``cli/alone.py``.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onestage.analysis.plain import from_plain, to_plain
from onestage.deploy.benchmark import USUAL_REPEATS, Repeats
from onestage.deploy.cells import Measured
from onestage.errors import ConfigError, DataError, OnestageError
from onestage.files import write_file
from onestage.structures import Size

if TYPE_CHECKING:
    from onestage.data import Dataset
    from onestage.deploy.int8 import Int8Data
    from onestage.deploy.plan import ExportConfig
    from onestage.model.detector import Detector
    from onestage.predict.predictor import Predictor

Subject = Literal["look", "file", "time", "accuracy", "peaks"]
"""Which pictures there are; the exported file that a runtime runs; and what is measured: times, AP, what the machine can do."""
MOST_TIMED = 32
"""Pictures of a data set that are timed, in turn."""


@dataclass(frozen=True)
class Pictures:
    """What is measured on. data: the folder or file that a user named, None for drawn pictures of the (H, W) ``drawn``. int8:
    whether some pictures must be left to calibrate on.
    """

    data: str | None = None
    split: str | None = None
    on_bad: Literal["stop", "skip"] = "stop"
    drawn: Size = (480, 640)
    int8: bool = False


DRAWN = Pictures()


@dataclass(frozen=True)
class Order:
    """What a process is to do. file: the exported file to run, "" for none. timed: the files of the pictures to time. folder:
    for files that are needed no longer than this benchmark. classes: of a recipe. threads: of torch and the runtimes, 0 for the
    usual number.
    """

    what: Subject
    folder: str
    model: str = ""
    runtime: str = "torch"
    numbers: str = "fp32"
    batch: int = 1
    file: str = ""
    timed: tuple[str, ...] = ()
    pictures: Pictures = DRAWN
    repeats: Repeats = USUAL_REPEATS
    warm_up: int = 2
    device: str | None = None
    threads: int = 0
    classes: int = 80
    trusted: bool = False


@dataclass(frozen=True)
class Refusal:
    """An error that a user can fix, as plain data. kind: the name of its class."""

    kind: str
    what: str
    where: str | None = None
    got: str | None = None
    expected: str | None = None
    fix: str | None = None

    @classmethod
    def of(cls, error: OnestageError) -> Refusal:
        """The parts of an error, as texts."""
        parts = (error.where, error.got, error.expected, error.fix)
        return cls(type(error).__name__, str(error.what), *(None if part is None else str(part) for part in parts))

    def __str__(self) -> str:
        """On one line."""
        told = self.what if self.got is None else f"{self.what}: {self.got}"
        return told if self.where is None else f"{told} ({self.where})"


@dataclass(frozen=True)
class Answer(Measured):
    """What was found. numbers: what an exported file is in. timed: the files of the pictures to time. peaks and environment: of
    the machine.
    """

    refusal: Refusal | None = None
    file: str = ""
    numbers: str = ""
    timed: tuple[str, ...] = ()
    peaks: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str | int] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Do the order in the first line of standard input, and write the answer to the file that is named."""
    order = from_plain(Order, json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_the_program_that_asked, daemon=True).start()
    try:
        answer = answered(order)
    except Exception:  # its last line is the reason that the user gets
        traceback.print_exc()
        return 1
    write_file(Path(arguments[0]), json.dumps(to_plain(answer)))
    return 0


def _end_with_the_program_that_asked() -> None:
    """Wait until the program that gave the order has ended. End this process and all that it began."""
    sys.stdin.read()
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def answered(order: Order) -> Answer:
    """The answer to an order; with a refusal, if a user can fix what is wrong, or if memory is not enough."""
    import torch

    if order.threads:
        torch.set_num_threads(order.threads)
    try:
        return ORDERS[order.what](order)
    except OnestageError as error:
        return Answer(Refusal.of(error))
    except MemoryError:
        return Answer(Refusal("WeightsError", "there is not enough memory for it", expected="more memory"))


def _look(order: Order) -> Answer:
    """The pictures to time, and whether there are labels to measure an AP with."""
    from onestage.cli.common import is_recipe
    from onestage.predict.pictures import find_pictures

    try:
        if is_recipe(order.model):
            raise ConfigError("random weights have no AP", where=order.model, fix="name a trained model")
        measure = _data(order).measure
    except (DataError, ConfigError) as error:
        if not is_recipe(order.model) and (order.pictures.int8 or order.pictures.split is not None):
            raise
        found = find_pictures([str(order.pictures.data)], results=Path("predictions"))
        timed = tuple(islice((str(path) for path in found if _is_readable(path)), MOST_TIMED))
        command = shlex.join(["onestage", "evaluate", order.model, str(order.pictures.data)])
        no_ap = f"{error.what} ({command} tells more)"
        return Answer(timed=timed or (str(found[0]),), no_ap=no_ap)  # the first one says what is wrong with it
    paths = tuple(map(str, measure.paths[:MOST_TIMED]))
    return Answer(timed=paths, no_ap="these pictures have no objects" if measure.is_empty else "")


def _is_readable(path: Path) -> bool:
    """Whether its header is that of a picture. What is none is left out, as ``predict`` does."""
    from onestage.images import image_size

    try:
        image_size(path)
    except DataError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class _Data:
    """calibrate: paths of pictures for int8. measure: the labelled pictures that the AP is measured on."""

    calibrate: Sequence[str | Path]
    measure: Dataset


def _data(order: Order) -> _Data:
    """The labelled pictures of an order: those that ``evaluate`` takes. If some must be left to calibrate on, and the data set
    has no others, the AP is measured on its second half.
    """
    from onestage.data.reader import open_data
    from onestage.deploy.int8 import divided
    from onestage.evaluation import data_to_measure

    asked, model = order.pictures, _model(order)
    run, data = Path(order.model), Path(str(asked.data))
    measure, _ = data_to_measure(model, data, run=run, split=asked.split, on_bad=asked.on_bad)
    if not asked.int8:
        return _Data((), measure)
    opened = open_data(data)
    split = next((s for s in ("train", "trainval", "val") if s in opened.splits and s != measure.split), None)
    if split is not None or len(measure) < len(whole := opened.load(None, classes=model.classes, on_bad=asked.on_bad)):
        rest = whole if split is None else opened.load(split, classes=model.classes, on_bad=asked.on_bad)
        return _Data(rest.paths, measure)
    first, second = divided(opened, model.classes, on_bad=asked.on_bad)
    return _Data(first.paths, second)


def _model(order: Order) -> Detector | Predictor:
    """The detector of an order, or what runs its exported file. A recipe has random weights, the same at every call."""
    from onestage.cli.common import find_any_model, find_or_create
    from onestage.predict.exported import is_exported
    from onestage.weights.tensor_file import numbered_classes

    if is_exported(order.model):
        runtime = None if order.runtime == "auto" else order.runtime
        return find_any_model(order.model, device=order.device, runtime=runtime, trusted=order.trusted)
    return find_or_create(order.model, numbered_classes(order.classes), device=order.device)


def _file(order: Order) -> Answer:
    """The file that a runtime besides torch runs. That of a recipe goes into the folder of this benchmark, unchecked, because
    random weights may find nothing; others stay in the cache.
    """
    from onestage.cli.common import is_recipe
    from onestage.deploy.cache import Cached
    from onestage.deploy.export import FORMATS, export
    from onestage.deploy.plan import is_as_built
    from onestage.deploy.runtimes import format_for, needed_for
    from onestage.errors import WriteError
    from onestage.model.detector import Detector

    detector = _model(replace(order, device="cpu"))
    assert isinstance(detector, Detector)
    needed_for(detector, order.runtime)
    to, config = format_for(order.runtime, order.numbers), _config(order.numbers)
    labelled = _int8(order, detector) if order.numbers == "int8" else None
    if is_recipe(order.model) or not is_as_built(detector):
        path = Path(order.folder) / f"{len(list(Path(order.folder).iterdir()))}{FORMATS[to].suffix}"
        made = export(detector, path, to=to, config=config, labelled=labelled, check=labelled is not None)
        return Answer(file=str(made.path))
    try:
        cached = Cached.of(detector)
        cached.open(to, order.runtime, config=config, labelled=labelled)
    except WriteError:
        cached = replace(Cached.of(detector), root=Path(order.folder))
        cached.open(to, order.runtime, config=config, labelled=labelled)
    return Answer(file=str(cached.path(to, config, labelled)))


def _config(numbers: str) -> ExportConfig:
    """What a file must be like to be computed so."""
    from onestage.deploy.export import USUAL
    from onestage.deploy.plan import ExportConfig
    from onestage.deploy.runtimes import PLAIN

    if numbers in ("fp16", "int8"):
        return ExportConfig(precision="fp16" if numbers == "fp16" else "int8")
    return PLAIN if numbers == "bf16" else USUAL


def _int8(order: Order, detector: Detector) -> Int8Data:
    """What an int8 file is made with: pictures of the user, as ``export`` takes them, or drawn ones for a recipe."""
    from onestage.cli.common import is_recipe
    from onestage.deploy.drawn import drawn_data
    from onestage.deploy.int8 import Int8Data
    from onestage.deploy.quantise import check_nncf

    check_nncf()
    if is_recipe(order.model):
        return drawn_data(detector.classes, Path(order.folder) / "drawn")
    data = _data(order)
    return Int8Data(data.calibrate, data.measure)


def _opened(order: Order) -> Predictor:
    """What runs the model as the order says."""
    from onestage.model.detector import Detector
    from onestage.predict.exported import open_exported
    from onestage.predict.predictor import Predictor

    if order.file:
        return open_exported(order.file, order.runtime, bf16=order.numbers == "bf16")
    model = _model(order)
    if not isinstance(model, Detector):
        return model
    if order.numbers == "fp16":
        return Predictor.of(model.half())
    return Predictor.folded(model, bf16=order.numbers == "bf16")


def _time(order: Order) -> Answer:
    """The times of a cell, and the memory that it takes."""
    import torch

    from onestage.deploy.benchmark import environment, time_predictor
    from onestage.deploy.machine import memory, peak_memory
    from onestage.model.cost import cost_of
    from onestage.predict.engines.exported import FileEngine

    before = memory()
    predictor = _opened(order)
    timing = time_predictor(
        predictor, [*map(Path, order.timed)], batch=order.batch, repeats=order.repeats, warm_up=order.warm_up
    )
    engine, on_gpu = predictor.engine, predictor.device.type == "cuda"
    return Answer(
        numbers=engine.contract.precision if isinstance(engine, FileEngine) else timing.numbers,
        timing=timing,
        memory=peak_memory(),
        before=before,
        gpu_memory=torch.cuda.max_memory_reserved(predictor.device) if on_gpu else None,
        multiply_adds=cost_of(predictor.config, timing.input).multiply_adds,
        environment=environment(predictor.device),
    )


def _accuracy(order: Order) -> Answer:
    """The AP of a cell on labelled pictures. It does not depend on how many pictures go through at once, if their input has one
    size; if it follows the pictures, they go one at a time.
    """
    from onestage.deploy.accuracy import accuracy

    predictor = _opened(order)
    measure = _data(order).measure
    follows = predictor.config.preprocess.mode == "shortest_edge"
    found = accuracy(predictor, measure, batch_size=1 if follows else 8)
    return Answer(ap=found.AP, measured=len(measure)) if found.AP == found.AP else Answer(no_ap="there are no objects to find")


def _peaks(order: Order) -> Answer:
    """What the machine can do at best, and what it is."""
    from onestage.deploy.benchmark import environment
    from onestage.deploy.machine import measure_peaks
    from onestage.processes import choose_device

    device = choose_device(order.device)
    return Answer(peaks=measure_peaks(device), environment=environment(device))


ORDERS: dict[Subject, Callable[[Order], Answer]] = {
    "look": _look,
    "file": _file,
    "time": _time,
    "accuracy": _accuracy,
    "peaks": _peaks,
}
"""What does each of them."""
