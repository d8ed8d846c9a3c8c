"""Which detector to train: what the user names, and what the rules decide where the user names none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from onestage.errors import ConfigError

if TYPE_CHECKING:
    from onestage.data import Dataset
    from onestage.model.config import DetectorConfig
    from onestage.training.rules import Decision
    from onestage.weights.source import Source


@dataclass(frozen=True)
class ModelChoice:
    """Which detector, and what it starts from."""

    model: str | None = None
    """A recipe of the zoo: see onestage models; by default that of the weights, or what suits the data and this machine."""
    size: str | None = None
    """Input size in pixels, 300 or 240x320 (height x width); by default that of your model in --weights, or of the recipe; if
    --model is left out too, what suits the data."""
    backbone: str | None = None
    """For --model ssd, dssd, retinanet or efficientdet: any timm backbone, such as timm/resnet34."""
    box_sizes: tuple[float, ...] | None = None
    """Sizes of the default boxes in input pixels, one per level and one more; by default those of the recipe."""
    weights: str | None = None
    """Start from a detector: a file, ours or of another project, or "coco" if such weights are published. A model that you have
    trained keeps the settings that differ from its recipe."""
    background: Literal["first", "none"] | None = None
    """Whether the first output in --weights stands for background, if they are of a RetinaNet of torchvision; by default what
    the number of the data's classes says."""
    backbone_weights: str | None = None
    """Start from a classifier: a file, or "imagenet" for published weights."""
    changes: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Change anything else of the recipe, as often as wanted: --set loss.negative_ratio=2 --set assigner.claim=greedy."""

    def source(self) -> Source | None:
        """Read the weights of a detector to start from. Return None for a tag if no model is named."""
        from onestage.creation import find_source

        if self.model is None and (self.weights is None or self.weights.isidentifier()):
            return None
        source = find_source(self.model or "", self.weights, self.backbone_weights)
        return source if source is None or self.background is None else source.settled(None, self.background)

    def config(self, classes: tuple[str, ...], source: Source | None = None) -> DetectorConfig:
        """The recipe for these classes, with its changes. The weights decide the settings that the user does not give."""
        from onestage.cli.generate import parse_size
        from onestage.creation import as_in_weights
        from onestage.zoo.table import ZOO, recipe

        name = self.model or (None if source is None else source.model)
        if name is None:
            expected = f"--model and a name, such as {', '.join([*ZOO][:3])}"
            raise ConfigError("no model is named", expected=expected, fix="see all names: onestage models")
        asked = None if self.size is None else parse_size(self.size)
        size, backbone = as_in_weights(name, source, size=asked, backbone=self.backbone)
        config = recipe(name, classes, size=size, box_sizes=self.box_sizes, backbone=backbone)
        for change in self.changes:
            if "=" not in change:
                raise ConfigError("--set takes KEY=VALUE", got=change, fix="write it as in --set loss.negative_ratio=2")
        changes = dict(change.split("=", 1) for change in self.changes)
        if "preprocess.size" in changes:
            what = "the recipe's levels and boxes follow from its size, so it is given to the recipe"
            raise ConfigError(what, where="--set preprocess.size", fix="--size HEIGHTxWIDTH")
        try:
            return config.replace(changes)
        except ConfigError as error:
            error.got = error.got or ", ".join(f"--set {change}" for change in self.changes)
            error.fix = error.fix or "docs/parts.md has all settings: --set KEY=VALUE"
            raise


NO_CHOICE = ModelChoice()


def choose_detector(asked: ModelChoice, data: Dataset) -> tuple[ModelChoice, tuple[Decision, ...]]:
    """The choice completed by a model and its input size, and how they were decided. data: the pictures to learn from."""
    from onestage.training.rules import Decision

    decision = Decision("model", "dssd on resnet18", "a map of stride 8, and features of every level in it", "--model")
    chosen = replace(asked, model="dssd", backbone=asked.backbone or "timm/resnet18", size=asked.size or "320")
    return chosen, (decision,)
