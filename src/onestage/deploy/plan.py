"""What is to be exported: the options of a user, made whole and checked against the detector.

Shape letters: B images, h and w of the input.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from types import BuiltinFunctionType, FunctionType
from typing import Annotated, Literal

import torch
from torch import nn

from onestage.deploy.graph import ending_of
from onestage.errors import ConfigError, WeightsError, require
from onestage.model.codec import Limit, Part
from onestage.model.detector import Detector
from onestage.model.features import is_changed
from onestage.model.limits import Side
from onestage.predict.contract import MOST_AT_ONCE, Contract, Precision
from onestage.structures import Size

MAKERS = (
    *("onestage", "torch", "torchvision", "timm", "numpy"),
    *("onnx", "onnxscript", "onnx-ir", "onnxruntime", "openvino", "nncf", "ncnn", "pnnx"),
    *("litert-torch", "litert-converter", "ai-edge-litert"),
)
"""The packages on whose versions a file depends: they hold parts of the network, convert it, or run it."""


@dataclass(frozen=True)
class ExportConfig(Part):
    """What a file takes and gives.

    nms: "graph" puts NMS into the file. "none" ends at the outputs of the network, with plain tensor operators and fixed
    shapes, for compilers that take nothing more. batch: the number of images, or "any". size: "model", (h, w), or "any" for a
    detector whose input follows the picture, such as a RetinaNet; None is "any" for these and "model" for all others. pixels:
    the type of the images, by default uint8, and float32 for a detector that resizes in float. winograd: compute wide 3x3
    convolutions by Winograd's algorithm, which is faster on a CPU. It has no effect without NMS, or in fewer bits. precision:
    of the network; what decodes its outputs, and NMS, stay in float32. overwrite: replace an earlier export.
    """

    nms: Literal["graph", "none"] = "graph"
    batch: Annotated[int, Limit("images at once", MOST_AT_ONCE)] | Literal["any"] | None = None
    size: tuple[Side, Side] | Literal["any", "model"] | None = None
    pixels: Literal["uint8", "float32"] | None = None
    winograd: bool = True
    precision: Precision = "fp32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, number in (("batch", self.batch), ("size", self.size)):
            least = number if isinstance(number, int) else min(number) if isinstance(number, tuple) else 1
            require(least >= 1, f"the {name} of a file is 1 or more", got=number, fix=f"leave {name}= out")


@dataclass(frozen=True, eq=False)
class Plan:
    """A detector on the CPU, as it is exported, and the contract of its file. winograd: for its wide 3x3 convolutions."""

    detector: Detector
    contract: Contract
    winograd: bool = False


def plan_export(detector: Detector, config: ExportConfig) -> Plan:
    """The detector with the input of the file, and the contract of it. The given detector is only read.

    Raise ConfigError if the detector cannot take that size, WeightsError if a weight is not a number.
    """
    check_weights(detector)
    source, scores, fixed = fingerprint(detector), detector.scores, config.nms == "none"
    size, batch = _input(detector, config, fixed=fixed)
    detector = copy.deepcopy(detector).cpu().float().eval()
    if size is not None:
        detector = _at(detector, size)
    if fixed:
        # torch lays out the means of channels-last maps by a Gather, which small compilers read wrongly or not at all, and
        # litert-torch copies channels-last weights and confuses the copies (its cache goes by addresses that are used again)
        detector = detector.to(memory_format=torch.contiguous_format)
    preprocess = detector.config.preprocess
    contract = Contract(
        detector.config,
        "outputs" if fixed else ending_of(detector.config),
        pixels=config.pixels or ("uint8" if preprocess.antialias else "float32"),
        batch=batch,
        size=size,
        level_sizes=() if size is None else detector.level_sizes(size),
        source=source,
        versions=versions(),
        precision=config.precision,
        scores=scores,
    )
    return Plan(detector, contract, winograd=config.winograd and not fixed and config.precision == "fp32")


def _input(detector: Detector, config: ExportConfig, *, fixed: bool) -> tuple[Size | None, int | None]:
    """(h, w) of the file's input and its number of images; None for any. fixed: any is not possible."""
    preprocess = detector.config.preprocess
    follows = preprocess.mode == "shortest_edge"
    size = config.size or ("any" if follows and not fixed else "model")
    batch = config.batch or (1 if fixed else "any")
    if fixed and "any" in (size, batch):
        what = "without NMS a file has fixed shapes"
        raise ConfigError(what, got=f"size {size}, batch {batch}", fix="give size=(H, W) and batch=N")
    if size == "any" and not follows:
        what = "this detector resizes every picture to one size"
        raise ConfigError(what, where=detector.config.name, got="size any", fix="leave size= out")
    wanted = preprocess.largest if size == "model" else size
    return None if wanted == "any" else wanted, None if batch == "any" else batch


def _at(detector: Detector, size: Size) -> Detector:
    """The same detector with an input of that size. A detector whose input followed the picture letterboxes it from now on."""
    old = detector.config.preprocess
    mode = "letterbox" if old.mode == "shortest_edge" else old.mode
    if (size, mode) == (old.size, old.mode):
        return detector
    if not is_as_built(detector):
        what = "a detector with hooks or exchanged parts keeps its input size, because a new size takes a new detector"
        raise ConfigError(what, where=detector.config.name, got=size, expected=old.size, fix="leave size= out, or remove them")
    levels = detector.config.levels
    if size != old.size and old.mode != "shortest_edge" and not all(isinstance(level.stride, tuple) for level in levels):
        what = "the anchors of this detector belong to its input size"
        fix = f"leave size= out, or train it for that size: onestage train DATA --model NAME --size {size[0]}x{size[1]}"
        raise ConfigError(what, where=detector.config.name, got=size, expected=old.size, fix=fix)
    config = replace(detector.config, preprocess=replace(old, size=size, mode=mode))
    resized = Detector.on("cpu", config)
    resized.load_state_dict(detector.state_dict())
    return resized.eval()


def check_weights(detector: Detector) -> None:
    """Raise WeightsError if a weight is NaN or infinite: the file would find nothing, or anything, without a word."""
    for name, tensor in detector.state_dict().items():
        if wrong := int((~tensor.isfinite()).sum()):
            what, fix = "this detector has weights that are not numbers", "export an earlier state of it"
            raise WeightsError(what, where=name, got=f"{wrong:,} NaN or infinite", fix=fix)


def fingerprint(detector: Detector) -> str:
    """A SHA-256 of the config and of every tensor: its name, type, shape and numbers. Only equal detectors have equal ones, if
    they are as their configs built them (``is_as_built``).
    """
    digest = hashlib.sha256(detector.config.to_json().encode())
    for name, tensor in sorted(detector.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_as_built(detector: Detector) -> bool:
    """Whether config and tensors say all that a detector computes. It then has the parts that the config builds, with the same
    settings, and none of them has a hook or another forward than its class.
    """
    if any(map(is_changed, detector.modules())):
        return False
    built = Detector.on("meta", detector.config)
    return [*map(_settings, detector.modules())] == [*map(_settings, built.modules())]


def _settings(part: nn.Module) -> tuple[type, dict[str, str]]:
    """The class of a module, and the names of its parts and the plain values that it computes with, such as a stride."""
    kinds = bool, int, float, str, tuple, FunctionType, BuiltinFunctionType
    plain = {name: repr(value) for name, value in vars(part).items() if isinstance(value, kinds) and name != "training"}
    return type(part), plain | {name: "" for name, _ in part.named_children()}


def versions() -> dict[str, str]:
    """The versions of the packages that make a file or run it when it is checked, as far as they are installed."""
    found = {}
    for name in MAKERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
