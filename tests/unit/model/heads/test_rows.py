"""Every head says which of its tensors give its outputs."""

import pytest
import torch

from onestage.model.heads.per_level import ConvHead
from onestage.model.heads.residual import ResidualHead
from onestage.model.heads.separable import SeparableHead
from onestage.model.heads.shared import SharedHead

HEADS = [
    *(ConvHead(style) for style in ("plain", "separable", "lite", "pointwise", "folded")),
    *(ResidualHead(width=8), ResidualHead(width=8, blocks=0)),
    *(SharedHead(layers=1), SharedHead(layers=0), SharedHead(layers=1, norm="group")),
    *(SeparableHead(layers=1), SeparableHead(layers=0)),
]


def shapes(config, logits, anchors):
    with torch.device("meta"):
        head = config.build((32, 32), (anchors, anchors), logits)
    return head, {name: tensor.shape for name, tensor in head.state_dict().items()}


@pytest.mark.parametrize("config", HEADS, ids=str)
def test_just_the_outputs_grow_with_classes_and_anchor_shapes(config):
    head, usual = shapes(config, 5, 3)
    assert {name for name, shape in shapes(config, 6, 3)[1].items() if shape != usual[name]} == {*head.class_outputs()}
    changed = {name for name, shape in shapes(config, 5, 4)[1].items() if shape != usual[name]}
    assert changed == {*head.class_outputs(), *head.box_outputs()}
    assert all(usual[name][0] == 3 * 5 for name in head.class_outputs())
    assert all(usual[name][0] == 3 * 4 for name in head.box_outputs())
