"""The table of published weights, and how a tag, a path or an address becomes a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torchvision.models import WeightsEnum, detection

from onestage.errors import WeightsError, nearest
from onestage.files import given_path
from onestage.structures import ClassSet
from onestage.weights.class_names import COCO_90
from onestage.weights.fetch import fetch, fetch_hub, fetch_url
from onestage.weights.projects import effdet
from onestage.weights.source import Normalization, Source, read_source

HUB = "hf-hub:"
"""How an address on the Hugging Face hub begins, as timm writes it."""


@dataclass(frozen=True)
class Published:
    """Published weights of a model: the address, the licence, the AP on COCO val2017, and the recipe of their training.

    sha256: the checksum or its first digits; None if the file's name ends in them. pixels: mean and std if they
    differ from those of the recipe.
    """

    url: str
    licence: str
    ap: float
    recipe: str
    sha256: str | None = None
    classes: ClassSet = COCO_90
    pixels: Normalization | None = None


def _torchvision(weights: WeightsEnum, ap: float) -> Published:
    return Published(str(weights.url), "BSD-3-Clause (torchvision)", ap, str(weights.meta["recipe"]))


WEIGHTS = {
    "ssd300_vgg16.coco": _torchvision(detection.SSD300_VGG16_Weights.COCO_V1, 25.1),
    "ssdlite320_mobilenet_v3_large.coco": _torchvision(detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1, 21.3),
    "retinanet_r50_fpn.coco": _torchvision(detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1, 36.4),
    "retinanet_r50_fpn_v2.coco": _torchvision(detection.RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1, 41.5),
    **{
        tag: Published(effdet.RELEASE + file, "Apache-2.0 (effdet)", ap, by, pixels=effdet.PIXELS.get(tag))
        for tag, (file, ap, by) in effdet.PUBLISHED.items()
    },
}
"""MODEL.TAG -> published weights; AP as torchvision and effdet state it."""


def tags(model: str) -> list[str]:
    """The tags under which weights are published for a model of the zoo."""
    return [key.split(".", 1)[1] for key in WEIGHTS if key.startswith(f"{model}.")]


def open_weights(model: str, weights: str | Path) -> Source:
    """The weights of a detector in a file, at an address or under a published tag of the model, read and recognised.

    Raise WeightsError if there are none, or they are of no known detector.
    """
    source = read_source(_locate(model, weights))
    published = _published(model, weights)
    if published is None:
        return source
    return replace(source.settled(None).renamed(published.classes), pixels=published.pixels)


def _published(model: str, weights: str | Path) -> Published | None:
    """The weights of a tag; None if there is a file of that name. (A folder may have the name "coco".)"""
    return None if _is_file(weights) else WEIGHTS.get(f"{model}.{weights}")


def _locate(model: str, weights: str | Path) -> Path:
    """The file of a path or tag. The file of a tag is fetched and checked."""
    published = _published(model, weights)
    if published is not None:
        return fetch(published.url, sha256=published.sha256)
    return find_file(weights, model)


def find_file(weights: str | Path, model: str | None = None) -> Path:
    """The file of a path or an address. The file of an address is fetched. model: the model whose tags a message can suggest.

    Raise WeightsError if there is no such file.
    """
    given = str(weights)
    if given.startswith("https://"):
        return fetch_url(given)
    if given.startswith(HUB):
        return fetch_hub(given.removeprefix(HUB), "model.safetensors")
    if not _is_file(weights):
        given_path(weights, "weights")  # raises if no file can have this name
        raise _no_weights(given, model)
    return Path(weights)


def _is_file(path: str | Path) -> bool:
    """Whether there is such a file; False also for what is no path."""
    try:
        return Path(path).is_file()
    except (TypeError, ValueError, OSError):
        return False


def _no_weights(given: str, model: str | None) -> WeightsError:
    choices, known = f"a file, https://..., {HUB}owner/name", tags(model or "")
    if known:
        choices += f", or one of the tags {', '.join(known)}"
    elif model is not None and Path(given).name == given and not Path(given).suffix:  # looks like a tag
        others = ", ".join(dict.fromkeys(key.split(".")[0] for key in WEIGHTS))
        fix = f"give a file, or take a model with published weights: {others}"
        return WeightsError(f"no such weights: nothing is published for {model}", got=given, expected=choices, fix=fix)
    models = sorted(str(file) for file in Path(given).glob("*.safetensors"))  # of a run, for example
    fix = f"name the file: {' or '.join(models)}" if models else "check the path"
    return WeightsError("no such weights" + nearest(given, known), got=given, expected=choices, fix=fix)
