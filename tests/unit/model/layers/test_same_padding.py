"""TensorFlow's padding computed from the map itself, against timm's padded copy."""

import itertools

import pytest
import torch
from timm.layers import Conv2dSame

from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.layers.same_padding import SameConv2d


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (7, 4), ((3, 5), (2, 1)), (2, 2), (1, 2)])
@pytest.mark.parametrize("groups", [1, 8])
def test_outputs_and_gradients_are_timms(kernel, stride, groups):
    torch.manual_seed(0)
    theirs = Conv2dSame(8, 16, kernel, stride, groups=groups)
    ours = SameConv2d(8, 16, kernel, stride, groups=groups)
    ours.load_state_dict(theirs.state_dict())
    for size in itertools.product((8, 9, 11, 14), (5, 12)):
        images = torch.randn(2, 8, *size, requires_grad=True)
        results = []
        for conv in (theirs, ours):
            out = conv(images)
            results.append((out, *torch.autograd.grad(out.square().sum(), (images, conv.weight, conv.bias))))
        for expected, got in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_dilated_ones_are_timms_own():
    conv = SameConv2d(4, 4, 3, 2, dilation=2)
    images = torch.randn(1, 4, 12, 12)
    assert torch.equal(conv(images), Conv2dSame.forward(conv, images))


def test_a_timm_backbone_copies_no_map(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a padded copy")

    body = TimmBackbone("tf_efficientnet_b0").build().eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = body(images)
        monkeypatch.setattr(SameConv2d, "_pays", lambda self, x: False)
        for ours, theirs in zip(maps, body(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(Conv2dSame, "forward", refuse)
        with pytest.raises(AssertionError, match="padded copy"):
            body(images)
        monkeypatch.undo()
        monkeypatch.setattr(Conv2dSame, "forward", refuse)
        body(images)
