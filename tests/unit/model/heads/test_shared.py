"""RetinaNet's head: what the levels share, where it starts, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onestage.errors import ConfigError
from onestage.model.heads.shared import SharedHead


def maps(width, sizes=((5, 4), (3, 2))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, width, *size, generator=generator) for size in sizes]


def lively(head):
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    return head


@pytest.mark.parametrize("norm", ["none", "group"])
@torch.no_grad()
def test_subnets_are_the_same_on_every_level_and_two_different_ones(norm):
    """Section 4 of the paper, one convolution after the other; rows ordered (level, y, x, shape)."""
    head = lively(SharedHead(layers=2, norm=norm).build((32, 32), (3, 3), 5))
    logits, deltas = head(maps(32))

    def subnet(layers, outputs, x):
        for layer in layers:
            x = F.conv2d(x, layer[0].weight, layer[0].bias, padding=1)
            if norm == "group":
                x = F.group_norm(x, 32, layer[1].weight, layer[1].bias)
            x = x.relu()
        x = F.conv2d(x, outputs.weight, outputs.bias, padding=1)
        return torch.stack([x[:, :, y, c].view(2, 3, -1) for y in range(x.shape[2]) for c in range(x.shape[3])], 1).flatten(
            1, 2
        )

    for got, (*layers, outputs) in ((logits, head.cls), (deltas, head.box)):
        torch.testing.assert_close(got, torch.cat([subnet(layers, outputs, m) for m in maps(32)], dim=1))
    assert logits.shape == (2, 3 * 26, 5)
    assert deltas.shape == (2, 3 * 26, 4)
    assert not {p.data_ptr() for p in head.cls.parameters()} & {p.data_ptr() for p in head.box.parameters()}


@pytest.mark.parametrize("prior", [0.01, 0.2])
@torch.no_grad()
def test_every_class_starts_at_the_prior_probability(prior):
    torch.manual_seed(0)
    logits, deltas = SharedHead(prior=prior).build((64, 64), (9, 9), 3)(maps(64))
    assert logits.sigmoid().mean().item() == pytest.approx(prior, rel=1e-3)
    assert deltas.abs().max() < 0.01


def test_group_norm_takes_the_place_of_the_bias():
    layers = [m for m in SharedHead(norm="group").build((64,), (9,), 3).cls.modules() if isinstance(m, nn.Conv2d)]
    assert [m.bias is None for m in layers] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("settings", "channels", "shapes", "says"),
    [
        ({}, (64, 128), (9, 9), "equal channels, such as an FPN gives\n.*(64, 128)"),
        ({}, (64, 64), (9, 6), "the same number of anchor shapes\n.*(9, 6)"),
        ({"norm": "group"}, (48, 48), (9, 9), "32 equal groups"),
        ({"layers": -1}, (64, 64), (9, 9), "at least 0"),
        ({"prior": 0.0}, (64, 64), (9, 9), "above 0, below 1"),
        ({"prior": 1.0}, (64, 64), (9, 9), "above 0, below 1"),
    ],
)
def test_what_does_not_fit(settings, channels, shapes, says):
    with pytest.raises(ConfigError, match=says):
        SharedHead(**settings).build(channels, shapes, 4)
