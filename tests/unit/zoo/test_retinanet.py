"""The RetinaNet family: parameters to the last one, levels, anchors, and what it takes."""

import pytest
import timm
import torch

import onestage
from onestage.errors import ConfigError
from onestage.model.detector import Detector
from onestage.structures import Targets
from onestage.weights.projects import torchvision as adapt_torchvision
from onestage.zoo import retinanet
from onestage.zoo.table import recipe

BODIES = {
    "retinanet_r18_fpn": ("resnet18", (128, 256, 512)),
    "retinanet_r34_fpn": ("resnet34", (128, 256, 512)),
    "retinanet_r50_fpn": ("resnet50", (512, 1024, 2048)),
    "retinanet_r101_fpn": ("resnet101", (512, 1024, 2048)),
    "retinanet_r50_fpn_v2": ("resnet50", (512, 1024, 2048)),
    "retinanet": ("resnet34", (128, 256, 512)),
}


def on_meta(name, classes, **changes):
    config = recipe(name, [str(i) for i in range(classes)]).replace(changes)
    with torch.device("meta"):
        return Detector(config)


def conv(inputs, outputs, kernel=3, *, bias=True):
    """Parameters of a convolution."""
    return inputs * outputs * kernel**2 + bias * outputs


def test_every_variant_is_counted():
    assert set(BODIES) == {*retinanet.VARIANTS, "retinanet"}


@pytest.mark.parametrize("name", BODIES)
def test_parameters(name):
    """The classifier of that depth without its last layer, an FPN and two subnets: sections 4 and 4.1 of the paper."""
    backbone, channels = BODIES[name]
    second = name.endswith("v2")
    with torch.device("meta"):
        classifier = timm.create_model(backbone)
    expected = sum(p.numel() for p in classifier.parameters()) - sum(p.numel() for p in classifier.fc.parameters())
    expected += sum(conv(c, 256, 1) for c in channels) + 3 * conv(256, 256)
    expected += conv(channels[-1] if second else 256, 256) + conv(256, 256)
    layer = conv(256, 256, bias=False) + 2 * 256 if second else conv(256, 256)
    expected += 2 * 4 * layer + conv(256, 9 * 80) + conv(256, 9 * 4)
    assert sum(p.numel() for p in on_meta(name, 80).parameters()) == expected


@pytest.mark.parametrize(
    ("name", "norm", "expected"),
    [
        # torchvision, RetinaNet_ResNet50_FPN_Weights.COCO_V1: num_params; frozen batch norm is not among its parameters
        ("retinanet_r50_fpn", "frozen", 34_014_999),
        # RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1: num_params; here it is
        ("retinanet_r50_fpn_v2", "train", 38_198_935),
    ],
)
def test_parameters_equal_the_published_count(name, norm, expected):
    """torchvision has 91 outputs per anchor, of which the first stands for nothing: counted as 91 classes here."""
    model = on_meta(name, 91, **{"backbone.norm": norm})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("name", ["retinanet_r18_fpn", "retinanet_r50_fpn_v2"])
def test_levels_and_anchors(name):
    model = on_meta(name, 2)
    sizes = ((100, 136), (50, 68), (25, 34), (13, 17), (7, 9))
    assert model.level_sizes((800, 1088)) == sizes
    assert len(on_meta(name, 2).to_empty(device="cpu").anchors((800, 1088))) == 9 * sum(h * w for h, w in sizes)


def test_anchor_shapes_are_those_of_the_paper():
    """Section 4: areas of 32^2 to 512^2, three ratios, three octaves; sides are whole pixels."""
    levels = recipe("retinanet_r50_fpn", ("a",)).anchors
    for level, side in zip(levels, (32, 64, 128, 256, 512), strict=True):
        assert level.stride == (side / 4, side / 4)
        expected = [(side * 2 ** (i / 3), ratio) for ratio in (0.5, 1, 2) for i in range(3)]
        for (width, height), (length, ratio) in zip(level.shapes, expected, strict=True):
            assert (width * height) ** 0.5 == pytest.approx(length, abs=2)
            assert height / width == pytest.approx(ratio, rel=0.06)


def test_anchor_sizes_in_pixels():
    levels = recipe("retinanet_r50_fpn", ("a",), box_sizes=[8, 16, 32, 64, 128, 512]).anchors
    assert levels[0].shapes[3] == (8, 8)
    assert levels[0].shapes[4] == pytest.approx((8 * 2 ** (1 / 3),) * 2)
    assert levels[4].shapes[5] == pytest.approx((128 * 4 ** (2 / 3),) * 2)
    for wrong in ([8, 16], [0, 16, 32, 64, 128, 256]):
        with pytest.raises(ConfigError, match="one anchor size per level and one more"):
            recipe("retinanet_r50_fpn", ("a",), box_sizes=wrong)


def test_the_shorter_side_comes_first():
    with pytest.raises(ConfigError, match="shortest, longest"):
        recipe("retinanet_r18_fpn", ("a",), size=(640, 480))


def test_a_backbone_whose_maps_cannot_carry_anchors():
    with pytest.raises(ConfigError, match="does not cover"):
        onestage.create("retinanet", 1, backbone="inception_v3")
    with pytest.raises(ConfigError, match="part of its name"):
        recipe("retinanet_r18_fpn", ("a",), backbone="resnet50")


@pytest.mark.parametrize(("name", "backbone"), [("retinanet_r18_fpn", None), ("retinanet", "regnetx_002")])
def test_every_parameter_learns_and_pictures_of_any_shape_go_through(name, backbone):
    torch.manual_seed(0)
    model = onestage.create(name, 2, size=(64, 128), backbone=backbone).train()
    boxes = torch.tensor([[10.0, 5, 60, 50], [50, 20, 120, 60]])
    output = model(torch.randn(2, 3, 64, 128))
    losses = model.loss(output, [Targets(boxes, torch.tensor([0, 1])), Targets(boxes[:0], torch.zeros(0, dtype=torch.int64))])
    sum(losses.values()).backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    pictures = [torch.zeros(3, *size, dtype=torch.uint8) for size in ((50, 60), (64, 200), (90, 40))]
    assert len(model.eval().predict(pictures)) == 3


def torchvision_keys(backbone, *, group_norm=False):
    """Some of the names in a checkpoint of torchvision's RetinaNet on that network, with the shapes of the backbone."""
    with torch.device("meta"):
        body = timm.create_model(backbone)
    head = ["cls_logits.weight", "conv.0.0.weight", "conv.0.1.weight" if group_norm else "conv.0.0.bias"]
    parts = {f"backbone.body.{name}": tensor for name, tensor in body.state_dict().items()}
    return parts | {f"head.classification_head.{name}": torch.zeros(1) for name in head}


@pytest.mark.parametrize(
    ("backbone", "group_norm", "name"),
    [
        ("resnet18", False, "retinanet_r18_fpn"),
        ("resnet34", False, "retinanet_r34_fpn"),
        ("resnet50", False, "retinanet_r50_fpn"),
        ("resnet50", True, "retinanet_r50_fpn_v2"),
        ("resnet101", True, "retinanet_r101_fpn"),
        ("resnet26", False, "retinanet"),
        ("resnext50_32x4d", False, "retinanet"),
        ("wide_resnet50_2", False, "retinanet"),
    ],
)
def test_which_of_torchvisions_retinanets_a_file_is(backbone, group_norm, name):
    keys = torchvision_keys(backbone, group_norm=group_norm)
    assert adapt_torchvision.recognises(keys)
    assert adapt_torchvision.model(keys) == name


def test_torchvisions_fcos_is_no_retinanet():
    keys = torchvision_keys("resnet18", group_norm=True) | {"head.regression_head.bbox_ctrness.weight": torch.zeros(1)}
    assert not adapt_torchvision.recognises(keys)
