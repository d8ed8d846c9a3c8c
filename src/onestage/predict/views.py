"""Closer looks at pictures: in tiles, mirrored, in several scales, by several models.

Shape letters: B pictures, H and W of one. Pictures are (3, H, W) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from onestage import boxes as box_ops
from onestage.errors import ConfigError, known_keywords
from onestage.model.detector import Detector
from onestage.predict.fusion import Fused
from onestage.predict.predictor import MOST_PIXELS, Looker, Predictor, Through, not_a_detector
from onestage.predict.tiles import Tiled
from onestage.predict.windows import Tiles
from onestage.structures import Detections

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Mirrored(Through):
    """Look at the mirror image of each picture, and give the boxes where the objects are."""

    @property
    def name(self) -> str:
        """The name of the looker, and that it sees mirror images."""
        return f"{self.looker.name}, mirrored"

    def detect(self, pictures: Sequence[Tensor], *, score: float | None = None) -> list[Detections]:
        """The detections of B pictures, (3, H, W) each. Of large pictures, there is one mirror image at a time."""
        pixels = sum(picture.shape[1] * picture.shape[2] for picture in pictures)
        portions = [pictures] if pixels <= MOST_PIXELS else [[picture] for picture in pictures]
        found = [one for part in portions for one in self.looker.detect([p.flip(2) for p in part], score=score)]
        return [replace(one, boxes=box_ops.flip_horizontal(one.boxes, one.size[1])) for one in found]


@known_keywords
def look(
    model: Detector | Predictor,
    *,
    tiles: Tiles = None,
    overlap: float = 0.2,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    batch_size: int = 8,
) -> Looker:
    """The model, looking closer: it finds small objects in large pictures, but each picture takes several passes through the
    network, which ``passes((height, width))`` counts. It predicts and is measured as the model is:
    ``onestage.evaluate(onestage.look(model, tiles="auto"), data)``.

    tiles: (height, width) in pixels of the picture, or "auto": the size in which objects of 20 pixels are as large as the
    smallest anchors need. Tiles overlap by the part ``overlap``, and the whole picture is looked at too; objects are neither
    split nor counted twice. flip: look at the mirror image too. scales: show objects so many times as large; (0.8, 1, 1.25) are
    three looks. Weighted boxes fusion joins what mirror images and scales show. batch_size: windows that go through the network
    together.

    Raise ConfigError for a value out of its range, or for what is not a single model.
    """
    predictor = _predictor(model)
    scales = _several(scales, "scales", fix="such as scales=(0.8, 1, 1.25)")
    if not scales or len(set(scales)) != len(scales):
        expected, fix = "one or more, none twice", "such as scales=(0.8, 1, 1.25)"
        raise ConfigError("these are no scales", got=scales, expected=expected, fix=fix)
    looks: list[Looker] = [Tiled(predictor, tiles, overlap, scale, batch_size) for scale in scales]
    if flip:
        looks += [Mirrored(one) for one in looks]
    if len(looks) == 1:
        return looks[0]
    title = Tiled(predictor, tiles, overlap, batch_size=batch_size).name + (", mirrored too" if flip else "")
    if tuple(scales) != (1.0,):
        title += f", scales {' '.join(f'{scale:g}' for scale in scales)}"
    return Fused(tuple(looks), title=title)


@known_keywords
def fuse(models: Sequence[Detector | Looker], *, weights: Sequence[float] | None = None) -> Looker:
    """Several models as one, by weighted boxes fusion (``predict.fusion``). It predicts and is measured as a model is.

    models: detectors, exported files that are loaded, or results of ``look``. Classes are matched by name; those that only some
    models know are found too. weights: how much each model counts.

    Raise ConfigError unless there is a weight above 0 for each model.
    """
    given = _several(models, "models", fix="onestage.fuse([one, other])")
    several = tuple(one if isinstance(one, Through | Fused) else _predictor(one) for one in given)
    return Fused(several, () if weights is None else _several(weights, "weights", fix="such as weights=(2, 1)"))


def _several(given: Iterable[T], name: str, *, fix: str) -> tuple[T, ...]:
    """What is given for an argument, as a tuple. Raise ConfigError if it is a single thing."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"{name} are several", got=f"a {type(given).__name__}", expected="a list", fix=fix)
    return tuple(given)


def _predictor(model: object) -> Predictor:
    """What runs a model. Raise ConfigError if it is none."""
    if isinstance(model, Predictor):
        return model
    if isinstance(model, Detector):
        return Predictor.of(model)
    if isinstance(model, Through | Fused):
        what, fix = "this looks closer already", "fuse what looks: onestage.fuse([onestage.look(a), onestage.look(b)])"
        raise ConfigError(what, got=model.name, expected="a model", fix=fix)
    raise not_a_detector(model)
