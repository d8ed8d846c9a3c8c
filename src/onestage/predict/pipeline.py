"""Many pictures through a predictor: they are read and drawn in threads while the network works.

Shape letters: D detections, H and W of a picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from onestage.data.memory import GIGABYTES, in_bytes, return_freed_memory
from onestage.data.threads import PatientThreads
from onestage.data.workers import TIMEOUT
from onestage.errors import DataError, WriteError
from onestage.images import decode_image, decoding_cost, image_size
from onestage.predict.copies import Copies, Piece
from onestage.predict.pictures import PictureFile
from onestage.predict.predictor import Looker
from onestage.structures import Detections


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


ALL = Selection()
"""All detections that the looker reports."""


class Outcome(NamedTuple):
    """What became of one picture: its detections, or the error that says why it could not be read."""

    picture: PictureFile
    found: Detections | DataError


def predict_files(
    looker: Looker,
    pictures: Sequence[PictureFile],
    *,
    selection: Selection = ALL,
    pieces: Sequence[Piece] = (),
    batch_size: int = 8,
    unsaved: Callable[[WriteError], None] | None = None,
    gigabytes: float = GIGABYTES,
    timeout: float = TIMEOUT,
) -> Iterator[Outcome]:
    """The outcome of each picture, in order. pieces: what is made of each one's pixels, such as an annotated copy.

    At most three batches of pictures are in memory at any time, and at most ``gigabytes`` of pictures; one that is larger comes
    alone. A picture that cannot be read stops nothing. A piece that cannot be saved stops nothing either if ``unsaved`` takes
    its error; without it, WriteError is raised. Raise LostError if reading or saving takes longer than ``timeout`` seconds.
    """
    limit = in_bytes(gigabytes)
    with PatientThreads(timeout=timeout) as threads:
        drawn = max((piece.cost for piece in pieces), default=0)
        batches = _batches(_costs(pictures, threads, ahead=2 * batch_size, drawn=drawn), batch_size, limit)
        saving, batch = Copies(pieces, threads, unsaved=unsaved), next(batches, None)
        reading = _read(threads, batch)
        while batch is not None:
            ready = [threads.result(future, str(picture.path)) for future, picture in zip(reading, batch.pictures, strict=True)]
            after = next(batches, None)
            fits = after is not None and saving.cost + batch.cost + after.cost <= limit
            reading = _read(threads, after) if fits else []
            outcomes = _detect(looker, batch.pictures, ready, selection)
            saving.finish()
            saving.start(list(_found(outcomes, ready)), batch.cost)
            yield from outcomes
            del ready, outcomes
            if not fits:  # wait until the memory is free
                saving.finish()
                reading = _read(threads, after)
            batch = after
        saving.finish()


def first_pictures(
    pictures: Sequence[PictureFile], count: int, *, gigabytes: float = GIGABYTES, timeout: float = TIMEOUT
) -> list[Tensor]:
    """Those of the first ``count`` pictures that can be read, (3, H, W) uint8 each, and at most ``gigabytes`` of them.

    Raise LostError if reading takes longer than ``timeout`` seconds.
    """
    with PatientThreads(timeout=timeout) as threads:
        batch = next(_batches(_costs(pictures[:count], threads, ahead=count, drawn=0), count, in_bytes(gigabytes)), None)
        ready = [threads.result(future, "the first pictures") for future in _read(threads, batch)]
    return [image for image in ready if isinstance(image, Tensor)]


class _Batch(NamedTuple):
    """Pictures that go through the network together. cost: bytes of memory for them, as they are decoded or drawn."""

    pictures: Sequence[PictureFile]
    cost: int


def _costs(
    pictures: Sequence[PictureFile], threads: PatientThreads, *, ahead: int, drawn: int
) -> Iterator[tuple[PictureFile, int]]:
    """The pictures, each with its cost. Threads ask the files, because a dead disk does not answer. drawn: as for _cost."""
    asked: deque[tuple[PictureFile, Future[int]]] = deque()
    for picture in pictures:
        asked.append((picture, threads.submit(partial(_cost, picture, drawn))))
        if len(asked) > ahead:
            first, cost = asked.popleft()
            yield first, threads.result(cost, str(first.path))
    for first, cost in asked:
        yield first, threads.result(cost, str(first.path))


def _batches(pictures: Iterable[tuple[PictureFile, int]], size: int, limit: int) -> Iterator[_Batch]:
    """At most ``size`` pictures in each, and no more than the limit allows, but at least one."""
    batch: list[PictureFile] = []
    cost = 0
    for picture, more in pictures:
        if batch and (len(batch) == size or cost + more > limit):
            yield _Batch(batch, cost)
            batch, cost = [], 0
        batch.append(picture)
        cost += more
    if batch:
        yield _Batch(batch, cost)


def _cost(picture: PictureFile, drawn: int) -> int:
    """Bytes to decode a picture or, if that takes more, to draw its copies: ``drawn`` for each pixel."""
    try:
        height, width = image_size(picture.path) if drawn else (0, 0)
        return max(decoding_cost(picture.path), drawn * height * width)
    except DataError:  # reading it will fail too
        return 0


def _read(threads: PatientThreads, batch: _Batch | None) -> list[Future[Tensor | DataError]]:
    return [] if batch is None else [threads.submit(partial(_decoded, picture.path)) for picture in batch.pictures]


def _decoded(path: Path) -> Tensor | DataError:
    """The picture (3, H, W) in a file, or why it cannot be read."""
    try:
        image = decode_image(path)
    except DataError as error:
        return error
    return_freed_memory(image.numel())
    return image


def _detect(
    looker: Looker, batch: Sequence[PictureFile], ready: Sequence[Tensor | DataError], selection: Selection
) -> list[Outcome]:
    """The outcome of each picture of a batch. ready: the pixels (3, H, W) of each picture, or why it has none."""
    readable = [content for content in ready if isinstance(content, Tensor)]
    found = iter(looker.predict(readable, score=selection.score, batch_size=max(1, len(readable))))
    return [
        Outcome(picture, content if isinstance(content, DataError) else _named(selection(next(found)), picture))
        for picture, content in zip(batch, ready, strict=True)
    ]


def _named(found: Detections, picture: PictureFile) -> Detections:
    """The detections with the names of their file. They read it again to draw it, so they hold no pixels."""
    return replace(found, path=str(picture.path), image_id=picture.image_id, source=partial(decode_image, str(picture.path)))


def _found(
    outcomes: Sequence[Outcome], pixels: Sequence[Tensor | DataError]
) -> Iterator[tuple[PictureFile, Detections, Tensor]]:
    """The pictures of a batch that could be read, with their detections and pixels (3, H, W)."""
    for (picture, found), image in zip(outcomes, pixels, strict=True):
        if isinstance(found, Detections) and isinstance(image, Tensor):
            yield picture, found, image
