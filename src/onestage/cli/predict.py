"""``onestage predict``: pictures in, annotated pictures and result files out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.markup import escape
from torch import Tensor

from onestage.cli.common import find_model, labels_of, make_folder
from onestage.cli.output import PictureProgress, progress, say, stdout
from onestage.cli.pictures import copies_of, find_pictures, ids_of, names_of
from onestage.data.predictions import FORMATS, PredictionWriter
from onestage.errors import ConfigError, DataError, require
from onestage.images import decode_image
from onestage.model.detector import Detector
from onestage.structures import Detections

QUALITY = 92
"""Of the annotated JPEGs."""


@dataclass(frozen=True)
class Choice:
    """Which detections count, and how fast they are looked for."""

    score: float = 0.5
    """The least score to report. 0.5 is readable in pictures; for measuring, write files with 0.01."""
    classes: tuple[str, ...] = ()
    """Only these classes, by name; all if left out."""
    top: int | None = None
    """At most so many detections in a picture, the best ones."""
    batch_size: int = 8
    """Pictures that the network looks at together."""
    device: str | None = None
    """"cpu" or "cuda"; by default cuda where there is one."""

    def __post_init__(self) -> None:
        require(0 <= self.score <= 1, "--score lies between 0 and 1", got=self.score)
        require(self.top is None or self.top >= 1, "--top is 1 or more", got=self.top)
        require(self.batch_size >= 1, "--batch-size is 1 or more", got=self.batch_size)


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
    """Find objects in pictures: each is saved again with its objects drawn in, and the results as files if wanted.

    onestage predict runs/first photo.jpg

    onestage predict runs/first photos/ more/*.png --score 0.3 --classes cat dog --top 5 --out seen

    onestage predict ssd300_vgg16.coco photos/ --no-pictures --format coco csv --score 0.01

    Args:
        model: a run folder, a .safetensors file, or published weights (see onestage models)
        pictures: files, folders (with all below them) and globs
        out: folder for everything that is written
        format: predictions.json in COCO's results form, predictions.csv, predictions.jsonl; one or several
        draw: save annotated copies of the pictures
    """
    if not draw and not format:
        raise ConfigError("nothing would be written", got="--no-pictures without --format", fix="add --format csv")
    if not pictures:
        raise ConfigError("which pictures?", fix=f"onestage predict {model} FILE, FOLDER or 'GLOB'")
    named = _named(find_pictures(pictures, results=out), out, draw=draw)
    detector = find_model(model, device=detection.device)
    wanted = labels_of(detection.classes, detector.config.classes)
    make_folder(out)

    job = Job(detector, detection, torch.tensor(wanted))
    began, interrupted = time.monotonic(), False
    with ExitStack() as stack, progress("predicting", len(named)) as bar:
        writers = [stack.enter_context(PredictionWriter(out / FORMATS[f].file_name, f)) for f in dict.fromkeys(format)]
        try:
            for found in job.run(named, bar):
                for writer in writers:
                    writer.add(found)
        except KeyboardInterrupt:  # what is done is kept: the files are finished as if these had been all pictures
            interrupted = True
            bar.say("[bold yellow]interrupted:[/] what is done is kept")
    places = ({"annotated pictures": out} if draw else {}) | {f"results ({w.format})": w.path for w in writers}
    job.summary(len(named), time.monotonic() - began, places=places)
    return 130 if interrupted else 1 if job.unreadable else 0


@dataclass(frozen=True)
class Picture:
    """One picture to look at: where it is, its id in the results, and where its annotated copy goes, if one is made."""

    path: Path
    image_id: int | str
    copy: Path | None


def _named(paths: Sequence[Path], out: Path, *, draw: bool) -> list[Picture]:
    names = names_of(paths)
    copies = copies_of(names, paths, out) if draw else [None] * len(paths)
    return [Picture(*row) for row in zip(paths, ids_of(names), copies, strict=True)]


@dataclass
class Job:
    """The way of pictures through the detector; decoding and drawing go on in threads beside it. Counts what it sees."""

    detector: Detector
    choice: Choice
    labels: Tensor
    done: int = 0
    unreadable: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, pictures: Sequence[Picture], bar: PictureProgress) -> Iterator[Detections]:
        """The detections of each readable picture, in order. Never more than three batches of pictures are in memory."""
        size = self.choice.batch_size
        batches = [pictures[i : i + size] for i in range(0, len(pictures), size)]
        drawing: list[Future[None]] = []
        with ThreadPoolExecutor() as pool:
            decoding = self._decode(pool, batches[0])
            for number, batch in enumerate(batches):
                ready = [future.result() for future in decoding]
                decoding = self._decode(pool, batches[number + 1]) if number + 1 < len(batches) else []
                for future in drawing:
                    future.result()
                readable = self._readable(batch, ready, bar)
                found = self._detect(readable)
                drawing = [pool.submit(_save, d, p.copy) for d, (p, _) in zip(found, readable, strict=True) if p.copy]
                yield from found
                self.done += len(found)
                bar.advance(len(batch))
            for future in drawing:
                future.result()

    def _decode(self, pool: ThreadPoolExecutor, batch: Sequence[Picture]) -> list[Future[Tensor | DataError]]:
        return [pool.submit(_decoded, picture.path) for picture in batch]

    def _readable(
        self, batch: Sequence[Picture], ready: Sequence[Tensor | DataError], bar: PictureProgress
    ) -> list[tuple[Picture, Tensor]]:
        for content in ready:
            if isinstance(content, DataError):
                self.unreadable += 1
                bar.say(f"[bold yellow]skipped:[/] {escape(str(content))}")
        return [(p, content) for p, content in zip(batch, ready, strict=True) if isinstance(content, Tensor)]

    def _detect(self, pictures: Sequence[tuple[Picture, Tensor]]) -> list[Detections]:
        images = [image for _, image in pictures]
        batch_size = max(1, len(images))
        detections = self.detector.predict(images, score=self.choice.score, batch_size=batch_size)
        return [
            replace(self._select(found), path=str(picture.path), image_id=picture.image_id)
            for found, (picture, _) in zip(detections, pictures, strict=True)
        ]

    def _select(self, found: Detections) -> Detections:
        """Those of the classes and the number asked for."""
        if len(self.labels):
            found = found.select(torch.isin(found.labels, self.labels))
        found = found.select(torch.arange(min(len(found), self.choice.top or len(found))))
        self.counts.update(found.class_names)
        return found

    def summary(self, total: int, seconds: float, *, places: Mapping[str, Path]) -> None:
        """What was found and where to look, on standard output."""
        pictures = f"{self.done:,} of {total:,} pictures" if self.done < total else f"{total:,} picture" + "s" * (total != 1)
        found = ", ".join(f"{name} {count:,}" for name, count in self.counts.most_common(8))
        more = f" and {len(self.counts) - 8} more classes" if len(self.counts) > 8 else ""
        number = self.counts.total()
        out = stdout()
        objects = f"{number:,} object" + "s" * (number != 1) + (f" ({found}{more})" if found else "")
        out.print(f"{pictures} in {seconds:.1f} s: {escape(objects)}", highlight=False, soft_wrap=True)
        for what, place in places.items():
            out.print(f"{what}: {escape(str(place))}", highlight=False, soft_wrap=True)
        if self.unreadable:
            say(f"[bold yellow]{self.unreadable:,} could not be read[/] and were skipped, as said above")
        if not number and self.done:
            say(f"nothing reached a score of {self.choice.score:g}: try --score {self.choice.score / 5:.1g}")


def _decoded(path: Path) -> Tensor | DataError:
    try:
        return decode_image(path)
    except DataError as error:
        return error


def _save(found: Detections, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found.draw().save(path, quality=QUALITY)
