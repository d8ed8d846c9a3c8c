"""DSSD's neck: figure 3 written out, levels of any size, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from onestage.errors import ConfigError
from onestage.model.necks.deconvolution import Deconvolution
from onestage.model.necks.extra_levels import ExtraBlock, ExtraLevels

HALVED, CUT, LAST = ExtraBlock(4, 10), ExtraBlock(4, 6, stride=1, padding=0), ExtraBlock(4, 6, kernel=4, stride=1, padding=1)


def built(blocks=(HALVED, CUT), channels=(5, 7), **options):
    """Lively: batch norm has averages of its own, in evaluation mode."""
    torch.manual_seed(0)
    neck = Deconvolution(ExtraLevels(tuple(blocks)), width=8, **options).build(channels).eval()
    for module in neck.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return neck


def convolved(maps, conv, norm):
    """3x3 convolution without bias, then batch norm: channel by channel, cell by cell."""
    padded = F.pad(maps, (1, 1, 1, 1))
    result = torch.zeros(conv.out_channels, *maps.shape[1:])
    for o in range(conv.out_channels):
        for y in range(maps.shape[1]):
            for x in range(maps.shape[2]):
                result[o, y, x] = (padded[:, y : y + 3, x : x + 3] * conv.weight[o]).sum()
        scale = norm.weight[o] / (norm.running_var[o] + norm.eps).sqrt()
        result[o] = (result[o] - norm.running_mean[o]) * scale + norm.bias[o]
    return result


def enlarged(maps, deconv, size):
    """Every cell of the coarse map paints its window of the fine one, which lies ``stride`` cells from its neighbour's."""
    k, s, p = deconv.kernel_size[0], deconv.stride[0], deconv.padding[0]
    height, width = ((n - 1) * s + k for n in maps.shape[1:])
    canvas = torch.zeros(deconv.out_channels, height, width)
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            canvas[:, y * s : y * s + k, x * s : x * s + k] += torch.einsum("c,cokl->okl", maps[:, y, x], deconv.weight)
    canvas = (canvas + deconv.bias.view(-1, 1, 1))[:, p : height - p, p : width - p]
    rows = [min(y, canvas.shape[1] - 1) for y in range(size[0])]
    columns = [min(x, canvas.shape[2] - 1) for x in range(size[1])]
    return canvas[:, rows][:, :, columns]


def reference(module, own, coarse, fusion):
    fine = convolved(own, module.fine[0], module.fine[1]).relu()
    fine = convolved(fine, module.fine[3], module.fine[4])
    coarse = convolved(enlarged(coarse, module.enlarge, own.shape[1:]), module.coarse[0], module.coarse[1])
    return (fine * coarse if fusion == "product" else fine + coarse).relu()


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["product", "sum"])
def test_is_figure_3_written_out(fusion):
    """Maps of 11x9, 5x5, 3x3 and 1x1 cells: the finest is one more row than twice the next, and one column less."""
    neck = built(fusion=fusion)
    maps = [torch.randn(1, 5, 11, 9), torch.randn(1, 7, 5, 5)]
    down = neck.extra(list(maps))
    found = neck(maps)
    assert torch.equal(found[-1], down[-1])
    expected = found[-1][0]
    for level in (2, 1, 0):
        expected = reference(neck.up[level], down[level][0], expected, fusion)
        torch.testing.assert_close(found[level][0], expected, atol=1e-4, rtol=1e-4)
        assert 0.1 < (found[level] > 0).float().mean() < 0.9


@torch.no_grad()
@pytest.mark.parametrize(
    ("block", "window"),
    [(HALVED, (2, 2, 0)), (CUT, (3, 1, 0)), (LAST, (4, 1, 1)), (ExtraBlock(4, 6, kernel=5, stride=3), (3, 3, 0))],
)
def test_a_level_is_enlarged_by_what_made_it(block, window):
    """2x2 of stride 2 where it was halved (figure 3); levels that were cut get back all cells that were cut off."""
    deconv = built([block], (7,)).up[0].enlarge
    assert (deconv.kernel_size[0], deconv.stride[0], deconv.padding[0]) == window
    if block in (CUT, LAST):
        cells = 5 if block is CUT else 2
        small = (cells + 2 * block.padding - block.kernel) // block.stride + 1
        assert deconv(torch.zeros(1, 6, small, small)).shape[2:] == (cells, cells)


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    st.integers(6, 40),
    st.integers(6, 40),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=0, max_size=2),
    st.lists(st.sampled_from([HALVED, CUT]), min_size=1, max_size=2),
)
def test_any_sizes_and_any_number_of_levels(height, width, halvings, blocks):
    """Backbones halve to one cell more or less, in each direction by itself; every level keeps its own size."""
    sizes = [(height, width)]
    for up, right in halvings:
        sizes.append(((sizes[-1][0] + up) // 2, (sizes[-1][1] + right) // 2))
    assume(min(sizes[-1]) >= 5)  # it can be cut twice
    channels = tuple(range(3, 3 + len(sizes)))
    neck = Deconvolution(ExtraLevels(tuple(blocks)), width=4).build(channels).eval()
    maps = [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    found = neck(list(maps))
    assert [tuple(m.shape[2:]) for m in found] == [tuple(m.shape[2:]) for m in neck.extra(list(maps))]
    assert [m.shape[1] for m in found] == list(neck.channels) == [4] * (len(found) - 1) + [blocks[-1].out]
    assert all(m.isfinite().all() for m in found)


@torch.no_grad()
def test_a_cell_hears_of_the_coarse_cell_above_it_alone():
    """With 1x1 windows in place of 3x3, cell (i, j) depends on the coarse cell (i // 2, j // 2), also where a size is odd."""
    neck = built([], (5, 7))
    for conv in (neck.up[0].fine[0], neck.up[0].fine[3], neck.up[0].coarse[0]):
        centre = conv.weight[:, :, 1, 1].clone()
        conv.weight.zero_()[:, :, 1, 1] = centre
    for height, width in ((10, 10), (9, 10), (11, 10)):
        fine, coarse = torch.randn(1, 5, height, width), torch.randn(1, 7, 5, 5)
        before = neck([fine, coarse])[0]
        coarse[0, :, 4, 2] += 100
        changed = (neck([fine, coarse])[0] != before).any(1)[0]
        assert {(y, x) for y, x in changed.nonzero().tolist()} == {(y, x) for y in range(8, height) for x in (4, 5)}


def test_every_weight_learns():
    neck = built().train()
    sum(m.square().sum() for m in neck([torch.randn(2, 5, 12, 12), torch.randn(2, 7, 6, 6)])[:-1]).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_one_level_has_nothing_to_go_back_to():
    with pytest.raises(ConfigError, match="at least two levels"):
        Deconvolution().build((5,))
    assert Deconvolution().build((5, 6)).channels == (512, 6)
    with pytest.raises(ConfigError, match="at least 1"):
        Deconvolution(width=0)
