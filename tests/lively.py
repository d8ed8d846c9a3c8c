"""Detectors with random weights that behave like trained ones: clear scores, few of them high."""

from collections.abc import Sequence

import torch
from torch import Tensor

import onestage
from onestage.deploy.benchmark import pictures


@torch.no_grad()
def lively(
    model: onestage.Detector, *, spread: float = 2.0, below: float = 3.5, on: Sequence[Tensor] | None = None
) -> onestage.Detector:
    """Give batch norms the statistics of some pictures, and logits a standard deviation of ``spread``; most of an image stays
    background. below: how many standard deviations the mean of sigmoid logits is below 0. on: the pictures, (3, H, W) uint8
    each; by default two drawn ones.

    Without it the layers of a deep random network multiply every rounding, so that two runtimes differ in what they find, and
    all scores are alike, so that NMS is decided by their last digits.
    """
    images, _ = model.prepare(pictures(2, (120, 160)) if on is None else on)
    model.train()
    for _ in range(25):
        model(images)
    model.eval()
    logits = model(images).logits
    softmax = model.config.loss.activation == "softmax"
    parameters = dict(model.head.named_parameters())
    for name in model.head.class_outputs():
        tensor = parameters[name]
        if name.endswith("weight"):
            tensor.mul_(spread / logits.std())
        elif softmax:
            tensor.view(-1, logits.shape[2])[:, 0] += 2 * spread
        else:
            tensor.fill_(-below * spread)
    return model
