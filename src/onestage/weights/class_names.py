"""The classes that published weights are for, in the order of their outputs."""

from __future__ import annotations

from typing import NamedTuple

from torchvision.models.detection import SSD300_VGG16_Weights

from onestage.model.config import DetectorConfig


class Classes(NamedTuple):
    """K names, and the data set's own ids of these classes."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


_COCO = list(enumerate(SSD300_VGG16_Weights.COCO_V1.meta["categories"]))[1:]

COCO_90 = Classes(tuple(name if name != "N/A" else f"N/A {i}" for i, name in _COCO), tuple(i for i, _ in _COCO))
"""COCO's category ids 1..90 as outputs; the ids that COCO does not use are told apart by their number."""

COCO_80 = Classes(tuple(name for _, name in _COCO if name != "N/A"), tuple(i for i, name in _COCO if name != "N/A"))
"""COCO's 80 categories alone, with their ids."""

_VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

VOC = Classes(_VOC, tuple(range(len(_VOC))))
"""Pascal VOC's 20 classes, in the alphabetical order of its development kit."""


def known_classes(count: int, *known: Classes) -> Classes:
    """The one of ``known`` that has so many classes, else classes by number.

    A file of weights rarely names its classes, so their number tells: a project's published weights are for few data sets.
    """
    if count < 1:
        raise ValueError(f"outputs for {count} classes")
    numbered = Classes(numbered_classes(count), tuple(range(count)))
    return next((classes for classes in known if len(classes.names) == count), numbered)


def numbered_classes(count: int) -> tuple[str, ...]:
    """The names of classes that were given by number only: weights or training replace them by the true ones."""
    return tuple(f"class {i}" for i in range(count))


def is_numbered(config: DetectorConfig) -> bool:
    return config.classes == numbered_classes(len(config.classes))
