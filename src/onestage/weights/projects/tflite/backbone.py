"""MobileNet classifiers in TensorFlow Lite files as backbones.

Batch norm is folded into their convolutions, and its statistics are lost. A norm that learns would gather
other statistics, and the first step of training would destroy the network. So such a backbone becomes a folded one, which
computes the same in training and in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor, nn

from onestage.errors import WeightsError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.folded import FoldedBackbone
from onestage.model.backbones.kinds import Backbone
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import map_sizes
from onestage.model.limits import TFLITE_FILE
from onestage.structures import Size
from onestage.weights.projects.tflite.graph import Graph, Unsupported, damage, read_graph
from onestage.weights.projects.tflite.layers import POSTPROCESS, Trunk, normalisation
from onestage.weights.tensor_file import OpenFile, check_finite, refuse_large

_POOLING = ("MEAN", "AVERAGE_POOL_2D")


def convert_backbone(file: OpenFile, config: DetectorConfig) -> tuple[dict[str, Tensor], DetectorConfig]:
    """The classifier's convolutions for the config's backbone, and the config that they need: its input, and sometimes its
    backbone.

    The convolutions of both networks are paired in the order in which they run, as far as their shapes agree. Raise
    WeightsError if the file is damaged or the backbone is another network.
    """
    if file.size > TFLITE_FILE.most:
        refuse_large(TFLITE_FILE, file.size, file.path)
    data = file.read()
    with damage(file.path):
        graph = read_graph(data)
        trunk = _classifier(graph)
        mean, std = normalisation(graph.values[graph.input])
        constants = trunk.constants()
    config = config.replace({"preprocess.mean": mean, "preprocess.std": std})
    if _is_kin(config.backbone, trunk):
        with damage(file.path):
            config = replace(config, backbone=_as_folded(config.backbone, trunk, config.preprocess.size))
    with torch.device("meta"):
        convolutions = _convolutions(config.backbone.build())
    tensors: dict[str, Tensor] = {}
    for (name, conv, norm), found in zip(convolutions, constants, strict=False):
        if conv.weight.shape != found["weight"].shape:
            break
        tensors[f"backbone.{name}.weight"] = found["weight"]
        tensors |= {f"backbone.{key}": value for key, value in _bias(name, norm, found["bias"]).items()}
    if len(tensors) < len(convolutions):  # not even half of the weights and biases
        kind = f"MobileNet {'v2' if _residual(trunk) else 'v1'}"
        what = f"these are no weights for {getattr(config.backbone, 'name', type(config.backbone).__name__)}"
        expected = f"a classifier of the same network as the backbone of {config.name}"
        fix = f"give this file to a model on {kind}: ssd300_{kind.lower().replace(' ', '_')}"
        raise WeightsError(what, where=file.path, got=f"a {kind} classifier", expected=expected, fix=fix)
    check_finite(tensors, file.path)
    return tensors, config


def _classifier(graph: Graph) -> Trunk:
    """The layers of a classifier up to its last map."""
    kinds = [operator.kind for operator in graph.operators]
    if POSTPROCESS in kinds:
        raise WeightsError("this file holds a whole detector, not a classifier", fix="give it as weights")
    if not set(kinds) & set(_POOLING):
        raise Unsupported("its network does not pool its last map, as a classifier does")
    trunk = Trunk(graph)
    trunk.follow(takewhile(lambda operator: operator.kind not in _POOLING, graph.operators))
    return trunk


def _residual(trunk: Trunk) -> bool:
    """Whether outputs of layers are added, as in MobileNet v2 and not in v1."""
    return any(layer.add is not None for layer in trunk.layers)


def _is_kin(backbone: Backbone, trunk: Trunk) -> bool:
    """Whether the backbone is the same kind of MobileNet, with norms that learn."""
    if isinstance(backbone, TimmBackbone):
        return backbone.name.startswith("mobilenetv2" if _residual(trunk) else "mobilenetv1") and backbone.norm != "frozen"
    return isinstance(backbone, MobileNetBackbone) and backbone.version == "v2" and _residual(trunk)


def _as_folded(backbone: Backbone, trunk: Trunk, size: Size) -> FoldedBackbone:
    """The trunk with the same maps as the backbone. A map is the last one of its size with the same number of channels, or else
    the last one of its size.

    The file's network may be wider or narrower than the backbone; neck and head then take its channels.
    """
    with torch.device("meta"):
        channels = backbone.build().channels
    layers, sizes = trunk.layers, trunk.sizes(size)
    maps = []
    for cells, wanted in zip(map_sizes(backbone, size), channels, strict=True):
        there = [i for i, map_size in enumerate(sizes) if map_size == cells]
        maps.append(max([i for i in there if layers[i].channels == wanted] or there))
    return FoldedBackbone(tuple(layers[: max(maps) + 1]), tuple(maps))


Norm = tuple[str, nn.BatchNorm2d]


def _convolutions(body: nn.Module) -> Sequence[tuple[str, nn.Conv2d, Norm | None]]:
    """The convolutions of a network by name, and the norm of each, in the order of their definition, in which they also run."""
    found: list[tuple[str, nn.Conv2d, Norm | None]] = []
    for name, module in body.named_modules():
        if isinstance(module, nn.Conv2d):
            found.append((name, module, None))
        elif isinstance(module, nn.BatchNorm2d) and found:
            found[-1] = (*found[-1][:2], (name, module))
    return found


def _bias(name: str, norm: Norm | None, bias: Tensor) -> dict[str, Tensor]:
    """The tensors with which the norm behind a convolution adds this bias and changes nothing more; without a norm, the
    convolution's bias.
    """
    if norm is None:
        return {f"{name}.bias": bias}
    one = torch.ones_like(bias)
    parts = {"weight": one, "bias": bias, "running_mean": 0 * one, "running_var": (1 - norm[1].eps) * one}
    return {f"{norm[0]}.{part}": value for part, value in parts.items()}
