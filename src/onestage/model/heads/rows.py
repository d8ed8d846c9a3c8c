"""From maps to rows of anchors.

Shape letters: B images, S shapes per cell, A anchors over all levels, C logits per anchor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def as_rows(logits: Sequence[Tensor], deltas: Sequence[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """What the convolutions of a head give, maps (B, S * C, H_l, W_l) and (B, S * 4, H_l, W_l), as (B, A, C) and (B, A, 4).

    width: C.
    """
    return _rows(logits, width), _rows(deltas, 4)


def _rows(maps: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, width) for m in maps], dim=1)
