"""Class-balanced sampling by repeat factors (LVIS, arXiv 1908.03195, section "Repeat factor sampling").

A class that occurs in a share f of the pictures has the factor max(1, sqrt(t / f)), and a picture that of its rarest class. It
is repeated that many times on average. Of all these, an epoch shows as many as there are pictures: it does not grow longer.

Shape letters: P pictures, K classes, N objects of the whole set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onestage.data.dataset import Dataset


def repeat_factors(data: Dataset, threshold: float) -> Tensor:
    """(P,) how many times each picture is shown, 1 or more. threshold: t, in 0..1. Ignored objects do not count."""
    count, kinds = len(data), len(data.classes)
    pictures = torch.repeat_interleave(torch.arange(count), data.offsets.diff())
    pairs = (pictures * kinds + data.labels)[~(data.ignore | data.crowd)].unique()
    pictures, classes = pairs // kinds, pairs % kinds
    shares = torch.bincount(classes, minlength=kinds).double() / count
    factors = (threshold / shares).sqrt()[classes]
    return torch.ones(count, dtype=torch.float64).scatter_reduce(0, pictures, factors, "amax")


def repeated(factors: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers of the pictures, each as often as its factor (P,) says. What is left of a factor is rounded at random."""
    whole = factors.floor()
    more = torch.rand(len(factors), dtype=torch.float64, generator=generator) < factors - whole
    return torch.repeat_interleave(torch.arange(len(factors)), whole.long() + more)
