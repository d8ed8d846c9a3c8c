"""timm's networks for the backbones: made by name, and changed if a paper needs it.

Shape letters: B images, C_l channels and H_l x W_l cells of map l.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import timm
import torch
from timm.layers.drop import DropPath
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.func import functional_call

from onestage.errors import ConfigError, nearest, require
from onestage.structures import Size


def create_network(
    name: str, maps: list[int] | None = None, *, activation: str | None = None, drop_path: float | None = None
) -> nn.Module:
    """timm's feature extractor of that name, with fresh weights. It gives a list of maps (B, C_l, H_l, W_l), fine to coarse.

    maps: the maps to give, by timm's index; by default all. A setting of None keeps timm's default. Raise ConfigError if timm
    has no such network.
    """
    if not timm.is_model(name):
        raise ConfigError("timm has no such model", got=name + nearest(name, timm.list_models()), fix="see timm.list_models()")
    make = partial(timm.create_model, name, features_only=True, pretrained=False)
    make = partial(make, out_indices=maps, act_layer=activation, drop_path_rate=drop_path)
    try:
        return _made(make)
    except (RuntimeError, AttributeError) as e:  # timm refuses it, or the model has no feature_info
        raise ConfigError("this timm model gives no feature maps", got=name, fix="take a convolutional one") from e
    except TypeError as e:
        asked = {"backbone.activation": activation, "backbone.drop_path": drop_path}
        got = ", ".join(f"{key}={value}" for key, value in asked.items() if value is not None)
        what, fix = "timm has no such choice for this backbone", "leave it as it is, or take another backbone"
        raise ConfigError(what, where=name, got=f"{got} ({e})", fix=fix) from e


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    """What make() gives. Older versions of torch lack operators on the meta device, which some networks need while they are
    made: such a network is made with numbers, which are then dropped.
    """
    try:
        return make()
    except NotImplementedError:
        if torch.empty(0).device.type != "meta":
            raise
        with torch.device("cpu"):
            return make().to("meta")


def feature_info(network: nn.Module) -> FeatureInfo:
    """timm's data about the maps: their strides (``reduction``), channels and indices."""
    info = network.feature_info
    assert isinstance(info, FeatureInfo)
    return info


def usual_size(name: str) -> Size:
    """(height, width) of the pictures that timm's weights of that network were trained on."""
    _, height, width = timm.get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
    return height, width


def parameters_up_to(whole: nn.Module, name: str, maps: int) -> set[str]:
    """Names of the parameters on which the first maps of a network depend, for any structure of the network.

    whole: the network ``name`` with all the maps that it offers, on the meta device.
    """
    if maps == 0:
        return set()
    outputs: list[Tensor] = whole(torch.empty(1, 3, *usual_size(name), device="meta"))
    rule = f"{name} offers {len(outputs)} maps, so freeze lies in 0..{len(outputs)}"
    require(0 < maps <= len(outputs), rule, got=maps)
    names, parameters = zip(*whole.named_parameters(), strict=True)
    total = sum((m.sum() for m in outputs[:maps]), start=torch.zeros((), device="meta"))
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def drops_paths(network: nn.Module) -> bool:
    """Whether drop_path does anything. A MobileNet v1 of timm holds a DropPath too, but has no shortcut and never calls it."""
    blocks = (m for m in network.modules() if any(isinstance(child, DropPath) for child in m.children()))
    return any(getattr(block, "has_skip", True) for block in blocks)


def undo_stride(stage: nn.Module, *, dilated: bool) -> None:
    """Set every stride of a stage to 1. The weights stay the same. Raise ConfigError if there is no stride.

    dilated: the other convolutions of the stage take every second cell, so that their receptive field stays the same.
    """
    layers = [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    strided = [layer for layer in layers if layer.stride in (2, (2, 2))]
    require(bool(strided), "keep_resolution needs a backbone whose last stage has a stride", got=type(stage).__name__)
    if dilated:
        _dilate([layer for layer in layers if layer not in strided])
    for layer in strided:
        layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1


def _dilate(layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            layer.dilation = (2, 2)
            rows, columns = (int(cells) for cells in layer.padding)  # timm gives numbers, not "same"
            layer.padding = (2 * rows, 2 * columns)


def check_kept(whole: nn.Module, body: nn.Module, name: str) -> None:
    """Raise ConfigError unless the last map of ``body`` is as fine as the map before it was, and the rest are as they were.

    In MobileNets the last stage is not the last module, so strides before it would be removed too. whole: the
    network with all the maps that it offers, without that change.
    """
    size = usual_size(name)
    offered, used = [1, *feature_info(whole).reduction()], feature_info(body).reduction()
    before, got = (_map_sizes(network, size) for network in (whole, body))
    cells = dict(zip(offered, [size, *before], strict=True))
    expected = [cells[stride] for stride in (*used[:-1], offered[offered.index(used[-1]) - 1])]
    if got != expected:
        what = "keep_resolution does not suit this backbone: its strides do not stand in its last stage alone"
        fix = "take a ResNet or a relative of it"
        raise ConfigError(what, where=name, got=f"maps of {got}", expected=expected, fix=fix)


def _map_sizes(network: nn.Module, size: Size) -> list[Size]:
    """(height, width) of each map of a network for an input of that size. Nothing is computed; evaluation mode is left on."""
    tensors = {name: t.to("meta") for name, t in (*network.named_parameters(), *network.named_buffers())}
    with torch.no_grad():
        maps: list[Tensor] = functional_call(network.eval(), tensors, torch.empty(1, 3, *size, device="meta"))
    return [(m.shape[2], m.shape[3]) for m in maps]


def unpad_pool(network: nn.Module) -> None:
    """Let the max pooling of the stem round up instead of padding. Raise ConfigError if there is none, or several."""
    pools = [m for m in network.modules() if isinstance(m, nn.MaxPool2d)]
    rule = "unpadded_pool needs a backbone with one max pooling"
    require(len(pools) == 1, rule, got=f"{len(pools)} in {type(network).__name__}")
    pools[0].padding, pools[0].ceil_mode = 0, True
