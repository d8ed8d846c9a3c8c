"""The blocks of a network, such as the residual blocks of a backbone, the nodes of a BiFPN, the nets of a head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

COVERED = 0.8
"""A module is no block if smaller blocks have this part of its layers."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The smallest modules of at least two convolutions that share no layers, in the order of the model.

    A module whose convolutions lie in blocks, but not its norms, is a block as a whole: outside blocks only single layers are
    left, such as the first convolution of a backbone.
    """
    return [block for child in model.children() for block in _blocks(child)]


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of a part of a model; the part itself, if it is one."""
    inner = blocks_of(module)
    layers = _layers(module)
    covered = sum(len(_layers(block)) for block in inner)
    if isinstance(module, nn.ModuleList | nn.ModuleDict) or (len(inner) > 1 and covered >= COVERED * len(layers)):
        return inner
    several = sum(isinstance(layer, nn.Conv2d) for layer in layers) > 1
    return [module] if several else []


def _layers(module: nn.Module) -> Sequence[nn.Module]:
    """The modules without parts, in a module."""
    return [part for part in module.modules() if not any(True for _ in part.children())]
