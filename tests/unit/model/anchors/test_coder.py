"""The box coder against SSD's equation (2), number by number."""

import pytest
import torch

import slow_references as slow
from onestage.errors import ConfigError
from onestage.model.anchors.coder import BoxCoder


def test_offsets_equal_the_slow_ones():
    generator = torch.Generator().manual_seed(0)
    corner, extent = torch.rand(2, 50, 2, generator=generator) * 100, torch.rand(2, 50, 2, generator=generator) * 90 + 1
    anchors, boxes = torch.cat([corner, corner + extent], -1)
    expected = torch.tensor([slow.offsets(a, b) for a, b in zip(anchors.tolist(), boxes.tolist(), strict=True)])
    torch.testing.assert_close(BoxCoder().encode(anchors, boxes), expected, atol=1e-4, rtol=1e-4)


def test_by_hand():
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 5, 15, 25]])
    assert BoxCoder().encode(anchor, box)[0].tolist() == pytest.approx([5.0, 2.5, 0, 0])
    assert BoxCoder((1.0, 1.0, 1.0, 1.0)).encode(anchor, box)[0].tolist() == pytest.approx([0.5, 0.25, 0, 0])
    assert BoxCoder().decode(anchor, torch.tensor([[5.0, 2.5, 0, 0]])).tolist() == [[5, 5, 15, 25]]


def test_wild_outputs_do_not_overflow():
    decoded = BoxCoder().decode(torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.0, 0, 1e6, 1e6]]))
    assert (decoded[0, 2:] - decoded[0, :2]).tolist() == pytest.approx([1000, 1000])


def test_anchors_broadcast_over_a_batch():
    anchors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 25, 30]])
    deltas = torch.randn(3, 2, 4)
    assert torch.equal(BoxCoder().decode(anchors, deltas)[2], BoxCoder().decode(anchors, deltas[2]))


def test_variances_are_divisors():
    with pytest.raises(ConfigError, match="variances"):
        BoxCoder((0.1, 0.0, 0.2, 0.2))
