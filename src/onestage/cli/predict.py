"""``onestage predict``: pictures in, annotated pictures and result files out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import tyro

from onestage.cli.output import progress, say, tell
from onestage.cli.writing import Output, pieces_of, sinks_of
from onestage.errors import ConfigError, DataError, WriteError, counted
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.model.detector import Detector
    from onestage.predict.pipeline import Outcome
    from onestage.predict.predictor import Predictor
    from onestage.predict.sinks import Sink
    from onestage.structures import Detections

USUAL_SCORE = 0.5
"""The least score that is reported if nothing else says it."""


class Limits(TypedDict):
    """Of reading pictures: gigabytes in memory, and seconds to wait."""

    gigabytes: float
    timeout: float


@dataclass(frozen=True)
class Choice:
    """Which detections are reported, and how the work is done."""

    score: float | Literal["auto"] = "auto"
    """The least score to report. auto: of each class the threshold that evaluate --keep-thresholds put into the model, and 0.5
    without one. 0.5 is readable in pictures; for measuring, write files with 0.01."""
    classes: tuple[str, ...] = ()
    """Only these classes, by name; by default all."""
    top: int | None = None
    """At most so many detections in a picture, the best ones."""
    batch_size: int = 8
    """Pictures that go through the network together. 1 is exact for a model whose input follows the picture, such as a
    RetinaNet: several are padded to the largest of them, which changes detections."""
    picture_memory: float = 2.0
    """Gigabytes for the pictures in memory at the same time; a larger one comes alone."""
    worker_timeout: float = 600.0
    """Seconds to wait for a picture to be read, or a copy to be saved."""
    device: str | None = None
    """"cpu" or "cuda"; by default cuda if there is a GPU."""
    runtime: Literal["auto", "torch", "onnxruntime", "openvino", "ncnn", "litert"] = "auto"
    """What runs the model. auto: the fastest that finds the same, if there are so many pictures that trying it pays; for an
    exported file the usual one (onnxruntime for .onnx, openvino for .xml, torch for .pt2, ncnn for .param, litert for
    .tflite)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: torch computes in bfloat16, faster and less exact, if the processor can. An exported file has its precision."""
    trusted: bool = False
    """Open a .pt2 file, which could run code."""

    def __post_init__(self) -> None:
        Range(least=0, most=1).check(self.score, "score")
        Range(least=1).check(self.top, "top")
        Range(above=0, below=1e6).check(self.picture_memory, "picture_memory")
        Range(above=0, below=1e6).check(self.worker_timeout, "worker_timeout")
        Range(least=1).check(self.batch_size, "batch_size")


def predict(
    model: tyro.conf.Positional[str],
    pictures: tyro.conf.Positional[tuple[str, ...]],
    /,
    *,
    detection: Choice = Choice(),
    output: Output = Output(),
    out: Path = Path("predictions"),
) -> int:
    """Find objects in pictures. Save a copy of each picture with its objects drawn in, and result files on request.

    onestage predict runs/first photo.jpg

    onestage predict runs/first photos/ more/*.png --score 0.3 --classes cat dog --top 5 --out seen

    onestage predict ssd300_vgg16.coco photos/ --no-pictures --format coco csv --score 0.01

    Args:
        model: a run folder, a .safetensors file, an exported file, or published weights (see onestage models)
        pictures: files, folders (with all below them) and globs
        out: folder for everything that is written; of pictures that are there, only earlier annotated copies are replaced
    """
    if not pictures:
        raise ConfigError("no picture is named", fix=f"onestage predict {model} FILE, FOLDER or 'GLOB'")
    return _predict(model, pictures, detection=detection, output=output, out=out)


def _predict(model: str, pictures: tuple[str, ...], *, detection: Choice, output: Output, out: Path) -> int:
    from onestage.cli.common import TRIED_WITH, find_any_model, labels_of, run_model
    from onestage.predict.pictures import find_pictures, name_pictures
    from onestage.predict.pipeline import Selection, first_pictures, predict_files

    files = name_pictures(find_pictures(pictures, results=out))
    pieces = pieces_of(output, out, files)
    limits: Limits = {"gigabytes": detection.picture_memory, "timeout": detection.worker_timeout}
    found = find_any_model(model, device=detection.device, runtime=detection.runtime, trusted=detection.trusted)
    labels = tuple(labels_of(detection.classes, found.classes))
    sinks = sinks_of(output, out)
    some = partial(first_pictures, files, TRIED_WITH, **limits)
    score, numbers = _least_score(found, detection.score), detection.precision
    predictor = run_model(found, detection.runtime, pictures=some, total=len(files), score=score, numbers=numbers)

    tally, began = Tally(), time.monotonic()
    selection = Selection(score=score, labels=labels, top=detection.top)
    run = partial(
        predict_files,
        predictor,
        files,
        selection=selection,
        pieces=tuple(pieces.values()),
        batch_size=detection.batch_size,
        **limits,
    )
    interrupted = _write(run, tuple(sinks.values()), tally=tally, total=len(files))
    places = {name: piece.folder for name, piece in pieces.items() if tally.read} | {n: sink.path for n, sink in sinks.items()}
    tally.show(len(files), time.monotonic() - began, places=places, score=score)
    return 130 if interrupted else 1 if tally.unreadable or tally.unsaved else 0


def _least_score(model: Detector | Predictor, score: float | Literal["auto"]) -> float | None:
    """The score that is asked for; None for the thresholds of the model."""
    if not isinstance(score, str):
        return score
    return None if model.scores is not None and model.scores.thresholds else USUAL_SCORE


def _write(run: Callable[..., Iterator[Outcome]], sinks: Sequence[Sink], *, tally: Tally, total: int) -> bool:
    """Write the outcomes of all pictures. Return whether Ctrl-C ended it. The finished part is then kept.

    run: predict_files with all arguments but the last.
    """
    from onestage.predict.sinks import closing

    interrupted = False
    with closing(sinks), progress("predicting", total) as bar:

        def unsaved(error: WriteError) -> None:
            tally.unsaved += 1
            bar.say(("not saved:", "bold yellow"), f" {error}")

        try:
            for outcome in run(unsaved=unsaved):
                tally.add(outcome.found)
                bar.advance(1)
                if isinstance(outcome.found, DataError):
                    bar.say(("skipped:", "bold yellow"), f" {outcome.found}")
                for sink in sinks:
                    sink.add(outcome)
        except KeyboardInterrupt:  # the files are finished as if these had been all pictures
            bar.say(("interrupted:", "bold yellow"), " what is done is kept")
            interrupted = True
        for sink in sinks:
            sink.finish()
    return interrupted


@dataclass
class Tally:
    """Count the pictures that were read, those that could not be, the copies that could not be saved, and the objects of each
    class.
    """

    read: int = 0
    unreadable: int = 0
    unsaved: int = 0
    objects: Counter[str] = field(default_factory=Counter)

    def add(self, found: Detections | DataError) -> None:
        """Count one picture."""
        if isinstance(found, DataError):
            self.unreadable += 1
        else:
            self.read += 1
            self.objects.update(found.class_names)

    def show(self, total: int, seconds: float, *, places: Mapping[str, Path], score: float | None) -> None:
        """Print what was found and where it is. total: pictures that were asked for. score: the least one reported; None: the
        thresholds of the model.
        """
        pictures = f"{self.read:,} of {total:,} pictures" if self.read < total else counted(total, "picture")
        found = ", ".join(f"{count:,} {name}" for name, count in self.objects.most_common(8))
        more = f" and {len(self.objects) - 8} more classes" if len(self.objects) > 8 else ""
        objects = counted(self.objects.total(), "object") + (f" ({found}{more})" if found else "")
        tell(f"{pictures} in {seconds:.1f} s: {objects}")
        for what, place in places.items():
            tell(f"{what}: {place}")
        if self.unreadable:
            say((f"{self.unreadable:,} could not be read", "bold yellow"), " and were skipped, as said above")
        if self.unsaved:
            say((f"{self.unsaved:,} annotated copies could not be saved", "bold yellow"), ", as said above")
        if not self.objects and self.read:
            least = "the threshold of its class" if score is None else f"a score of {score:g}"
            say(f"nothing reached {least}: try --score {(score or USUAL_SCORE) / 5:.1g}")
