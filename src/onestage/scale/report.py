"""What a batch has found, from its parts, one after another: the memory needed is that of one part, however many there are."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from onestage.data.batch_folder import HIDDEN, PICTURES, damaged, parts_of, read_part, shard_sizes
from onestage.draw import Stroke, colour_of, draw_strokes
from onestage.errors import DataError
from onestage.images import decode_image
from onestage.scale.listing import read_shard
from onestage.scale.manifest import Manifest
from onestage.scale.parts import OK
from onestage.scale.reading import stored

if TYPE_CHECKING:
    from pyarrow import Table

BINS = 20
"""Of the histogram of scores, all as wide."""
SPARE = 3
"""So many times the wanted number of pictures are sampled: some may be gone."""
SIDE = 320
"""Pixels of the longer side of a picture on the sheet."""
MOST_DRAWN = 10
"""Objects drawn in a picture, the best ones."""


class Sampled(NamedTuple):
    """A picture of the sample, and its best objects. row: in its shard."""

    shard: int
    row: int
    id: str
    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    names: list[str]
    objects: int


class Failure(NamedTuple):
    """One of the pictures that could not be read."""

    path: str
    message: str


@dataclass
class Figures:
    """Figures of a batch. parts: that are there; empty: pictures without objects. failures: by code, and an example of each.
    scores: how many objects have a score in each of BINS equal ranges, by class. sample: some pictures, chosen by their ids.
    """

    manifest: Manifest
    parts: int = 0
    pictures: int = 0
    empty: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Failure] = field(default_factory=dict)
    scores: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    seconds: float = 0.0
    sample: list[Sampled] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Pictures that could not be read."""
        return self.failures.total()

    @property
    def never(self) -> list[str]:
        """The classes that were looked for, and of which there is no object."""
        return [name for name in self.manifest.options.classes or self.manifest.model.classes if name not in self.objects]

    @property
    def all_scores(self) -> NDArray[np.int64]:
        """(BINS,): the histogram over all classes."""
        return sum(self.scores.values(), np.zeros(BINS, dtype=np.int64))


def figures_of(folder: Path, *, sampled: int) -> Figures:
    """The figures of the parts that are there. sampled: about how many pictures are drawn.

    Raise DataError if the folder holds no batch or a part is damaged, ConfigError if a file is in the way that is no part.
    """
    figures = Figures(Manifest.read(folder))
    sizes = shard_sizes(folder / HIDDEN / PICTURES)
    sample = _Sample(SPARE * sampled)
    for path, shard, is_whole in parts_of(folder, figures.manifest.digest, sizes):
        if not is_whole:
            raise damaged(path, "it is cut off")
        _add(figures, read_part(path), shard, sample)
    figures.sample = sample.chosen()
    return figures


def _add(figures: Figures, table: Table, shard: int, sample: _Sample) -> None:
    """Count a part."""
    from pyarrow import compute

    figures.parts += 1
    figures.pictures += len(table)
    counts = compute.list_value_length(table.column("scores"))
    good = compute.equal(table.column("status"), OK)
    figures.empty += compute.sum(compute.and_(good, compute.equal(counts, 0))).as_py() or 0
    names = compute.list_flatten(table.column("names"))
    scores = np.asarray(compute.list_flatten(table.column("scores")))
    figures.objects.update(_counted(names))
    encoded = names.combine_chunks().dictionary_encode() if len(names) else None
    if encoded is not None:
        numbers = np.asarray(encoded.indices)
        for number, name in enumerate(encoded.dictionary.to_pylist()):
            found = np.histogram(scores[numbers == number], bins=BINS, range=(0, 1))[0]
            figures.scores[name] = figures.scores.get(name, np.zeros(BINS, dtype=np.int64)) + found
    bad = table.filter(compute.invert(good))
    figures.failures.update(_counted(bad.column("code")))
    for row in bad.select(["code", "path", "message"]).to_pylist():
        figures.examples.setdefault(row["code"], Failure(row["path"], row["message"]))
    if "seconds" in table.column_names:
        figures.seconds += compute.sum(table.column("seconds")).as_py() or 0.0
    sample.add(shard, table, good)


def _counted(texts: Any) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in texts.value_counts().to_pylist()}


class _Sample:
    """The pictures whose ids have the smallest digests: the same ones whatever the parts are, and in whatever order."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: list[tuple[int, Sampled]] = []  # the largest digest first, negative

    def add(self, shard: int, table: Table, good: Any) -> None:
        """Look at the pictures of a part. good: which could be read."""
        if not self.most:
            return
        for row, (id, fine) in enumerate(zip(table.column("id").to_pylist(), good.to_pylist(), strict=True)):
            number = -int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big")
            if not fine or (len(self._kept) == self.most and number <= self._kept[0][0]):
                continue
            entry = number, _sampled(shard, row, table.slice(row, 1).to_pylist()[0])
            if len(self._kept) < self.most:
                heapq.heappush(self._kept, entry)
            else:
                heapq.heapreplace(self._kept, entry)

    def chosen(self) -> list[Sampled]:
        """The pictures, the smallest digest first."""
        return [sampled for _, sampled in sorted(self._kept, reverse=True)]


def _sampled(shard: int, row: int, content: dict[str, Any]) -> Sampled:
    boxes, scores, labels, names = (content[name][:MOST_DRAWN] for name in ("boxes", "scores", "labels", "names"))
    return Sampled(shard, row, content["id"], boxes, scores, labels, names, len(content["scores"]))


class Drawn(NamedTuple):
    """A picture with its best objects drawn in, and what to say of it."""

    id: str
    words: str
    picture: Image.Image


def drawn(folder: Path, figures: Figures, count: int) -> Iterator[Drawn]:
    """So many pictures of the sample, each with its best objects. One that cannot be read any more is passed over."""
    for sampled in figures.sample:
        if count <= 0:
            return
        listed = read_shard(folder / HIDDEN / PICTURES, sampled.shard)[sampled.row]
        boxes = torch.tensor(sampled.boxes, dtype=torch.float32).reshape(-1, 4)
        strokes = [Stroke(colour_of(label)) for label in sampled.labels]
        captions = [f"{name} {score:.2f}" for name, score in zip(sampled.names, sampled.scores, strict=True)]
        try:
            image = decode_image(stored(listed))
        except DataError:
            continue
        larger = max(1.0, SIDE / max(image.shape[1:]))  # or the words would hide a small picture
        if larger > 1:
            image = interpolate(image[None], scale_factor=larger, mode="nearest")[0]
        picture = draw_strokes(image, larger * boxes, strokes=strokes, captions=captions, side=SIDE)
        count -= 1
        shown = f", the best {MOST_DRAWN} drawn" if sampled.objects > MOST_DRAWN else ""
        yield Drawn(sampled.id, f"{sampled.objects} objects{shown}" if sampled.objects != 1 else "1 object", picture)
