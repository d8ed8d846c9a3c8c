"""``onestage predict``: pictures in, annotated pictures and result files out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import tyro

from onestage.cli.output import progress, say, tell
from onestage.errors import ConfigError, DataError, WriteError, counted
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.data.predictions import Format
    from onestage.model.detector import Detector
    from onestage.predict.pipeline import Outcome
    from onestage.predict.predictor import Predictor
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
    out: Path = Path("predictions"),
    format: tuple[Literal["coco", "csv", "jsonl"], ...] = (),
    draw: Annotated[bool, tyro.conf.arg(name="pictures")] = True,
) -> int:
    """Find objects in pictures. Save a copy of each picture with its objects drawn in, and result files on request.

    onestage predict runs/first photo.jpg

    onestage predict runs/first photos/ more/*.png --score 0.3 --classes cat dog --top 5 --out seen

    onestage predict ssd300_vgg16.coco photos/ --no-pictures --format coco csv --score 0.01

    Args:
        model: a run folder, a .safetensors file, an exported file, or published weights (see onestage models)
        pictures: files, folders (with all below them) and globs
        out: folder for everything that is written; of pictures that are there, only earlier annotated copies are replaced
        format: predictions.json in COCO's results form, predictions.csv, predictions.jsonl; one or several
        draw: save annotated copies of the pictures
    """
    if not draw and not format:
        raise ConfigError("nothing would be written", got="--no-pictures without --format", fix="add --format csv")
    if not pictures:
        raise ConfigError("no picture is named", fix=f"onestage predict {model} FILE, FOLDER or 'GLOB'")
    return _predict(model, pictures, detection, out, format, draw=draw)


def _predict(
    model: str, pictures: tuple[str, ...], detection: Choice, out: Path, format: tuple[Format, ...], *, draw: bool
) -> int:
    from onestage.cli.common import TRIED_WITH, find_any_model, labels_of, run_model
    from onestage.cli.results import results_folder
    from onestage.data.predictions import FORMATS
    from onestage.predict.pictures import find_pictures, name_pictures
    from onestage.predict.pipeline import Selection, first_pictures, predict_files

    files = name_pictures(find_pictures(pictures, results=out), copies=out if draw else None)
    limits: Limits = {"gigabytes": detection.picture_memory, "timeout": detection.worker_timeout}
    found = find_any_model(model, device=detection.device, runtime=detection.runtime, trusted=detection.trusted)
    labels = tuple(labels_of(detection.classes, found.classes))
    targets = [(out / FORMATS[name].file_name, name) for name in dict.fromkeys(format)]
    results_folder(out, [path.name for path, _ in targets])
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
        batch_size=detection.batch_size,
        **limits,
    )
    interrupted = _write(run, targets, tally=tally, total=len(files))
    results = {f"results ({name})": path for path, name in targets}
    places = ({"annotated pictures": out} if draw and tally.read else {}) | results
    tally.show(len(files), time.monotonic() - began, places=places, score=score)
    return 130 if interrupted else 1 if tally.unreadable or tally.unsaved else 0


def _least_score(model: Detector | Predictor, score: float | Literal["auto"]) -> float | None:
    """The score that is asked for; None for the thresholds of the model."""
    if not isinstance(score, str):
        return score
    return None if model.scores is not None and model.scores.thresholds else USUAL_SCORE


def _write(run: Callable[..., Iterator[Outcome]], targets: Sequence[tuple[Path, Format]], *, tally: Tally, total: int) -> bool:
    """Write the detections of all pictures to the result files. Return whether Ctrl-C ended it. The finished part is
    then kept.

    run: predict_files with all arguments but the last.
    """
    from onestage.data.predictions import PredictionWriter

    with ExitStack() as stack, progress("predicting", total) as bar:

        def unsaved(error: WriteError) -> None:
            tally.unsaved += 1
            bar.say(("not saved:", "bold yellow"), f" {error}")

        writers = [stack.enter_context(PredictionWriter(*target)) for target in targets]
        try:
            for _, found in run(unsaved=unsaved):
                tally.add(found)
                bar.advance(1)
                if isinstance(found, DataError):
                    bar.say(("skipped:", "bold yellow"), f" {found}")
                    continue
                for writer in writers:
                    writer.add(found)
        except KeyboardInterrupt:  # the files are finished as if these had been all pictures
            bar.say(("interrupted:", "bold yellow"), " what is done is kept")
            return True
    return False


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
