"""EfficientDet's heads: shared convolutions, norms per level, the order of rows, the prior."""

import pytest
import torch
from torch import nn

from onestage.errors import ConfigError
from onestage.model.heads.separable import SeparableHead

SIZES = [(6, 5), (3, 3), (2, 2)]


def maps(width=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, width, *s, generator=generator) for s in SIZES]


def build(logits=4, **options):
    torch.manual_seed(0)
    head = SeparableHead(**options).build((8, 8, 8), (3, 3, 3), logits)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return head


def net_by_hand(net, feature, level):
    """One subnet on one map, with convolutions as sums over windows."""
    for conv, norms in zip(net.convs, net.norms, strict=True):
        norm = norms[level]
        feature = separable(conv, feature)
        scale = norm.weight / (norm.running_var + 1e-3).sqrt()
        feature = (feature - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
        feature = feature * feature.sigmoid()
    return separable(net.output, feature)


def separable(conv, feature):
    channels, height, width = feature.shape
    padded = torch.zeros(channels, height + 2, width + 2)
    padded[:, 1:-1, 1:-1] = feature
    depthwise = torch.zeros_like(feature)
    for dy in range(3):
        for dx in range(3):
            depthwise += conv.depthwise.weight[:, 0, dy, dx, None, None] * padded[:, dy : dy + height, dx : dx + width]
    mixed = torch.einsum("oc,chw->ohw", conv.pointwise.weight[:, :, 0, 0], depthwise)
    return mixed if conv.pointwise.bias is None else mixed + conv.pointwise.bias[:, None, None]


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_rows_are_ordered_level_y_x_shape(bias):
    head = build(layers=2, bias=bias).eval()
    logits, deltas = head(maps())
    anchors = [(level, y, x, s) for level, (h, w) in enumerate(SIZES) for y in range(h) for x in range(w) for s in range(3)]
    assert logits.shape == (2, len(anchors), 4)
    assert deltas.shape == (2, len(anchors), 4)
    for image in range(2):
        cls = [net_by_hand(head.cls, m[image], level) for level, m in enumerate(maps())]
        box = [net_by_hand(head.box, m[image], level) for level, m in enumerate(maps())]
        for row, (level, y, x, s) in enumerate(anchors):
            torch.testing.assert_close(logits[image, row], cls[level][4 * s : 4 * s + 4, y, x], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(deltas[image, row], box[level][4 * s : 4 * s + 4, y, x], atol=1e-5, rtol=1e-5)


def test_convolutions_are_shared_and_norms_are_not():
    """Per net 2 layers of (9 + 8) * 8 weights for all levels and 2 * 8 of batch norm for each of 3."""
    head = build(layers=2, bias=False)
    outputs = 9 * 8 + 8 * 12 + 12  # for 4 logits of 3 shapes, and as many offsets
    assert sum(p.numel() for p in head.parameters()) == 2 * (2 * (9 * 8 + 8 * 8) + 2 * 3 * 16 + outputs)


@torch.no_grad()
def test_at_first_every_class_is_as_likely_as_the_prior():
    head = build(prior=0.03)
    head.cls.output.pointwise.weight.zero_()
    logits, _ = head(maps())
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.03))
    assert head.box.output.pointwise.bias.eq(0).all()


def test_every_parameter_learns():
    head = build(bias=False)
    logits, deltas = head(maps())
    (logits.square().mean() + deltas.square().mean()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_signal_keeps_its_size_on_the_way():
    """Weights of variance 1 / fan-in, as in the paper's code: a unit input comes out of a linear layer as one."""
    torch.manual_seed(0)
    head = SeparableHead(layers=0).build((256,), (9,), 90)
    _, deltas = head([torch.randn(1, 256, 16, 16)])
    assert 0.8 < deltas.std() < 1.2


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match=r"(?s)shares its convolutions.*equal channels, such as a BiFPN gives.*\(8, 16\)"):
        SeparableHead().build((8, 16), (3, 3), 4)
    with pytest.raises(ConfigError, match=r"(?s)the same number of anchor shapes.*\(3, 4\)"):
        SeparableHead().build((8, 8), (3, 4), 4)
    with pytest.raises(ConfigError, match="prior"):
        SeparableHead(prior=0.0)
