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
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onestage.analysis.plain import from_plain, to_plain
from onestage.deploy.benchmark import USUAL_REPEATS, Repeats
from onestage.deploy.cells import Measured
from onestage.errors import ConfigError, DataError, OnestageError, counted
from onestage.files import write_file
from onestage.structures import Size

if TYPE_CHECKING:
    from torch import Tensor

    from onestage.data import Dataset
    from onestage.deploy.int8 import Int8Data
    from onestage.deploy.plan import ExportConfig
    from onestage.model.detector import Detector
    from onestage.predict.predictor import Predictor
    from onestage.structures import ImageMeta

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
    """What a process is to do. file: the exported file to run, "" for none. timed: the files of the pictures to time. left_out:
    pictures of the data set that are not measured. folder: for files that are needed no longer than this benchmark. classes: of
    a recipe. threads: of torch and the runtimes, 0 for the usual number.
    """

    what: Subject
    folder: str
    model: str = ""
    runtime: str = "torch"
    numbers: str = "fp32"
    batch: int = 1
    file: str = ""
    timed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
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
    """What was found. numbers: what an exported file is in. timed: the files of the pictures to time. left_out: those that
    cannot be read, and unread why that is so for the first of them. peaks and environment: of the machine.
    """

    refusal: Refusal | None = None
    file: str = ""
    numbers: str = ""
    timed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unread: str = ""
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
        command = shlex.join(["onestage", "evaluate", order.model, str(order.pictures.data)])
        return _without_labels(found, no_ap=f"{error.what} ({command} tells more)")
    return _with_labels(measure, order.pictures.on_bad)


def _without_labels(found: Sequence[Path], *, no_ap: str) -> Answer:
    """The first pictures that can be read. Those before them that cannot are left out, as ``predict`` does. Raise DataError if
    none can.
    """
    from onestage.images import decode_image

    timed, errors = list[str](), dict[str, DataError]()
    for path in found:
        try:
            decode_image(path)
        except DataError as error:
            errors[str(path)] = error
        else:
            timed.append(str(path))
            if len(timed) == MOST_TIMED:
                break
    first = next(iter(errors.values()), None)
    if first is not None and not timed:
        raise first
    return Answer(timed=tuple(timed), left_out=tuple(errors), unread="" if first is None else first.what, no_ap=no_ap)


def _with_labels(measure: Dataset, on_bad: Literal["stop", "skip"]) -> Answer:
    """The first pictures of a labelled data set, all of which are read once. Raise DataError if one cannot be read: every cell
    would hear that from it; or leave it out.
    """
    errors = _unreadable(measure)
    paths = [path for path in measure.paths if path not in errors]
    first = next(iter(errors.items()), None)
    if first is not None and (on_bad == "stop" or not paths):
        path, error = first
        what = f"{counted(len(errors), 'picture')} of {len(measure):,} cannot be read"
        fix = "see them: onestage data check DATA" + ("; or go on without them: --on-bad skip" if paths else "")
        raise DataError(what, where=path, got=error.what, fix=fix)
    no_ap = "these pictures have no objects" if measure.is_empty else ""
    unread = "" if first is None else first[1].what
    return Answer(timed=tuple(paths[:MOST_TIMED]), left_out=tuple(errors), unread=unread, no_ap=no_ap)


def _unreadable(measure: Dataset) -> Mapping[str, OnestageError]:
    """Why pictures cannot be read, by path, as those hear it who measure the AP."""
    from onestage.data.loader import EvalLoader, usual_workers
    from onestage.data.transforms import EvalTransform
    from onestage.deploy.accuracy import FEW

    workers = 0 if len(measure) <= FEW else usual_workers()
    loader = EvalLoader(measure, EvalTransform(_dot), batch_size=8, workers=workers, on_bad="skip")
    for _ in loader:
        pass
    return loader.skipped


def _dot(image: Tensor) -> tuple[Tensor, ImageMeta]:
    """One pixel (3, 1, 1) of a picture (3, H, W), of which only is asked whether it can be read."""
    from onestage.structures import ImageMeta

    return image[:, :1, :1], ImageMeta.stretched((image.shape[1], image.shape[2]), (1, 1))


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
    left_out = {*order.left_out}
    measure = measure.subset([row for row, path in enumerate(measure.paths) if path not in left_out]) if left_out else measure
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
