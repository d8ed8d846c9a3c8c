"""BiFPN against a slow one written from the paper, node by node, and at sizes that do not halve evenly."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onestage.errors import ConfigError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.detector import map_sizes
from onestage.model.necks.bifpn import BiFPN, resize


def lively(model):
    """Batch norm away from the identity, weights of nodes away from 1 and some below 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith(".weights"):
            nn.init.uniform_(parameter, -0.5, 1.5)
    return model.eval()


def maps(channels, sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, c, *s, generator=generator) for c, s in zip(channels, sizes, strict=True)]


def same_pool(x):
    """TensorFlow's SAME for windows of 3 every 2: the total padding is what the last window lacks, the larger half behind."""
    pads = []
    for cells in reversed(x.shape[2:]):
        total = max((-(-cells // 2) - 1) * 2 + 3 - cells, 0)
        pads += [total // 2, total - total // 2]
    return F.max_pool2d(F.pad(x, pads, value=-torch.inf), 3, 2)


def weighted(node, parts, fusion):
    if fusion == "sum":
        return sum(parts)
    if fusion == "softmax":
        weights = node.weights.exp() / node.weights.exp().sum()
    else:
        weights = node.weights.clamp(min=0) / (node.weights.clamp(min=0).sum() + 1e-4)
    return sum(w * p for w, p in zip(weights, parts, strict=True))


def by_hand(neck, c3, c4, c5, config):
    """The paper's figure 2d for P3..P7, one layer, every node by its own name."""
    pool = {"same": same_pool, "symmetric": lambda x: F.max_pool2d(x, 3, 2, 1)}[config.padding]
    activate = {"silu": lambda x: x * x.sigmoid(), "relu6": lambda x: x.clamp(0, 6)}[config.activation]
    layer = neck.layers[0]

    def node(module, own, *others):
        fused = weighted(module, [module.adapt(own), *others], config.fusion)
        return module.norm(module.conv.pointwise(module.conv.depthwise(activate(fused))))

    def up(x, like):
        rows = torch.arange(like.shape[2]) * x.shape[2] // like.shape[2]
        columns = torch.arange(like.shape[3]) * x.shape[3] // like.shape[3]
        return x[:, :, rows][:, :, :, columns]

    p6 = pool(neck.coarsest(c5))
    p7 = pool(p6)
    d6 = node(layer.down[3], p6, up(p7, p6))
    d5 = node(layer.down[2], c5, up(d6, c5))
    d4 = node(layer.down[1], c4, up(d5, c4))
    o3 = node(layer.down[0], c3, up(d4, c3))
    o4 = node(layer.up[0], c4, d4, pool(o3))
    o5 = node(layer.up[1], c5, d5, pool(o4))
    o6 = node(layer.up[2], p6, d6, pool(o5))
    o7 = node(layer.last, p7, pool(o6))
    return [o3, o4, o5, o6, o7]


@pytest.mark.parametrize("fusion", ["fast", "softmax", "sum"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@torch.no_grad()
def test_a_layer_is_the_papers(fusion, padding):
    torch.manual_seed(0)
    config = BiFPN(6, 1, fusion=fusion, padding=padding, activation="relu6" if fusion == "sum" else "silu")
    neck = lively(config.build((3, 4, 5)))
    c3, c4, c5 = maps((3, 4, 5), [(40, 24), (20, 12), (10, 6)])  # the levels above have 5x3 and 3x2 cells: odd and even
    for own, expected in zip(neck([c3, c4, c5]), by_hand(neck, c3, c4, c5, config), strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_layers_follow_each_other():
    torch.manual_seed(0)
    twice = lively(BiFPN(6, 2).build((3, 4, 5)))
    start = maps((3, 4, 5), [(16, 16), (8, 8), (4, 4)])
    first = twice.layers[0](twice._levels(start))
    for a, b in zip(twice(start), twice.layers[1](first), strict=True):
        torch.testing.assert_close(a, b)
    assert not any(isinstance(node.adapt, nn.Sequential) for node in [*twice.layers[1].down, *twice.layers[1].up])


@pytest.mark.parametrize("levels", [3, 4, 5, 6, 8])
def test_any_number_of_levels_and_channels(levels):
    neck = BiFPN(6, 2, levels).build((3, 6, 9)).eval()
    sizes = [(33, 21), (17, 11), (9, 6)]
    while len(sizes) < levels:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    results = neck(maps((3, 6, 9), sizes[:3]))
    assert [tuple(m.shape[1:]) for m in results] == [(6, *s) for s in sizes]
    assert neck.channels == (6,) * levels


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
@pytest.mark.parametrize("size", [(130, 270), (96, 64), (301, 199)])
def test_any_backbone_at_any_size(name, size):
    """ConvNeXt rounds its maps down, ResNet up; either way every map keeps its size."""
    sizes = list(map_sizes(TimmBackbone(name), size))
    neck = BiFPN(4, 1).build((4, 4, 4)).eval()
    results = neck(maps((4, 4, 4), sizes))
    assert [tuple(m.shape[2:]) for m in results[:3]] == sizes


@pytest.mark.parametrize("cells", range(1, 12))
def test_pooling_is_tensorflows(cells):
    x = torch.randn(1, 2, cells, 12, generator=torch.Generator().manual_seed(cells))
    half = (-(-cells // 2), 6)
    if cells > 1:  # a single row stays as it is
        assert torch.equal(resize(x, half, "same"), same_pool(x))
        assert torch.equal(resize(x, half, "symmetric"), F.max_pool2d(x, 3, 2, 1))
    assert resize(x, half, "same").shape[2:] == half


def test_pooling_never_reads_the_padding():
    assert resize(torch.full((1, 1, 5, 4), -7.0), (3, 2), "same").eq(-7).all()


@pytest.mark.parametrize("fusion", ["fast", "softmax", "sum"])
def test_every_parameter_learns(fusion):
    torch.manual_seed(0)
    neck = BiFPN(6, 2, fusion=fusion, bias=False).build((3, 4, 5))
    sum(m.square().mean() * i for i, m in enumerate(neck(maps((3, 4, 5), [(16, 16), (8, 8), (4, 4)])), start=1)).backward()
    still = [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()]
    # a batch norm that another one follows directly takes any scale and shift of its input away
    assert [name for name in still if not name.startswith("layers.1")] == []


def test_fast_weights_below_zero_count_nothing():
    neck = lively(BiFPN(4, 1).build((4, 4, 4)))
    node = neck.layers[0].down[0]
    node.weights.data = torch.tensor([1.0, -5.0])
    own, other = maps((4, 4), [(8, 8), (4, 4)])
    torch.testing.assert_close(node(own, other), node(own, 100 * other))


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match=r"(?s)BiFPN of 2 levels takes at most as many maps: raise neck.levels.*3 maps"):
        BiFPN(levels=2).build((3, 4, 5))
    with pytest.raises(ConfigError, match="at least 2"):
        BiFPN(levels=1)
    with pytest.raises(ConfigError, match="at least 1"):
        BiFPN(layers=0)
