"""Patterns of the built-in data: backgrounds (a picture's ground) and patterns on solids. Values lie in 0..1.

Shape letters: H, W the picture; n points of a surface. All random numbers come from the generator that is passed in, so a
seed gives one picture. Pillow enlarges lattices of them. Sizes of features are relative to the picture: in a larger picture
the same seed looks the same, only finer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from onestage.data.solids import Floats
from onestage.structures import Size


def colour(
    rng: Generator, *, saturation: tuple[float, float], value: tuple[float, float], hue: tuple[float, float] = (0, 6)
) -> Floats:
    """(3,) RGB: hue (0 red, 1 yellow, 2 green ... 6 red), saturation and value are drawn from these ranges."""
    angle, low = rng.uniform(*hue), 1 - rng.uniform(*saturation)
    rgb = np.clip(np.abs((angle + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    shade: Floats = ((low + (1 - low) * rgb) * rng.uniform(*value)).astype(np.float32)
    return shade


def wave(x: Floats) -> Floats:
    """A smooth wave of period 1 between 0 and 1, without a sine; x and the result have one shape, (n,) or (H, W)."""
    ramp = np.abs(2 * (x - np.floor(x)) - 1)
    return ramp * ramp * (3 - 2 * ramp)


def step(x: Floats, threshold: float, width: float) -> Floats:
    """0 below the threshold, 1 above, smooth over ``width``; x and the result have one shape, (n,) or (H, W)."""
    ramp = np.clip((x - threshold) / width + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def noise(rng: Generator, size: Size, cells: float, octaves: int = 1, stretch: float = 1.0) -> Floats:
    """(H, W) cloudy noise about 0.5: ``cells`` blots along the shorter side, of half the size and strength with each octave.

    ``stretch``: how many times wider than high the blots are.
    """
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        pitch = min(size) / (cells * 2**octave)
        lattice = rng.random((int(size[0] / pitch) + 3, int(size[1] / pitch / stretch) + 3), dtype=np.float32)
        # enlarged by exactly the pitch and cropped: a rectangle shows more blots, not wider ones
        box = (0.5, 0.5, 0.5 + size[1] / pitch / stretch, 0.5 + size[0] / pitch)
        blots = Image.fromarray(lattice).resize((size[1], size[0]), Image.Resampling.BICUBIC, box)
        total += (np.asarray(blots) - 0.5) / 2**octave
    return total + 0.5


def _axes(rng: Generator, size: Size, turn: float) -> tuple[Floats, Floats]:
    """Two (H, W) coordinates in shorter sides, turned by at most that many degrees."""
    angle = np.radians(rng.uniform(-turn, turn))
    y, x = (np.arange(side, dtype=np.float32) / min(size) for side in size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x[None] * cos + y[:, None] * sin, y[:, None] * cos - x[None] * sin


def _plaster(rng: Generator, size: Size) -> Floats:
    return noise(rng, size, rng.uniform(2, 5), octaves=6)


def _marble(rng: Generator, size: Size) -> Floats:
    vein = 1 - 2 * np.abs(noise(rng, size, 2.5, octaves=5) - 0.5)
    return 0.35 * noise(rng, size, 3, octaves=3) + 0.65 * (vein * vein) ** 2


def _wood(rng: Generator, size: Size) -> Floats:
    """Planks. Each has a shade and is cut from a different place of the tree."""
    height, width = size
    boards = rng.uniform(2.5, 6)
    across = (np.arange(height, dtype=np.float32) / min(size) * np.float32(boards) + np.float32(rng.random()))[:, None]
    plank = np.floor(across).astype(int)
    tree = (height, 2 * width)
    rings = wave(noise(rng, tree, boards, octaves=2, stretch=6) * np.float32(rng.uniform(2, 5)))
    grain = 0.6 * noise(rng, tree, 24, octaves=2, stretch=12) + 0.3 * rings
    cuts, shades = rng.integers(0, width, plank.max() + 1), rng.uniform(0, 0.3, plank.max() + 1).astype(np.float32)
    cut = np.take_along_axis(grain, np.arange(width)[None] + cuts[plank], axis=1)
    return (cut + shades[plank]) * (1 - 0.7 * step(wave(across), 0.985, 0.02))


def _fabric(rng: Generator, size: Size) -> Floats:
    """A plain weave, in broad stripes."""
    x, y = _axes(rng, size, 45)
    threads = rng.uniform(28, 45)
    weave = np.maximum(wave(x * threads) * wave(y * threads / 2), wave(y * threads + 0.5) * wave(x * threads / 2 + 0.5))
    return 0.35 * weave + 0.3 * wave(x * rng.uniform(1, 5)) + 0.35 * noise(rng, size, 6, octaves=3)


def _tiles(rng: Generator, size: Size) -> Floats:
    x, y = _axes(rng, size, 30)
    count = rng.uniform(2.5, 6)
    joint = np.maximum(step(wave(x * count), 0.975, 0.03), step(wave(y * count), 0.975, 0.03))
    tint = wave(np.floor(x * count) * np.float32(0.37) + np.floor(y * count) * np.float32(0.61))
    return (0.35 * tint + 0.6 * noise(rng, size, 4, octaves=5)) * (1 - 0.7 * joint)


def _terrazzo(rng: Generator, size: Size) -> Floats:
    ground = 0.3 * noise(rng, size, 3, octaves=4)
    for threshold, level in ((0.66, 0.5), (0.7, 0.9), (0.74, 0.1)):
        chips = step(noise(rng, size, rng.uniform(14, 30)), threshold, 0.04)
        ground = ground + chips * (level - ground)
    return ground


def _gradient(rng: Generator, size: Size) -> Floats:
    along, _ = _axes(rng, size, 180)
    low, high = along.min(), along.max()
    return 0.8 * (along - low) / (high - low) + 0.2 * noise(rng, size, 3, octaves=6)


GROUNDS: tuple[Callable[[Generator, Size], Floats], ...] = (_plaster, _marble, _wood, _fabric, _tiles, _terrazzo, _gradient)


def ground(rng: Generator, size: Size) -> Floats:
    """(3, H, W): one of the grounds, upright or on its side, in two muted colours, with a few faint strokes."""
    kind = GROUNDS[rng.integers(len(GROUNDS))]
    pattern = kind(rng, size) if rng.random() < 0.5 else kind(rng, (size[1], size[0])).T
    hue = (0.2, 1.0) if rng.random() < 0.6 else (0.0, 6.0)  # wood, stone, sand and linen first of all
    first = colour(rng, hue=hue, saturation=(0.0, 0.45), value=(0.5, 1.0))
    second = colour(rng, hue=hue, saturation=(0.0, 0.45), value=(0.2, 0.8)) * np.float32(0.6) + first * np.float32(0.4)
    picture = (first - second)[:, None, None] * np.clip(pattern, 0, 1)
    picture += second[:, None, None]
    ink = np.float32(rng.uniform(0.04, 0.1) * rng.choice([-1, 1]))
    picture += ink * _strokes(rng, size, int(rng.integers(0, 5)))
    return picture


def _strokes(rng: Generator, size: Size, count: int) -> Floats:
    """(H, W): bent lines of various widths, up to 1 on a line."""
    canvas = Image.new("L", (2 * size[1], 2 * size[0]))
    pen = ImageDraw.Draw(canvas)
    t = np.linspace(0, 1, 80)[:, None]
    for _ in range(count):
        start, bend, end = rng.uniform(-0.2, 1.2, (3, 2)) * canvas.size
        radius, strength = rng.uniform(0.002, 0.012) * min(canvas.size), int(rng.integers(120, 256))
        curve = start * (1 - t) ** 2 + 2 * bend * t * (1 - t) + end * t**2
        pen.line([(x, y) for x, y in curve.tolist()], fill=strength, width=max(1, round(2 * radius)), joint="curve")
    return np.asarray(canvas.reduce(2), np.float32) / 255


def _bands(rng: Generator, points: Floats) -> Floats:
    """Stripes across a random direction of the solid."""
    direction = rng.normal(size=3)
    x, y, z = (direction / np.linalg.norm(direction) * rng.uniform(0.7, 1.8)).astype(np.float32)
    return step(wave(points[0] * x + points[1] * y + points[2] * z + np.float32(rng.random())), rng.uniform(0.4, 0.6), 0.15)


def _spots(rng: Generator, points: Floats) -> Floats:
    shift = rng.random((3, 1)).astype(np.float32)
    x, y, z = wave(points * np.float32(rng.uniform(1.4, 2.4)) + shift)
    return step(x * y * z, rng.uniform(0.2, 0.35), 0.12)


def _checks(rng: Generator, points: Floats) -> Floats:
    x, y, z = wave(points * np.float32(rng.uniform(0.9, 1.6)) + rng.random((3, 1)).astype(np.float32)) - np.float32(0.5)
    return step(x * y * z, 0.0, 0.03)


def _streaks(rng: Generator, points: Floats) -> Floats:
    """Soft veins, two waves bending each other."""
    a, b = rng.uniform(0.8, 2.2, 2).astype(np.float32)
    return 0.7 * wave(points[0] * a + wave(points[1] * b + points[2]) + np.float32(rng.random()))


PATTERNS = (_bands, _spots, _checks, _streaks)


def paint(rng: Generator, points: Floats) -> Floats:
    """Surface points (3, n) -> their colours (3, n): one colour with probability 1/2, or two colours in one of the patterns."""
    base = colour(rng, saturation=(0.3, 0.95), value=(0.55, 1.0))
    other = colour(rng, saturation=(0.0, 0.9), value=(0.2, 1.0))
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    if rng.random() < 0.5:
        return np.broadcast_to(base[:, None], points.shape)
    mix: Floats = (other - base)[:, None] * pattern(rng, points).astype(np.float32, copy=False)
    mix += base[:, None]
    return mix
