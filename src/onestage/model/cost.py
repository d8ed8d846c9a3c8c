"""What a detector costs: parameters, multiply-adds, anchors. They are counted on torch's meta device, so nothing is allocated
or run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector, ShapesAlone
from onestage.structures import HeadOutput, Size


@dataclass(frozen=True)
class Cost:
    """parameters: trained numbers. multiply_adds: of the network for one picture, from resized pixels to logits.

    A multiplication and the addition of its product count as one; convolutions and matrix products are counted, norms and
    activations are not: the convention of torchvision's table of models and of most papers.
    """

    parameters: int
    multiply_adds: int
    anchors: int


Value: TypeAlias = Tensor | Sequence[int] | float | None
"""What torch's operations take."""


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of what runs inside, as torch's FlopCounterMode does, in a third of its time."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Value] = (),
        kwargs: Mapping[str, Value] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Run one operation, called ``func`` by torch, and count it."""
        output: Tensor | tuple[Tensor, ...] = func(*args, **(kwargs or {}))
        if (flops := flop_registry.get(func.overloadpacket)) is not None:
            self.multiply_adds += flops(*args, **(kwargs or {}), out_val=output) // 2
        return output


def cost_of(config: DetectorConfig, size: Size | None = None) -> Cost:
    """The cost of a detector for an input of ``size`` (height, width); by default at the input size of its config, and at the
    largest input where the size varies.
    """
    with torch.device("meta"):
        detector = Detector(config).eval()
        image = torch.empty(1, 3, *(size or config.preprocess.largest))
    with torch.no_grad(), ShapesAlone(), _Counter() as counter:  # norms are not counted, so they need not run
        output: HeadOutput = detector(image)
    return Cost(
        parameters=sum(p.numel() for p in detector.parameters()),
        multiply_adds=counter.multiply_adds,
        anchors=output.logits.shape[1],
    )
