"""Published weights from which a detector can start, and whether they lie on this machine. No connection is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch.hub import get_dir

from onestage.errors import ConfigError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.weights.fetch import cached, cached_hub
from onestage.weights.projects import timm, torchvision
from onestage.weights.source import WEIGHTS, tags


@dataclass(frozen=True)
class Offer:
    """Published weights. title: for people. setting: the argument of ``create`` that takes them. name: its value that fetches
    them. path: the file, if it is on this machine.
    """

    title: str
    setting: Literal["weights", "backbone_weights"]
    name: str
    path: Path | None


def offers(config: DetectorConfig) -> Iterator[Offer]:
    """The weights that suit a detector, the best first: of the whole detector, then of its backbone."""
    for tag in tags(config.name):
        published = WEIGHTS[f"{config.name}.{tag}"]
        path = cached(published.url, published.sha256)
        yield Offer(f"{config.name}.{tag}", "weights", tag, path)
    if isinstance(config.backbone, TimmBackbone):
        name = config.backbone.name
        try:
            place = timm.published(name)
        except ConfigError:
            return
        yield Offer(f"ImageNet weights of {name}", "backbone_weights", "imagenet", cached_hub(*place))
    elif (found := torchvision.published_backbone(config)) is not None:
        url = found[1].url
        path = cached(url) or cached(url, folder=Path(get_dir()) / "checkpoints")
        yield Offer(f"ImageNet weights of {found[0]}", "backbone_weights", "imagenet", path)
