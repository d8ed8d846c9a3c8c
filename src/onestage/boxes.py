"""The only file that converts, clips, compares or suppresses boxes.

Shape letters: N, M boxes; ... any leading dimensions. A box is x1, y1, x2, y2 in float pixels with x1 <= x2 and y1 <= y2;
the pixel (0, 0) covers 0..1, so width is x2 - x1. Other formats exist only as arguments and results of the converters below.
"""

import torch
from torch import Tensor
from torchvision.ops import nms as _nms


def from_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) left, top, width, height -> (..., 4) xyxy. COCO's format."""
    corner, extent = boxes.split(2, dim=-1)
    return torch.cat([corner, corner + extent], dim=-1)


def to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (..., 4) left, top, width, height. The inverse of ``from_xywh``."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([low, high - low], dim=-1)


def from_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> (..., 4) xyxy. YOLO's format, and how anchors are described."""
    centre, extent = boxes.split(2, dim=-1)
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=-1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (..., 4) centre x, centre y, width, height. The inverse of ``from_cxcywh``."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """(..., 4) cut to a picture of ``size`` (height, width), or each to its own picture's: (..., 2).

    A box wholly outside becomes one of zero area on the border.
    """
    sizes = size if isinstance(size, Tensor) else boxes.new_tensor(size)
    return boxes.clamp(min=0).minimum(sizes[..., [1, 0, 1, 0]])


def flip_horizontal(boxes: Tensor, width: float) -> Tensor:
    """(..., 4) mirrored left to right in a picture of that width. Its own inverse."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...) square pixels; 0 for a box turned inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, 4) and (..., M, 4) -> (..., N, M) square pixels of overlap. Leading dimensions broadcast."""
    ax1, ay1, ax2, ay2 = (side[..., :, None] for side in a.unbind(-1))
    bx1, by1, bx2, by2 = (side[..., None, :] for side in b.unbind(-1))
    width = torch.minimum(ax2, bx2).sub(torch.maximum(ax1, bx1)).clamp(min=0)
    height = torch.minimum(ay2, by2).sub(torch.maximum(ay1, by1)).clamp(min=0)
    return width * height


def iou(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, 4) and (..., M, 4) -> (..., N, M) intersection over union in 0..1; 0 where both boxes are empty."""
    inter = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(inter))


def cover(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, 4) and (..., M, 4) -> (..., N, M): the part of each ``a`` that lies inside each ``b``, 0..1; empty ``a``: 0."""
    inter = intersection(a, b)
    own = area(a)[..., :, None]
    return torch.where(own > 0, inter / own, torch.zeros_like(inter))


def nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression inside each group (a class, or a class of one image of a batch).

    boxes (N, 4), scores (N,), groups (N,) int64 -> indices (M,) int64 of the survivors, best score first. A box goes
    when its IoU with a better survivor of its group is above ``threshold``. Equal scores: the lower index first.

    Groups are moved apart and suppressed in one call; in float64, because in float32 the shift would cost up to 1/100 pixel.
    """
    if boxes.numel() == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    wide = boxes.double()
    lowest = wide.min()
    apart = groups.double() * (wide.max() - lowest + 1)
    return _nms(wide - lowest + apart[:, None], scores.double(), threshold)
