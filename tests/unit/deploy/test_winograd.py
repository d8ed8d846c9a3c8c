"""Winograd's algorithm in exported graphs: the same numbers, for maps of every size, where it pays and nowhere besides."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from onestage.deploy.winograd import GraphConv3x3, by_winograd
from onestage.model.layers.convolution import Conv3x3, transforms


@pytest.mark.parametrize("size", [(20, 20), (19, 23), (18, 21), (17, 38), (1, 300), (3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_the_convolution(size, bias):
    torch.manual_seed(0)
    conv, images = nn.Conv2d(5, 7, 3, padding=1, bias=bias), torch.randn(2, 5, *size)
    with torch.no_grad():
        torch.testing.assert_close(GraphConv3x3(conv)(images), conv(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("example", "by_tiles"), [((24, 32), True), ((12, 16), False)])
def test_one_graph_takes_maps_of_every_size(example, by_tiles):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1)
    free = {0: Dim("batch"), 2: Dim("rows"), 3: Dim("columns")}
    exported = torch.export.export(GraphConv3x3(conv).eval(), (torch.randn(2, 5, *example),), dynamic_shapes=(free,))
    assert ("pixel_shuffle" in exported.graph_module.code) == by_tiles
    program = exported.module()
    with torch.no_grad():
        for size in ((1, 5, 24, 32), (3, 5, 21, 42), (2, 5, 2, 3)):
            images = torch.randn(*size)
            torch.testing.assert_close(program(images), conv(images), rtol=1e-4, atol=1e-4)


def test_only_wide_plain_convolutions_are_replaced_and_only_in_the_copy():
    wide = {"padding": 1}
    parts = {
        "conv": nn.Conv2d(256, 128, 3, **wide),
        "ours": Conv3x3(128, 256),
        "narrow": nn.Conv2d(64, 512, 3, **wide),
        "strided": nn.Conv2d(128, 256, 3, stride=2, **wide),
        "dilated": nn.Conv2d(128, 256, 3, padding=1, dilation=2),
        "grouped": nn.Conv2d(256, 256, 3, groups=2, **wide),
        "reflected": nn.Conv2d(128, 256, 3, padding_mode="reflect", **wide),
        "point": nn.Conv2d(256, 256, 1),
    }
    network = nn.ModuleDict({name: nn.Sequential(part) for name, part in parts.items()})
    copy = by_winograd(network)
    assert [name for name in parts if isinstance(copy[name][0], GraphConv3x3)] == ["conv", "ours"]
    assert all(network[name][0] is part for name, part in parts.items())
    assert copy["conv"][0].conv.weight is parts["conv"].weight


def test_an_export_leaves_nothing_of_its_trace_behind():
    transforms.cache_clear()
    layer = GraphConv3x3(nn.Conv2d(5, 7, 3, padding=1)).eval()
    torch.export.export(layer, (torch.randn(1, 5, 24, 32),))
    assert {type(matrix) for matrix in transforms()} == {torch.Tensor}
    assert not layer.state_dict().keys() - {"conv.weight", "conv.bias"}
