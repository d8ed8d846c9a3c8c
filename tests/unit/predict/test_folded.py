"""A folded copy finds what its detector finds, does less, and leaves the detector as it is."""

import copy

import pytest
import torch
from torch import nn

import onestage
from onestage.cli.common import run_model
from onestage.errors import ConfigError
from onestage.model.layers.convolution import Conv3x3
from onestage.predict import folded as folding
from onestage.predict.folded import StoredConv3x3, folded
from onestage.predict.predictor import Predictor
from onestage.structures import HeadOutput

CLASSES = ("ball", "cube")
NORMS = {"tinyssd": 0, "ssdlite320_mobilenet_v3_large": 0, "efficientdet_d0": 30}
"""Batch norms that are left. EfficientDet's heads share convolutions among levels, each with norms that differ."""


def lively(name: str) -> onestage.Detector:
    """A detector whose batch norms have something to do."""
    torch.manual_seed(0)
    model = onestage.build(onestage.recipe(name, CLASSES, size=(64, 64))).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low in ((part.running_mean, -0.5), (part.running_var, 0.5), (part.weight, 0.5), (part.bias, -0.5)):
                tensor.data.uniform_(low, low + 1)
    return model


def outputs(model: onestage.Detector, images: torch.Tensor) -> HeadOutput:
    with torch.inference_mode():
        return model(images)


def norms_of(model: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())


@pytest.mark.parametrize("name", NORMS)
def test_a_folded_copy_computes_the_same(name):
    model = lively(name)
    before, state = norms_of(model), copy.deepcopy(model.state_dict())
    copied = folded(model)
    images = torch.randn(2, 3, 64, 64)
    expected, found = outputs(model, images), outputs(copied, images)
    assert before > norms_of(copied) == NORMS[name]
    for part, other in zip(expected[:2], found[:2], strict=True):
        assert (part - other).abs().max() <= 1e-4 * part.abs().max()
    assert norms_of(model) == before
    assert all(tensor.equal(state[key]) for key, tensor in model.state_dict().items())


def test_later_weights_do_not_reach_the_copy():
    model = lively("tinyssd")
    images = torch.randn(1, 3, 64, 64)
    predictor = Predictor.folded(model)
    expected = outputs(predictor.engine.detector, images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    assert outputs(predictor.engine.detector, images).logits.equal(expected.logits)


def test_bfloat16_is_near_and_gives_float32(monkeypatch):
    monkeypatch.setattr(folding, "check_bfloat16", lambda device: None)
    model = lively("tinyssd")
    images, frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([[0.0, 0, 64, 64]] * 2)
    expected = Predictor.of(model).engine(images, frames)
    predictor = Predictor.folded(model, bf16=True)
    found = predictor.engine(images, frames)
    assert {p.dtype for p in predictor.engine.detector.parameters()} == {torch.bfloat16}
    assert found.logits.dtype == found.deltas.dtype == torch.float32
    assert 0 < (found.logits - expected.logits).abs().mean() <= 0.05 * expected.logits.std()
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("flags", [{"avx512_bf16": False, "avx2": True}, {}])
def test_bfloat16_is_refused_where_the_processor_has_none(flags, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    with pytest.raises(ConfigError, match="bfloat16"):
        Predictor.folded(lively("tinyssd"), bf16=True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags | {"amx_bf16": True})
    folding.check_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize(
    ("exported", "runtime", "what"),
    [(True, None, "exported file has its precision"), (False, "onnxruntime", "does not compute in bfloat16")],
)
def test_other_programs_refuse_bfloat16(exported, runtime, what):
    model = lively("tinyssd")
    with pytest.raises(ConfigError, match=what):
        run_model(Predictor.of(model) if exported else model, runtime, pictures=list, total=1, numbers="bf16")


class Network(nn.Module):
    """Convolutions and norms in a way that a test says, in the place of a detector."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.config = onestage.recipe("tinyssd", CLASSES, size=(64, 64))
        self.way = way

    def forward(self, images):
        return self.way(self, images)


def seen_twice(net, images):
    maps = net.conv(images)
    return net.norm(maps) + maps


def convolved_twice(net, images):
    return net.norm(net.conv(images)) + net.other(net.conv(images.flip(3)))


def normed_twice(net, images):
    return net.norm(net.norm(net.conv(images)))


def between(net, images):
    return net.norm(net.conv(images).relu())


def plain(net, images):
    return net.norm(net.conv(images))


@pytest.mark.parametrize("way", [seen_twice, convolved_twice, normed_twice, between, plain])
def test_a_norm_is_folded_only_if_it_alone_takes_what_one_convolution_gives(way):
    assert list(folding._pairs(Network(way).eval())) == ([("conv", "norm")] if way is plain else [])


def test_hooks_and_replaced_forwards_are_left_alone():
    for change in (
        lambda part: part.register_forward_hook(lambda *_: None),
        lambda part: setattr(part, "forward", part.forward),
    ):
        model = lively("tinyssd")
        change(model.backbone)
        assert folded(model) is model


@pytest.mark.parametrize("change", [lambda model: model.half(), lambda model: model.to("meta")])
def test_where_nothing_is_folded_nothing_is_copied(change):
    model = change(lively("tinyssd"))
    assert folded(model) is model


@pytest.mark.parametrize("conv", [Conv3x3(128, 256), nn.Conv2d(256, 128, 3, padding=1, bias=False)])
@pytest.mark.parametrize("size", [(17, 19), (8, 8)])
@torch.inference_mode()
def test_filters_are_stored_for_large_maps(conv, size):
    stored = StoredConv3x3(conv)
    images = torch.randn(2, conv.in_channels, *size).contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        assert (stored(images) - conv(images)).abs().max() <= 1e-4 * conv(images).abs().max()
    assert (stored.filters is not None) == (size == (17, 19))
