"""The stages of a backbone, for settings that treat its first layers differently from its last ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onestage.model.detector import Detector, ShapesAlone, mirror


def stages_of(model: Detector) -> list[set[str]]:
    """The names of the parameters in ``model.backbone``, stage by stage, from the image on.

    A stage ends with a feature map of the backbone. It holds the parameters on which this map depends and no finer one, found
    by gradients without numbers, so it suits a backbone of any structure. A stage without parameters is left out.
    """
    made: dict[int, Tensor] = {}  # a tensor that several modules share stays one
    shapes = mirror(model.backbone, lambda tensor: made.setdefault(id(tensor), _differentiable(tensor)))
    names, parameters = zip(*shapes.named_parameters(), strict=True)
    with torch.enable_grad(), ShapesAlone():
        maps: list[Tensor] = shapes(torch.empty(1, 3, *model.config.preprocess.largest, device="meta"))
        total, found, stages = torch.zeros((), device="meta"), set[str](), list[set[str]]()
        for feature_map in maps:
            total = total + feature_map.sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
            reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
            stages.append(reached - found)
            found |= reached
    return [stage for stage in stages if stage]


def _differentiable(tensor: Tensor) -> Tensor:
    """The shape of a tensor. Parameters ask for a gradient, those that are frozen too."""
    shape = tensor.detach().to("meta")
    return nn.Parameter(shape) if isinstance(tensor, nn.Parameter) else shape
