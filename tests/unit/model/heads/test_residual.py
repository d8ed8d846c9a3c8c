"""DSSD's head: figure 2's four variants, and the order of its rows."""

import pytest
import torch
from torch import nn

from onestage.errors import ConfigError
from onestage.model.heads.per_level import ConvHead
from onestage.model.heads.residual import ResidualHead

CHANNELS, SHAPES, LOGITS = (5, 12), (3, 1), 4


def built(**options):
    """Lively: batch norm has averages of its own, in evaluation mode."""
    torch.manual_seed(0)
    head = ResidualHead(**{"width": 8, **options}).build(CHANNELS, SHAPES, LOGITS).eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    return head


def maps():
    return [torch.randn(2, 5, 3, 4), torch.randn(2, 12, 1, 2)]


def pointwise(vector, conv, norm):
    """A 1x1 convolution and batch norm, on the channels of one cell."""
    mixed = conv.weight[:, :, 0, 0] @ vector
    return (mixed - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def block(vector, module, *, convolved):
    """One residual block on one cell: 1x1 - 1x1 - 1x1, and what goes past it."""
    conv1, norm1, _, conv2, norm2, _, conv3, norm3 = module.branch
    inner = pointwise(pointwise(vector, conv1, norm1).relu(), conv2, norm2).relu()
    return (pointwise(inner, conv3, norm3) + (pointwise(vector, *module.skip) if convolved else vector)).relu()


@torch.no_grad()
@pytest.mark.parametrize(("blocks", "skip"), [(0, "conv"), (1, "identity"), (1, "conv"), (2, "conv")])  # figure 2, (a) to (d)
def test_the_variants_of_figure_2(blocks, skip):
    head = built(blocks=blocks, skip=skip)
    inputs = maps()
    expected = []
    for level, features in enumerate(inputs):
        assert len(head.blocks[level]) == blocks
        for module in head.blocks[level]:
            cells = [[block(c, module, convolved=skip == "conv") for c in row.unbind(1)] for row in features[0].unbind(1)]
            features = torch.stack([torch.stack(row, 1) for row in cells], 1)[None]
        expected.append(features[:1])
    width = {"conv": (8, 8), "identity": CHANNELS}[skip] if blocks else CHANNELS
    assert tuple(m.shape[1] for m in expected) == width
    plain = ConvHead().build(width, SHAPES, LOGITS)
    plain.load_state_dict(head.convs.state_dict())
    for found, other in zip(head(inputs), plain(expected), strict=True):
        torch.testing.assert_close(found[:1], other, atol=1e-5, rtol=1e-5)
    assert head(inputs)[0].shape == (2, 3 * 4 * 3 + 2, LOGITS)
    assert head(inputs)[1].shape == (2, 3 * 4 * 3 + 2, 4)


def test_the_paper_s_block():
    """Figure 2c on a map of 512 channels: 256, 256 and 1024, and 1024 past them."""
    head = ResidualHead().build((512,), (8,), 21)
    convs = [m for m in head.blocks[0].modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convs] == [
        (512, 256, (1, 1)), (256, 256, (1, 1)), (256, 1024, (1, 1)), (512, 1024, (1, 1))
    ]  # fmt: skip
    assert head.convs.cls[0].in_channels == 1024


def test_every_weight_learns_and_the_tasks_share_the_blocks():
    head = built(blocks=2).train()
    for own in (0, 1):
        head.zero_grad()
        head(maps())[own].square().sum().backward()
        without = {name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()}
        other = "box" if own == 0 else "cls"
        assert without == {name for name, _ in head.named_parameters() if name.startswith(f"convs.{other}")}


@pytest.mark.parametrize("wrong", [{"width": 3}, {"blocks": -1}])
def test_numbers_that_make_no_block(wrong):
    with pytest.raises(ConfigError, match="out of its range"):
        ResidualHead(**wrong)
