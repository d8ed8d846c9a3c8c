"""The same few validation pictures through a training: their labels, and what was found in them, drawn small.

They lie in the folder ``pictures`` of the run as
``step-00000120-3.jpg``; step 0 has the labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from onestage.data import Dataset
from onestage.draw import draw_boxes, draw_detections
from onestage.errors import DataError
from onestage.files import make_folder, write_file
from onestage.metrics.report_files import as_jpeg
from onestage.structures import Detections, Size

COUNT = 6
"""Pictures that are shown."""
COLUMNS = 6
"""Moments of the training that are kept, the labels aside."""
SIDE = 320
"""Pixels of the longer side."""
SCORE = 0.3
"""The lowest score of a detection that is drawn."""
CANDIDATES = 1000
"""Pictures among which these are chosen."""
LARGEST = 200_000_000
"""Bytes of memory that decoding a picture may take. Larger pictures are not shown."""
NAME = re.compile(r"step-(\d{8,})-(\d+)\.jpg")


class Examples:
    """The pictures, small, and the files with what was found in them. They are decoded once, when they are first drawn."""

    def __init__(self, data: Dataset, folder: Path) -> None:
        self.data, self.folder = data, folder / "pictures"
        self.rows = choose(data)
        self._small: dict[int, Image.Image] = {}
        self._sizes: dict[int, Size] = {}

    @property
    def steps(self) -> list[int]:
        """The steps that have drawings, in order; 0 for the labels."""
        names = (NAME.fullmatch(path.name) for path in self.folder.glob("step-*.jpg"))
        return sorted({int(name[1]) for name in names if name})

    def drawings(self, step: int) -> list[bytes]:
        """The drawing of each picture at that step as a JPEG; empty where there is none."""
        return [path.read_bytes() if path.is_file() else b"" for path in self._paths(step)]

    def few(self, found: Sequence[Detections]) -> dict[int | str, Detections]:
        """The detections of the pictures that are shown, by id. found: of all pictures, or of those that could be read."""
        wanted = {self.data.image_ids[row] for row in self.rows}
        return {one.image_id: one for one in found if one.image_id in wanted}

    def drawn(self, found: Mapping[int | str, Detections]) -> dict[str, Image.Image]:
        """The pictures with what was found in them, by number and file name."""
        pictures = {}
        for number, row in enumerate(self.rows, 1):
            one, small = found.get(self.data.image_ids[row]), self._shrunk(row)
            if one is not None and small is not None:
                pictures[f"{number} {Path(self.data.paths[row]).name}"] = draw_detections(small, _scaled(one, small))
        return pictures

    def save(self, step: int, pictures: Mapping[str, Image.Image], *, epochs: Mapping[int, float]) -> None:
        """Write the drawings of a step. Delete one step if there are too many: that with the nearest neighbours.

        epochs: the epochs done at each step of the history. What belongs to no such step is deleted too.
        """
        make_folder(self.folder)
        if 0 not in self.steps:
            self._write(0, {f"{number}": picture for number, picture in self._labelled()})
        self._write(step, pictures)
        kept = []
        for other in self.steps[1:]:
            if other in epochs:
                kept.append(other)
            else:
                self._delete(other)
        while len(kept) > COLUMNS:
            gaps = {kept[i]: epochs[kept[i + 1]] - epochs[kept[i - 1]] for i in range(1, len(kept) - 1)}
            nearest = min(gaps, key=lambda step: gaps[step])
            self._delete(nearest)
            kept.remove(nearest)

    def _labelled(self) -> Iterator[tuple[int, Image.Image]]:
        """Each picture with its labels drawn in, and its number."""
        for number, row in enumerate(self.rows, 1):
            truth, small = self.data.truth(row), self._shrunk(row)
            if small is not None:
                boxes = truth.boxes * _factors(self._sizes[row], small)
                yield number, draw_boxes(small, boxes, labels=truth.labels, names=self.data.classes)

    def _shrunk(self, row: int) -> Image.Image | None:
        """The picture, small; None if it cannot be read, or needs much memory."""
        if row not in self._small:
            try:
                if self.data.decoding_cost(row) > LARGEST:
                    return None
                image = self.data[row].image
            except DataError:
                return None
            small = Image.fromarray(image.permute(1, 2, 0).numpy())
            small.thumbnail((SIDE, SIDE))
            self._small[row], self._sizes[row] = small, (image.shape[1], image.shape[2])
        return self._small[row]

    def _write(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        for name, picture in pictures.items():
            write_file(self._path(step, int(name.partition(" ")[0])), as_jpeg(picture, side=SIDE))

    def _delete(self, step: int) -> None:
        for path in self._paths(step):
            path.unlink(missing_ok=True)

    def _paths(self, step: int) -> list[Path]:
        return [self._path(step, number) for number in range(1, len(self.rows) + 1)]

    def _path(self, step: int, number: int) -> Path:
        return self.folder / f"step-{step:08d}-{number}.jpg"


def choose(data: Dataset, count: int = COUNT) -> list[int]:
    """The rows of pictures that show as many classes as possible; the rest lies evenly over the data set."""
    rows = _evenly(len(data), CANDIDATES)
    classes = {row: {*data.truth(row).labels.tolist()} for row in rows}
    chosen: list[int] = []
    seen: set[int] = set()
    while len(chosen) < min(count, len(rows)):
        best = max((row for row in rows if row not in chosen), key=lambda row: len(classes[row] - seen))
        if classes[best] <= seen:
            break
        chosen.append(best)
        seen |= classes[best]
    full = [row for row in rows if classes[row] and row not in chosen]
    chosen += [full[place] for place in _evenly(len(full), count - len(chosen))]
    return sorted(chosen)


def _evenly(length: int, count: int) -> list[int]:
    """At most ``count`` places in a list, evenly apart."""
    return list(range(length)) if length <= count else [place * length // count for place in range(count)]


def _scaled(found: Detections, picture: Image.Image) -> Detections:
    """The good detections, for a smaller copy of their picture."""
    good = found.select(found.scores.cpu() >= SCORE)
    return replace(good, boxes=good.boxes.cpu() * _factors(found.size, picture), size=(picture.height, picture.width))


def _factors(size: Size, picture: Image.Image) -> torch.Tensor:
    """(4,) what takes xyxy pixels of a picture of that size to those of its smaller copy."""
    return torch.tensor([picture.width / size[1], picture.height / size[0]]).repeat(2)
