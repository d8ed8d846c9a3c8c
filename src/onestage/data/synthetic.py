"""The built-in data: pictures of a few solid objects on textured grounds. A seed and an index give a picture.

Shape letters: H, W the picture; h, w the patch of one object; N objects; n points of a surface. Every object is a lit,
ray-traced solid of ``solids.py``. Its colours and patterns say nothing about its class. It throws a soft shadow; another
object or the picture's border may hide a part of it. Boxes are tight around the whole object, the parts behind other objects
included, and are cut at the border, as annotators of photographs do.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from onestage import boxes as box_ops
from onestage.data import textures
from onestage.data.dataset import Dataset
from onestage.data.solids import BLOCK, SOLIDS, Floats, Surface, pose, trace
from onestage.data.writers import Encoded, encode
from onestage.errors import ConfigError, nearest
from onestage.structures import Sample, Size

TRIES = 20  # places to try for an object before it is left out
FINE = 2  # rays for each pixel, along either axis
OFFSETS = [(i, j) for i in range(FINE) for j in range(FINE)]


@dataclass(frozen=True)
class SyntheticConfig:
    """The look of the pictures. Equal configurations give equal pictures, in any order and on any number of processes, with
    the same versions of numpy and Pillow.

    classes: names in ``solids.SOLIDS``; their order gives the labels. size: (height, width). count: pictures of a data set.
    objects: fewest and most in a picture that is not empty (an object without room is left out). empty: the share of pictures
    without objects, spread evenly. scale: smallest and largest diameter of the ball around an object, divided by the shorter
    side; the object may be narrower. roll: the largest lean to either side, in degrees. min_visible: the least share of an
    object's pixels that must be visible. noise: the strongest grain, as a standard deviation on the scale 0..1.
    """

    classes: tuple[str, ...] = tuple(SOLIDS)
    size: Size = (256, 256)
    count: int = 1000
    objects: tuple[int, int] = (1, 3)
    empty: float = 0.03
    scale: tuple[float, float] = (0.35, 0.75)
    roll: float = 25.0
    min_visible: float = 0.85
    noise: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.classes:
            if name not in SOLIDS:
                known = ", ".join(SOLIDS)
                raise ConfigError("no such class", got=f"{name!r}{nearest(name, SOLIDS)}", expected=f"one of {known}")
        rules = {
            "classes": (len(set(self.classes)) == len(self.classes) > 0, "at least one, none twice"),
            "size": (min(self.size) >= 32, "at least 32 x 32"),
            "count": (self.count >= 0, "0 or more"),
            "objects": (1 <= self.objects[0] <= self.objects[1], "1 <= fewest <= most"),
            "empty": (0 <= self.empty <= 1, "0..1"),
            "scale": (0.05 <= self.scale[0] <= self.scale[1] <= 1, "0.05 <= smallest <= largest <= 1"),
            "min_visible": (0 < self.min_visible <= 1, "above 0, at most 1"),
            "noise": (0 <= self.noise <= 1, "0..1"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise ConfigError(f"SyntheticConfig: bad {name}", got=getattr(self, name), expected=expected)


class _Light(NamedTuple):
    """direction (3,) towards the light (x right, y down, z to the viewer); its strength; the strength of the sky's light."""

    direction: Floats
    strength: float
    sky: float


class _Sprite(NamedTuple):
    """One rendered object. colour (3, h, w) is multiplied by alpha (h, w); box: xyxy in the patch; radius: of its ball."""

    colour: Floats
    alpha: Floats
    box: tuple[float, float, float, float]
    radius: float


class _Placed(NamedTuple):
    sprite: _Sprite
    label: int
    left: int
    top: int


def generate(index: int, config: SyntheticConfig) -> Sample:
    """Picture ``index`` of the endless sequence that ``config`` describes: image (3, H, W), boxes (N, 4)."""
    rng = np.random.default_rng(np.random.SeedSequence((config.seed, index)))
    canvas = textures.ground(rng, config.size)
    light = _light(rng)
    is_empty = int((index + 1) * config.empty) > int(index * config.empty)
    placed = [] if is_empty else _compose(rng, config, light)
    for item in placed:
        _draw(canvas, item, light)
    image = torch.from_numpy(_photograph(rng, canvas, config.noise))
    corners = [[x1 + p.left, y1 + p.top, x2 + p.left, y2 + p.top] for p in placed for x1, y1, x2, y2 in [p.sprite.box]]
    return Sample(
        image=image,
        boxes=box_ops.clip(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), config.size),
        labels=torch.tensor([p.label for p in placed], dtype=torch.int64),
        ignore=torch.zeros(len(placed), dtype=torch.bool),
        image_id=index,
        path=f"synthetic/{config.seed}/{index}",
    )


def _light(rng: Generator) -> _Light:
    azimuth, height = np.radians(rng.uniform(195, 345)), np.radians(rng.uniform(30, 60))
    direction = [np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)]
    return _Light(np.array(direction, np.float32), strength=rng.uniform(0.65, 0.9), sky=rng.uniform(0.35, 0.55))


def _compose(rng: Generator, config: SyntheticConfig, light: _Light) -> list[_Placed]:
    """The objects of one picture, the farthest first. An object without a place is left out; the first one gets the middle."""
    placed: list[_Placed] = []
    wanted = rng.integers(config.objects[0], config.objects[1] + 1)
    for _ in range(wanted):
        label = int(rng.integers(len(config.classes)))
        sprite = _render(rng, config, config.classes[label], light)
        h, w = sprite.alpha.shape
        spare = np.array([config.size[0] - h, config.size[1] - w])
        reach = np.array([h, w]) * 0.25  # this much of the patch may lie outside the picture
        for place in range(TRIES):
            last_resort = not placed and place == TRIES - 1
            spot = spare / 2 if last_resort else rng.uniform(-reach, np.maximum(spare + reach, -reach))
            item = _Placed(sprite, label, left=round(spot[1]), top=round(spot[0]))
            if last_resort or _all_visible([*placed, item], config):
                placed.append(item)
                break
    return placed


def _window(item: _Placed, size: Size) -> tuple[slice, slice, slice, slice]:
    """The rows and columns of the picture that a patch covers, then the rows and columns of the patch inside the picture."""
    h, w = item.sprite.alpha.shape
    top, bottom = np.clip([item.top, item.top + h], 0, size[0]).tolist()
    left, right = np.clip([item.left, item.left + w], 0, size[1]).tolist()
    inside = slice(top - item.top, bottom - item.top), slice(left - item.left, right - item.left)
    return slice(top, bottom), slice(left, right), *inside


def _all_visible(items: list[_Placed], config: SyntheticConfig) -> bool:
    """Whether every object shows enough of its pixels when they are drawn in this order."""
    uncovered = np.ones(config.size, np.float32)
    for item in reversed(items):
        rows, columns, inner_rows, inner_columns = _window(item, config.size)
        alpha = item.sprite.alpha[inner_rows, inner_columns]
        if (alpha * uncovered[rows, columns]).sum() < config.min_visible * item.sprite.alpha.sum():
            return False
        uncovered[rows, columns] *= 1 - alpha
    return True


def _render(rng: Generator, config: SyntheticConfig, name: str, light: _Light) -> _Sprite:
    """One object in a random pose, size and colour, in a patch that is just large enough."""
    solid = SOLIDS[name]
    radius = rng.uniform(*config.scale) * min(config.size) / 2
    rotation = pose(rng.uniform(*solid.spin), rng.uniform(*solid.tilt), rng.uniform(-config.roll, config.roll))
    side = BLOCK // FINE * int(np.ceil((2 * radius + 1) / (BLOCK // FINE)))
    centre = side / 2 + rng.uniform(-0.5, 0.5, 2)
    rays = (np.arange(side * FINE) + 0.5) / FINE
    x, y = (((rays - c) / radius).astype(np.float32) for c in centre)
    surface = trace(solid.distance, rotation, x, y)
    shaded = _shade(surface, textures.paint(rng, surface.points), light, gloss=rng.uniform(0, 0.6))
    fine = np.zeros((4, *surface.hit.shape), np.float32)
    for channel, values in zip(fine, (*shaded, np.float32(1)), strict=True):
        channel[surface.hit] = values
    pixels = fine[:, 0::FINE, 0::FINE].copy()
    for i, j in OFFSETS[1:]:
        pixels += fine[:, i::FINE, j::FINE]
    pixels /= np.float32(FINE * FINE)
    rows, columns = np.flatnonzero(surface.hit.any(1)), np.flatnonzero(surface.hit.any(0))
    box = (columns[0] / FINE, rows[0] / FINE, (columns[-1] + 1) / FINE, (rows[-1] + 1) / FINE)
    return _Sprite(pixels[:3], pixels[3], box, radius)


def _shade(surface: Surface, base: Floats, light: _Light, gloss: float) -> Floats:
    """Base colours (3, n) -> lit colours (3, n): light of the sky, diffuse light and a highlight."""
    half = light.direction + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    nx, ny, nz = surface.normals
    facing = np.clip(nx * light.direction[0] + ny * light.direction[1] + nz * light.direction[2], 0, 1)
    shine = np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0, 1)
    for _ in range(5):  # to the 32nd power
        shine = shine * shine
    body = light.sky * surface.openness + light.strength * facing * (0.4 + 0.6 * surface.openness)
    lit: Floats = base * body
    lit += np.float32(gloss) * shine
    return lit


def _draw(canvas: Floats, item: _Placed, light: _Light) -> None:
    """Lay the object and its shadow over the canvas (3, H, W), in place."""
    sprite, size = item.sprite, (canvas.shape[1], canvas.shape[2])
    margin = int(0.4 * sprite.radius) + 4  # the blur of Pillow, three boxes, reaches less far
    mask = Image.fromarray((np.pad(sprite.alpha, margin) * 255).astype(np.uint8))
    blurred = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.1 * sprite.radius)), np.float32) / 255
    right, down = np.round(light.direction[:2] / light.direction[2] * -0.22 * sprite.radius).astype(int).tolist()
    shadow = _Placed(sprite._replace(alpha=blurred), item.label, item.left - margin + right, item.top - margin + down)
    rows, columns, inner_rows, inner_columns = _window(shadow, size)
    canvas[:, rows, columns] *= 1 - 0.6 * blurred[inner_rows, inner_columns]
    rows, columns, inner_rows, inner_columns = _window(item, size)
    canvas[:, rows, columns] *= 1 - sprite.alpha[inner_rows, inner_columns]
    canvas[:, rows, columns] += sprite.colour[:, inner_rows, inner_columns]


def _photograph(rng: Generator, canvas: Floats, noise: float) -> NDArray[np.uint8]:
    """(3, H, W) of light, which is used up -> (3, H, W) of bytes: uneven lighting, exposure and grain."""
    size = canvas.shape[1], canvas.shape[2]
    canvas *= rng.uniform(0.85, 1.1) + 0.25 * (textures.noise(rng, size, 1.0) - 0.5)
    grain = rng.standard_normal((*size, 3), dtype=np.float32)
    grain *= np.float32(rng.uniform(0, noise))
    canvas += grain.transpose(2, 0, 1)
    np.clip(canvas, 0, 1, out=canvas)
    canvas *= 255
    canvas += 0.5
    return canvas.astype(np.uint8)


def generate_encoded(indices: Sequence[int], config: SyntheticConfig, *, workers: int | None = None) -> Iterator[Encoded]:
    """The pictures at ``indices`` in this order, as compressed files. Several processes draw them, one per core."""
    draw = partial(_encoded, config=config)
    workers = min(workers or os.cpu_count() or 1, 1 + len(indices) // 16)
    if workers == 1:
        yield from map(draw, indices)
        return
    with ProcessPoolExecutor(workers, initializer=_become_worker) as pool:
        yield from pool.map(draw, indices, chunksize=8)


def _encoded(index: int, config: SyntheticConfig) -> Encoded:
    return encode(generate(index, config))


def _become_worker() -> None:
    """Leave interrupts to the parent, and use one core: with a process per core, more threads would wait for each other."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(frozen=True, eq=False)
class MemoryDataset(Dataset):
    """A data set with its pictures in memory: (3, H, W) uint8, by path."""

    pictures: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def decoding_cost(self, index: int) -> int:
        """Nothing is decoded."""
        return 0

    def __getitem__(self, index: int) -> Sample:
        """Picture ``index``: image (3, H, W), boxes (N, 4)."""
        truth = self.truth(index)
        return Sample(
            self.pictures[truth.path], truth.boxes, truth.labels, truth.ignore | truth.crowd, truth.image_id, truth.path
        )


def synthetic_dataset(config: SyntheticConfig, first: int = 0) -> MemoryDataset:
    """The pictures first .. first + config.count - 1 in memory, (3, H, W) each. Category ids are 1..K."""
    samples = [generate(first + i, config) for i in range(config.count)]
    boxes = torch.cat([s.boxes for s in samples]) if samples else torch.zeros(0, 4)
    labels = torch.cat([s.labels for s in samples]) if samples else torch.zeros(0, dtype=torch.int64)
    return MemoryDataset(
        root=Path("synthetic"),
        format="synthetic",
        split=None,
        paths=tuple(s.path for s in samples),
        image_ids=tuple(s.image_id for s in samples),
        sizes=(config.size,) * len(samples),
        offsets=torch.tensor([0, *(len(s.labels) for s in samples)]).cumsum(0),
        boxes=boxes,
        labels=labels,
        ignore=torch.zeros(len(labels), dtype=torch.bool),
        crowd=torch.zeros(len(labels), dtype=torch.bool),
        area=box_ops.area(boxes),
        classes=config.classes,
        category_ids=tuple(range(1, len(config.classes) + 1)),
        pictures={s.path: s.image for s in samples},
    )
