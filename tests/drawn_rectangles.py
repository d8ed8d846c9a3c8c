"""Pictures of coloured rectangles, and a model that sees exactly those that are large enough in its input: what tests of closer
looks need to know what should be found.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import onestage
from onestage.model.output.postprocess import RawDetections
from onestage.predict.predictor import Predictor

GROUND = 15
LEAST = 5
"""The pixels of the shorter side of what the model sees, in its input."""
Rectangle = tuple[int, int, int, int]


def colour(number: int) -> tuple[int, int, int]:
    """Of rectangle ``number`` of at most 64, far from all others and from the ground."""
    assert number < 64
    return 255 - 60 * (number % 4), 255 - 60 * (number // 4 % 4), 255 - 60 * (number // 16)


def draw(size: tuple[int, int], rectangles: Sequence[Rectangle]) -> Tensor:
    """A picture (3, H, W) of that (height, width) with rectangles, xyxy pixels, each in its colour."""
    picture = torch.full((3, *size), GROUND, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate(rectangles):
        picture[:, y1:y2, x1:x2] = torch.tensor(colour(number), dtype=torch.uint8).view(3, 1, 1)
    return picture


class Seer:
    """An engine with NMS inside. Of each colour it gives the box around all its pixels, if that has ``least`` pixels each way.

    label: of a rectangle's number. sees: whether it sees a box, xyxy pixels, in an input of that width. batches: of its calls.
    """

    device = torch.device("cpu")

    def __init__(self, count: int, label: Callable[[int], int], sees: Callable[[list[float], int], bool], score: float) -> None:
        self.count, self.label, self.sees, self.score = count, label, sees, score
        self.batches: list[int] = []

    def __call__(self, images: Tensor, frames: Tensor) -> list[RawDetections]:
        self.batches.append(len(images))
        return [self._seen(image) for image in images]

    def _seen(self, image: Tensor) -> RawDetections:
        boxes, labels, pixels = [], [], image.numpy().astype(np.int16)
        for number in range(self.count):
            alike = (np.abs(pixels - np.array(colour(number), dtype=np.int16)[:, None, None]) < 29).all(axis=0)
            squares = alike[:-1, :-1] & alike[1:, :-1] & alike[:-1, 1:] & alike[1:, 1:]
            mine = np.zeros_like(alike)  # pixels in a square of four: soft borders of other colours are lines
            for y in (slice(0, -1), slice(1, None)):
                for x in (slice(0, -1), slice(1, None)):
                    mine[y, x] |= squares
            rows, columns = np.flatnonzero(mine.any(axis=1)).tolist(), np.flatnonzero(mine.any(axis=0)).tolist()
            if not rows or min(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 < LEAST:
                continue
            box = [float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0]
            if self.sees(box, image.shape[2]):
                boxes.append(box)
                labels.append(self.label(number))
        found = torch.tensor(boxes).reshape(-1, 4)
        return RawDetections(found, torch.full((len(boxes),), self.score), torch.tensor(labels, dtype=torch.int64))


def seer(
    count: int,
    *,
    classes: tuple[str, ...] = ("thing",),
    size: tuple[int, int] = (64, 96),
    mode: str = "stretch",
    label: Callable[[int], int] = lambda number: 0,
    sees: Callable[[list[float], int], bool] = lambda box, width: True,
    score: float = 0.9,
) -> Predictor:
    """A model that sees rectangles 0 to count - 1 where at least ``LEAST`` pixels of its input show them."""
    config = onestage.recipe("tinyssd", classes, size=size).replace({"preprocess.mode": mode})
    return Predictor(Seer(count, label, sees, score), onestage.build(config).decoder)
