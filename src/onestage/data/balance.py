"""Class-balanced sampling by repeat factors (LVIS, arXiv 1908.03195, section "Repeat factor sampling").

A class that occurs in a share f of the pictures has the factor max(1, sqrt(t / f)), and a picture that of its rarest class. It
is repeated that many times on average. Of all these, an epoch shows as many as there are pictures: it does not grow longer.

Shape letters: P pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onestage.data.dataset import Dataset
from onestage.data.tallies import counting, owners, pictures_with, spans


def repeat_factors(data: Dataset, threshold: float) -> Tensor:
    """(P,) how many times each picture is shown, 1 or more. threshold: t, in 0..1. Ignored objects do not count."""
    shares = torch.tensor(pictures_with(data), dtype=torch.float64) / len(data)
    of_class = (threshold / shares).sqrt()
    factors = torch.ones(len(data), dtype=torch.float64)
    for pictures, rows in spans(data):
        which = counting(data, rows)
        factors.scatter_reduce_(0, owners(data, pictures)[which], of_class[data.labels[rows][which]], "amax")
    return factors


def repeated(factors: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers of the pictures, each as often as its factor (P,) says. What is left of a factor is rounded at random."""
    whole = factors.floor()
    more = torch.rand(len(factors), dtype=torch.float64, generator=generator) < factors - whole
    return torch.repeat_interleave(torch.arange(len(factors)), whole.long() + more)
