"""Where the weights of a detector come from: a published tag, a path or an address becomes a file. Whose it is, its keys show,
never its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torchvision.models import WeightsEnum, detection

from onestage.errors import OnestageError, WeightsError, absent, nearest
from onestage.files import given_path
from onestage.model.config import DetectorConfig
from onestage.structures import ClassSet
from onestage.weights.class_names import COCO_90
from onestage.weights.detector_file import stored_config
from onestage.weights.fetch import fetch, fetch_hub, fetch_url
from onestage.weights.foreign_file import Background, known_classes, load_foreign
from onestage.weights.projects import amdegroot, d2l, effdet, lufficc, qfgaohao, tflite, torchvision
from onestage.weights.tensor_file import MODEL_FILES, SAFETENSORS, OpenFile, numbered_classes, open_file
from onestage.weights.tensor_file import TFLITE as TFLITE_FILE


class Adapter(Protocol):
    """What a module of ``projects`` offers for the checkpoints of a foreign project."""

    PROJECT: str
    """Its name, for messages."""
    MARK: str
    """A regular expression for the beginning of keys in files of its detectors, supported or not."""
    TAKEN: str
    """Which of these detectors are supported, for messages."""

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the keys of one of its detectors."""

    def model(self, tensors: Mapping[str, Tensor]) -> str:
        """The zoo's name of this detector."""

    def classes(self, tensors: Mapping[str, Tensor]) -> ClassSet:
        """The classes of its outputs; numbered if the file does not show them."""

    def background(self, tensors: Mapping[str, Tensor]) -> Background | None:
        """Where the output for background stands; None if the head has sigmoids and the file does not show it."""

    def doubt(self, tensors: Mapping[str, Tensor]) -> str:
        """A note for the user who imports a file that does not say which pixels it needs; empty if it is clear."""

    def note(self, tensors: Mapping[str, Tensor]) -> str:
        """A note for every user of a file that does not define some other setting; empty if all is clear."""

    def convert(self, tensors: Mapping[str, Tensor], config: DetectorConfig, /) -> tuple[dict[str, Tensor], DetectorConfig]:
        """The tensors under our names, and the zoo's config for these classes, with the pixels, default boxes and
        postprocessing that the weights need.
        """


ADAPTERS: Mapping[str, Adapter] = {
    "torchvision": torchvision,
    "qfgaohao": qfgaohao,
    "amdegroot": amdegroot,
    "lufficc": lufficc,
    "effdet": effdet,
    "d2l": d2l,
}
"""Foreign projects whose files are state_dicts, in the order in which they are tried."""


OURS, TFLITE = "onestage", "tflite"
PROJECTS = {name: adapter.PROJECT for name, adapter in ADAPTERS.items()} | {TFLITE: "the TF object-detection API, as TFLite"}
"""All foreign projects: the short name that ``onestage import --from`` takes -> the name in messages."""


Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of the channels of 0..1, red, green and blue."""


@dataclass(frozen=True)
class Source:
    """Weights of a whole detector, read and recognised. origin: a key of PROJECTS, or OURS. model: the zoo's name of it.

    background: where the output for background stands, as the file shows it. None: it may be the first of the outputs, and
    ``classes`` are the others, or there is none. config: the config in the file (only our files and TensorFlow Lite's have
    one). pixels: mean and std of the input, if the user gave them. doubt: a note for the user if the pixels are unclear. note:
    a note for the user in any case.
    """

    path: Path
    origin: str
    model: str
    classes: ClassSet
    tensors: Mapping[str, Tensor]
    config: DetectorConfig | None = None
    pixels: Normalization | None = None
    doubt: str = ""
    note: str = ""
    background: Background | None = "none"

    def renamed(self, classes: ClassSet) -> Source:
        """The same weights with the K class names that the user gave."""
        config = self.config and replace(self.config, classes=classes.names, category_ids=classes.ids)
        return replace(self, classes=classes, config=config)

    def settled(self, count: int | None, background: Background | None = None) -> Source:
        """The same weights with it settled whether the first output stands for background.

        count: how many classes the user names. As many as outputs: all outputs are classes. One fewer: the first is background.
        background: what the user says. Raise WeightsError if it is unknown, or if the file shows something else.
        """
        if self.background is not None:
            if background not in (None, self.background):
                what = "the file shows which output is background, and it is another one"
                raise WeightsError(what, where=self.path, got=background, expected=self.background, fix="leave it out")
            return self
        outputs = len(self.classes.names) + 1
        known = self.classes.names != numbered_classes(outputs - 1)
        if background is None and count in (outputs, outputs - 1):
            background = "none" if count == outputs else "first"
        if background is None and (known or count is not None):  # for other classes the outputs start fresh
            background = "first"
        if background is None:
            what = "it is unknown whether the first output of this detector is background"
            got, expected = f"{outputs} outputs", f"{outputs} class names, or {outputs - 1} and background first"
            fix = (
                f"if labels began at 1: --background first, in Python num_classes={outputs - 1}; if at 0: --background none, "
                f"num_classes={outputs}; or name the classes"
            )
            raise WeightsError(what, where=self.path, got=got, expected=expected, fix=fix)
        settled = replace(self, background=background)
        return settled.renamed(known_classes(outputs)) if background == "none" else settled


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


def read_source(path: Path, origin: str | None = None) -> Source:
    """The weights in a file, ours or of a known project; ``origin`` allows only that project. The file is opened once.

    Raise WeightsError if the file is damaged, unknown, or of another project than ``origin``.
    """
    if origin not in (None, *PROJECTS):
        what = f"no project '{origin}' is known{nearest(str(origin), PROJECTS)}"
        raise WeightsError(what, expected=", ".join(PROJECTS), fix="leave it out: the file shows its project")
    with open_file(path) as file:
        source = _read(file)
    if origin not in (None, source.origin):
        what, whose = f"this file is not of {PROJECTS[str(origin)]}", PROJECTS.get(source.origin, "this project itself")
        raise WeightsError(what, where=path, got=f"a detector of {whose}", fix="leave the project out")
    return source


def _read(file: OpenFile) -> Source:
    if file.kind is TFLITE_FILE:
        return _with_config(file.path, TFLITE, *tflite.ssd.read(file))
    config = stored_config(file) if file.kind is SAFETENSORS else None
    if config is not None:
        return _with_config(file.path, OURS, config, file.tensors())
    found = load_foreign(file)
    source = _recognised(found.tensors, file.path)
    return replace(source, note="; ".join(filter(None, (found.note(file.path), source.note))))


def _with_config(path: Path, origin: str, config: DetectorConfig, tensors: Mapping[str, Tensor]) -> Source:
    return Source(path, origin, config.name, ClassSet(config.classes, config.category_ids), tensors, config)


def _recognised(tensors: Mapping[str, Tensor], path: Path) -> Source:
    for name, adapter in ADAPTERS.items():
        with adapting(name, path):
            if adapter.recognises(tensors):
                doubt, note = adapter.doubt(tensors), adapter.note(tensors)
                found = Source(path, name, adapter.model(tensors), adapter.classes(tensors), tensors, doubt=doubt, note=note)
                return replace(found, background=adapter.background(tensors))
    raise _unknown(tensors, path)


@contextmanager
def adapting(origin: str, path: Path) -> Iterator[None]:
    """Turn errors that missing or misshapen tensors cause into a WeightsError that names the file."""
    project = PROJECTS.get(origin, OURS)
    try:
        yield
    except KeyError as e:
        what = f"this looks like a detector of {project}, but tensors are missing"
        raise WeightsError(what, where=path, got=f"no {e}", fix="take the whole state_dict of the detector") from e
    except OnestageError as e:
        raise WeightsError.of(e, path) from e
    except (TypeError, IndexError, ValueError, RuntimeError, ArithmeticError) as e:
        what = f"this looks like a detector of {project}, but its tensors have other shapes"
        fix = "take the whole state_dict of the detector, as its project saves it"
        raise WeightsError(what, where=path, got=f"{type(e).__name__}: {e}", fix=fix) from e


def _unknown(tensors: Mapping[str, Tensor], path: Path) -> WeightsError:
    got = ", ".join(list(tensors)[:5]) + ", ..."
    kin = next((adapter for adapter in ADAPTERS.values() if any(re.match(adapter.MARK, name) for name in tensors)), None)
    if kin is not None:
        what = f"this looks like a detector of {kin.PROJECT}, but of a kind that is not supported"
        fix = "train a model of the zoo instead: onestage train DATA --model NAME"
        return WeightsError(what, where=path, got=got, expected=kin.TAKEN, fix=fix)
    expected = "a file of this project, or a detector of " + ", ".join(PROJECTS.values())
    fix = "a classifier's weights go to backbone_weights="
    return WeightsError("no known project's detector has such keys", where=path, got=got, expected=expected, fix=fix)


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
        if given_path(weights, "weights").exists():  # which raises if no file can have this name
            raise WeightsError.no_file(given, _choices(model)[0], ends=MODEL_FILES)
        raise _no_weights(given, model)
    return Path(weights)


def _is_file(path: str | Path) -> bool:
    """Whether there is such a file; False also for what is no path."""
    try:
        return Path(path).is_file()
    except (TypeError, ValueError, OSError):
        return False


def _no_weights(given: str, model: str | None) -> WeightsError:
    choices, known = _choices(model)
    if not known and model is not None and Path(given).name == given and not Path(given).suffix:  # like a tag
        others = ", ".join(dict.fromkeys(key.split(".")[0] for key in WEIGHTS))
        fix = f"give a file, or take a model with published weights: {others}"
        return WeightsError(f"no such weights: nothing is published for {model}", got=given, expected=choices, fix=fix)
    what = "no such weights" + (nearest(given, known) or absent(given, ""))
    return WeightsError(what, got=given, expected=choices, fix="check the path")


def _choices(model: str | None) -> tuple[str, list[str]]:
    """What weights of a model can be, for messages, and its tags."""
    known = tags(model or "")
    return f"a file, https://..., {HUB}owner/name" + (f", or one of the tags {', '.join(known)}" if known else ""), known
