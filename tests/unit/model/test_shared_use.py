"""No part keeps a state that changes a result: threads may share it, and every mode may come first."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from onestage.model.backbones.folded import IMAGE, FoldedBackbone, FoldedLayer
from onestage.model.backbones.tiny import TinyBackbone
from onestage.model.detector import dry_run
from onestage.model.heads.per_level import ConvHead
from onestage.model.heads.residual import ResidualHead
from onestage.model.heads.separable import SeparableHead
from onestage.model.heads.shared import SharedHead
from onestage.model.layers import convolution
from onestage.model.layers.convolution import Conv3x3
from onestage.model.layers.same_padding import SameConv2d
from onestage.model.necks.bifpn import BiFPN
from onestage.model.necks.deconvolution import Deconvolution
from onestage.model.necks.extra_levels import ExtraBlock, ExtraLevels
from onestage.model.necks.fpn import FPN

IMAGES = (2, 3, 64, 64)
MAPS = [(2, 8, 8, 8), (2, 8, 4, 4)]
PARTS = {
    "winograd": (lambda: Conv3x3(128, 64), (2, 128, 32, 32)),
    "same_padding": (lambda: SameConv2d(8, 8, 3, 2), (2, 8, 14, 14)),
    "tiny": (lambda: TinyBackbone((4, 4, 4), 4).build(), IMAGES),
    "folded": (lambda: FoldedBackbone((FoldedLayer(4, IMAGE, 3, 2), FoldedLayer(4, 0, 3, 2)), (0, 1)).build(), IMAGES),
    "extra_levels": (lambda: ExtraLevels((ExtraBlock(4, 8),)).build((8, 8)), MAPS),
    "fpn": (lambda: FPN(8, 1).build((8, 8)), MAPS),
    "bifpn": (lambda: BiFPN(8, 2, 3).build((8, 8)), MAPS),
    "deconvolution": (lambda: Deconvolution(width=8).build((8, 8)), MAPS),
    "per_level": (lambda: ConvHead("separable").build((8, 8), (2, 3), 4), MAPS),
    "residual": (lambda: ResidualHead(8).build((8, 8), (2, 3), 4), MAPS),
    "separable": (lambda: SeparableHead(2).build((8, 8), (3, 3), 4), MAPS),
    "shared": (lambda: SharedHead(1).build((8, 8), (3, 3), 4), MAPS),
}


@pytest.fixture(params=PARTS)
def part(request):
    """A part that was never called, in evaluation mode, and its inputs."""
    build, shapes = PARTS[request.param]
    torch.manual_seed(0)
    convolution.transforms.cache_clear()
    module = build().to(memory_format=torch.channels_last).eval()
    inputs = [torch.randn(s) for s in shapes] if isinstance(shapes, list) else torch.randn(shapes)
    return module, inputs


def outputs(module: nn.Module, inputs) -> list[torch.Tensor]:
    found = module(inputs)
    return [found] if isinstance(found, torch.Tensor) else list(found)


def equal(found, expected) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def kept(module: nn.Module) -> list[tuple[str, str, int, str]]:
    """Everything that the modules inside hold, and where it is."""
    found = []
    for name, inner in module.named_modules():
        held = {**vars(inner), **inner._parameters, **inner._buffers}
        found += [(name, key, id(value), str(getattr(value, "device", ""))) for key, value in held.items()]
    return found


def test_eight_threads_make_the_first_call_together(part):
    module, inputs = part
    expected = outputs(copy.deepcopy(module), inputs)
    convolution.transforms.cache_clear()
    start, before = threading.Barrier(8), kept(module)

    def call(_):
        start.wait()
        with torch.no_grad():
            return outputs(module, inputs)

    with ThreadPoolExecutor(8) as pool:
        assert all(equal(found, expected) for found in pool.map(call, range(8)))
    assert kept(module) == before


def test_learning_after_inference_gives_the_same_gradients(part):
    module, inputs = part
    fresh = copy.deepcopy(module)
    with torch.inference_mode():
        outputs(module, inputs)
    gradients = []
    for used in (fresh, module):
        used.train()
        sum(out.square().sum() for out in outputs(used, inputs)).backward()
        gradients.append([p.grad for p in used.parameters() if p.grad is not None])
    assert gradients[0] and equal(*gradients)


def test_a_run_without_numbers_leaves_nothing(part):
    module, inputs = part
    before = kept(module)
    blank = [m.to("meta") for m in inputs] if isinstance(inputs, list) else inputs.to("meta")
    shapes = [m.shape for m in dry_run(module, blank, (64, 64), where="here")]
    assert kept(module) == before
    found = outputs(module, inputs)
    assert not any(out.is_meta for out in found)
    assert shapes == [m.shape for m in module(inputs)]


@torch.no_grad()
def test_weights_changed_by_hand_count_at_once(part):
    module, inputs = part
    before = outputs(module, inputs)
    for parameter in module.parameters():
        parameter.mul_(0.5)
    fresh = copy.deepcopy(module)
    convolution.transforms.cache_clear()
    found = outputs(module, inputs)
    assert equal(found, outputs(fresh, inputs)) and not equal(found, before)


def test_constants_are_ordinary_tensors_whatever_mode_comes_first():
    convolution.transforms.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        made = convolution.transforms()
    assert not any(m.is_inference() or m.is_meta for m in made)
