"""Convolutions with a stride on narrow maps: the values of torch's own in fp32, and no memory of others in bf16."""

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from onestage.model.layers.convolution import StridedConv2d, StridedTransposed, mend_strided
from onestage.model.layers.same_padding import spare_copies
from small_runs import detector

ROWS, COLUMNS = (1, 2, 5), (1, 2, 3, 4)
LAYERS = {
    "each channel by itself": lambda: nn.Conv2d(64, 64, 3, 2, 1, groups=64, bias=False),
    "dense": lambda: nn.Conv2d(128, 128, 3, 2, 1),
    "in two groups": lambda: nn.Conv2d(64, 64, 5, 2, 2, groups=2),
    "stride 3": lambda: nn.Conv2d(64, 64, 3, 3, 1),
    "dilated": lambda: nn.Conv2d(32, 32, 3, 2, 2, dilation=2),
    "more padding": lambda: nn.Conv2d(32, 32, 4, 4, 2),
    "along the width": lambda: nn.Conv2d(64, 64, 3, (1, 2), 1),
    "transposed": lambda: nn.ConvTranspose2d(64, 64, 3, 2, 1, output_padding=1),
    "transposed by 4": lambda: nn.ConvTranspose2d(128, 128, 4, 2, 1),
}


def passed(layer: nn.Module, images: Tensor, *, bf16: bool) -> dict[str, Tensor]:
    """The output (B, O, H', W') in fp32 for images (B, C, H, W), and every gradient of the sum of its squares."""
    layer.zero_grad()
    images = images.clone(memory_format=torch.channels_last).requires_grad_()
    spoil_memory(layer)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = layer(images)
    output.float().square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    assert images.grad is not None
    return {"output": output.float().detach(), "images": images.grad, **gradients}


def spoil_memory(layer: nn.Module) -> None:
    """Leave NaN in freed memory, in pieces as large as those that the gradients take."""
    most = max(p.numel() for p in layer.parameters())
    pieces = [
        torch.full((count,), float("nan"), dtype=kind)
        for count in (most, 2 * most, most + 16, 16, 4096, 65_536, 300_000)
        for kind in (torch.float32, torch.bfloat16)
    ]
    del pieces


@pytest.mark.parametrize("name", LAYERS)
def test_narrow_maps_in_bf16_are_as_in_fp32(name: str) -> None:
    torch.manual_seed(0)
    plain = LAYERS[name]().to(memory_format=torch.channels_last)
    layer = mend_strided(copy.deepcopy(plain))
    assert type(layer) is (StridedTransposed if isinstance(plain, nn.ConvTranspose2d) else StridedConv2d)
    weights = layer.get_parameter("weight")
    for size in product(ROWS, COLUMNS):
        images = torch.randn(2, weights.shape[0], *size)
        truth = passed(plain, images, bf16=False)
        for key, value in passed(layer, images, bf16=False).items():
            assert torch.equal(value, truth[key]), (key, size)  # in fp32 it is torch's own way
        for _ in range(3):
            for key, value in passed(layer, images, bf16=True).items():
                assert value.shape == truth[key].shape
                assert (value - truth[key]).norm() < 0.02 * truth[key].norm(), (key, size)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (5, 2)])
def test_padding_of_tensorflow_too(kernel: int, size: tuple[int, int]) -> None:
    from timm.layers import Conv2dSame  # type: ignore[attr-defined]

    torch.manual_seed(0)
    layer = nn.Sequential(Conv2dSame(64, 64, kernel, 2, groups=64, bias=False))
    images = torch.randn(2, 64, *size)
    truth = passed(layer, images, bf16=False)
    spare_copies(layer)
    for key, value in passed(layer, images, bf16=True).items():
        assert (value - truth[key]).norm() < 0.02 * truth[key].norm(), key


@pytest.mark.parametrize("half", [False, True])
def test_weights_in_bf16_predict_what_they_do_in_fp32(half: bool) -> None:
    """Without autocast, and without gradients: 128 channels and three rows, where torch's output is wrong."""
    torch.manual_seed(0)
    plain = nn.Conv2d(128, 128, 3, 2, 1)
    images = torch.randn(1, 128, 4, 2)
    with torch.no_grad():
        truth = plain(images)
        layer = mend_strided(plain).to(torch.bfloat16 if half else torch.float32)
        got = layer(images.to(torch.bfloat16 if half else torch.float32))
    assert (got.float() - truth).norm() < 0.02 * truth.norm()


def test_files_of_weights_and_exported_graphs_know_nothing_of_it() -> None:
    model = detector("ssdlite320_mobilenet_v3_large", size=(64, 64))
    changed = [name for name, part in model.named_modules() if isinstance(part, StridedConv2d)]
    assert "neck.blocks.3.3" in changed and len(changed) >= 6
    assert not any(type(part) is nn.Conv2d and part.stride[1] > 1 < part.kernel_size[1] for part in model.modules())
    plain = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8))
    layer = mend_strided(copy.deepcopy(plain)).bfloat16()
    assert layer.state_dict().keys() == plain.state_dict().keys()
    graph = torch.export.export(layer, (torch.zeros(2, 8, 4, 1, dtype=torch.bfloat16),)).graph
    (strides,) = [node.args[3] for node in graph.nodes if "conv2d" in str(node.target)]
    assert strides == [2, 2]
