"""NMS with results of fixed shapes, so that it can stand in a graph.

Shape letters: B images, N boxes of each image, best score first, G groups inside which boxes suppress each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop  # torch.export has no public name for it yet

from onestage import boxes as box_ops

if TYPE_CHECKING:
    from onnxscript.ir import Value as OnnxValue


MOST_BOXES = 2000
"""Of one image, for NMS by plain operators."""


@torch.library.custom_op("onestage::survivors", mutates_args=())
def survivors(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """boxes (B, N, 4), scores (B, G, N), above 0 in at most one group of each box -> the scores (B, N) of the boxes, 0 where a
    better box of the same group has an IoU above the threshold. It is one operator of a graph, which each file format
    translates.
    """
    result = torch.zeros_like(scores[:, 0])
    image, group, row = scores.nonzero(as_tuple=True)
    best = box_ops.nms(boxes[image, row], scores[image, group, row], image * scores.shape[1] + group, iou_threshold)
    result[image[best], row[best]] = scores[image[best], group[best], row[best]]
    return result


@survivors.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores[:, 0])


def survivors_in_onnx(boxes: OnnxValue, scores: OnnxValue, iou_threshold: float) -> OnnxValue:
    """The same in ONNX: NonMaxSuppression lists the survivors, and their scores are put into an array of zeros."""
    import onnx
    from onnxscript import opset18 as op

    all_of_them = op.Constant(value=onnx.helper.make_tensor("all", onnx.TensorProto.INT64, [1], [1 << 30]))
    limits = op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.0])
    chosen = op.NonMaxSuppression(boxes, scores, all_of_them, *limits)  # rows of (image, group, box)
    none = op.Mul(op.Gather(scores, op.Constant(value_int=0), axis=1), op.Constant(value_float=0.0))
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    return op.ScatterND(none, places, op.GatherND(scores, chosen))


def suppress_by_operator(boxes: Tensor, scores: Tensor, groups: Tensor, number: int, iou_threshold: float) -> Tensor:
    """NMS with one operator. boxes (B, N, 4), scores (B, N), groups (B, N) in 0..number-1 -> the scores (B, N), 0 where a
    better box of the same group has an IoU above the threshold.
    """
    member = groups[:, None] == torch.arange(number, device=groups.device)[None, :, None]
    kept: Tensor = torch.ops.onestage.survivors(boxes, scores[:, None] * member, iou_threshold)
    return kept


def suppress_by_rounds(boxes: Tensor, scores: Tensor, groups: Tensor, number: int, iou_threshold: float) -> Tensor:
    """The same with plain operators, for programs that have no NMS. boxes (B, N, 4), scores (B, N) descending, groups (B, N).

    It looks at the MOST_BOXES best, because every pair takes memory; those behind them go. A box stays if no better box that
    stays removes it. The first guess is that all stay, and every round applies this rule to the last guess. A round settles at
    least one more box, so the rounds end, and the last guess is what NMS gives.
    """
    behind = scores[:, MOST_BOXES:]
    boxes, scores, groups = boxes[:, :MOST_BOXES], scores[:, :MOST_BOXES], groups[:, :MOST_BOXES]
    count = boxes.shape[1]
    better = torch.ones(count, count, dtype=torch.bool, device=boxes.device).tril(-1)
    removes = (box_ops.iou(boxes, boxes) > iou_threshold) & better & (groups[:, :, None] == groups[:, None])
    weight, there = removes.float(), (scores > 0).float()[:, :, None]

    def unsettled(stays: Tensor, before: Tensor) -> Tensor:
        return (stays != before).any()

    def settle(stays: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return there * (weight @ stays == 0), stays.clone()

    stays, _ = while_loop(unsettled, settle, (there.clone(), -torch.ones_like(there)))
    return torch.cat([scores * stays[:, :, 0], torch.zeros_like(behind)], dim=1)
