"""Anything mixed with anything: every backbone, neck, head, assigner, class loss and box loss in one detector.

What fits is built, trained for a step and predicts; what does not fit says so, by name.
"""

import warnings
from dataclasses import replace
from functools import cache
from itertools import cycle
from types import NoneType
from typing import get_args, get_type_hints

import pytest
import torch

from onestage.errors import ConfigError
from onestage.model.anchors.atss import ATSSAssigner
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.anchors.plans import OctaveAnchors, SSDAnchors
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.folded import FoldedBackbone, FoldedLayer
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.backbones.tiny import TinyBackbone
from onestage.model.backbones.vgg16 import VGG16Backbone
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.heads.per_level import ConvHead
from onestage.model.heads.residual import ResidualHead
from onestage.model.heads.separable import SeparableHead
from onestage.model.heads.shared import SharedHead
from onestage.model.losses.boxes import L1, BoxLoss, Huber, IoULoss, SmoothL1
from onestage.model.losses.focal import FocalLoss
from onestage.model.losses.multibox import MultiBoxLoss
from onestage.model.losses.quality_focal import QualityFocalLoss
from onestage.model.necks.bifpn import BiFPN
from onestage.model.necks.deconvolution import Deconvolution
from onestage.model.necks.extra_levels import ExtraBlock, ExtraLevels
from onestage.model.necks.fpn import FPN
from onestage.model.output.postprocess import Postprocess
from onestage.model.output.suppress import NMS, DIoUNMS, HardNMS, LinearSoftNMS, SoftNMS
from onestage.model.preprocess import Preprocess
from onestage.structures import Targets
from onestage.zoo.table import recipe

BACKBONES = [
    TinyBackbone(base=(4, 8, 8), width=8),
    VGG16Backbone(),
    MobileNetBackbone(),
    TimmBackbone("test_resnet"),
    FoldedBackbone((FoldedLayer(4, -1, 3, 8), FoldedLayer(8, 0, 3, 2), FoldedLayer(8, 1, add=1)), maps=(0, 2)),
]
NECKS = [
    None,
    ExtraLevels((ExtraBlock(4, 8),)),
    FPN(width=8, extra=1),
    BiFPN(width=8, layers=1, levels=6),
    Deconvolution(ExtraLevels((ExtraBlock(4, 8),)), width=8),
]
HEADS = [ConvHead(), SharedHead(layers=1), SeparableHead(layers=1), ResidualHead(width=8)]
EQUAL = (SharedHead, SeparableHead)
"""Heads whose convolutions are shared by all levels."""
ASSIGNERS = [MaxIoUAssigner(claim="tied", negative=0.4), ATSSAssigner(top_k=3), MaxIoUAssigner(claim="greedy")]
LOSSES = [MultiBoxLoss(), FocalLoss(), QualityFocalLoss(), FocalLoss(alpha=None, gamma=0.5, per_image=True)]
BOX_LOSSES = [SmoothL1(), L1(), Huber(0.1), IoULoss("giou"), IoULoss("diou"), IoULoss("ciou")]
SUPPRESSIONS = [HardNMS(), DIoUNMS(), SoftNMS(), LinearSoftNMS()]

FEW = Postprocess(detections=20)

OBJECTS = Targets(torch.tensor([[4.0, 4, 30, 40], [20, 30, 60, 60]]), torch.tensor([1, 0]))
NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@cache
def channels(backbone, neck):
    """Those of the maps that a head gets."""
    with torch.device("meta"):
        given = backbone.build().channels
        return given if neck is None else neck.build(given).channels


def config(backbone, neck, head, *, assigner=ASSIGNERS[0], loss=LOSSES[0], postprocess=FEW):
    """With as many anchor levels as there will be maps."""
    levels = len(channels(backbone, neck))
    anchors = tuple(AnchorLevel(((12.0 * 2**i, 12.0 * 2**i), (16.0 * 2**i, 9.0 * 2**i))) for i in range(levels))
    return DetectorConfig(
        name="mixed",
        classes=("cat", "dog"),
        preprocess=Preprocess((64, 64)),
        backbone=backbone,
        neck=neck,
        head=head,
        anchors=anchors,
        assigner=assigner,
        loss=loss,
        postprocess=postprocess,
    )


def works(config):
    """One step of training with a gradient for every parameter, then a prediction."""
    assert DetectorConfig.from_json(config.to_json()) == config
    torch.manual_seed(0)
    model = Detector(config)
    model.train()
    losses = model.loss(model(torch.randn(2, 3, 64, 64)), [OBJECTS, NOTHING])
    sum(losses.values()).backward()
    assert all(value.isfinite() and value >= 0 for value in losses.values()) and losses["cls"] > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert any(parameter.grad.any() for parameter in model.backbone.parameters())
    torch.optim.SGD(model.parameters(), 1e-4).step()
    found = model.predict(
        [torch.zeros(3, 40, 50, dtype=torch.uint8), torch.full((3, 64, 64), 200, dtype=torch.uint8)], score=0.0
    )
    assert all(len(d) > 0 and d.boxes.isfinite().all() and d.scores.isfinite().all() for d in found)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("neck", NECKS, ids=lambda part: type(part).__name__)
def test_every_backbone_neck_and_head(backbone, neck):
    """The assigners and losses take turns. Large backbones meet one head each time."""
    turns = zip(cycle(ASSIGNERS), cycle(LOSSES), cycle(BOX_LOSSES), strict=False)
    large = isinstance(backbone, VGG16Backbone | MobileNetBackbone)
    heads = [HEADS[NECKS.index(neck) % len(HEADS)]] if large else HEADS
    for head, (assigner, loss, box) in zip(heads, turns, strict=False):
        mixed = config(backbone, neck, head, assigner=assigner, loss=replace(loss, box=box))
        if isinstance(head, EQUAL) and len(set(channels(backbone, neck))) > 1:
            with pytest.raises(ConfigError, match=f"{type(head).__name__}(.|\\n)*equal channels"):
                Detector(mixed)
        else:
            works(mixed)


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=repr)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda part: type(part).__name__)
def test_every_assigner_class_loss_and_box_loss(assigner, loss):
    """With every other box loss; the heads, necks and kinds of NMS take turns."""
    heads = cycle([SharedHead(layers=1), ConvHead(), SeparableHead(layers=1)])
    boxes = BOX_LOSSES[(ASSIGNERS.index(assigner) + LOSSES.index(loss)) % 2 :: 2]
    turn = ASSIGNERS.index(assigner)
    turns = zip(boxes, heads, cycle(NECKS[2:4]), SUPPRESSIONS[turn:] + SUPPRESSIONS[:turn], strict=False)
    for box, head, neck, nms in turns:
        scope = {HardNMS: "level", DIoUNMS: "image"}.get(type(nms), "class")
        post = Postprocess(nms=nms, scope=scope, class_agnostic=isinstance(nms, SoftNMS), detections=20)
        works(config(BACKBONES[3], neck, head, assigner=assigner, loss=replace(loss, box=box), postprocess=post))


def kinds(declared):
    return set(get_args(declared) or [declared]) - {NoneType}


def test_every_kind_is_in_the_mix():
    """A new part belongs into the tables above."""
    hints = get_type_hints(DetectorConfig)
    tables = {"backbone": BACKBONES, "neck": NECKS[1:], "head": HEADS, "assigner": ASSIGNERS, "loss": LOSSES}
    for field, parts in tables.items():
        assert {type(part) for part in parts} == kinds(hints[field]), field
    assert {type(part) for part in BOX_LOSSES} == kinds(BoxLoss)
    assert {type(part) for part in SUPPRESSIONS} == kinds(NMS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"anchors": 3}, "the neck gives 4 levels, the anchors describe 3"),
        ({"neck": None}, "the backbone gives 3 levels, the anchors describe 4"),
        ({"neck": None, "anchors": 3}, "SharedHead .* equal channels"),
        ({"shapes": 2}, "same number of anchor shapes"),
        ({"neck": BiFPN(width=8, layers=1, levels=2)}, "a BiFPN of 2 levels takes at most as many maps"),
        ({"neck": FPN(width=8, norm="group")}, "group norm needs channels in 32 equal groups"),
        ({"backbone": TinyBackbone(base=(4, 8, 8), width=8)}, "the neck gives 6 levels"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ", ".join(value),
)
def test_what_does_not_fit_says_so(changes, says):
    whole = config(TimmBackbone("test_resnet"), FPN(width=8, extra=1), SharedHead(layers=1))
    if "shapes" in changes:  # one shape more on the first level
        first = whole.anchors[0]
        whole = replace(whole, anchors=(replace(first, shapes=(*first.shapes, (9.0, 9.0))), *whole.anchors[1:]))
    elif "anchors" in changes:
        whole = replace(whole, anchors=whole.anchors[: changes["anchors"]])
    whole = replace(whole, **{k: v for k, v in changes.items() if k in ("neck", "backbone")})
    with warnings.catch_warnings(), pytest.raises(ConfigError, match=says):
        warnings.simplefilter("error")
        Detector(whole)


@pytest.mark.parametrize("plan", [OctaveAnchors(), OctaveAnchors(octaves=1, aspects=((1.0, 1.0),)), SSDAnchors(ratios=(2.0,))])
@pytest.mark.parametrize("neck", [FPN(width=8, extra=1), BiFPN(width=8, layers=1)])
def test_a_rule_for_anchors_suits_any_maps(plan, neck):
    whole = replace(config(TimmBackbone("test_resnet"), neck, SharedHead(layers=1)), anchors=plan)
    works(whole)
    built = Detector(whole).config
    sizes = Detector(whole).level_sizes((64, 64))
    assert built.levels == plan.levels(sizes, (64, 64))
    assert Detector(built).config == built  # what is stored says every level, and is taken as it is


def test_recipes_change_their_neck_and_head_in_one_line():
    for name in ("ssd", "dssd", "tinyssd", "ssdlite320_mobilenet_v3_large"):
        changes = {"neck": "FPN", "neck.width": "32", "head": "SharedHead", "anchors": "OctaveAnchors", "loss": "FocalLoss"}
        model = Detector(recipe(name, ("cat", "dog"), size=(128, 128)).replace(changes))
        assert {len(level.shapes) for level in model.config.levels} == {9}
        output = model(torch.zeros(1, 3, 128, 128))
        assert output.logits.shape[1] == len(model.anchors((128, 128)))


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("retinanet_r18_fpn", {"backbone.strides": "[4, 8, 16]"}, "anchors of level 0 stand"),
        ("retinanet_r18_fpn", {"backbone.keep_resolution": "true"}, "anchors of level 2 stand"),
        ("retinanet_r18_fpn", {"backbone": "MobileNetBackbone", "neck.extra": "3"}, "anchors of level 0 stand"),
        ("retinanet_r18_fpn", {"backbone.name": "inception_v3"}, "not padded"),
        ("retinanet_r18_fpn", {"backbone.name": "swin_tiny_patch4_window7_224"}, "cannot take inputs of 128x160"),
        ("dssd", {"backbone.keep_resolution": "true"}, "Deconvolution doubles maps"),
        ("dssd", {"backbone.strides": "[4, 8, 32]"}, "Deconvolution doubles maps"),
        ("ssd300_resnet50", {"backbone.name": "efficientnet_b0"}, "keep_resolution does not suit"),
        ("ssd300_resnet50", {"backbone.name": "convnext_atto"}, "keep_resolution does not suit"),
    ],
)
def test_anchors_that_would_stand_beside_their_cells_are_refused(name, changes, says):
    size = (300, 300) if "ssd" in name else (128, 160)
    with torch.device("meta"), pytest.raises(ConfigError, match=says):
        Detector(recipe(name, ("cat", "dog"), size=size).replace(changes))


@pytest.mark.parametrize(
    "head", [ConvHead(), ConvHead("separable"), SharedHead(layers=1), SeparableHead(layers=1), ResidualHead(width=64)]
)
def test_with_sigmoids_every_class_starts_at_the_prior(head):
    """On maps as strong as a fresh backbone gives them."""
    torch.manual_seed(0)
    mixed = config(TimmBackbone("resnet18"), FPN(width=128, extra=1), head, loss=FocalLoss())
    with torch.no_grad():
        p = Detector(mixed)(torch.randn(2, 3, 64, 64)).logits.sigmoid()
    assert p.mean().item() == pytest.approx(0.01, rel=0.2)
    assert p.max().item() < 0.1
