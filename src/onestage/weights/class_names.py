"""The classes that published weights are for, in the order of their outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.models.detection import SSD300_VGG16_Weights

from onestage.structures import ClassSet

_COCO = list(enumerate(SSD300_VGG16_Weights.COCO_V1.meta["categories"]))[1:]

COCO_90 = ClassSet(tuple(name if name != "N/A" else f"N/A {i}" for i, name in _COCO), tuple(i for i, _ in _COCO))
"""COCO's category ids 1..90 as outputs. The ids that COCO does not use have their number in the name."""

COCO_80 = ClassSet(tuple(name for _, name in _COCO if name != "N/A"), tuple(i for i, name in _COCO if name != "N/A"))
"""COCO's 80 categories alone, with their ids."""

_VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

VOC = ClassSet(_VOC, tuple(range(len(_VOC))))
"""Pascal VOC's 20 classes, in the alphabetical order of its development kit."""


def ids_of(names: Sequence[str]) -> tuple[int, ...]:
    """The category ids of classes with these names: COCO's if all are COCO's, in any capitals, otherwise 0..K-1.

    Names for ids that COCO does not use have the id behind them, as in "N/A 12".
    """
    known = {name.lower(): id for name, id in zip(COCO_90.names, COCO_90.ids, strict=True)}
    plain = [f"N/A {name.split()[1]}" if name.startswith("???") and " " in name else name for name in names]
    ids = [known.get(name.lower()) for name in plain]
    found = tuple(id for id in ids if id is not None)
    return found if len(found) == len(names) else tuple(range(len(names)))
