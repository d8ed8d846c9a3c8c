"""FoldedBackbone against the same layers written out, and what its config refuses."""

import pytest
import torch
import torch.nn.functional as F

from onestage.errors import ConfigError
from onestage.model.backbones.folded import IMAGE, FoldedBackbone, FoldedLayer
from onestage.model.codec import decode, encode

LAYERS = (
    FoldedLayer(6, IMAGE, kernel=3, stride=2),
    FoldedLayer(6, 0, kernel=3, depthwise=True),
    FoldedLayer(4, 1, relu6=False),
    FoldedLayer(8, 2),
    FoldedLayer(4, 3, relu6=False, add=2),
    FoldedLayer(5, 4, kernel=3, stride=2),
    FoldedLayer(7, 4, kernel=2, stride=2),
)
CONFIG = FoldedBackbone(LAYERS, maps=(3, 5, 6))


def slowly(module, images):
    """TensorFlow's SAME: ceil(n / stride) cells; of the missing pixels half before, rounded down, and the rest behind."""
    outputs = {IMAGE: images}
    parameters = iter(module.state_dict().values())
    for index, layer in enumerate(LAYERS):
        weight, bias = next(parameters), next(parameters)
        maps = outputs[layer.source]
        pads = []
        for side in maps.shape[:1:-1]:
            missing = max((-(-side // layer.stride) - 1) * layer.stride + layer.kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        groups = layer.channels if layer.depthwise else 1
        maps = F.conv2d(F.pad(maps, pads), weight, bias, stride=layer.stride, groups=groups)
        maps = maps.clamp(0, 6) if layer.relu6 else maps
        outputs[index] = maps if layer.add is None else maps + outputs[layer.add]
    return [outputs[i] for i in CONFIG.maps]


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (17, 15), (30, 21), (1, 2)])
def test_the_layers_written_out(size):
    torch.manual_seed(0)
    module = CONFIG.build()
    for parameter in module.parameters():
        parameter.normal_(0, 0.6)
    images = torch.randn(2, 3, *size)
    maps = module(images)
    assert module.channels == (8, 5, 7)
    for ours, theirs in zip(maps, slowly(module, images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_fresh_weights_keep_the_signal():
    """Without batch norm nothing else would: 27 layers deep the spread of the numbers must be of the same order."""
    torch.manual_seed(0)
    layers = [FoldedLayer(32, i - 1, kernel=3) for i in range(27)]
    maps = FoldedBackbone(tuple(layers), maps=(0, 26)).build()(torch.randn(1, 3, 32, 32))
    assert 0.1 < float(maps[1].std() / maps[0].std()) < 10


def test_the_config_survives_json():
    assert decode(encode(CONFIG), FoldedBackbone, "backbone") == CONFIG


@pytest.mark.parametrize(
    ("layers", "maps", "rule"),
    [
        ((), (0,), "at least one layer"),
        ((FoldedLayer(4, 0),), (0,), "before it"),
        ((FoldedLayer(4, IMAGE), FoldedLayer(4, 0, add=1)), (0,), "before it"),
        ((FoldedLayer(4, IMAGE, depthwise=True),), (0,), "depthwise"),
        ((FoldedLayer(4, IMAGE), FoldedLayer(5, 0, add=0)), (0,), "as many channels"),
        ((FoldedLayer(4, IMAGE),), (1,), "maps are layers"),
        ((FoldedLayer(4, IMAGE),), (), "maps are layers"),
    ],
)
def test_layers_that_cannot_be(layers, maps, rule):
    with pytest.raises(ConfigError, match=rule):
        FoldedBackbone(layers, maps)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"kernel": 0}, {"stride": 0}])
def test_numbers_that_make_no_layer(wrong):
    with pytest.raises(ConfigError, match="at least 1"):
        FoldedLayer(**({"channels": 4, "source": IMAGE} | wrong))
