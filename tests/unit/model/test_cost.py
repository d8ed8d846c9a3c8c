"""Parameters and multiply-adds, against the tables of those who count them too."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import (
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
    SSD300_VGG16_Weights,
    SSDLite320_MobileNet_V3_Large_Weights,
)

from onestage.model.cost import cost_of
from onestage.model.detector import Detector
from onestage.weights.tensor_file import numbered_classes
from onestage.zoo.table import recipe


@pytest.mark.parametrize(
    ("name", "published", "anchors"),
    [
        ("ssd300_vgg16", SSD300_VGG16_Weights.COCO_V1, 8732),
        ("ssdlite320_mobilenet_v3_large", SSDLite320_MobileNet_V3_Large_Weights.COCO_V1, 3234),
    ],
)
def test_costs_are_those_that_torchvision_publishes(name: str, published: object, anchors: int) -> None:
    meta = published.meta  # type: ignore[attr-defined]
    cost = cost_of(recipe(name, numbered_classes(90)))
    assert cost.parameters == meta["num_params"]
    assert round(cost.multiply_adds / 1e9, 3) == meta["_ops"]
    assert cost.anchors == anchors


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("retinanet_r50_fpn", RetinaNet_ResNet50_FPN_Weights.COCO_V1),
        ("retinanet_r50_fpn_v2", RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1),
    ],
)
def test_retinanets_at_torchvisions_size_and_classes(name: str, published: object) -> None:
    """It counts at 800x800 and has a 91st class, of background."""
    cost = cost_of(recipe(name, numbered_classes(91), size=(800, 800)))
    assert round(cost.multiply_adds / 1e9, 3) == published.meta["_ops"]  # type: ignore[attr-defined]


def test_sizes_that_vary_count_at_their_largest() -> None:
    """RetinaNet pads 800x1333 to 800x1344: 100x168 cells of stride 8, 50x84, 25x42, 13x21 and 7x11, nine anchors each."""
    cost = cost_of(recipe("retinanet_r18_fpn", numbered_classes(3)))
    assert cost.anchors == 9 * (100 * 168 + 50 * 84 + 25 * 42 + 13 * 21 + 7 * 11) == 201_600


def test_multiply_adds_follow_the_size_and_the_classes() -> None:
    small, wide, many = (
        cost_of(recipe("tinyssd", numbered_classes(count), size=size))
        for count, size in ((3, (64, 64)), (3, (64, 128)), (6, (64, 64)))
    )
    assert small.parameters == wide.parameters < many.parameters
    assert 1.8 * small.multiply_adds < wide.multiply_adds < 2.2 * small.multiply_adds
    assert small.multiply_adds < many.multiply_adds


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "dssd321_resnet101", "efficientdet_d0"])
def test_multiply_adds_are_those_of_torchs_counter(name: str) -> None:
    config = recipe(name, numbered_classes(3))
    with torch.device("meta"), torch.no_grad():
        model = Detector(config).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *config.preprocess.size))
    assert cost_of(config).multiply_adds == counter.get_total_flops() // 2


def test_the_cost_follows_the_size_of_the_input():
    config = recipe("retinanet_r18_fpn", numbered_classes(3))
    small, large = cost_of(config, (256, 256)), cost_of(config, (512, 256))
    assert large.multiply_adds == 2 * small.multiply_adds and large.parameters == small.parameters
    assert cost_of(config, config.preprocess.largest) == cost_of(config)
