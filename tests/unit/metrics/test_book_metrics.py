"""Class error and box MAE against the d2l book's formulas, and their sums over batches."""

import math

import pytest
import torch

from onestage.metrics.book import BookMetrics


def batch(seed: int, images: int) -> tuple[BookMetrics, torch.Tensor, torch.Tensor]:
    """One batch with the book's two sums beside it (section 14.7.2): (d1 == d2).sum() and (|a - b| * mask).sum()."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, 50, 3, generator=draw)
    assigned = torch.randint(0, 3, (images, 50), generator=draw)
    deltas, targets = torch.randn(2, images, 50, 4, generator=draw)
    positive = assigned > 0
    masks = positive[..., None].expand(-1, -1, 4).float()
    ours = BookMetrics.of(scores.argmax(-1), assigned, deltas=deltas, targets=targets, positive=positive)
    return ours, (scores.argmax(-1) == assigned).sum(), ((targets - deltas) * masks).abs().sum()


def test_one_batch_equals_the_book() -> None:
    ours, right, distance = batch(0, 4)
    assert ours.class_error == pytest.approx(1 - float(right) / 200)
    assert ours.box_mae == pytest.approx(float(distance) / 800, rel=1e-6)


def test_batches_of_different_sizes_add_up_to_one() -> None:
    parts = [batch(seed, images) for seed, images in ((1, 4), (2, 1), (3, 7))]
    total = sum((part[0] for part in parts), BookMetrics())
    assert total.class_error == pytest.approx(1 - sum(float(p[1]) for p in parts) / 600)
    assert total.box_mae == pytest.approx(sum(float(p[2]) for p in parts) / 2400, rel=1e-6)


def test_offsets_of_anchors_without_an_object_do_not_matter() -> None:
    wild = torch.full((1, 2, 4), float("nan"))
    wild[0, 1] = 1.0
    ours = BookMetrics.of(
        torch.tensor([[0, 1]]),
        torch.tensor([[0, 2]]),
        deltas=wild,
        targets=torch.zeros(1, 2, 4),
        positive=torch.tensor([[False, True]]),
    )
    assert (ours.anchors, ours.wrong, ours.distance) == (2, 1, 4.0)
    assert (ours.class_error, ours.box_mae) == (0.5, 0.5)


def test_before_the_first_anchor_there_is_no_figure() -> None:
    assert math.isnan(BookMetrics().class_error) and math.isnan(BookMetrics().box_mae)
