"""The SSD family: parameters to the last one, levels, boxes, and free sizes."""

import json

import numpy as np
import pytest
import torch

import onestage
from onestage import boxes as box_ops
from onestage.errors import ConfigError
from onestage.model.anchors.levels import coco_scales
from onestage.zoo import ssd
from onestage.zoo.table import ZOO, recipe
from parameter_counts import classifier, conv, count, heads, norm, parameters


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("ssd300_vgg16", 90, 35_641_826),  # torchvision, SSD300_VGG16_Weights.COCO_V1: num_params
        ("ssdlite320_mobilenet_v3_large", 90, 3_440_060),  # torchvision, SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
        ("ssd300_vgg16", 20, 26_285_486),  # ssd.pytorch (amdegroot) and SSD (lufficc) for VOC
        ("ssd300_mobilenet_v1", 20, 9_468_996),  # pytorch-ssd (qfgaohao), mb1-ssd for VOC
        ("tinyssd", 1, 1_010_376),  # the state_dict of the book's network, without the statistics of batch norm
    ],
)
def test_parameters_equal_the_published_count(name, classes, expected):
    assert parameters(name, classes) == expected


def test_parameters_of_ssd300_resnet50():
    """NVIDIA DeepLearningExamples, PyTorch/Detection/SSD, ssd/model.py: its layers as a table; 81 logits.

    ResNet-50 to its third stage; extra levels (in, middle, out) without bias, with batch norm; heads of 4, 6, 6, 6, 4, 4.
    """
    body = classifier("resnet50")
    extras = [(1024, 256, 512), (512, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256)]
    expected = count(body.conv1, body.bn1, body.layer1, body.layer2, body.layer3)
    expected += sum(conv(i, m, 1, bias=False) + norm(m) + conv(m, o, bias=False) + norm(o) for i, m, o in extras)
    expected += heads([1024, 512, 512, 256, 256, 256], [4, 6, 6, 6, 4, 4], 81)
    assert parameters("ssd300_resnet50", 80) == expected


def test_parameters_of_ssd512_vgg16():
    """The paper's figure 2, and its section 3.4 for the larger input: one more extra level, the last one of kernel 4."""
    vgg = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)] + [(512, 512)] * 5
    body = sum(conv(i, o) for i, o in vgg) + 512 + conv(512, 1024) + conv(1024, 1024, 1)
    extras = [(1024, 256, 512, 3), (512, 128, 256, 3), (256, 128, 256, 3), (256, 128, 256, 3), (256, 128, 256, 4)]
    levels = sum(conv(i, m, 1) + conv(m, o, k) for i, m, o, k in extras)
    expected = body + levels + heads([512, 1024, 512, 256, 256, 256, 256], [4, 6, 6, 6, 6, 4, 4], 21)
    assert parameters("ssd512_vgg16", 20) == expected == 27_188_676


def test_parameters_of_ssd300_mobilenet_v2():
    """MobileNetV2 without its classifier; SSDLite's extra levels and heads: everything 3x3 is depthwise, then 1x1."""
    body = classifier("mobilenetv2_100")
    expected = count(body) - count(body.classifier)
    extras = [(1280, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 128)]
    for i, m, o in extras:
        expected += conv(i, m, 1, bias=False) + norm(m) + 9 * m + norm(m) + conv(m, o, 1, bias=False) + norm(o)
    for channels in [576, 1280, 512, 256, 256, 128]:
        expected += 2 * (9 * channels + norm(channels)) + conv(channels, 6 * 21, 1) + conv(channels, 6 * 4, 1)
    assert parameters("ssd300_mobilenet_v2", 20) == expected


def test_parameters_of_ssd_on_a_timm_backbone():
    """ResNet-34 without its classifier; maps of 128, 256 and 512 channels and three more, 5, 3 and 1 cells wide."""
    body = classifier("resnet34")
    extras = [(512, 256, 512), (512, 128, 256), (256, 128, 256)]
    expected = count(body) - count(body.fc)
    expected += sum(conv(i, m, 1, bias=False) + norm(m) + conv(m, o, bias=False) + norm(o) for i, m, o in extras)
    expected += heads([128, 256, 512, 512, 256, 256], [4, 6, 6, 6, 4, 4], 21)
    assert parameters("ssd", 20, backbone="resnet34") == expected


@pytest.mark.parametrize(
    ("name", "sides", "anchors"),
    [
        ("ssd300_vgg16", [38, 19, 10, 5, 3, 1], 8732),  # the paper, section 3.1
        ("ssd512_vgg16", [64, 32, 16, 8, 4, 2, 1], 24_564),
        ("tinyssd", [32, 16, 8, 4, 1], 5444),  # the book, section 14.7
        ("ssdlite320_mobilenet_v3_large", [20, 10, 5, 3, 2, 1], 3234),  # torchvision
        ("ssd300_mobilenet_v1", [19, 10, 5, 3, 2, 1], 3000),  # pytorch-ssd
        ("ssd300_mobilenet_v2", [19, 10, 5, 3, 2, 1], 3000),
        ("ssd300_resnet50", [38, 19, 10, 5, 3, 1], 8732),  # NVIDIA
        ("ssd", [38, 19, 10, 5, 3, 1], 8732),
    ],
)
def test_levels_and_anchors(name, sides, anchors):
    model = onestage.create(name, 2)
    size = model.config.preprocess.size
    assert model.level_sizes(size) == tuple((s, s) for s in sides)
    assert len(model.anchors(size)) == anchors


def test_layers_of_a_foreign_ssd300(shared_data):
    """The convolutions of ssd.pytorch's SSD300 have, one by one, the shapes of ours."""
    keys = json.loads((shared_data / "foreign" / "amdegroot_ssd300.keys.json").read_text())
    ours = onestage.create("ssd300_vgg16", 20).state_dict()
    assert sorted(list(v.shape) for v in ours.values()) == sorted(keys.values())


def test_anchors_of_a_foreign_ssd300(shared_data):
    """The default boxes of ssd.pytorch for VOC, in parts of the side; it cuts centres and extents to 0..1."""
    priors = torch.from_numpy(np.load(shared_data / "foreign" / "amdegroot_ssd300.npz")["priors_cxcywh"])
    model = onestage.create("ssd300_vgg16", 20, box_sizes=[30, 60, 111, 162, 213, 264, 315])
    anchors = box_ops.to_cxcywh(model.anchors((300, 300)) / 300).clamp(0, 1)
    torch.testing.assert_close(anchors, priors, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", {entry.build: name for name, entry in ZOO.items() if "ssd" in name}.values())
def test_any_size_gives_levels_down_to_a_single_cell(name):
    for size in ((96, 96), (130, 270), (301, 199)):
        with torch.device("meta"):
            model = onestage.create(name, 2, size=size)
        sizes = model.level_sizes(size)
        assert min(sizes[-1]) == 1
        assert len(model.anchors(size)) == sum(
            h * w * len(level.shapes) for (h, w), level in zip(sizes, model.config.anchors, strict=True)
        )


def test_the_way_down():
    def sides(start):
        cells = [start]
        for block in ssd.descend(start, 16, ssd.VGG_EXTRAS).blocks:
            cells.append((cells[-1] + 2 * block.padding - block.kernel) // block.stride + 1)
        return cells

    assert sides(19) == [19, 10, 5, 3, 1]
    assert sides(32) == [32, 16, 8, 4, 2, 1]
    assert sides(1) == [1]
    for start in range(1, 200):
        assert sides(start)[-1] == 1
    assert ssd.descend(19, 16, ssd.VGG_EXTRAS).strides == (32, 64, None, None)


def test_scales_for_coco_are_those_of_the_paper_s_code():
    assert [300 * s for s in coco_scales(6)] == pytest.approx([21, 45, 99, 153, 207, 261, 315])
    pixels = [20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72]
    assert [512 * s for s in coco_scales(7)] == pytest.approx(pixels)


def test_box_sizes_in_pixels():
    config = recipe("ssdlite320_mobilenet_v3_large", ("a",), box_sizes=[20, 40, 60, 80, 100, 120, 140])
    assert [level.shapes[0] for level in config.anchors] == [(s, s) for s in (20, 40, 60, 80, 100, 120)]
    for wrong in ([20, 40], [0, 40, 60, 80, 100, 120, 140], [-1, 40, 60, 80, 100, 120, 140]):
        with pytest.raises(ConfigError, match="one anchor size per level and one more"):
            recipe("ssdlite320_mobilenet_v3_large", ("a",), box_sizes=wrong)


def test_boxes_are_cut_to_a_narrow_input():
    shapes = [shape for level in recipe("ssd300_vgg16", ("a",), size=(100, 400)).anchors for shape in level.shapes]
    assert max(h for _, h in shapes) == 100
    assert max(w for w, _ in shapes) > 100
