"""``onestage predict``: pictures in, annotated pictures and result files out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from onestage.cli.film import (
    Film,
    Watching,
    check_live_options,
    check_options,
    check_places,
    drawing_of,
    first_frames,
    names_films,
    sources_of,
    watch_films,
    with_films_of_globs,
)
from onestage.cli.looking import PLAIN_LOOK, Look, tell_cost, tell_passes
from onestage.cli.working import USUAL_SCORE, Tally, Work, as_before, begin, failures_of, identity, settings_of, work_through
from onestage.cli.writing import Output, check_blurring, pieces_of, sinks_of, tell_counts
from onestage.errors import ConfigError, command
from onestage.files import only_writer
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.model.detector import Detector
    from onestage.predict.pictures import PictureFile
    from onestage.predict.predictor import Looker, Predictor


MANY_FRAMES = 1_000_000
"""Of a camera or a stream, for the choice of what runs the model."""


@dataclass(frozen=True)
class Choice:
    """What looks at the pictures, and which detections are reported."""

    HEADING: ClassVar[str] = "detection"
    score: float | Literal["auto"] = "auto"
    """The least score to report. auto: of each class the threshold that evaluate --keep-thresholds put into the model, and 0.5
    without one. 0.5 is readable in pictures; for measuring, write files with 0.01."""
    classes: tuple[str, ...] = ()
    """Only these classes, by name; by default all."""
    top: int | None = None
    """At most so many detections in a picture, the best ones."""
    device: str | None = None
    """"cpu" or "cuda"; by default cuda if there is a GPU."""
    runtime: Literal["auto", "torch", "onnxruntime", "openvino", "ncnn", "litert"] = "auto"
    """What runs the model. auto: the fastest that finds the same, if there are so many pictures that trying it pays; for an
    exported file the usual one (onnxruntime for .onnx, openvino for .xml, torch for .pt2, ncnn for .param, litert for
    .tflite)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: torch, or OpenVINO if it is named, computes in bfloat16, faster and less exact, if the processor can. An exported
    file has its precision."""
    trusted: bool = False
    """Open a .pt2 file, which could run code."""

    def __post_init__(self) -> None:
        Range(least=0, below=1).check(self.score, "score")
        Range(least=1).check(self.top, "top")


def predict(
    model: tyro.conf.Positional[str],
    pictures: tyro.conf.Positional[tuple[str, ...]],
    /,
    *,
    detection: Choice = Choice(),
    look: Look = PLAIN_LOOK,
    output: Output = Output(),
    work: Work = Work(),
    film: Film = Film(),
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("predictions"),
) -> int:
    """Find objects in pictures. Save a copy of each picture with its objects drawn in, and result files on request. A film, a
    camera or a stream becomes a film with its objects drawn in, and a row of predictions.jsonl for each frame as it comes.

    onestage predict runs/first photo.jpg

    onestage predict runs/first photos/ more/*.png --score 0.3 --classes cat dog --top 5 --out seen

    onestage predict ssd300_vgg16.coco photos/ --no-pictures --format coco csv --score 0.01

    onestage predict runs/first archive/ --no-pictures --format jsonl --out found --resume

    onestage predict runs/first photos/ --blur face --save-crops --zone door=0.1,0.4,0.3,0.4,0.3,1,0.1,1

    onestage predict runs/first unlabelled/ --no-pictures --to labelme

    onestage predict runs/first film.mp4 --track

    onestage predict runs/first aerial.jpg --tiles auto --flip

    Args:
        model: a run folder, a .safetensors file, an exported file, or published weights (see onestage models)
        pictures: files, folders (with all pictures below them) and globs; or films, cameras (0 is the first) and streams
            (rtsp://...)
        out: folder for everything that is written; of pictures that are there, only earlier annotated copies are replaced
    """
    if not pictures:
        raise ConfigError("no picture is named", fix=f"{command('predict', model)} FILE, FOLDER or 'GLOB'")
    pictures = with_films_of_globs(pictures)
    films = names_films(pictures, film)
    with only_writer(out):
        if films:
            return _predict_films(model, pictures, detection=detection, look=look, output=output, work=work, film=film, out=out)
        return _predict(model, pictures, detection=detection, look=look, output=output, work=work, out=out)


def _predict(
    model: str, pictures: tuple[str, ...], *, detection: Choice, look: Look, output: Output, work: Work, out: Path
) -> int:
    from onestage.cli.common import labels_of
    from onestage.predict.fusion import united
    from onestage.predict.journal import About, Journal, earlier
    from onestage.predict.pictures import find_pictures, name_pictures
    from onestage.predict.pipeline import Selection, in_batches
    from onestage.structures import ClassSet

    files = name_pictures(find_pictures(pictures, results=out))
    check_blurring(output, classes=detection.classes, top=detection.top)
    before = earlier(out) if work.resume else None
    names = (model, *look.with_)
    runtimes = as_before(before, detection.runtime, names)
    found = _models(names, runtimes, detection)
    classes = united(ClassSet(tuple(each.classes), tuple(each.config.category_ids)) for each in found)
    labels = tuple(labels_of(detection.classes, classes.names))
    about = {"model": " ".join(map(identity, names, found))} | settings_of((detection, look, output, work))
    journal = Journal(out, About(about, files))
    if before is not None:
        journal.compare()
    pieces = pieces_of(output, out, files, classes)
    sinks = sinks_of(output, out, classes, labels=labels, go_on=before is not None) | failures_of(out)
    predictors = _predictors(found, files, runtimes, work, detection)
    looker = look.closer(predictors, batch_size=work.batch_size)
    score = least_score(looker, detection.score)
    tell_cost(look, looker, model, files, score=score if detection.score == "auto" else None)
    tally, began = Tally(), time.monotonic()
    run = partial(
        in_batches,
        looker,
        selection=Selection(score=score, labels=labels, top=detection.top),
        pieces=tuple(pieces.values()),
        batch_size=work.batch_size,
        resources=work.resources(),
    )
    if before is None:
        begin(journal, predictors)
    work_through(run, files, sinks=sinks, journal=journal, tally=tally, resume=before is not None)
    places = {name: piece.folder for name, piece in pieces.items() if tally.read}
    places |= {name: sink.path for name, sink in sinks.items() if sink.path.exists()}
    tally.show(len(files), time.monotonic() - began, places=places, score=score)
    tell_counts(sinks.values())
    return tally.code


def _predict_films(
    model: str, given: tuple[str, ...], *, detection: Choice, look: Look, output: Output, work: Work, film: Film, out: Path
) -> int:
    from onestage.cli.common import TRIED_WITH, find_any_model, labels_of, run_model
    from onestage.data.memory import in_bytes
    from onestage.predict.fusion import united
    from onestage.predict.pipeline import Selection
    from onestage.structures import ClassSet

    check_options(output, work)
    check_blurring(output, classes=detection.classes, top=detection.top)
    sources, draw = sources_of(given, film), output.draw or bool(output.blur)
    check_live_options(sources, film, look, work)
    check_places(sources, out, draw=draw)
    first, tried = first_frames(sources, TRIED_WITH, film)
    find = partial(find_any_model, device=detection.device, runtime=detection.runtime, trusted=detection.trusted)
    found = [find(name) for name in (model, *look.with_)]
    classes = united(ClassSet(tuple(each.classes), tuple(each.config.category_ids)) for each in found).names
    labels = tuple(labels_of(detection.classes, classes))
    least, numbers = least_score(found[0], detection.score), detection.precision
    facts = first.facts
    total = MANY_FRAMES if facts is None or first.live else (facts.total or 1) // film.every
    run = partial(run_model, runtime=detection.runtime, pictures=lambda: tried, total=total, score=least, numbers=numbers)
    looker = look.closer([run(each) for each in found], batch_size=work.batch_size)
    selection = Selection(score=least_score(looker, detection.score), labels=labels, top=detection.top)
    if look.is_closer and tried:
        usual = selection.score if detection.score == "auto" else None
        tell_passes(look, looker, model, ("a frame", (tried[0].shape[-2], tried[0].shape[-1])), score=usual)
    limit = in_bytes(work.picture_memory) // 4  # what waits, a batch, what the network has, and what is drawn
    drawing = drawing_of(output, classes)
    return watch_films(Watching(looker, selection, film, work.batch_size, limit, out, draw, drawing), sources)


def _models(names: Sequence[str], runtimes: Sequence[str], detection: Choice) -> list[Detector | Predictor]:
    """The models of these names. Exported files are run by their runtimes already."""
    from onestage.cli.common import find_any_model

    find = partial(find_any_model, device=detection.device, trusted=detection.trusted)
    return [find(name, runtime=runtime) for name, runtime in zip(names, runtimes, strict=True)]


def _predictors(
    models: Sequence[Detector | Predictor], files: Sequence[PictureFile], runtimes: Sequence[str], work: Work, detection: Choice
) -> list[Predictor]:
    """The models, each run by the runtime that was asked for; "auto" is chosen by the first one. It may take a minute."""
    from onestage.cli.common import TRIED_WITH, run_model
    from onestage.predict.pipeline import first_pictures

    some = partial(first_pictures, files, TRIED_WITH, gigabytes=work.picture_memory, timeout=work.worker_timeout)
    least = least_score(models[0], detection.score)
    run = partial(run_model, pictures=some, total=len(files), score=least, numbers=detection.precision)
    first = run(models[0], runtimes[0])
    chosen = getattr(first.engine, "runtime", "torch")
    usual = chosen if chosen in ("onnxruntime", "openvino") else "torch"
    rest = zip(models[1:], runtimes[1:], strict=True)
    return [first, *(run(model, usual if runtime == "auto" else runtime) for model, runtime in rest)]


def least_score(model: Detector | Looker, score: float | Literal["auto"]) -> float | None:
    """The score that is asked for; None for the thresholds of the model."""
    if not isinstance(score, str):
        return score
    return None if model.scores is not None and model.scores.thresholds else USUAL_SCORE
