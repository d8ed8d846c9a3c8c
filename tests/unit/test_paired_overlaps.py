"""GIoU, DIoU and CIoU of pairs: against torchvision's losses, values and gradients, and against numbers worked out by hand."""

import pytest
import torch
import torchvision

import slow_references as slow
from onestage import boxes as box_ops

KINDS = {
    "giou": (box_ops.paired_giou, torchvision.ops.generalized_box_iou_loss, slow.giou),
    "diou": (box_ops.paired_diou, torchvision.ops.distance_box_iou_loss, slow.diou),
    "ciou": (box_ops.paired_ciou, torchvision.ops.complete_box_iou_loss, slow.ciou),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def pairs(count=300, seed=0):
    """Boxes of 1 to 60 pixels, many of which overlap; gradients can be taken at both."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, count, 2, generator=generator) * 60
    extent = 1 + 59 * torch.rand(2, count, 2, generator=generator)
    return [box.requires_grad_() for box in torch.cat([corner, corner + extent], 2)]


def gradients(value, *of):
    return torch.autograd.grad(value.sum(), of)


@each_kind
def test_values_and_gradients_are_torchvisions(kind):
    ours, theirs, _ = KINDS[kind]
    a, b = pairs()
    assert (box_ops.paired_iou(a, b) > 0).sum() > 50 < (box_ops.paired_iou(a, b) == 0).sum()
    torch.testing.assert_close(1 - ours(a, b), theirs(a, b), atol=1e-5, rtol=1e-5)
    for mine, other in zip(gradients(1 - ours(a, b), a, b), gradients(theirs(a, b), a, b), strict=True):
        assert mine.abs().max() > 1e-3
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@each_kind
def test_values_are_the_slow_ones(kind):
    ours, _, reference = KINDS[kind]
    a, b = (box.detach() for box in pairs(seed=1))
    expected = [reference(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert ours(a, b).tolist() == pytest.approx(expected, abs=1e-5)


def test_by_hand():
    """Two squares of side 2, a corner of 1 x 1 in common: union 7, hull 3 x 3, its diagonal squared 18, centres apart 2."""
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert box_ops.paired_iou(a, b).item() == pytest.approx(1 / 7)
    assert box_ops.paired_giou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)
    assert box_ops.paired_diou(a, b).item() == pytest.approx(1 / 7 - 2 / 18)
    assert box_ops.paired_ciou(a, b).item() == pytest.approx(1 / 7 - 2 / 18)  # the same aspect


@each_kind
def test_boxes_without_extent_have_finite_values_and_gradients(kind):
    point, line, box = [5.0, 5, 5, 5], [5.0, 5, 9, 5], [0.0, 0, 10, 10]
    rows = [(x, y) for x in (point, line, box) for y in (point, line, box)]
    a, b = (torch.tensor(column, requires_grad=True) for column in zip(*rows, strict=True))
    value = KINDS[kind][0](a, b)
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(value, a, b))


def test_pairs_of_any_leading_dimensions():
    a, b = (box.detach() for box in pairs(24))
    for function in (box_ops.paired_iou, *(ours for ours, _, _ in KINDS.values())):
        assert torch.equal(function(a.view(2, 3, 4, 4), b.view(2, 3, 4, 4)).flatten(), function(a, b))
        assert function(a[:, None], b[None, :5]).shape == (24, 5)
