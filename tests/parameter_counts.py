"""How many parameters layers have, counted by hand, and how many a model of the zoo has."""

import timm
import torch

import onestage


def conv(inputs, outputs, kernel=3, *, bias=True):
    """Parameters of a convolution."""
    return inputs * outputs * kernel**2 + bias * outputs


def norm(channels):
    """Parameters of batch norm."""
    return 2 * channels


def heads(channels, shapes, logits):
    """Parameters of SSD's heads: two 3x3 convolutions on each map."""
    return sum(conv(c, s * logits) + conv(c, s * 4) for c, s in zip(channels, shapes, strict=True))


def parameters(name, classes, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in onestage.create(name, classes, **options).parameters())


def classifier(name):
    with torch.device("meta"):
        return timm.create_model(name)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())
