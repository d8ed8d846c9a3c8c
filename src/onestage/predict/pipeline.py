"""Many pictures through a predictor: they are read and drawn in threads while the network works.

Shape letters: D detections, H and W of a picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from onestage.detections import Detections
from onestage.errors import DataError, WriteError
from onestage.files import make_folder, write_file
from onestage.images import decode_image
from onestage.predict.pictures import PictureFile
from onestage.predict.predictor import Predictor

QUALITY = 92
"""Of the annotated JPEGs."""


@dataclass(frozen=True)
class Selection:
    """Which detections of a picture count.

    score: the least score. labels: only these classes; all if it is empty. top: at most so many, the best ones.
    """

    score: float | None = None
    labels: tuple[int, ...] = ()
    top: int | None = None

    def __call__(self, found: Detections) -> Detections:
        """The detections of these classes, cut to the number of the best."""
        if self.labels:
            found = found.select(torch.isin(found.labels, torch.tensor(self.labels)))
        return found if self.top is None else found.select(torch.arange(min(len(found), self.top)))


class Outcome(NamedTuple):
    """What became of one picture: its detections, or the error that says why it could not be read."""

    picture: PictureFile
    found: Detections | DataError


def predict_files(
    predictor: Predictor,
    pictures: Sequence[PictureFile],
    *,
    selection: Selection = Selection(),
    batch_size: int = 8,
    unsaved: Callable[[WriteError], None] | None = None,
) -> Iterator[Outcome]:
    """The outcome of each picture, in order. Annotated copies are saved for those that have a place for one.

    At most three batches of pictures are in memory at any time. A picture that cannot be read stops nothing. A copy that cannot
    be saved stops nothing either if ``unsaved`` takes its error; without it, WriteError is raised.
    """
    batches = [pictures[i : i + batch_size] for i in range(0, len(pictures), batch_size)]
    saving: list[Future[None]] = []
    with ThreadPoolExecutor() as pool:
        reading = _read(pool, batches[0]) if batches else []
        for number, batch in enumerate(batches):
            ready = [future.result() for future in reading]
            reading = _read(pool, batches[number + 1]) if number + 1 < len(batches) else []
            outcomes = _detect(predictor, batch, ready, selection)
            _finish(saving, unsaved)
            saving = _save(pool, outcomes, ready)
            yield from outcomes
        _finish(saving, unsaved)


def _read(pool: ThreadPoolExecutor, batch: Sequence[PictureFile]) -> list[Future[Tensor | DataError]]:
    return [pool.submit(_decoded, picture.path) for picture in batch]


def _decoded(path: Path) -> Tensor | DataError:
    """The picture (3, H, W) in a file, or why it cannot be read."""
    try:
        return decode_image(path)
    except DataError as error:
        return error


def _detect(
    predictor: Predictor, batch: Sequence[PictureFile], ready: Sequence[Tensor | DataError], selection: Selection
) -> list[Outcome]:
    """ready: the pixels (3, H, W) of each picture, or why it has none."""
    readable = [content for content in ready if isinstance(content, Tensor)]
    found = iter(predictor.predict(readable, score=selection.score, batch_size=max(1, len(readable))))
    return [
        Outcome(picture, content if isinstance(content, DataError) else _named(selection(next(found)), picture))
        for picture, content in zip(batch, ready, strict=True)
    ]


def _named(found: Detections, picture: PictureFile) -> Detections:
    """The detections with the names of their file. They read it again to draw it, so they hold no pixels."""
    return replace(found, path=str(picture.path), image_id=picture.image_id, source=partial(decode_image, str(picture.path)))


def _save(pool: ThreadPoolExecutor, outcomes: Sequence[Outcome], pixels: Sequence[Tensor | DataError]) -> list[Future[None]]:
    """Start to draw and save the annotated copies. pixels: of each picture, (3, H, W), if it could be read."""
    return [
        pool.submit(_draw, found, image, picture.copy)
        for (picture, found), image in zip(outcomes, pixels, strict=True)
        if picture.copy is not None and isinstance(found, Detections) and isinstance(image, Tensor)
    ]


def _draw(found: Detections, image: Tensor, path: Path) -> None:
    """Save a copy of the picture (3, H, W) with its detections drawn in."""
    make_folder(path.parent)
    drawn = io.BytesIO()  # Pillow does not notice when a file on a full disk takes only a part of its bytes
    found.draw(image).save(drawn, Image.registered_extensions()[path.suffix.lower()], quality=QUALITY)
    write_file(path, drawn.getvalue())


def _finish(saving: Sequence[Future[None]], unsaved: Callable[[WriteError], None] | None) -> None:
    """Wait for the copies. Raise the error of a copy that could not be saved, unless ``unsaved`` takes it."""
    for future in saving:
        try:
            future.result()
        except WriteError as error:
            if unsaved is None:
                raise
            unsaved(error)
