"""What backbones and necks build, and how a module is asked for the sizes of its maps.

Shape letters: B images, C_l channels and H_l x W_l cells of level l.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from onestage.errors import ConfigError
from onestage.structures import Size, sizes_of


class Features(nn.Module):
    """A module that gives feature maps, a list of (B, C_l, H_l, W_l), fine to coarse, and says how many channels each has."""

    channels: tuple[int, ...]

    def check_maps(self, maps: list[Tensor], size: Size) -> None:
        """Raise ConfigError unless the maps (1, C_l, H_l, W_l) cover an input of that (height, width)."""


class Backbone(Protocol):
    """What a config says of a backbone: how it is built."""

    def build(self) -> Features:
        """The network with fresh weights."""
        ...


def map_sizes(backbone: Backbone, size: Size) -> tuple[Size, ...]:
    """(height, width) of each map of the backbone for an input of that size; nothing is computed (torch's meta device).

    Raise ConfigError if the backbone cannot take such an input.
    """
    with torch.device("meta"):
        features = backbone.build()
    return sizes_of(check_maps(features, size, where=backbone))


def check_maps(features: Features, size: Size, *, where: object) -> list[Tensor]:
    """The maps (1, C_l, H_l, W_l) of a built backbone for an input of that size, without numbers. Raise ConfigError with
    ``where`` as ``map_sizes`` does.
    """
    maps = dry_run(features, blank_image(size), size, where=where)
    features.check_maps(maps, size)
    return maps


@torch.no_grad()
def dry_run(module: nn.Module, inputs: Tensor | list[Tensor], size: Size, *, where: object) -> list[Tensor]:
    """The maps that a module gives, as shapes without numbers: tensors on torch's meta device.

    inputs: one image (1, 3, H, W), or maps (1, C_l, H_l, W_l), on the meta device. size: (height, width) of the image. The
    module stays as it is: a copy without numbers runs. Raise ConfigError with ``where`` if the module cannot take such an
    input.
    """
    made: dict[int, Tensor] = {}  # a tensor that several modules share stays one
    shapes = mirror(module, lambda tensor: made.setdefault(id(tensor), _without_numbers(tensor)))
    try:
        maps: list[Tensor] = shapes(inputs)
    except (RuntimeError, AssertionError) as e:
        what = f"the network cannot take inputs of {size[0]}x{size[1]} pixels"
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        fix = "give another size, such as multiples of 32 pixels, or fewer levels"
        raise ConfigError(what, where=where, got=reason, fix=fix) from e
    return maps


def blank_image(size: Size) -> Tensor:
    """(1, 3, height, width) without numbers, for a dry run."""
    return torch.empty(1, 3, *size, device="meta")


def mirror(module: nn.Module, tensor: Callable[[Tensor], Tensor] = lambda same: same) -> nn.Module:
    """A copy of a tree of modules in evaluation mode, which shares everything but the modules themselves: parameters, buffers,
    hooks, other attributes. The module stays as it is.

    tensor: gives what stands in the place of each parameter, buffer and plain attribute that is a tensor.
    """
    copies: dict[int, nn.Module] = {}  # a module may stand at several places

    def replaced(values: dict[str, object]) -> dict[str, object]:
        return {name: tensor(value) if isinstance(value, Tensor) else value for name, value in values.items()}

    def copied(part: nn.Module) -> nn.Module:
        if id(part) not in copies:
            made = copies[id(part)] = type(part).__new__(type(part))
            parts = {name: child and copied(child) for name, child in part._modules.items()}
            tables = {table: replaced(vars(part)[table]) for table in ("_parameters", "_buffers")}
            vars(made).update(replaced(vars(part)) | tables | {"_modules": parts, "training": False})
        return copies[id(part)]

    return copied(module)


def _without_numbers(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
