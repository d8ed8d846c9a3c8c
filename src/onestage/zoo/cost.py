"""What a detector costs: parameters, multiply-adds, anchors. They are counted on torch's meta device, so nothing is allocated
or run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.structures import HeadOutput


@dataclass(frozen=True)
class Cost:
    """parameters: trained numbers. multiply_adds: of the network for one picture, from resized pixels to logits.

    A multiplication and the addition of its product count as one; convolutions and matrix products are counted, norms and
    activations are not: the convention of torchvision's table of models and of most papers.
    """

    parameters: int
    multiply_adds: int
    anchors: int


def cost_of(config: DetectorConfig) -> Cost:
    """The cost of a detector at the input size of its config; at the largest input where the size varies."""
    with torch.device("meta"), torch.no_grad():
        detector = Detector(config).eval()
        with FlopCounterMode(display=False) as counter:
            output: HeadOutput = detector(torch.empty(1, 3, *config.preprocess.largest))
    return Cost(
        parameters=sum(p.numel() for p in detector.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        anchors=output.logits.shape[1],
    )
