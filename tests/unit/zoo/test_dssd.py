"""The DSSD family: parameters to the last one, default boxes, levels, and any backbone at any size.

No parameter counts are published; these follow from the paper's figures, layer by layer.
"""

import pytest
import timm
import torch

import onestage
from onestage.errors import ConfigError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.detector import map_sizes
from onestage.model.heads.residual import ResidualHead
from onestage.model.necks.deconvolution import Deconvolution
from onestage.structures import Targets
from onestage.zoo.table import recipe
from parameter_counts import classifier, conv, count, heads, norm, parameters

OBJECT = Targets(torch.tensor([[20.0, 30.0, 90.0, 120.0]]), torch.tensor([1]))


def block(inputs):
    """Figure 2c: 1x1 convolutions to 256, 256 and 1024 channels, and one to 1024 past them."""
    layers = [(inputs, 256), (256, 256), (256, 1024), (inputs, 1024)]
    return sum(conv(i, o, 1, bias=False) + norm(o) for i, o in layers)


def module(own, coarse, kernel):
    """Figure 3: two convolutions on the level's own map; on the coarser one a deconvolution and a convolution."""
    layers = [(own, 512), (512, 512), (512, 512)]
    return sum(conv(i, o, bias=False) + norm(o) for i, o in layers) + conv(coarse, 512, kernel)


def ssd(levels, predicted):
    """ResNet-101 without its classifier; below its 2048 channels extra levels of 1024, each by a 1x1 convolution to 256 and one
    of 3x3 (the last one of 513 pixels: 4x4); on every map a block and two convolutions for 8 boxes and 21 classes.
    """
    body = classifier("resnet101")
    last = 4 if levels == 7 else 3
    extras = [(2048, 3)] + [(1024, 3)] * (levels - 4) + [(1024, last)]
    total = count(body) - count(body.fc)
    total += sum(conv(i, 256, 1, bias=False) + norm(256) + conv(256, 1024, k, bias=False) + norm(1024) for i, k in extras)
    return total + sum(map(block, predicted)) + heads([1024] * levels, [8] * levels, 21)


def test_parameters_of_ssd321_and_ssd513():
    assert parameters("ssd321_resnet101", 20) == ssd(6, [512, 2048, 1024, 1024, 1024, 1024]) == 74_835_184
    assert parameters("ssd513_resnet101", 20) == ssd(7, [512, 2048, 1024, 1024, 1024, 1024, 1024]) == 82_781_112


def test_parameters_of_dssd321():
    """Cells 40, 20, 10, 5, 3 and 1: twice as many by windows of 2x2, two more by windows of 3x3."""
    expected = ssd(6, [512] * 5 + [1024])
    expected += module(512, 512, 2) + module(2048, 512, 2) + module(1024, 512, 2) + module(1024, 512, 3) + module(1024, 1024, 3)
    assert parameters("dssd321_resnet101", 20) == expected == 130_689_776


def test_parameters_of_dssd513():
    """Cells 64, 32, 16, 8, 4, 2 and 1: the last two by a window of 4x4, as they were made."""
    expected = ssd(7, [512] * 6 + [1024]) + module(512, 512, 2) + module(2048, 512, 2)
    expected += 3 * module(1024, 512, 2) + module(1024, 1024, 4)
    assert parameters("dssd513_resnet101", 20) == expected == 150_828_984


def test_parameters_of_dssd_on_a_timm_backbone():
    """ResNet-18; extra levels as SSD's; a quarter of the widths: modules of 128 channels, blocks of 64, 64 and 256."""
    body = classifier("resnet18")
    expected = count(body) - count(body.fc)
    for i, m, o in [(512, 256, 512), (512, 128, 256), (256, 128, 256)]:
        expected += conv(i, m, 1, bias=False) + norm(m) + conv(m, o, bias=False) + norm(o)
    for own, coarse, kernel in [(128, 128, 2), (256, 128, 2), (512, 128, 2), (512, 128, 3), (256, 256, 3)]:
        expected += sum(conv(i, 128, bias=False) + norm(128) for i in (own, 128, 128)) + conv(coarse, 128, kernel)
    for inputs in [128] * 5 + [256]:
        layers = [(inputs, 64), (64, 64), (64, 256), (inputs, 256)]
        expected += sum(conv(i, o, 1, bias=False) + norm(o) for i, o in layers)
    expected += heads([256] * 6, [8] * 6, 21)
    assert parameters("dssd", 20, backbone="resnet18") == expected


@pytest.mark.parametrize("name", ["ssd", "dssd"])
@pytest.mark.parametrize(
    ("side", "cells", "boxes"),
    [(321, [40, 20, 10, 5, 3, 1], 17_080), (513, [64, 32, 16, 8, 4, 2, 1], 43_688)],  # the paper, section 4.5: boxes
)
def test_levels_and_default_boxes(name, side, cells, boxes):
    with torch.device("meta"):
        model = onestage.create(f"{name}{side}_resnet101", 20)
    size = model.config.preprocess.size
    assert size == (side, side)
    assert model.level_sizes(size) == tuple((n, n) for n in cells)
    assert sum(model.level_counts(size)) == boxes


def test_default_boxes_have_the_paper_s_ratios_on_every_level():
    """Section 3.2: 1.6, 2 and 3 and their inverses, beside SSD's two squares."""
    for level in recipe("dssd321_resnet101", ("a",)).anchors:
        ratios = sorted(w / h for w, h in level.shapes)
        if max(max(shape) for shape in level.shapes) < 321:  # larger ones are cut to the input
            assert ratios == pytest.approx([1 / 3, 1 / 2, 1 / 1.6, 1, 1, 1.6, 2, 3])
        assert len(ratios) == 8
    assert [level.shapes[0][0] for level in recipe("dssd321_resnet101", ("a",)).anchors] == pytest.approx(
        [321 * s for s in (0.07, 0.15, 0.33, 0.51, 0.69, 0.87)]
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_last_stage_is_dilated_as_timm_dilates_it(name):
    ours = TimmBackbone(name, (8, 32), keep_resolution=True, dilated=True).build().eval()
    for weights in ours.parameters():  # lively: timm starts the last batch norm of every block at 0
        if weights.ndim == 1:
            torch.nn.init.uniform_(weights, 0.5, 1)
    theirs = timm.create_model(name, features_only=True, output_stride=16, out_indices=(2, 4)).eval()
    theirs.load_state_dict(ours.body.state_dict())
    images = torch.randn(1, 3, 97, 130)
    for found, expected in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    undilated = TimmBackbone(name, (8, 32), keep_resolution=True).build().eval()
    undilated.load_state_dict(ours.state_dict())
    assert not torch.allclose(undilated(images)[1], ours(images)[1])


def test_pooling_without_padding():
    """Caffe's pooling of 161 cells: windows of 3, two apart, from the first cell on; 160 end in a window of 2."""
    sizes = {
        unpadded: map_sizes(TimmBackbone("resnet18", (8, 16), unpadded_pool=unpadded), (321, 320)) for unpadded in (False, True)
    }
    assert sizes == {0: ((41, 40), (21, 20)), 1: ((40, 40), (20, 20))}
    with pytest.raises(ConfigError, match="one max pooling"):
        TimmBackbone("mobilenetv3_small_100", unpadded_pool=True).build()
    with pytest.raises(ConfigError, match="dilated needs keep_resolution"):
        TimmBackbone("resnet18", dilated=True)


def test_dssd_is_ssd_with_another_neck():
    plain, with_modules = (recipe(name, ("a", "b")) for name in ("ssd321_resnet101", "dssd321_resnet101"))
    assert with_modules.neck == Deconvolution(plain.neck, width=512, fusion="product")
    assert with_modules.replace({"neck": plain.neck, "name": plain.name}) == plain
    assert plain.head == ResidualHead(width=1024, blocks=1, skip="conv")


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_100", "convnext_atto"])
def test_any_backbone_at_any_size(backbone):
    """Rectangles, and sizes that some networks round up and others down."""
    for size in ((128, 160), (140, 110)):
        model = onestage.create("dssd", 2, backbone=f"timm/{backbone}", size=size)
        output = model(torch.randn(2, 3, *size))
        assert output.logits.shape == (2, len(model.anchors(size)), 3)
        sum(model.loss(output, [OBJECT, OBJECT]).values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert len(model.eval().predict(torch.zeros(3, 50, 60, dtype=torch.uint8))) == 1


def test_options_by_name():
    config = recipe("dssd", ("a",), backbone="resnet18")
    changed = config.replace({"neck.fusion": "sum", "neck.width": "64", "head.blocks": "2"})
    assert (changed.neck.fusion, changed.neck.width, changed.head.blocks) == ("sum", 64, 2)
    assert type(changed).from_json(changed.to_json()) == changed
    with pytest.raises(ConfigError, match="did you mean 'fusion'"):
        config.replace({"neck.fussion": "sum"})
    with pytest.raises(ConfigError, match="part of its name"):
        recipe("dssd321_resnet101", ("a",), backbone="resnet18")
