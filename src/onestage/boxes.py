"""The only file that converts, clips, compares or suppresses boxes.

Shape letters: N, M boxes; ... any leading dimensions. A box is x1, y1, x2, y2 in float pixels with x1 <= x2 and y1 <= y2;
the pixel (0, 0) covers 0..1, so width is x2 - x1. Other formats exist only as arguments and results of the converters below.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from onestage.errors import DataError

Size = tuple[int, int]
"""(height, width) in pixels."""

_TINY = 1e-7
"""Keeps quotients of areas finite for boxes of no extent."""


def check_rows(what: str, boxes: Tensor, *columns: Tensor) -> None:
    """Raise DataError unless boxes is (N, 4) and every column has N rows."""
    shapes = [tuple(boxes.shape), *(tuple(c.shape) for c in columns)]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or any(s != (len(boxes),) for s in shapes[1:]):
        expected = "(N, 4) boxes and (N,) for the rest"
        raise DataError(f"{what}: boxes, labels and flags do not line up", got=shapes, expected=expected)


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


def clip(boxes: Tensor, size: Size | Tensor) -> Tensor:
    """(..., 4) boxes, cut to a picture of ``size`` (height, width), or each to a picture of its size, (..., 2).

    A box that is wholly outside becomes one of zero area on the border.
    """
    sizes = size if isinstance(size, Tensor) else boxes.new_tensor(size)
    return boxes.clamp(min=0).minimum(sizes[..., [1, 0, 1, 0]])


def clip_to(boxes: Tensor, frames: Tensor) -> Tensor:
    """(..., 4) boxes, each cut to its frame, (..., 4). A box that is wholly outside becomes one of zero area on the border."""
    return boxes.maximum(frames[..., [0, 1, 0, 1]]).minimum(frames[..., [2, 3, 2, 3]])


def flip_horizontal(boxes: Tensor, width: float) -> Tensor:
    """(..., 4) mirrored left to right in a picture of that width. Mirrored twice, they are as before."""
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
    whole = area(a)[..., :, None]
    return torch.where(whole > 0, inter / whole, torch.zeros_like(inter))


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """(..., 4) and (..., 4) -> (...): intersection over union of each pair, 0..1."""
    inter, union = _overlap(a, b)
    return inter / union


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """(..., 4) and (..., 4) -> (...) in -1..1: IoU less the part of their hull that neither box covers (arXiv 1902.09630)."""
    inter, union = _overlap(a, b)
    hull = _hull(a, b).prod(-1).clamp(min=_TINY)
    return inter / union - (hull - union) / hull


def paired_diou(a: Tensor, b: Tensor) -> Tensor:
    """(..., 4) and (..., 4) -> (...) in -1..1: IoU less the squared distance of the centres, as a part of the hull's squared
    diagonal (arXiv 1911.08287, eq. 7)."""
    return paired_iou(a, b) - _centre_distance(a, b)


def paired_ciou(a: Tensor, b: Tensor) -> Tensor:
    """(..., 4) and (..., 4) -> (...): DIoU less a term for different aspect ratios, whose weight grows with the overlap of
    the boxes (arXiv 1911.08287, eq. 8-11). The weight of that term passes no gradient."""
    iou = paired_iou(a, b)
    angles = [torch.atan2(*_extent(box[..., :2], box[..., 2:]).clamp(min=_TINY).unbind(-1)) for box in (a, b)]
    aspect = (2 / math.pi * (angles[0] - angles[1])).square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect).clamp(min=_TINY)
    return iou - _centre_distance(a, b) - weight * aspect


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of each pair, (...) each; the union is never quite 0."""
    inter = _extent(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])).prod(-1)
    return inter, (area(a) + area(b) - inter).clamp(min=_TINY)


def _extent(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0)


def _hull(a: Tensor, b: Tensor) -> Tensor:
    """(..., 2) width and height of the smallest box around both."""
    return torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])


def _centre_distance(a: Tensor, b: Tensor) -> Tensor:
    apart = ((a[..., :2] + a[..., 2:]) - (b[..., :2] + b[..., 2:])) / 2
    return apart.square().sum(-1) / _hull(a, b).square().sum(-1).clamp(min=_TINY)


def nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression inside each group (a class, or a class of one image of a batch).

    boxes (N, 4), scores (N,), groups (N,) int64 -> indices (M,) int64 of the survivors, best score first. A box goes
    when its IoU with a better survivor of its group is above ``threshold``. Equal scores: the lower index first.

    Groups are moved apart and suppressed in one call; in float64, because in float32 the shift would cost up to 1/100 pixel.
    """
    from torchvision.ops import nms as suppress  # imported here, because this takes as long as torch

    if boxes.numel() == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    wide = boxes.double()
    lowest = wide.min()
    apart = groups.double() * (wide.max() - lowest + 1)
    return suppress(wide - lowest + apart[:, None], scores.double(), threshold)


def diou_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """As ``nms``, (N, 4), (N,) and (N,) -> (M,), but with DIoU in the place of IoU.

    Of two boxes that overlap, the one whose centre lies farther away is more likely another object (arXiv 1911.08287, section
    3.3). Scores are above 0.
    """

    def decay(diou: Tensor) -> Tensor:
        return (diou <= threshold).to(scores.dtype)

    return soft_nms(boxes, scores, groups, decay=decay, threshold=0.0, overlap=paired_diou)[0]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    decay: Callable[[Tensor], Tensor],
    threshold: float,
    overlap: Callable[[Tensor, Tensor], Tensor] = paired_iou,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS inside each group (arXiv 1704.04503, figure 2): the best box is taken and the scores of the remaining boxes are
    multiplied by ``decay(overlap with it)``, again and again, while scores above ``threshold``, which is at least 0, are left.

    Return the rows (M,) int64 that were taken, best new score first, and those scores (M,); equal ones: the lower index first.
    Of boxes with equal new scores, the one with the better old score is taken. All groups are processed at the same time.
    """
    rows, there = _by_group(scores, groups)
    inside, left = boxes[rows], scores[rows].masked_fill(~there, 0.0)  # what is 0 stays 0 and is never taken
    final = torch.zeros_like(left)
    while left.numel():
        value, best = left.max(dim=1, keepdim=True)  # the first of equal ones
        alive = value > threshold
        if not bool(alive.any()):
            break
        final.scatter_(1, best, torch.where(alive, value, final.gather(1, best)))
        chosen = inside.gather(1, best[:, :, None].expand(-1, -1, 4))
        left = (left * decay(overlap(chosen, inside))).scatter(1, best, 0.0)
    taken = final > threshold
    kept, order = rows[taken].sort()
    values, by_score = final[taken][order].sort(descending=True, stable=True)
    return kept[by_score], values


def _by_group(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of each group, best score first, as a table (groups, rows of the largest), and which of its cells hold a row."""
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    _, counts = groups.unique(return_counts=True)  # in ascending order, as the groups now are
    most = int(counts.max()) if len(counts) else 0
    there = torch.arange(most, device=scores.device) < counts[:, None]
    rows = torch.zeros(there.shape, dtype=torch.int64, device=scores.device)
    rows[there] = order
    return rows, there
