"""The EfficientDet family: parameters to the last one, compound scaling, anchors, free sizes and backbones."""

import functools

import pytest
import torch

import onestage
from onestage.errors import ConfigError
from onestage.model.anchors.levels import anchor_boxes
from onestage.model.config import DetectorConfig
from onestage.model.cost import cost_of
from onestage.zoo.efficientdet import VARIANTS
from onestage.zoo.table import recipe

PARAMETERS = {  # of effdet's tf_efficientdet_*, counted; its README has them in millions: 3.88, 6.63, 8.10, 12.0, ...
    "efficientdet_d0": 3_880_067,
    "efficientdet_d1": 6_625_898,
    "efficientdet_d2": 8_097_039,
    "efficientdet_d3": 12_032_296,
    "efficientdet_d4": 20_723_675,
    "efficientdet_d5": 33_653_315,
    "efficientdet_d6": 51_871_782,
    "efficientdet_d7": 51_871_782,
    "efficientdet_d7x": 77_147_166,
    "efficientdet_lite0": 3_243_470,
    "efficientdet_lite1": 4_248_318,
    "efficientdet_lite2": 5_252_334,
    "efficientdet_lite3": 8_350_862,
    "efficientdet_lite4": 15_130_894,
}

PAPER = {  # arXiv 1911.09070, table 2: parameters in millions, multiply-adds in billions
    "efficientdet_d0": (3.9, 2.5),
    "efficientdet_d1": (6.6, 6.1),
    "efficientdet_d2": (8.1, 11),
    "efficientdet_d3": (12, 25),
    "efficientdet_d4": (21, 55),
    "efficientdet_d5": (34, 130),
    "efficientdet_d6": (52, 226),
    "efficientdet_d7": (52, 325),
    "efficientdet_d7x": (77, 410),
}

NAMES = tuple(f"class {i}" for i in range(90))


@functools.cache
def cost(name):
    return cost_of(recipe(name, NAMES))


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_to_the_last_one(name):
    assert cost(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", PAPER)
def test_cost_is_the_papers(name):
    parameters, multiply_adds = PAPER[name]
    assert cost(name).parameters / 1e6 == pytest.approx(parameters, abs=0.5 if parameters > 10 else 0.05)
    assert cost(name).multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=0.035)


def test_d0_has_3_88_million_parameters_for_coco():
    assert round(cost("efficientdet_d0").parameters / 1e6, 2) == 3.88


@pytest.mark.parametrize("phi", range(7))
def test_compound_scaling(phi):
    """Section 4.2, eq. (1) to (3); the width is rounded, and the input of D5 and D6 is 1280 (table 1)."""
    row = VARIANTS[f"efficientdet_d{phi}"]
    assert row.backbone == f"tf_efficientnet_b{phi}"
    assert row.width == pytest.approx(64 * 1.35**phi, rel=0.06)
    assert row.head_layers == 3 + phi // 3
    if phi < 5:
        assert row.side == 512 + 128 * phi
    if phi not in (4, 5, 6):
        assert row.layers == 3 + phi


@pytest.mark.parametrize(
    ("name", "anchors"),
    [
        ("efficientdet_d0", 9 * (64**2 + 32**2 + 16**2 + 8**2 + 4**2)),
        ("efficientdet_d7x", 9 * (192**2 + 96**2 + 48**2 + 24**2 + 12**2 + 6**2)),
        ("efficientdet_lite0", 9 * (40**2 + 20**2 + 10**2 + 5**2 + 3**2)),
    ],
)
def test_anchors(name, anchors):
    assert cost(name).anchors == anchors


def test_anchor_shapes():
    """google/automl, tf2/anchors.py: three sizes an octave apart in thirds, from 4 strides on; 1, 2 and 1/2 as aspects."""
    fine = recipe("efficientdet_d0", NAMES).anchors[0]
    assert fine.stride == (8, 8)
    assert [side for shape in fine.shapes[:3] for side in shape] == pytest.approx([32, 32, 44.8, 22.4, 22.4, 44.8])
    assert fine.shapes[3] == pytest.approx((32 * 2 ** (1 / 3),) * 2)
    assert recipe("efficientdet_d7", NAMES).anchors[0].shapes[0] == (40, 40)
    coarse = recipe("efficientdet_lite0", NAMES).anchors[4]
    assert coarse.stride == pytest.approx((320 / 3, 320 / 3))
    assert coarse.shapes[0] == pytest.approx((320, 320))


def test_box_sizes_in_pixels():
    config = recipe("efficientdet_d0", ("a",), box_sizes=[10, 20, 80, 100, 200, 300])
    assert [level.shapes[0] for level in config.anchors] == [(s, s) for s in (10, 20, 80, 100, 200)]
    assert config.anchors[1].shapes[3] == pytest.approx((20 * 4 ** (1 / 3),) * 2)
    for wrong in ([10, 20], [0, 20, 80, 100, 200, 300]):
        with pytest.raises(ConfigError, match="one anchor size per level and one more"):
            recipe("efficientdet_d0", ("a",), box_sizes=wrong)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientdet_d0", {}),
        ("efficientdet_lite0", {}),
        ("efficientdet", {"backbone": "timm/convnext_atto"}),
        ("efficientdet", {"backbone": "resnet18"}),
    ],
)
@pytest.mark.parametrize("size", [(130, 270), (301, 199)])
def test_any_size(name, options, size):
    with torch.device("meta"):
        model = onestage.create(name, 2, size=size, **options)
    levels = model.level_sizes(size)
    with torch.device("meta"):
        output = model.eval()(torch.empty(1, 3, *size))
    anchors = anchor_boxes(model.config.anchors, levels, size)
    assert output.logits.shape == (1, len(anchors), 2)
    assert len(anchors) == 9 * sum(h * w for h, w in levels)
    start = 0
    for (h, w), level in zip(levels, model.config.anchors, strict=True):  # the cells lie evenly over the whole input
        assert level.stride == pytest.approx((size[0] / h, size[1] / w))
        last = anchors[start + 9 * (h * w - 1)]
        centre = ((last[1] + last[3]).item() / 2, (last[0] + last[2]).item() / 2)
        assert centre == pytest.approx((size[0] - size[0] / h / 2, size[1] - size[1] / w / 2), abs=1e-3)
        start += 9 * h * w


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_lite4", "efficientdet_d7x"])
def test_a_config_survives_the_way_through_text(name):
    config = recipe(name, ("a", "b"))
    assert DetectorConfig.from_json(config.to_json()) == config


def test_it_predicts_and_learns():
    torch.manual_seed(0)
    model = onestage.create("efficientdet_lite0", 3, size=(64, 96))
    picture = torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8)
    found = model.predict([picture, picture], score=0.0)
    assert len(found) == 2 and 0 < len(found[0]) <= 100
    assert found[0].boxes.amax(0)[2:].tolist() <= [40, 50]
    images, metas = model.prepare([picture, picture])
    targets = [onestage.structures.Targets(metas[0].apply(torch.tensor([[5.0, 5, 30, 40]])), torch.tensor([1]))] * 2
    losses = model.train().loss(model(images), targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
