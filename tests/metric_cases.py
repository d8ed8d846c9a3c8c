"""Detections and truths in one line each, for the tests of evaluation."""

from collections.abc import Sequence

import torch

from onestage import boxes as box_ops
from onestage.structures import Detections, Truth

Row = Sequence[float]


def found(image_id: int | str, rows: Sequence[Row] = (), *, kind: torch.dtype = torch.float32) -> Detections:
    """Rows of label, score, x1, y1, x2, y2; put in order of score. The numbers are of that kind."""
    table = torch.tensor([list(r) for r in rows], dtype=torch.float64).reshape(-1, 6)
    table = table[table[:, 1].argsort(descending=True, stable=True)]
    labels = table[:, 0].long()
    return Detections(
        boxes=table[:, 2:].to(kind),
        scores=table[:, 1].to(kind),
        labels=labels,
        class_names=tuple(f"class {k}" for k in labels.tolist()),
        category_ids=tuple(labels.tolist()),
        size=(480, 640),
        image_id=image_id,
    )


def known(
    image_id: int | str,
    rows: Sequence[Row] = (),
    *,
    ignore: Sequence[int] = (),
    crowd: Sequence[int] = (),
    area: Row = (),
    kind: torch.dtype = torch.float32,
) -> Truth:
    """Rows of label, x1, y1, x2, y2; ``ignore`` and ``crowd`` name rows; ``area`` of every row, or the boxes' own."""
    table = torch.tensor([list(r) for r in rows], dtype=torch.float64).reshape(-1, 5)
    boxes, numbers = table[:, 1:].to(kind), torch.arange(len(table))
    return Truth(
        boxes=boxes,
        labels=table[:, 0].long(),
        ignore=torch.isin(numbers, torch.tensor(ignore)),
        crowd=torch.isin(numbers, torch.tensor(crowd)),
        area=torch.tensor(area, dtype=kind) if len(area) else box_ops.area(boxes),
        image_id=image_id,
        size=(480, 640),
    )
