"""Many pictures through a looker: they are read and drawn in threads while the network works.

Shape letters: D detections, H and W of a picture.

Threads read files, not processes: Pillow lets other threads work while it decodes, and a process would have to copy every
picture to this one, which takes as long as to decode it (docs/predict.md). The batches that go through the network follow from
the order and the headers of the pictures alone. So neither the number of workers nor the moment at which a run was interrupted
changes a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from onestage.data.memory import GIGABYTES, in_bytes, return_freed_memory
from onestage.data.threads import PatientThreads
from onestage.data.workers import TIMEOUT
from onestage.errors import DataError, WriteError, check_number
from onestage.images import decode_image, decoding_cost, image_size
from onestage.predict.copies import Copies, Piece
from onestage.predict.pictures import PictureFile
from onestage.predict.predictor import Looker
from onestage.predict.streams import MOST, Streams
from onestage.structures import Detections

AHEAD = 2
"""Batches that are read or wait for the network, beyond those that are in it."""


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


@dataclass(frozen=True)
class Resources:
    """What the work may take. It changes no result, except that a batch never holds more pictures than fit into the memory.

    workers: batches that go through the network at the same time; None: as many as pay, which is tried. gigabytes: of pictures
    in memory at the same time; one that is larger comes alone. timeout: the longest wait for a file, in seconds.
    """

    workers: int | None = None
    gigabytes: float = GIGABYTES
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_number("workers", self.workers, least=1, most=MOST, whole=True)
        in_bytes(self.gigabytes)


USUAL = Resources()
"""What the work takes if nothing is said."""


class Outcome(NamedTuple):
    """What became of one picture: its detections, or the error that says why it could not be read."""

    picture: PictureFile
    found: Detections | DataError


def in_batches(
    looker: Looker,
    pictures: Sequence[PictureFile],
    *,
    selection: Selection = ALL,
    pieces: Sequence[Piece] = (),
    batch_size: int = 8,
    unsaved: Callable[[WriteError], None] | None = None,
    resources: Resources = USUAL,
) -> Iterator[list[Outcome]]:
    """The outcome of each picture, in order, those of a batch at once. pieces: what is made of each one's pixels, such as an
    annotated copy; by then those of all batches before are saved. So a run that was interrupted after some batches goes on with
    the pictures after them, and gets the same numbers.

    A picture that cannot be read stops nothing. A piece that cannot be saved stops nothing either if ``unsaved`` takes its
    error; without it, WriteError is raised. Raise LostError if reading or saving takes longer than the timeout.
    """
    limit = in_bytes(resources.gigabytes)
    drawn = max((piece.cost for piece in pieces), default=0)
    look = partial(_detect, looker, selection)
    with PatientThreads(timeout=resources.timeout) as threads, Streams(resources.workers) as streams:
        batches = _batches(_costs(pictures, threads, ahead=2 * batch_size, drawn=drawn), batch_size, limit)
        saving, flights, after = Copies(pieces, threads, unsaved=unsaved), deque[_Flight](), next(batches, None)
        while after is not None or flights:
            while after is not None and len(flights) < streams.count + AHEAD and _fits(after, flights, saving.cost, limit):
                flights.append(_Flight(after, threads, streams, look))
                after = next(batches, None)
            if not flights:  # what is being saved takes the memory
                saving.finish()
                continue
            flight = flights.popleft()
            outcomes, pixels = flight.land(threads)
            saving.finish()
            saving.start(list(_found(outcomes, pixels)), flight.batch.cost)
            del flight, pixels
            yield outcomes
        saving.finish()


def first_pictures(
    pictures: Sequence[PictureFile], count: int, *, gigabytes: float = GIGABYTES, timeout: float = TIMEOUT
) -> list[Tensor]:
    """Those of the first ``count`` pictures that can be read, (3, H, W) uint8 each, and at most ``gigabytes`` of them.

    Raise LostError if reading takes longer than ``timeout`` seconds.
    """
    with PatientThreads(timeout=timeout) as threads:
        batch = next(_batches(_costs(pictures[:count], threads, ahead=count, drawn=0), count, in_bytes(gigabytes)), None)
        ready = [threads.result(future, "the first pictures") for future in _read(threads, batch.pictures if batch else ())]
    return [image for image in ready if isinstance(image, Tensor)]


class _Batch(NamedTuple):
    """Pictures that go through the network together. cost: bytes of memory for them, as they are decoded or drawn."""

    pictures: Sequence[PictureFile]
    cost: int


class _Flight:
    """A batch on its way: threads read its pictures, then a stream puts them through the network."""

    def __init__(
        self,
        batch: _Batch,
        threads: PatientThreads,
        streams: Streams,
        look: Callable[[Sequence[PictureFile], Sequence[Tensor | DataError]], list[Outcome]],
    ) -> None:
        self.batch = batch
        self._reading = _read(threads, batch.pictures)
        action = partial(_look, look, batch.pictures, self._reading, streams)
        self._looking = streams.submit(action, pictures=len(batch.pictures))

    def land(self, threads: PatientThreads) -> tuple[list[Outcome], list[Tensor | DataError]]:
        """The outcomes of the pictures, and the pixels (3, H, W) of each, or why it has none. Raise LostError if reading takes
        too long.
        """
        pictures = self.batch.pictures
        pixels = [threads.result(future, str(picture.path)) for future, picture in zip(self._reading, pictures, strict=True)]
        return self._looking.result(), pixels


def _fits(batch: _Batch, flights: Iterable[_Flight], saving: int, limit: int) -> bool:
    """Whether there is memory for one more batch. One that is larger than all memory comes alone."""
    taken = saving + sum(flight.batch.cost for flight in flights)
    return taken + batch.cost <= limit or (not saving and not any(True for _ in flights))


def _costs(
    pictures: Sequence[PictureFile], threads: PatientThreads, *, ahead: int, drawn: int
) -> Iterator[tuple[PictureFile, int]]:
    """The pictures, each with its cost. Threads ask the files, because a dead disk does not answer. drawn: as for _cost."""
    asked: deque[tuple[PictureFile, Future[int]]] = deque()
    left = iter(pictures)
    while True:
        for picture in islice(left, ahead + 1 - len(asked)):
            asked.append((picture, threads.submit(partial(_cost, picture, drawn))))
        if not asked:
            return
        first, cost = asked.popleft()
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


def _read(threads: PatientThreads, pictures: Sequence[PictureFile]) -> list[Future[Tensor | DataError]]:
    return [threads.submit(partial(_decoded, picture.path)) for picture in pictures]


def _decoded(path: Path) -> Tensor | DataError:
    """The picture (3, H, W) in a file, or why it cannot be read."""
    try:
        image = decode_image(path)
    except DataError as error:
        return error
    return_freed_memory(image.numel())
    return image


def _look(
    look: Callable[[Sequence[PictureFile], Sequence[Tensor | DataError]], list[Outcome]],
    pictures: Sequence[PictureFile],
    reading: Sequence[Future[Tensor | DataError]],
    streams: Streams,
) -> list[Outcome]:
    """In a stream: the outcomes of a batch, as soon as it is read."""
    return look(pictures, streams.results(reading))


def _detect(
    looker: Looker, selection: Selection, batch: Sequence[PictureFile], ready: Sequence[Tensor | DataError]
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
