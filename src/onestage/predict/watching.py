"""A detector that watches a source of frames: detections of each frame, in the order of time, with ids if they are wanted.

Shape letters: D detections, H and W of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from onestage.predict.frames import Fault, Frame
from onestage.predict.pipeline import Selection
from onestage.predict.predictor import Looker
from onestage.predict.stream import batched
from onestage.predict.tracking import WEAK, Tracker
from onestage.structures import Detections

EVERYTHING = Selection()


class Seen(NamedTuple):
    """A frame and its D detections. ids: of each detection, or None; empty if nothing was followed."""

    frame: Frame
    found: Detections
    ids: tuple[int | None, ...] = ()


def watch(
    looker: Looker,
    items: Iterable[Frame | Fault],
    *,
    name: str = "",
    selection: Selection = EVERYTHING,
    tracker: Callable[[], Tracker] | None = None,
    batch_size: int = 8,
    limit: int = 2**31,
) -> Generator[Seen | Fault, None, None]:
    """What is seen in each frame, and every fault, in order. name: of the source. limit: the bytes of a batch at most.

    tracker: makes one as soon as the first frame is there. A tracked object is reported at any score that continues its id, any
    other detection from the least score of the selection on.
    """
    follow: Tracker | None = None
    score = selection.score
    for batch in _light(items, batch_size, limit):
        frames = [item for item in batch if isinstance(item, Frame)]
        if tracker is not None and follow is None and frames:
            follow = tracker()
        least = score if follow is None else min(WEAK, score if score is not None else WEAK)
        found = looker.predict([frame.pixels for frame in frames], score=least, batch_size=max(1, len(frames)))
        named = iter([*zip(frames, found, strict=True)])
        del frames, found
        for item in batch:
            if isinstance(item, Fault):
                yield item
                continue
            frame, one = next(named)
            one = replace(one, path=name, image_id=f"{name}#{frame.number}", source=None)
            yield _selected(frame, one, selection, follow)


def _light(items: Iterable[Frame | Fault], size: int, limit: int) -> Iterator[list[Frame | Fault]]:
    """Batches of at most ``size``, and fewer of large frames: the first frame tells how many. What is before it is alone."""
    iterator = iter(items)
    for first in batched(iterator, 1):
        weight = max((item.pixels.numel() for item in first if isinstance(item, Frame)), default=0)
        yield first
        del first
        if weight:
            yield from batched(iterator, max(1, min(size, limit // weight)))


def _selected(frame: Frame, found: Detections, selection: Selection, follow: Tracker | None) -> Seen:
    """The detections that are reported, with their ids."""
    if follow is None:
        return Seen(frame, selection(found))
    if selection.labels:
        found = found.select(torch.isin(found.labels, torch.tensor(selection.labels)))
    ids = follow.ids(found, frame.time)
    strong = [score >= follow.least(label) for score, label in zip(found.scores.tolist(), found.labels.tolist(), strict=True)]
    rows = [row for row, number in enumerate(ids) if number is not None or strong[row]][: selection.top]
    return Seen(frame, found.select(rows), tuple(ids[row] for row in rows))
