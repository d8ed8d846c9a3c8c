"""Winograd's algorithm computes the convolution and its gradients, is taken only where it should be, and leaves no trace."""

import pytest
import torch
import torch.nn.functional as F

from onestage.model.layers import convolution
from onestage.model.layers.convolution import Conv3x3

SHAPES = [(2, 128, 70, 32, 32), (1, 130, 64, 37, 41), (2, 64, 64, 33, 35), (1, 128, 64, 1, 1024)]
"""B, C, O, H, W: whole tiles and parts of tiles."""


def case(shape, dtype=torch.float32):
    batch, inputs, outputs, height, width = shape
    torch.manual_seed(0)
    conv = Conv3x3(inputs, outputs).to(dtype=dtype, memory_format=torch.channels_last)
    images = torch.randn(batch, inputs, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return conv, images


def exact(conv, images):
    return F.conv2d(images.double(), conv.weight.double(), conv.bias.double(), padding=1)


def close(found, expected):
    return (found - expected).abs().max() <= 3e-5 * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strip", [1, convolution._FLOATS_AT_ONCE])
@torch.no_grad()
def test_is_the_convolution(shape, strip, monkeypatch):
    monkeypatch.setattr(convolution, "_FLOATS_AT_ONCE", strip)
    conv, images = case(shape)
    found = convolution.convolve(images, conv.weight, conv.bias)
    assert close(found, exact(conv, images))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert close(convolution.convolve(images.contiguous(), conv.weight), exact(conv, images) - conv.bias.view(-1, 1, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strip", [1, convolution._FLOATS_AT_ONCE])
def test_gradients_are_the_convolutions(shape, strip, monkeypatch):
    monkeypatch.setattr(convolution, "_FLOATS_AT_ONCE", strip)
    conv, images = case(shape)
    images.requires_grad_()
    found, expected = conv(images), exact(conv, images)
    assert "Convolution" in type(found.grad_fn).__name__ and "Mkldnn" not in type(found.grad_fn).__name__
    weights = torch.randn(expected.shape, dtype=torch.float64)
    wanted = (images, conv.weight, conv.bias)
    gradients = torch.autograd.grad(found, wanted, weights.float())
    for gradient, other in zip(gradients, torch.autograd.grad(expected, wanted, weights), strict=True):
        assert close(gradient, other)


def test_only_wanted_gradients():
    conv, images = case(SHAPES[0])
    conv.bias.requires_grad_(False)
    conv(images).sum().backward()
    assert conv.bias.grad is None and conv.weight.grad is not None and images.grad is None


def test_learns_after_inference_and_under_another_default_device():
    conv, images = case(SHAPES[0])
    convolution.transforms.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        conv(images)
    conv(images).sum().backward()
    assert conv.weight.grad.abs().sum() > 0


def test_result_may_be_changed_in_place():
    conv, images = case(SHAPES[0])
    F.relu(conv(images), inplace=True).sum().backward()
    assert conv.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_a_picture_does_not_depend_on_its_batch():
    conv, images = case((3, 128, 64, 40, 44))
    assert all(torch.equal(conv(image[None])[0], found) for image, found in zip(images, conv(images), strict=True))


@pytest.fixture
def count(monkeypatch):
    """How often Winograd's algorithm was run."""
    calls = []
    real = convolution.convolve
    monkeypatch.setattr(convolution, "convolve", lambda *a: (calls.append(1), real(*a))[1])
    return calls


@pytest.mark.parametrize(
    ("shape", "dtype", "taken"),
    [
        ((1, 128, 64, 32, 32), torch.float32, True),
        ((1, 128, 64, 32, 31), torch.float32, False),
        ((1, 127, 64, 32, 32), torch.float32, False),
        ((1, 128, 63, 32, 32), torch.float32, False),
        ((1, 128, 64, 32, 32), torch.float64, False),
    ],
)
@torch.no_grad()
def test_where_it_is_taken(shape, dtype, taken, count):
    conv, images = case(shape, dtype)
    found = conv(images)
    assert bool(count) == taken
    assert taken or torch.equal(found, F.conv2d(images, conv.weight, conv.bias, padding=1))


@torch.no_grad()
def test_autocast_and_other_devices_stay_plain(count):
    conv, images = case(SHAPES[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(images).dtype == torch.bfloat16
    assert conv.to("meta")(images.to("meta")).shape == (2, 70, 32, 32)
    assert not count


@torch.no_grad()
def test_while_compiling_it_is_plain(count, monkeypatch):
    conv, images = case(SHAPES[0])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    conv(images)
    assert not count


@pytest.mark.slow
def test_exported_graph_is_plain():
    conv, images = case(SHAPES[0])
    graph = torch.export.export(conv, (images,)).graph
    assert [str(node.target) for node in graph.nodes if node.op == "call_function"] == ["aten.conv2d.default"]


def test_weights_are_those_of_any_convolution():
    torch.manual_seed(0)
    ours = Conv3x3(3, 5)
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(3, 5, 3, padding=1)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True))
    assert list(ours.state_dict()) == list(plain.state_dict())


def test_without_a_bias():
    images = case(SHAPES[0])[1]
    conv = Conv3x3(128, 70, bias=False)
    assert [name for name, _ in conv.named_parameters()] == ["weight"]
    found = conv(images)
    assert close(found, F.conv2d(images, conv.weight, padding=1))
    found.sum().backward()
    assert conv.weight.grad.shape == (70, 128, 3, 3)
