"""Box losses: every kind against plain numbers, through the coder."""

import math

import pytest
import torch

import slow_references as slow
from onestage.errors import ConfigError
from onestage.model.anchors.coder import BoxCoder
from onestage.model.losses.boxes import L1, Huber, IoULoss, SmoothL1

ANCHORS = torch.tensor([[10.0, 10, 30, 40], [0, 0, 16, 16], [20, 30, 90, 50]])
BOXES = torch.tensor([[12.0, 8, 33, 41], [4, 2, 18, 15], [5, 32, 70, 60]])
DELTAS = torch.tensor([[0.3, -0.2, 0.05, 2.0], [0.0, 0.0, 0.0, 0.0], [-3.0, 4.0, 0.5, -0.01]])


def by_offset(of_one):
    wanted = [slow.offsets(a, b) for a, b in zip(ANCHORS.tolist(), BOXES.tolist(), strict=True)]
    return [sum(of_one(d - t) for d, t in zip(*pair, strict=True)) for pair in zip(DELTAS.tolist(), wanted, strict=True)]


def by_overlap(measure):
    found = BoxCoder().decode(ANCHORS, DELTAS).tolist()
    return [1 - measure(a, b) for a, b in zip(found, BOXES.tolist(), strict=True)]


def smooth(x, beta):
    return 0.5 * x * x / beta if abs(x) < beta else abs(x) - 0.5 * beta


def huber(x, delta):
    return 0.5 * x * x if abs(x) < delta else delta * (abs(x) - 0.5 * delta)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SmoothL1(), by_offset(slow.smooth_l1)),
        (SmoothL1(0.11), by_offset(lambda x: smooth(x, 0.11))),
        (SmoothL1(0.0), by_offset(abs)),
        (L1(), by_offset(abs)),
        (Huber(), by_offset(lambda x: huber(x, 1.0))),
        (Huber(0.1), by_offset(lambda x: huber(x, 0.1))),
        (IoULoss(), by_overlap(slow.giou)),
        (IoULoss("diou"), by_overlap(slow.diou)),
        (IoULoss("ciou"), by_overlap(slow.ciou)),
    ],
    ids=repr,
)
def test_every_kind_against_plain_numbers(loss, expected):
    assert loss(DELTAS, ANCHORS, BOXES, BoxCoder()).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [SmoothL1(), L1(), Huber(), IoULoss("giou"), IoULoss("diou"), IoULoss("ciou")], ids=repr)
def test_the_right_offsets_cost_nothing_and_wrong_ones_are_pulled_there(loss):
    right = BoxCoder().encode(ANCHORS, BOXES)
    assert loss(right, ANCHORS, BOXES, BoxCoder()).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    deltas = DELTAS.clone().requires_grad_()
    before = loss(deltas, ANCHORS, BOXES, BoxCoder()).sum()
    before.backward()
    step = deltas.detach() - 1e-3 * deltas.grad
    assert loss(step, ANCHORS, BOXES, BoxCoder()).sum() < before


@pytest.mark.parametrize("loss", [SmoothL1(), L1(), Huber(), IoULoss()], ids=repr)
def test_a_batch_without_objects(loss):
    nothing = torch.zeros(0, 4)
    assert loss(nothing, nothing, nothing, BoxCoder()).shape == (0,)


@pytest.mark.parametrize("overlap", ["giou", "diou", "ciou"])
def test_wild_offsets_have_finite_gradients(overlap):
    deltas = torch.tensor([[0.0, 0, 1e4, 1e4], [1e4, -1e4, 0, 0], [0, 0, -1e4, -1e4]], requires_grad=True)
    loss = IoULoss(overlap)(deltas, ANCHORS, BOXES, BoxCoder())
    loss.sum().backward()
    assert loss.isfinite().all() and deltas.grad.isfinite().all()


@pytest.mark.parametrize("make", [lambda: SmoothL1(-0.1), lambda: Huber(0.0)])
def test_numbers_that_make_no_loss_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_delta_times_smooth_l1_is_huber():
    ours = Huber(0.3)(DELTAS, ANCHORS, BOXES, BoxCoder())
    torch.testing.assert_close(ours, 0.3 * SmoothL1(0.3)(DELTAS, ANCHORS, BOXES, BoxCoder()))
    assert all(map(math.isfinite, ours.tolist()))
