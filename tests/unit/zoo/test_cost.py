"""Parameters and multiply-adds, against the tables of those who count them too."""

import pytest
from torchvision.models.detection import SSD300_VGG16_Weights, SSDLite320_MobileNet_V3_Large_Weights

from onestage.zoo import numbered_classes, recipe
from onestage.zoo.cost import cost_of


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


def test_multiply_adds_follow_the_size_and_the_classes() -> None:
    small, wide, many = (
        cost_of(recipe("tinyssd", numbered_classes(count), size=size))
        for count, size in ((3, (64, 64)), (3, (64, 128)), (6, (64, 64)))
    )
    assert small.parameters == wide.parameters < many.parameters
    assert 1.8 * small.multiply_adds < wide.multiply_adds < 2.2 * small.multiply_adds
    assert small.multiply_adds < many.multiply_adds
