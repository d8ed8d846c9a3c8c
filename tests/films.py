"""Films that tests encode, and a stand-in detector that knows where their objects are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onestage.predict.frames import Facts, Fault, Frame, no_one
from onestage.structures import Detections

CLOCK = Fraction(1, 90_000)
SQUARE = 24
"""The side of the square whose place tells the number of a frame, in pixels."""


def picture(number: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """(H, W, 3): a red left half, a green top right, a blue bottom right, and a white square that goes to the right."""
    height, width = size
    rows = np.zeros((height, width, 3), np.uint8)
    rows[:, : width // 2] = (220, 30, 30)
    rows[: height // 2, width // 2 :] = (30, 200, 30)
    rows[height // 2 :, width // 2 :] = (30, 30, 220)
    left = 4 * number % (width - SQUARE)
    rows[4 : 4 + SQUARE, left : left + SQUARE] = 255
    return rows


def encode(
    path: Path,
    count: int = 12,
    *,
    size: tuple[int, int] = (96, 128),
    stamps: Sequence[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rotation: int | None = None,
    draw: Callable[[int, tuple[int, int]], np.ndarray] = picture,
    rate: int = 30,
) -> Path:
    """A film of ``count`` frames. stamps: when each comes, in units of CLOCK; at a fixed rate if left out."""
    import av

    with av.open(path, "w") as film:
        stream = film.add_stream(codec, rate=rate, options={"g": "12", "preset": "ultrafast"} if codec == "libx264" else {})
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = stream.time_base = Fraction(1, rate) if codec != "libx264" else CLOCK
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw(number, size), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = stamps[number] if stamps is not None else round(Fraction(number, rate) / frame.time_base)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path


class Scripted:
    """A source of frames that were made by hand. Each opening plays the next of the ``plays``."""

    name, facts = "scripted", Facts(CLOCK, Fraction(30))

    def __init__(self, *plays: Callable[[], Iterator[Frame | Fault]], live: bool = True) -> None:
        self.plays, self.live, self.opened = plays, live, 0

    def frames(self, *, every: int = 1, alive: Callable[[], None] = no_one) -> Iterator[Frame | Fault]:
        self.opened += 1
        yield from self.plays[min(self.opened, len(self.plays)) - 1]()


def frames(count: int, *, first: int = 0, rate: int = 30) -> Iterator[Frame]:
    for number in range(count):
        yield Frame(number, Fraction(number, rate), torch.full((3, 8, 8), first + number, dtype=torch.uint8))


class Knowing:
    """A looker that reports boxes of a function of the pixels, (D, 4), scores (D,) and labels (D,)."""

    scores = None

    def __init__(self, find: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], classes: tuple[str, ...] = ("a", "b")) -> None:
        self.find, self.classes, self.batches = find, classes, list[int]()

    def predict(self, images: list[Tensor], *, score: float | None = None, batch_size: int = 8) -> list[Detections]:
        self.batches.append(len(images))
        return [self.one(image, score or 0.0) for image in images]

    def one(self, image: Tensor, least: float) -> Detections:
        boxes, scores, labels = self.find(image)
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > least]
        names = tuple(self.classes[label] for label in labels[order].tolist())
        size = (int(image.shape[1]), int(image.shape[2]))
        return Detections(boxes[order], scores[order], labels[order], names, tuple(labels[order].tolist()), size)


def white(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The box of the white square of ``picture``."""
    bright = (image > 225).all(0)
    if not bright.any():
        return torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return torch.tensor([[float(side) for side in box]]), torch.tensor([0.9]), torch.tensor([0])


def crossing(seed: int, count: int = 60, size: tuple[int, int] = (96, 128)) -> tuple[list[np.ndarray], Tensor]:
    """A drawn film of two solids of one class, "ball", that cross: ``count`` frames (H, W, 3), and where both are in each,
    (count, 2, 4). One goes to the right, behind the other, which goes to the left; at the crossing they overlap. In the look of
    the built-in pictures: colours, patterns, light, ground and grain are drawn anew for each seed.
    """
    from onestage.data import synthetic, textures

    config = synthetic.SyntheticConfig(("ball",), size, scale=(0.3, 0.36))
    draws = np.random.default_rng(seed)
    light, ground = synthetic._light(draws), textures.ground(draws, size)
    sprites = [synthetic._render(draws, config, "ball", light) for _ in range(2)]
    apart = draws.uniform(4, 8)  # pixels, for objects of about 30
    pictures, boxes = [], []
    for number in range(count):
        way = number / (count - 1)
        canvas = ground.copy()
        for sprite, along, down in zip(sprites, (way, 1 - way), (-apart, apart), strict=True):
            spare = size[0] - sprite.alpha.shape[0], size[1] - sprite.alpha.shape[1]
            left, top = round(along * spare[1]), round(spare[0] / 2 + down)
            synthetic._draw(canvas, synthetic._Placed(sprite, 0, left, top), light)
            x1, y1, x2, y2 = sprite.box
            boxes.append([x1 + left, y1 + top, x2 + left, y2 + top])
        pixels = synthetic._photograph(np.random.default_rng((seed, number)), canvas, 0.02)
        pictures.append(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return pictures, torch.tensor(boxes).reshape(count, 2, 4)
