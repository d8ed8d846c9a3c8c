"""FPN: its levels, how they are made, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from onestage.errors import ConfigError
from onestage.model.necks.fpn import FPN

CHANNELS = (5, 7, 9)
SIZES = ((13, 10), (7, 5), (4, 3))


def maps(channels=CHANNELS, sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, *s, generator=generator) for c, s in zip(channels, sizes, strict=True)]


def lively(neck):
    """Biases away from 0, where they start."""
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return neck.eval()


def upsampled(coarse, height, width):
    """Each cell of the finer map takes the coarse one that lies over its upper left corner."""
    rows = [i * coarse.shape[2] // height for i in range(height)]
    columns = [i * coarse.shape[3] // width for i in range(width)]
    return coarse[:, :, rows][:, :, :, columns]


@pytest.mark.parametrize("source", ["c5", "p5"])
@torch.no_grad()
def test_the_levels_are_those_of_the_paper(source):
    """Figure 3 of the FPN paper and section 4 of RetinaNet's, level by level."""
    neck = lively(FPN(width=6, source=source).build(CHANNELS))
    c3, c4, c5 = maps()
    lateral = [layer[0] for layer in neck.lateral]
    output = [layer[0] for layer in neck.output]
    m5 = lateral[2](c5)
    m4 = lateral[1](c4) + upsampled(m5, 7, 5)
    m3 = lateral[0](c3) + upsampled(m4, 13, 10)
    p3, p4, p5 = (F.conv2d(m, conv.weight, conv.bias, padding=1) for m, conv in zip((m3, m4, m5), output, strict=True))
    p6 = F.conv2d(c5 if source == "c5" else p5, neck.extra[0].weight, neck.extra[0].bias, stride=2, padding=1)
    p7 = F.conv2d(p6.relu(), neck.extra[1].weight, neck.extra[1].bias, stride=2, padding=1)
    for got, expected in zip(neck([c3, c4, c5]), (p3, p4, p5, p6, p7), strict=True):
        torch.testing.assert_close(got, expected)
    assert (p6 < 0).any()  # so that the ReLU before P7 was seen


@pytest.mark.parametrize(("count", "extra"), [(1, 0), (2, 3), (3, 2), (3, 0)])
def test_any_number_of_maps_and_levels(count, extra):
    neck = FPN(width=8, extra=extra).build(CHANNELS[:count])
    levels = neck(maps(CHANNELS[:count], SIZES[:count]))
    sizes = list(SIZES[:count])
    for _ in range(extra):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    assert [tuple(level.shape) for level in levels] == [(2, 8, *size) for size in sizes]
    assert neck.channels == (8,) * (count + extra)


def test_the_maps_that_come_in_stay_as_they_are():
    before = maps()
    given = [m.clone() for m in before]
    FPN(width=8).build(CHANNELS)(given)
    assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))


@pytest.mark.parametrize(("norm", "kind"), [("group", torch.nn.GroupNorm), ("batch", torch.nn.BatchNorm2d)])
def test_a_norm_follows_every_convolution_of_the_pyramid(norm, kind):
    neck = FPN(width=64, norm=norm).build(CHANNELS)
    layers = [*neck.lateral, *neck.output]
    assert all(isinstance(layer[1], kind) and layer[0].bias is None for layer in layers)
    neck([m[..., :2, :2] for m in maps()])[0].sum().backward()
    assert all(layer[1].weight.grad is not None for layer in neck.output[:1])
    plain = FPN(width=64).build(CHANNELS)
    assert all(len(layer) == 1 and layer[0].bias is not None for layer in [*plain.lateral, *plain.output])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 0}, "at least 1"),
        ({"extra": -1}, "at least 0"),
        ({"width": 48, "norm": "group"}, "32 equal"),
    ],
)
def test_what_is_no_fpn(settings, says):
    with pytest.raises(ConfigError, match=says):
        FPN(**settings).build(CHANNELS)
