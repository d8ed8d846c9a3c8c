"""Octave anchors against torchvision's RetinaNet's and effdet's, square and not, dividing evenly and not."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from onestage import boxes as box_ops
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes, octave_levels, ratio_aspects

STRIDES = (8, 16, 32, 64, 128)


def torchvisions_levels(stride=None):
    """As torchvision's RetinaNet places them; stride "floor" is its run-time rule."""
    levels = octave_levels(
        STRIDES, scale=4.0, aspects=ratio_aspects(0.5, 1.0, 2.0), ratio_major=True, whole_pixels=True, offset=0.0
    )
    return [AnchorLevel(level.shapes, stride or level.stride, level.offset) for level in levels]


def maps_of(size):
    return [tuple(-(-side // stride) for side in size) for stride in STRIDES]


@pytest.mark.parametrize("size", [(256, 256), (800, 1088), (800, 1344), (224, 96), (608, 1056)])
def test_torchvisions_retinanet(size):
    maps = maps_of(size)
    features = [torch.empty(1, 1, *m) for m in maps]
    (theirs,) = _default_anchorgen()(ImageList(torch.empty(1, 3, *size), [size]), features)
    assert torch.equal(anchor_boxes(torchvisions_levels("floor"), maps, size), theirs)


def test_the_rounded_strides_stray_from_the_true_ones():
    """At 800x1088: up to 36 pixels on P6 and 84 on P7; nothing where the input is a multiple of every stride."""
    size = (800, 1088)
    off = []
    for rounded, true, cells in zip(torchvisions_levels("floor"), torchvisions_levels(), maps_of(size), strict=True):
        pair = [anchor_boxes([level], [cells], size) for level in (rounded, true)]
        off.append((pair[0] - pair[1]).abs().max().item())
    assert off == [0, 0, 0, 36, 84]
    assert torch.equal(*(anchor_boxes(torchvisions_levels(s), maps_of((256, 384)), (256, 384)) for s in ("floor", None)))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("efficientdet_d0", (512, 512)),
        ("efficientdet_d0", (256, 640)),
        ("tf_efficientdet_d7", (1536, 1536)),
        ("tf_efficientdet_d7x", (1536, 1536)),
        ("tf_efficientdet_lite0", (320, 320)),
    ],
)
def test_effdets(name, size):
    effdet = pytest.importorskip("effdet.anchors")
    from effdet.config import get_efficientdet_config

    config = get_efficientdet_config(name)
    config.image_size = size
    theirs = effdet.Anchors.from_config(config)
    maps = [theirs.feat_sizes[n] for n in range(config.min_level, config.max_level + 1)]
    strides = [size[0] / rows for rows, _ in maps]  # 320 pixels on the lite variant's coarsest map: 106.7, not 128
    ours = anchor_boxes(octave_levels(strides, scale=config.anchor_scale), maps, size)
    torch.testing.assert_close(ours, theirs.boxes[:, [1, 0, 3, 2]], atol=1e-4, rtol=0)


def test_order_of_the_shapes():
    """(octave, aspect) or, with ratio_major, (aspect, octave)."""
    sides = [32 * 2 ** (i / 3) for i in range(3)]
    octave_major = [(s * w, s * h) for s in sides for w, h in ((1, 1), (1.4, 0.7), (0.7, 1.4))]
    ratio_major = [(s * w, s * h) for w, h in ((1, 1), (1.4, 0.7), (0.7, 1.4)) for s in sides]
    for major, expected in ((False, octave_major), (True, ratio_major)):
        (level,) = octave_levels((8,), ratio_major=major)
        assert [pytest.approx(shape) for shape in expected] == list(level.shapes)
    (whole,) = octave_levels((8,), whole_pixels=True)
    assert all(side == int(side) and side % 2 == 0 for shape in whole.shapes for side in shape)


def test_ratios_keep_the_area():
    assert [w * h for w, h in ratio_aspects(0.5, 1.0, 2.0)] == pytest.approx([1, 1, 1])
    assert [h / w for w, h in ratio_aspects(0.5, 1.0, 2.0)] == pytest.approx([0.5, 1, 2])


def test_strides_place_every_level_of_octave_anchors():
    levels = octave_levels((8, 16), octaves=1, aspects=((1.0, 1.0),))
    boxes = box_ops.to_cxcywh(anchor_boxes(levels, [(1, 2), (1, 1)], (999, 999)))
    assert boxes.tolist() == [[4, 4, 32, 32], [12, 4, 32, 32], [8, 8, 64, 64]]
