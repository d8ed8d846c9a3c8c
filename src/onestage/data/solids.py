"""The solid bodies of the built-in data: signed distance functions, and the ray tracing that turns one into a surface.

Shape letters: n points or rays; h, w height and width of a patch. A distance function takes points (3, n) float32 and
returns (n,) distances: negative inside and positive outside. They never exceed the true distance, so a ray may safely step
that far (sphere tracing: Hart, "Sphere tracing", The Visual Computer 12, 1996). Every solid lies within the unit ball. In the
solid's axes x points right, y up, z to the viewer. The code avoids powers, sines and exponentials of arrays: their last bit
differs between processors. The four operations and the square root give the same bits on all processors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating]  # always float32
Distance = Callable[[Floats], Floats]

STEPS, BURST = 28, 4  # of a ray at most; and between two looks at which rays are done
NEAR = 0.006  # of the unit ball: about a third of a pixel where the ball is 100 pixels across
BLOCK = 8  # rays along each side of the squares that take their first steps together
REACH = 0.16  # how far above a point other parts of the solid keep light from it


class Solid(NamedTuple):
    """A body, and the least and greatest angles of its pose in degrees: spin about its upright axis, then tilt towards the
    viewer.
    """

    distance: Distance
    spin: tuple[float, float]
    tilt: tuple[float, float]


class Surface(NamedTuple):
    """The hits of the rays of a patch.

    hit (h, w) bool. For the n hits in row order: points (3, n) in the solid's axes; normals (3, n) in the picture's axes (x
    right, y down, z to the viewer); openness (n,) in 0..1, low in creases and hollows, which get little light.
    """

    hit: NDArray[np.bool_]
    points: Floats
    normals: Floats
    openness: Floats


def _length(*parts: Floats) -> Floats:
    """(n,) lengths of vectors with these coordinates, (n,) each."""
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total += part * part
    length: Floats = np.sqrt(total, out=total)
    return length


def _tube(p: Floats, radius: float, low: float, high: float) -> Floats:
    """(n,) distances from an upright cylinder that reaches from y = low to y = high."""
    return np.maximum(_length(p[0], p[2]) - radius, np.abs(p[1] - (low + high) / 2) - (high - low) / 2)


def _blend(a: Floats, b: Floats, width: float) -> Floats:
    """(n,) distances from the union of two bodies, given theirs. The seam is rounded off over ``width``."""
    near = np.maximum(width - np.abs(a - b), 0)
    return np.minimum(a, b) - near * near / (4 * width)


def _mirror(x: Floats, y: Floats, degrees: float) -> tuple[Floats, Floats]:
    """x, y (n,) of points. Those beyond the ray at this angle from upright, clockwise, are reflected to its near side."""
    across, along = np.float32(np.cos(np.radians(degrees))), np.float32(np.sin(np.radians(degrees)))
    beyond = 2 * np.maximum(x * across - y * along, 0)
    return x - beyond * across, y + beyond * along


def ball(p: Floats) -> Floats:
    """A ball that almost fills the unit ball. Points (3, n) -> distances (n,)."""
    return _length(*p) - 0.98


def bottle(p: Floats) -> Floats:
    """A round bottle with a neck and a lid. Points (3, n) -> distances (n,)."""
    body = _tube(p, 0.24, -0.8, 0.02) - 0.12
    neck = _tube(p, 0.11, 0.15, 0.9) - 0.02
    lid = _tube(p, 0.15, 0.72, 0.93) - 0.02
    return np.minimum(_blend(body, neck, 0.2), lid)


def cone(p: Floats) -> Floats:
    """A traffic cone: a tapering tube on a square foot. Points (3, n) -> distances (n,)."""
    side = (_length(p[0], p[2]) - 0.1) * 0.976 + (p[1] - 0.88) * 0.217
    foot = np.maximum(np.maximum(np.abs(p[0]), np.abs(p[2])) - 0.48, np.abs(p[1] + 0.62) - 0.04)
    return np.minimum(np.maximum(side, np.abs(p[1] - 0.12) - 0.76), foot - 0.02)


def cube(p: Floats) -> Floats:
    """A cube with rounded edges. Points (3, n) -> distances (n,)."""
    x, y, z = np.abs(p) - np.float32(0.52)
    outside = _length(np.maximum(x, 0), np.maximum(y, 0), np.maximum(z, 0))
    return outside + np.minimum(np.maximum(np.maximum(x, y), z), 0) - 0.05


def mug(p: Floats) -> Floats:
    """A hollow cylinder with a handle. Points (3, n) -> distances (n,)."""
    handle = _length(_length(p[0] - 0.54, p[1]) - 0.3, p[2]) - 0.08
    return np.maximum(np.minimum(_tube(p, 0.55, -0.64, 0.64) - 0.02, handle), -_tube(p, 0.48, -0.55, 1.0))


def mushroom(p: Floats) -> Floats:
    """Half a ball on a stem. Points (3, n) -> distances (n,)."""
    cap = np.maximum(_length(p[0], p[1] + 0.02, p[2]) - 0.76, -0.02 - p[1]) - 0.06
    stem = _tube(p, 0.2, -0.82, 0.0) - 0.04
    return np.minimum(cap, stem)


def ring(p: Floats) -> Floats:
    """A torus. Points (3, n) -> distances (n,)."""
    return _length(_length(p[0], p[1]) - 0.68, p[2]) - 0.29


def star(p: Floats) -> Floats:
    """Five points with a ridge along each. Mirrors map all points of the star onto one half of the upper one. (3, n) ->
    distances (n,).
    """
    x, y = _mirror(*_mirror(np.abs(p[0]), p[1], 108), 36)
    edge = (np.abs(x) * 0.84 + (y - 0.98) * 0.35) / 0.91
    return (edge + np.abs(p[2]) * 0.75) * 0.8


SOLIDS: dict[str, Solid] = {
    "ball": Solid(ball, spin=(-180, 180), tilt=(-90, 90)),
    "bottle": Solid(bottle, spin=(-180, 180), tilt=(5, 40)),
    "cone": Solid(cone, spin=(-180, 180), tilt=(12, 40)),
    "cube": Solid(cube, spin=(20, 70), tilt=(20, 45)),
    "mug": Solid(mug, spin=(-45, 45), tilt=(15, 45)),
    "mushroom": Solid(mushroom, spin=(-180, 180), tilt=(-15, 35)),
    "ring": Solid(ring, spin=(-45, 45), tilt=(-45, 45)),
    "star": Solid(star, spin=(-35, 35), tilt=(-35, 35)),
}


def pose(spin: float, tilt: float, roll: float) -> Floats:
    """Angles in degrees -> (3, 3) rotation from the solid's axes to the viewer's: spin, then tilt, then roll in the picture."""
    (cs, ct, cr), (ss, st, sr) = np.cos(np.radians([spin, tilt, roll])), np.sin(np.radians([spin, tilt, roll]))
    about_y = np.array([[cs, 0, ss], [0, 1, 0], [-ss, 0, cs]])
    about_x = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    rotation: Floats = (about_z @ about_x @ about_y).astype(np.float32)
    return rotation


def _rotate(matrix: Floats, points: Floats) -> Floats:
    """(3, 3) @ (3, n), written out so that the sums have the same order on every processor."""
    x, y, z = points
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])


def _normals(distance: Distance, points: Floats) -> Floats:
    """Unit gradients (3, n) of the distance, from its values at the four corners of a small tetrahedron."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    values = np.stack([distance(points + corner[:, None] * np.float32(0.004)) for corner in corners])
    gradient = _rotate(corners.T[:, :3], values[:3]) + corners[3][:, None] * values[3]
    gradient /= np.maximum(_length(*gradient), np.float32(1e-6))
    return gradient


def _march(distance: Distance, entry: Floats, aim: Floats, ahead: Floats, clearance: float) -> Floats:
    """Walk along rays until the solid is within ``clearance``. entry (3, n): points of the plane before the unit ball; aim
    (3, 1): the direction; ahead (n,): a first stretch that is free.

    Return (n,), the whole way of each ray: inf if it misses the solid. A ray that still crawls along the solid after the
    last step does not count as a miss.
    """
    way = np.full(len(ahead), np.inf, np.float32)
    rays, points, gone = np.arange(len(way)), entry + aim * ahead, ahead.copy()
    for _ in range(STEPS // BURST):
        for _ in range(BURST):
            step = distance(points) - clearance
            gone += step
            points += aim * step
        arrived = step <= NEAR
        way[rays[arrived]] = gone[arrived]
        going = np.flatnonzero(~arrived & (gone < 2))
        rays, points, gone = rays[going], points.take(going, axis=1), gone[going]
    way[rays] = gone
    return way


def trace(distance: Distance, rotation: Floats, x: Floats, y: Floats) -> Surface:
    """Look at a solid along parallel rays that meet the picture at x (w,) and y (h,).

    x points right and y down, in radii of the unit ball from its centre. w and h are multiples of BLOCK. rotation (3, 3): the
    solid's pose. A first, coarse step along the middle of each block of rays finds how far all rays of the block
    can go at once, and which blocks hit nothing.
    """
    right, up, towards = rotation[0][:, None], rotation[1][:, None], rotation[2][:, None]  # the viewer's axes in the solid's

    def entry(x: Floats, y: Floats) -> Floats:
        return right * x - up * y + towards

    across, down = np.meshgrid(x.reshape(-1, BLOCK).mean(1), y.reshape(-1, BLOCK).mean(1))
    clearance = 0.75 * BLOCK * float(x[1] - x[0])  # more than half the diagonal of a block
    blocks = entry(across.ravel(), down.ravel())
    safe = _march(distance, blocks, -towards, np.zeros_like(blocks[0]), clearance)
    ahead = safe.reshape(across.shape).repeat(BLOCK, 0).repeat(BLOCK, 1)
    rows, columns = np.nonzero(ahead < np.inf)
    rays = entry(x[columns], y[rows])
    points = rays - towards * np.minimum(_march(distance, rays, -towards, ahead[rows, columns], 0.0), 2)
    met = distance(points) < 2 * NEAR
    hit, points = np.zeros(ahead.shape, bool), points.take(np.flatnonzero(met), axis=1)
    hit[rows, columns] = met
    normals = _normals(distance, points)
    openness = np.clip(distance(points + normals * np.float32(REACH)) / np.float32(REACH), 0, 1)
    seen = _rotate(rotation, normals) * np.array([[1], [-1], [1]], np.float32)
    return Surface(hit, points, seen, openness)
