"""A shard of pictures -> rows: the pure function of batch work, which any scheduler may run on any machine.

Shape letters: D detections, H and W of a picture.

Its arguments and rows are plain data that travels between processes. It writes nothing, and a picture that cannot be read is a
row too. The rows of a shard are the same whatever computes them; only ``seconds`` differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onestage.data.memory import GIGABYTES
from onestage.data.workers import TIMEOUT
from onestage.predict.pictures import PictureFile
from onestage.predict.pipeline import ALL, Outcome, Resources, Selection, in_batches
from onestage.predict.predictor import Looker
from onestage.structures import Detections, Size

UNREADABLE = "unreadable"
"""The code of a picture that cannot be read, if its error has no other one: see ``decode_image``."""


class Row(NamedTuple):
    """What became of one picture.

    size: (H, W) of the picture; None if it could not be read. code and message: why not; None otherwise. boxes (D, 4) float32,
    xyxy pixels of the picture; scores (D,) float32, falling; labels (D,) int64 in 0..K-1; names: of the classes, D of them.
    seconds: from the row before to this one.
    """

    id: int | str
    path: str
    size: Size | None
    status: Literal["ok", "error"]
    code: str | None
    message: str | None
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    seconds: float


def rows(
    looker: Looker,
    pictures: Sequence[PictureFile],
    *,
    selection: Selection = ALL,
    batch_size: int = 8,
    gigabytes: float = GIGABYTES,
    timeout: float = TIMEOUT,
) -> Iterator[Row]:
    """A row for each picture, in order; for the arguments see ``in_batches``.

    The batches that go through the network follow from the order of the pictures alone, so the same shard gives the same
    numbers. Raise LostError if reading takes longer than ``timeout`` seconds.
    """
    began = time.perf_counter()
    means = Resources(workers=1, gigabytes=gigabytes, timeout=timeout)  # other shards run beside this one
    batches = in_batches(looker, pictures, selection=selection, batch_size=batch_size, resources=means)
    for outcome in chain.from_iterable(batches):
        now = time.perf_counter()
        yield row_of(outcome, seconds=now - began)
        began = now


def row_of(outcome: Outcome, *, seconds: float = 0.0) -> Row:
    """An outcome as plain data."""
    (picture, found), (boxes, scores, labels) = outcome, _nothing()
    path = str(picture.path)
    if not isinstance(found, Detections):
        message = str(found)
        return Row(picture.image_id, path, None, "error", found.code or UNREADABLE, message, boxes, scores, labels, (), seconds)
    boxes, scores, labels = found.numpy()
    size = found.size
    return Row(picture.image_id, path, size, "ok", None, None, boxes, scores, labels, found.class_names, seconds)


def _nothing() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (D, 4), scores (D,) and labels (D,) of no detections."""
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
