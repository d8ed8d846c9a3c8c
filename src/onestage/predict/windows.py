"""How a large picture is cut into windows that overlap, and how large they are.

Shape letters: H, W the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf, sqrt
from typing import Literal, NamedTuple

from onestage.model.config import DetectorConfig
from onestage.structures import Size

SMALLEST = 20
"""The side of objects, in pixels of the picture, that tiles of size "auto" show as large as the smallest anchors need."""
FITS = 0.7
"""An object whose sides are this part of an anchor's has half of its area, so an IoU of 0.5 with it."""
FINEST = 2.0
"""Tiles of size "auto" are not enlarged more than this: there is no more to see."""

Tiles = Size | Literal["auto"] | None
"""The (height, width) of tiles in pixels of the picture, "auto", or None for no tiles."""


class Window(NamedTuple):
    """A part of a picture, in its pixels.

    grid: windows of one grid have one size, and cover the picture. before: (y, x), where the neighbour above ends and that to
    the left; after: where the neighbour below begins and that to the right; infinite if there is none. shrink: below 1, the
    picture is shown that much smaller, in the corner of an empty one.
    """

    top: int
    left: int
    bottom: int
    right: int
    grid: int = 0
    before: tuple[float, float] = (-inf, -inf)
    after: tuple[float, float] = (inf, inf)
    shrink: float = 1.0


def starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows of that side begin, evenly spread over a side of the picture. The first begins and the last ends with it,
    and neighbours share at least the part ``overlap`` of a window.
    """
    if window >= side:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    gaps = ceil((side - window) / step)
    return [round(i * (side - window) / gaps) for i in range(gaps + 1)]


def cut(picture: Size, window: Size, overlap: float, *, grid: int) -> list[Window]:
    """The windows of a grid over a picture, row by row."""
    sides = [min(pair) for pair in zip(picture, window, strict=True)]
    rows, columns = (starts(*pair, overlap) for pair in zip(picture, sides, strict=True))
    return [
        Window(y, x, y + sides[0], x + sides[1], grid, (above, before), (below, after))
        for y, above, below in _with_neighbours(rows, sides[0])
        for x, before, after in _with_neighbours(columns, sides[1])
    ]


def _with_neighbours(begins: Sequence[int], side: int) -> list[tuple[int, float, float]]:
    """Each beginning, with the end of the window before it and the beginning of the one after it."""
    ends = [-inf, *(begin + side for begin in begins[:-1])]
    return list(zip(begins, ends, [*begins[1:], inf], strict=True))


def windows_of(picture: Size, tile: Size | None, overlap: float, scale: float) -> list[Window]:
    """All windows of one look at a picture: the whole of it, in windows of 1 / scale of its sides if that is smaller, and tiles
    if they are smaller than that.
    """
    base = _scaled(picture, scale)
    windows = [Window(0, 0, *picture, shrink=scale)] if scale < 1 else cut(picture, base, overlap, grid=0)
    if tile is not None:
        smaller = _scaled(tile, scale)
        if smaller[0] < min(base[0], picture[0]) or smaller[1] < min(base[1], picture[1]):
            windows += cut(picture, smaller, overlap, grid=1)
    return windows


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] / scale)), max(1, round(size[1] / scale))


def auto_tile(config: DetectorConfig, picture: Size, overlap: float) -> Size | None:
    """The size of tiles that show objects of ``SMALLEST`` pixels as large as the detector's smallest anchors need; None if the
    whole picture does.

    config: of a built detector, so its anchors are listed. The tiles are as large as that allows, and then as small as their
    number allows: more of them would cost more, and smaller ones cost the same.
    """
    smallest = min(sqrt(width * height) for level in config.levels for width, height in level.shapes)
    factor = min(FITS * smallest / SMALLEST, FINEST)
    preprocess = config.preprocess
    entry = preprocess.size if preprocess.mode != "shortest_edge" else (preprocess.size[0], preprocess.size[0])
    tile = max(1, int(entry[0] / factor)), max(1, int(entry[1] / factor))
    if _factor_of_whole(config, picture) >= factor or (tile[0] >= picture[0] and tile[1] >= picture[1]):
        return None
    return _fitted(picture[0], tile[0], overlap), _fitted(picture[1], tile[1], overlap)


def _factor_of_whole(config: DetectorConfig, picture: Size) -> float:
    """Pixels of the network's input for each pixel of a picture that is shown whole, along the side that has fewer."""
    return min(config.preprocess.place(picture).scale)


def _fitted(side: int, window: int, overlap: float) -> int:
    """The smallest window of which as many cover the side as of the given one."""
    count = len(starts(side, window, overlap))
    if count == 1:
        return side
    fitted = ceil(side / (count - (count - 1) * overlap))
    while len(starts(side, fitted, overlap)) > count:  # the step between windows is a whole number
        fitted += 1
    return min(fitted, window)
