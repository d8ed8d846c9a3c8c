"""Weights to start from: the table of published ones, and the way of any file into a detector.

A weights file is recognised by its keys, never by its name. What a foreign project calls things stays in ``adapt_*.py``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torchvision.models import WeightsEnum, detection

from onestage.errors import OnestageError, WeightsError, explain, first_ten, located, nearest
from onestage.model.backbones import TimmBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.files import check_finite, is_safetensors, is_tflite, load_foreign, load_tensors
from onestage.model.heads import ConvHead
from onestage.model.storage import COUNTER, differing, load_fitting, read_config, shapes_of
from onestage.zoo import (
    adapt_amdegroot,
    adapt_d2l,
    adapt_effdet,
    adapt_lufficc,
    adapt_own,
    adapt_qfgaohao,
    adapt_tflite,
    adapt_tflite_backbone,
    adapt_timm,
    adapt_torchvision,
)
from onestage.zoo.adapt_own import is_numbered
from onestage.zoo.class_names import COCO_90, Classes
from onestage.zoo.fetch import fetch, fetch_hub, fetch_url

HUB = "hf-hub:"
"""How an address on the Hugging Face hub begins, as timm writes it."""

# --- whose files these are -------------------------------------------------------------------------------------------------


class Adapter(Protocol):
    """What a module ``adapt_*.py`` offers for the checkpoints of a foreign project."""

    PROJECT: str
    """Its name, for messages."""
    MARK: str
    """How keys begin in files of its detectors, also of those that are not understood; a regular expression."""
    TAKEN: str
    """Which of them are understood, for messages."""

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the keys of one of its detectors."""

    def model(self, tensors: Mapping[str, Tensor]) -> str:
        """The zoo's name of this detector."""

    def classes(self, tensors: Mapping[str, Tensor]) -> Classes:
        """What its class outputs stand for; classes by number where nobody knows."""

    def convert(self, tensors: Mapping[str, Tensor], config: DetectorConfig, /) -> tuple[dict[str, Tensor], DetectorConfig]:
        """The tensors under our names, and the zoo's config for these classes as the weights need it: with their pixels,
        default boxes, postprocessing.
        """


ADAPTERS: Mapping[str, Adapter] = {
    "torchvision": adapt_torchvision,
    "qfgaohao": adapt_qfgaohao,
    "amdegroot": adapt_amdegroot,
    "lufficc": adapt_lufficc,
    "effdet": adapt_effdet,
    "d2l": adapt_d2l,
}
"""Foreign projects whose files are state_dicts, in the order they are asked."""

DOUBTS: Mapping[str, Callable[[Mapping[str, Tensor]], str]] = {"effdet": adapt_effdet.doubt}
"""Of those whose files do not say which pixels they want: what to tell who imports them, or nothing."""

OWN, TFLITE = "onestage", "tflite"

Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]

PROJECTS = {name: adapter.PROJECT for name, adapter in ADAPTERS.items()} | {TFLITE: "the TF object-detection API, as TFLite"}
"""All foreign projects by the short names that ``onestage import --from`` takes, and what they are called in messages."""


@dataclass(frozen=True)
class Source:
    """Weights of a whole detector, read and recognised. origin: a key of PROJECTS, or OWN. model: the zoo's name of it.

    own: the config that the file itself holds, as ours and TensorFlow Lite's do. pixels: mean and std that the input needs,
    from somebody who knows; doubt: where the tensors leave that open, what to tell.
    """

    path: Path
    origin: str
    model: str
    classes: Classes
    tensors: Mapping[str, Tensor]
    own: DetectorConfig | None = None
    pixels: Pixels | None = None
    doubt: str = ""

    def renamed(self, classes: Classes) -> Source:
        """The same weights with their K classes named by somebody who knows."""
        own = self.own and replace(self.own, classes=classes.names, category_ids=classes.ids)
        return replace(self, classes=classes, own=own)


def read_source(path: Path, origin: str | None = None) -> Source:
    """The weights in a file, our own or of a known project; ``origin`` insists on one.

    WeightsError where the file is damaged, unknown, or of another project than that.
    """
    if origin not in (None, *PROJECTS):
        what = f"no project '{origin}' is known{nearest(str(origin), PROJECTS)}"
        raise WeightsError(explain(what, expected=", ".join(PROJECTS), fix="leave it out: the file tells by itself"))
    if is_tflite(path):
        _insist(TFLITE, origin, path)
        return _with_config(path, TFLITE, *adapt_tflite.read(path))
    own = read_config(path) if is_safetensors(path) else None
    if own is not None:
        _insist(OWN, origin, path)
        return _with_config(path, OWN, own, load_tensors(path)[0])
    tensors = load_foreign(path)
    found = next((name for name in ADAPTERS if _recognises(name, tensors, path)), None)
    if found is None:
        raise WeightsError(_unknown(tensors, path))
    _insist(found, origin, path)
    adapter = ADAPTERS[found]
    with _adapting(found, path):
        doubt = DOUBTS[found](tensors) if found in DOUBTS else ""
        return Source(path, found, adapter.model(tensors), adapter.classes(tensors), tensors, doubt=doubt)


def _recognises(origin: str, tensors: Mapping[str, Tensor], path: Path) -> bool:
    with _adapting(origin, path):
        return ADAPTERS[origin].recognises(tensors)


@contextmanager
def _adapting(origin: str, path: Path) -> Iterator[None]:
    """Turns what tensors that are missing or misshapen lead to into a WeightsError that names the file."""
    try:
        yield
    except KeyError as e:
        raise WeightsError(_incomplete(origin, path, e)) from e
    except OnestageError as e:
        raise WeightsError(located(str(e), path)) from e
    except (TypeError, IndexError, ValueError, RuntimeError, ArithmeticError) as e:
        what = f"this looks like a detector of {PROJECTS.get(origin, OWN)}, but its tensors have other shapes"
        fix = "take the whole state_dict of the detector, as its own project saves it"
        raise WeightsError(explain(what, where=path, got=f"{type(e).__name__}: {e}", fix=fix)) from e


def _with_config(path: Path, origin: str, own: DetectorConfig, tensors: Mapping[str, Tensor]) -> Source:
    return Source(path, origin, own.name, Classes(own.classes, own.category_ids), tensors, own)


def _insist(found: str, origin: str | None, path: Path) -> None:
    if origin not in (None, found):
        what = f"this file is not of {PROJECTS[str(origin)]}"
        whose = PROJECTS.get(found, "this project itself")
        raise WeightsError(explain(what, where=path, got=f"a detector of {whose}", fix="leave the project out"))


def _unknown(tensors: Mapping[str, Tensor], path: Path) -> str:
    got = ", ".join(list(tensors)[:5]) + ", ..."
    kin = next((adapter for adapter in ADAPTERS.values() if any(re.match(adapter.MARK, name) for name in tensors)), None)
    if kin is not None:
        what = f"this looks like a detector of {kin.PROJECT}, but of a kind that is not supported"
        return explain(
            what,
            where=path,
            got=got,
            expected=kin.TAKEN,
            fix="train a model of the zoo instead: onestage train DATA --model NAME",
        )
    return explain(
        "no known project's detector has such keys",
        where=path,
        got=got,
        expected="a file of this project, or a detector of " + ", ".join(PROJECTS.values()),
        fix="a classifier's weights go to --backbone-weights (backbone_weights=)",
    )


def _incomplete(origin: str, path: Path, missing: KeyError) -> str:
    what = f"this looks like a detector of {PROJECTS.get(origin, OWN)}, but tensors are missing"
    return explain(what, where=path, got=f"no {missing}", fix="take the whole state_dict of the detector")


# --- the published ones ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Weights that somebody publishes for a model: where, under which licence, how good (AP on COCO val2017), made how.

    sha256: the checksum or its first digits; None where the file's name ends in them. pixels: mean and std, where
    these are not the recipe's.
    """

    url: str
    licence: str
    ap: float
    recipe: str
    sha256: str | None = None
    classes: Classes = COCO_90
    pixels: Pixels | None = None


def _torchvision(weights: WeightsEnum, ap: float) -> Published:
    return Published(str(weights.url), "BSD-3-Clause (torchvision)", ap, str(weights.meta["recipe"]))


WEIGHTS = {
    "ssd300_vgg16.coco": _torchvision(detection.SSD300_VGG16_Weights.COCO_V1, 25.1),
    "ssdlite320_mobilenet_v3_large.coco": _torchvision(detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1, 21.3),
    "retinanet_r50_fpn.coco": _torchvision(detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1, 36.4),
    "retinanet_r50_fpn_v2.coco": _torchvision(detection.RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1, 41.5),
    **{
        tag: Published(adapt_effdet.RELEASE + file, "Apache-2.0 (effdet)", ap, by, pixels=adapt_effdet.PIXELS.get(tag))
        for tag, (file, ap, by) in adapt_effdet.PUBLISHED.items()
    },
}
"""MODEL.TAG -> published weights; AP as torchvision and effdet state it."""


def tags(model: str) -> list[str]:
    """The tags under which weights are published for a model of the zoo."""
    return [key.split(".", 1)[1] for key in WEIGHTS if key.startswith(f"{model}.")]


# --- into a detector -------------------------------------------------------------------------------------------------------


def open_weights(model: str, weights: str | Path) -> Source:
    """The weights of a detector in a file, at an address or under a published tag of the model, read and recognised."""
    source = read_source(_locate(model, weights))
    published = _published(model, weights)
    return source if published is None else replace(source.renamed(published.classes), pixels=published.pixels)


def load_weights(config: DetectorConfig, source: Source, recipe_of: Callable[[DetectorConfig], DetectorConfig]) -> Detector:
    """A detector of this config with these weights. recipe_of: what the zoo gives for the name and size of a config.

    What they expect of the input's pixels replaces the config's, and so do the parts of a detector of that name that they need
    otherwise than the recipe has them, unless the config has them otherwise too. The outputs for other classes or default boxes
    keep fresh values and are named in a warning; so does anything of our own files that does not fit. WeightsError where the
    weights are of something else, a foreign file's already at one tensor.
    """
    path, usual = source.path, recipe_of(config)
    tensors, own = (source.tensors, source.own) if source.own is not None else _converted(usual, source)
    if source.pixels is not None:
        own = own.replace(dict(zip(("preprocess.mean", "preprocess.std"), source.pixels, strict=True)))
    if own.name == config.name:
        config = adapt_own.with_parts_of(own, config, own_recipe=recipe_of(own), recipe=usual)
    if source.origin != OWN and is_numbered(own) and len(own.classes) == len(config.classes):
        # nobody knows the file's names: these may be them
        own = replace(own, classes=config.classes, category_ids=config.category_ids)
    with _adapting(source.origin, path):
        tensors, config = adapt_own.convert(tensors, own, config)
    if source.origin != OWN:
        _check_exact(tensors, own, config, source)
    detector = Detector(config)
    fresh = load_fitting(detector, tensors, where=path)
    other = set(own.classes) != set(config.classes)
    more = f" and {len(own.classes) - 10} more" if len(own.classes) > 10 else ""
    _report(fresh, path, f"; the file's classes are others: {', '.join(own.classes[:10])}{more}" if other else "")
    if not adapt_own.same_anchors(own, config):
        what = f"{path}: made for other default boxes, so its box offsets mean something else until they are trained"
        warnings.warn(what, stacklevel=4)  # the line that called create()
    return detector


def _check_exact(tensors: Mapping[str, Tensor], own: DetectorConfig, config: DetectorConfig, source: Source) -> None:
    """WeightsError where a foreign file's tensors are not those of a detector of this config, one by one; but for the outputs,
    where classes or default boxes are others than the file's, and all that stands on the backbone, where SSD for other classes
    has another number of levels at this input size. Nothing is allocated before that.
    """
    free = None
    if [len(level.shapes) for level in own.levels] != [len(level.shapes) for level in config.levels]:
        free = adapt_own.OUTPUTS
    if set(own.classes) != set(config.classes):
        free = free or adapt_own.CLASS_OUTPUTS
        levels = {match[1] for name in tensors if (match := re.match(r"head\.box\.(\d+)\.", name))}
        if isinstance(config.head, ConvHead) and len(levels) != len(config.levels):
            free = re.compile(r"(neck|head)\..+")
    sides = (shapes_of(config, source.path), {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    kept = ({k: v for k, v in s.items() if not (k.endswith(COUNTER) or (free and free.fullmatch(k)))} for s in sides)
    wrong = differing(*kept)
    if wrong:
        fix = "leave backbone, neck, head and input size as the recipe has them"
        if source.model == "retinanet":
            fix = 'name the network that it stands on: onestage.create("retinanet", backbone=NAME, weights=FILE)'
        elif source.model != config.name:
            fix = f"name the model the weights were made for: {source.model}"
        what = f"these weights are not those of {config.name}: tensors that do not fit, {len(wrong):,}"
        raise WeightsError(explain(what, where=source.path, got="\n" + first_ten(wrong), fix=fix))


def _converted(config: DetectorConfig, source: Source) -> tuple[Mapping[str, Tensor], DetectorConfig]:
    """A foreign file's tensors under our names, and the recipe's config as they need it for their own classes."""
    config = replace(config, classes=source.classes.names, category_ids=source.classes.ids)
    with _adapting(source.origin, source.path):
        return ADAPTERS[source.origin].convert(source.tensors, config)


def load_backbone(config: DetectorConfig, weights: str | Path) -> Detector:
    """A detector of this config whose backbone starts from a classifier's weights: a file, or "imagenet" for the published
    ones.

    WeightsError where the file is not of this backbone.
    """
    path = _published_backbone(config) if str(weights) == "imagenet" else _file(weights)
    tensors, converted = _read_backbone(config, path)
    adapted, config = converted or ({}, config)
    detector = Detector(config)
    own = detector.state_dict()
    fitting = {k: v for k, v in adapted.items() if k in own and own[k].shape == v.shape}
    expected = [k for k in own if k.startswith("backbone.")]
    if len(fitting) < len(expected) / 2:
        raise WeightsError(_of_another_backbone(config, tensors, expected, path))
    check_finite(fitting, path)
    detector.load_state_dict(fitting, strict=False)
    _report(tuple(k for k in expected if k not in fitting and not k.endswith(COUNTER)), path)
    return detector


def _of_another_backbone(config: DetectorConfig, got: Mapping[str, Tensor], expected: list[str], path: Path) -> str:
    backbone = config.backbone
    kind = type(backbone).__name__
    if isinstance(backbone, TimmBackbone):  # whose names we keep
        kind, expected = f"timm's {backbone.name}", [name.removeprefix("backbone.body.") for name in expected]
        fix = f'the state_dict of timm.create_model("{backbone.name}"), or backbone_weights="imagenet"'
    elif (known := adapt_torchvision.published_backbone(config)) is not None:
        kind = f"torchvision's {known[0]}"
        fix = f'the state_dict of {kind}, or backbone_weights="imagenet"'
    else:
        fix = "leave backbone_weights out: nobody publishes a classifier of this network"
    what = f"these are no weights for {kind}, the backbone of {config.name}"
    return explain(what, where=path, got=", ".join(list(got)[:5]), expected=", ".join(expected[:5]), fix=fix)


def _read_backbone(
    config: DetectorConfig, path: Path
) -> tuple[Mapping[str, Tensor], tuple[dict[str, Tensor], DetectorConfig] | None]:
    """A classifier's tensors, and the same under our names with the config that they need, or None where nobody knows them."""
    if is_tflite(path):
        converted = adapt_tflite_backbone.convert_backbone(path, config)
        return converted[0], converted
    tensors = load_foreign(path, finite=False)  # torchvision's VGG16 for SSD has a classifier of NaN
    with torch.device("meta"):
        names = Detector(config).state_dict()
    return tensors, (adapt_timm.convert_backbone(tensors, config, names) or adapt_torchvision.convert_backbone(tensors, config))


def _published(model: str, weights: str | Path) -> Published | None:
    """What a tag stands for; nothing where a file has its name. (A folder may well be called "coco".)"""
    return None if Path(weights).is_file() else WEIGHTS.get(f"{model}.{weights}")


def _locate(model: str, weights: str | Path) -> Path:
    """The file of a path or tag; fetched and checked if it is a tag."""
    published = _published(model, weights)
    if published is not None:
        return fetch(published.url, sha256=published.sha256)
    return _file(weights, model)


def _file(weights: str | Path, model: str | None = None) -> Path:
    """The file of a path or an address; fetched if it is an address. model: whose tags might have been meant."""
    given = str(weights)
    if given.startswith("https://"):
        return fetch_url(given)
    if given.startswith(HUB):
        return fetch_hub(given.removeprefix(HUB), "model.safetensors")
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(_no_weights(given, model))
    return path


def _no_weights(given: str, model: str | None) -> str:
    choices, known = f"a file, https://..., {HUB}owner/name", tags(model or "")
    if known:
        choices += f", or one of the tags {', '.join(known)}"
    elif model is not None and Path(given).name == given and not Path(given).suffix:  # meant for a tag
        others = ", ".join(dict.fromkeys(key.split(".")[0] for key in WEIGHTS))
        fix = f"give a file, or take a model that somebody publishes weights for: {others}"
        return explain(f"no such weights: nothing is published for {model}", got=given, expected=choices, fix=fix)
    models = sorted(str(file) for file in Path(given).glob("*.safetensors"))  # of a run, say
    fix = f"name the file: {' or '.join(models)}" if models else "check the path"
    return explain("no such weights" + nearest(given, known), got=given, expected=choices, fix=fix)


def _published_backbone(config: DetectorConfig) -> Path:
    if isinstance(config.backbone, TimmBackbone):
        return fetch_hub(*adapt_timm.published(config.backbone.name))
    source = adapt_torchvision.published_backbone(config)
    if source is None:
        raise WeightsError(explain("nobody publishes weights for this backbone", got=type(config.backbone).__name__))
    return fetch(source[1].url, sha256=None)


def _report(fresh: tuple[str, ...], path: Path, why: str = "") -> None:
    if fresh:
        modules = sorted({name.rsplit(".", 1)[0] for name in fresh})
        shown = ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")
        what = "1 tensor does not fit and starts" if len(fresh) == 1 else f"{len(fresh)} tensors do not fit and start"
        message = f"{path}: {what} fresh: {shown}{why}"
        warnings.warn(message, stacklevel=5)  # the line that called create()
