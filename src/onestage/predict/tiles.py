"""Large pictures seen in tiles that overlap, and as a whole; and pictures seen larger or smaller than they are.

Shape letters: B pictures, H and W of one, N detections. Pictures are (3, H, W) uint8 RGB, boxes xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from onestage.errors import ConfigError, check_number
from onestage.model.codec import Range
from onestage.model.preprocess import Preprocess
from onestage.predict.pieces import WEAK, together
from onestage.predict.predictor import Predictor, Through
from onestage.predict.windows import Tiles, Window, auto_tile, windows_of
from onestage.structures import Detections, Size

LEAST_SIDE = 32
"""Pixels of a tile."""
OVERLAP = Range(least=0.05, most=0.9)
SCALE = Range(least=0.25, most=4)


def check_tiles(tiles: object) -> None:
    """Raise ConfigError unless it is (height, width) in pixels, "auto" or None."""
    if tiles is None or tiles == "auto":
        return
    expected, fix = f'(height, width) in pixels, {LEAST_SIDE} or more each, or "auto"', "such as (640, 640)"
    sides = tiles if isinstance(tiles, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise ConfigError("these are no tiles", got=repr(tiles), expected=expected, fix=fix)
    if min(sides) < LEAST_SIDE:
        raise ConfigError("tiles are too small", got=tuple(sides), expected=expected, fix=fix)


@dataclass(frozen=True, eq=False, repr=False)
class Tiled(Through):
    """Look at each picture in windows that overlap, and put what they show together (``pieces``): no object is split or counted
    twice.

    tiles: the (height, width) of tiles in pixels of the picture; "auto": what shows small objects as large as the smallest
    anchors need; None: none. The whole picture is always looked at too, so objects larger than a tile stay whole. scale: how
    much larger objects appear. At 1.25 a picture takes four windows of 0.8 of its sides, and tiles are so much smaller; at 0.8
    the picture fills only that part of the input, and tiles are larger. overlap: the part that windows share with a neighbour.
    batch_size: windows that go through the network together.

    Its scores are the best of what windows show, so they mean what those of the model mean. With neither tiles nor a scale, it
    is the plain call.
    """

    looker: Predictor
    tiles: Tiles = None
    overlap: float = 0.2
    scale: float = 1.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Raise ConfigError for tiles, an overlap or a scale out of bounds."""
        OVERLAP.check_number(self.overlap, "overlap")
        SCALE.check_number(self.scale, "scale")
        check_number("batch_size", self.batch_size, least=1, whole=True)
        check_tiles(self.tiles)

    @property
    def name(self) -> str:
        """The name of the model, and how its windows are made."""
        size = self.tiles if isinstance(self.tiles, str) else "x".join(map(str, self.tiles or ()))
        tiles = f", tiles {size} with an overlap of {self.overlap:g}" if size else ""
        return self.looker.name + tiles + (f", scale {self.scale:g}" if self.scale != 1 else "")

    def passes(self, size: Size) -> int:
        """The windows of a picture of that size."""
        return len(self.windows(size))

    def windows(self, size: Size) -> list[Window]:
        """The windows of a picture of that (height, width): those of the whole picture, then the tiles, row by row."""
        tile = auto_tile(self.looker.config, size, self.overlap) if isinstance(self.tiles, str) else self.tiles
        return windows_of(size, tile, self.overlap, self.scale)

    def detect(self, pictures: Sequence[Tensor], *, score: float | None = None) -> list[Detections]:
        """The detections of B pictures, (3, H, W) each. At most ``batch_size`` windows are resized at the same time."""
        windows = [self.windows((picture.shape[1], picture.shape[2])) for picture in pictures]
        if all(len(several) == 1 and several[0].shrink == 1 for several in windows):
            return self.looker.detect(pictures, score=score)
        least = score if score is None or score <= self.threshold else max(self.threshold, WEAK * score)
        found: list[list[Detections]] = [[] for _ in pictures]
        for part in _batches(windows, self.batch_size):
            views = [_view(pictures[number], window, self.looker.config.preprocess) for number, window in part]
            for (number, window), seen in zip(part, self.looker.detect(views, score=least), strict=True):
                found[number].append(_placed(seen, window, pictures[number]))
        agnostic = self.looker.config.postprocess.class_agnostic
        merged = [
            together(seen, several, (picture.shape[1], picture.shape[2]), class_agnostic=agnostic)
            for seen, several, picture in zip(found, windows, pictures, strict=True)
        ]
        return merged if score is None else [one.select(one.scores > score) for one in merged]


def _batches(windows: Sequence[Sequence[Window]], size: int) -> Iterator[list[tuple[int, Window]]]:
    """The windows of each picture, with the number of the picture, in portions of at most ``size`` of one height and width:
    those of several sizes would be padded to the largest.
    """
    every = [(number, window) for number, several in enumerate(windows) for window in several]
    for _, alike in groupby(every, key=lambda pair: (*_size_of(pair[1]), pair[1].shrink)):
        several = list(alike)
        yield from (several[start : start + size] for start in range(0, len(several), size))


def _size_of(window: Window) -> Size:
    return window.bottom - window.top, window.right - window.left


def _view(picture: Tensor, window: Window, preprocess: Preprocess) -> Tensor:
    """What the network is shown of a picture (3, H, W): (3, H, W) of the window. With a smaller scale, the rest of the input
    has the colour of padding.
    """
    if window.shrink == 1:
        return picture[:, window.top : window.bottom, window.left : window.right]
    place = preprocess.place((picture.shape[1], picture.shape[2]))  # as large as the network sees it, so it is resized once
    height, width = (round(side * scale) for side, scale in zip(place.original, place.scale, strict=True))
    inner = [max(1, round(height * window.shrink)), max(1, round(width * window.shrink))]
    canvas = torch.tensor(preprocess.colour).round().to(torch.uint8).view(3, 1, 1).repeat(1, height, width)
    canvas[:, : inner[0], : inner[1]] = tv.resize(picture, inner, antialias=preprocess.antialias)
    return canvas


def _placed(seen: Detections, window: Window, picture: Tensor) -> Detections:
    """The detections of a window, in pixels of the picture (3, H, W) and cut to it."""
    size = picture.shape[1], picture.shape[2]
    boxes = seen.boxes
    if window.shrink != 1:
        shown = [max(1, round(side * window.shrink)) for side in seen.size]
        scale = boxes.new_tensor([size[1] / shown[1], size[0] / shown[0]]).repeat(2)
        moved = replace(seen, boxes=boxes * scale, size=size).clipped()
        sides = moved.boxes[:, 2:] - moved.boxes[:, :2]
        return moved.select((sides > 0).all(dim=1))  # what lies in the empty part is nothing
    shift = boxes.new_tensor([window.left, window.top]).repeat(2)
    return replace(seen, boxes=boxes + shift, size=size)
