"""The definition of a detector as plain frozen data: its parts and their numbers. Every checkpoint stores it.

A part is a frozen dataclass. A new part needs the class, and its name in a union: ``Backbone``, ``Neck``, ``Head`` or
``ClassLoss`` in the kinds.py of its folder, or the type of a field below. These unions are the closed table of kinds. Reading a
config runs no code but their constructors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from onestage.errors import ConfigError, require
from onestage.model.anchors.atss import ATSSAssigner
from onestage.model.anchors.coder import BoxCoder
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.anchors.plans import AnchorPlan
from onestage.model.backbones.kinds import Backbone
from onestage.model.codec import Part, Value, WithoutKind, changed, decode, encode
from onestage.model.heads.kinds import Head
from onestage.model.heads.per_level import ConvHead
from onestage.model.limits import CONFIG_TEXT, MANY_CLASSES, MANY_LEVELS, Id, Name
from onestage.model.losses.kinds import ClassLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.necks.kinds import Neck
from onestage.model.output.postprocess import Postprocess
from onestage.model.preprocess import Preprocess

PRIOR = 0.01
"""The probability of every class at the start of training with a loss of sigmoids, unless the head states it (RetinaNet,
section 3.3).
"""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(Part, WithoutKind):
    """A whole detector.

    name: the name of its recipe. classes: the K names. category_ids: the ids of the classes in the data set, 0..K-1 unless
    given. neck: if None, the head takes the maps of the backbone. anchors: one entry per map that the head takes, fine to
    coarse, or a rule. A detector replaces a rule by the entries that follow from its maps.
    """

    name: Name
    classes: Annotated[tuple[Name, ...], MANY_CLASSES]
    category_ids: Annotated[tuple[Id, ...], MANY_CLASSES] = ()
    preprocess: Preprocess
    backbone: Backbone
    neck: Neck | None = None
    head: Head = field(default_factory=ConvHead)
    anchors: Annotated[tuple[AnchorLevel, ...], MANY_LEVELS] | AnchorPlan
    coder: BoxCoder = field(default_factory=BoxCoder)
    assigner: MaxIoUAssigner | ATSSAssigner = field(default_factory=MaxIoUAssigner)
    loss: ClassLoss = field(default_factory=MultiBoxLoss)
    postprocess: Postprocess = field(default_factory=Postprocess)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(len(self.classes))))
        names, ids = self.classes, self.category_ids
        require(bool(names), "class names must be there", got=list(names))
        require(len(set(names)) == len(names), "every class name stands only once", got=list(names))
        require(len(set(ids)) == len(ids) == len(names), f"one category id for each of the {len(names)} classes", got=ids)
        if self.loss.activation == "sigmoid" and self.head.prior is None:  # at 0.5 the negatives would outweigh the rest
            object.__setattr__(self, "head", dataclasses.replace(self.head, prior=PRIOR))

    @property
    def logits(self) -> int:
        """C: how many logits the head gives per anchor; with a softmax it is one more than the number of classes, for the
        background.
        """
        return len(self.classes) + (self.loss.activation == "softmax")

    @property
    def levels(self) -> tuple[AnchorLevel, ...]:
        """The anchors, level by level; empty if the anchors are a rule. The config of a built detector has no rule."""
        assert isinstance(self.anchors, tuple)
        return self.anchors

    def replace(self, changes: Mapping[str, Value]) -> DetectorConfig:
        """A copy with other values, each named by its path: ``config.replace({"loss.negative_ratio": 2})``. All changes are
        made together, in any order; a whole part is replaced before the values in it.

        A value may be text, as on a command line. Raise ConfigError for an unknown key, with the nearest known one.
        """
        if "classes" in changes and "category_ids" not in changes and self.category_ids == tuple(range(len(self.classes))):
            changes = {**changes, "category_ids": ()}  # the user did not choose these, so they follow from the classes
        return changed(self, changes)

    def to_json(self) -> str:
        """The config as one line of JSON. The inverse of ``from_json``."""
        return json.dumps(encode(self))

    @staticmethod
    def from_json(text: str) -> DetectorConfig:
        """The config that the text holds. Raise ConfigError if it is not a config of this version of the project."""
        CONFIG_TEXT.check(text, "config")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ConfigError("the stored config is not JSON", got=str(e), fix="take another copy of the file") from e
        return decode(data, DetectorConfig, "config")
