"""Anchor shapes that fit the training pictures: for a config, and for a detector that is about to be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onestage.data import Dataset
from onestage.errors import known_keywords
from onestage.model.anchors.fit import Objects, fit
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.heads.separable import SeparableHead
from onestage.model.heads.shared import SharedHead
from onestage.training.coverage import AT_ONCE, PlacedObjects

ONE_HEAD = (SharedHead, SeparableHead)
"""Heads that all levels share, so that a shape means the same on each, in units of the level's size."""


@known_keywords
def fit_anchors(model: Detector, data: Dataset, *, seed: int = 0, advance: Callable[[int], object] = int) -> DetectorConfig:
    """The config of the detector with anchor shapes that fit the objects of a data set, at the detector's input size.

    Levels, cells and the number of shapes per level stay. The shapes stay too if no others reach the objects better, or if
    there are no objects. Of a data set with more than ``onestage.training.coverage.AT_ONCE`` objects, those of evenly spread
    pictures are taken. seed: of what is random; the same seed and objects give the same shapes. advance: is called with 1 after
    each of ``onestage.model.anchors.fit.ROUNDS`` rounds.
    """
    every = -(-len(data.labels) // AT_ONCE)
    objects = PlacedObjects.of(model, data.subset(range(0, len(data), every)) if every > 1 else data)
    if not len(objects.labels):
        return model.config
    extents, apart = objects.apart(model.config.levels)
    wanted, shared = Objects.of(extents, apart, objects.labels), isinstance(model.config.head, ONE_HEAD)
    return replace(model.config, anchors=fit(model.config.levels, wanted, shared=shared, seed=seed, advance=advance))


def with_anchors(model: Detector, config: DetectorConfig) -> Detector:
    """A detector with the weights of the model and the anchors of a config that is otherwise the model's."""
    changed = Detector.on("cpu", replace(model.config, anchors=config.anchors))
    changed.load_state_dict(model.state_dict())
    return changed
