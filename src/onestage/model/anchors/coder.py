"""Boxes as offsets from anchors, and back.

Shape letters: ... any leading dimensions, equal for all arguments or broadcast. Boxes and anchors are xyxy pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from onestage import boxes as box_ops
from onestage.model.codec import Part
from onestage.model.limits import Positive

_MOST_GROWTH = math.log(1000 / 16)
"""Of the logarithm of a side: torchvision, models/detection/_utils.py."""


@dataclass(frozen=True)
class BoxCoder(Part):
    """Offsets (dx, dy, dw, dh) from an anchor of centre (ax, ay) and extent (aw, ah): R-CNN's coding, as in SSD eq. (2).

    dx = (x - ax) / aw / variance[0],  dw = log(w / aw) / variance[2],  and likewise for y and h.

    The variances bring the targets to about unit spread (SSD's code: 0.1, 0.1, 0.2, 0.2). ``max_log_scale`` bounds how much an
    anchor grows when it is decoded: 1000 / 16 = 62.5 fold, so that wild outputs do not overflow. Law: decode(anchors,
    encode(anchors, boxes)) == boxes for boxes up to 62.5 times their anchor.
    """

    variances: tuple[Positive, Positive, Positive, Positive] = (0.1, 0.1, 0.2, 0.2)
    max_log_scale: Positive = _MOST_GROWTH

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """(..., 4) anchors and (..., 4) boxes of positive extent -> (..., 4) offsets."""
        anchor_centre, anchor_extent = box_ops.to_cxcywh(anchors).split(2, dim=-1)
        centre, extent = box_ops.to_cxcywh(boxes).split(2, dim=-1)
        offsets = torch.cat([(centre - anchor_centre) / anchor_extent, (extent / anchor_extent).log()], dim=-1)
        return offsets / offsets.new_tensor(self.variances)

    def decode(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """(..., 4) anchors and (..., 4) offsets -> (..., 4) boxes; they may reach over the border."""
        anchor_centre, anchor_extent = box_ops.to_cxcywh(anchors).split(2, dim=-1)
        shift, log_scale = (deltas * deltas.new_tensor(self.variances)).split(2, dim=-1)
        centre = anchor_centre + shift * anchor_extent
        extent = anchor_extent * log_scale.clamp(max=self.max_log_scale).exp()
        return box_ops.from_cxcywh(torch.cat([centre, extent], dim=-1))
