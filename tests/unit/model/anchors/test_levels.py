"""Anchors: centres, shapes and order, from the paper's definitions."""

import math
from dataclasses import replace

import pytest
import torch

import onestage
from onestage import boxes as box_ops
from onestage.errors import ConfigError
from onestage.model.anchors.levels import AnchorLevel, anchor_boxes, grid, linear_scales, size_pairs, ssd_levels


def test_rows_are_ordered_y_x_shape():
    level = AnchorLevel(shapes=((10.0, 20.0), (6.0, 6.0)))
    boxes = box_ops.to_cxcywh(grid(level, (2, 3), (40, 90)))
    expected = [(x, y, w, h) for y in (10, 30) for x in (15, 45, 75) for w, h in ((10, 20), (6, 6))]
    assert boxes.tolist() == [list(map(float, row)) for row in expected]


def test_a_stride_places_the_cells_whatever_the_size_of_the_map():
    boxes = box_ops.to_cxcywh(grid(AnchorLevel(((2.0, 2.0),), stride=(8.0, 16.0)), (2, 2), (999, 999)))
    assert boxes[:, :2].tolist() == [[8, 4], [24, 4], [8, 12], [24, 12]]


def test_levels_follow_each_other():
    levels = (AnchorLevel(((2.0, 2.0),)), AnchorLevel(((4.0, 4.0), (8.0, 8.0))))
    boxes = anchor_boxes(levels, ((2, 2), (1, 1)), (16, 16))
    assert boxes.dtype == torch.float32
    assert (boxes[:, 2] - boxes[:, 0]).tolist() == [2, 2, 2, 2, 4, 8]
    with pytest.raises(ValueError, match="argument"):
        anchor_boxes(levels, ((2, 2),), (16, 16))


def test_ssd_shapes_of_one_location():
    """Section 2.2: squares s and s', then for each ratio the wide and the high box of area s^2."""
    (level,) = ssd_levels([(30.0, 40.0)], [(2.0, 3.0)])
    r2, r3 = math.sqrt(2), math.sqrt(3)
    expected = [(30, 30), (40, 40), (30 * r2, 30 / r2), (30 / r2, 30 * r2), (30 * r3, 30 / r3), (30 / r3, 30 * r3)]
    assert [pytest.approx(shape) for shape in expected] == list(level.shapes)
    assert level.stride is None
    assert all(w * h == pytest.approx(900) for w, h in level.shapes[2:])


def test_clip_cuts_shapes_to_the_input_and_strides_are_kept():
    levels = ssd_levels([(90.0, 120.0), (200.0, 300.0)], [(2.0,), (2.0,)], strides=[8, None], clip=(100, 150))
    assert levels[0].shapes[1] == (120.0, 100.0)
    assert levels[1].shapes[1] == (150.0, 100.0)
    assert [level.stride for level in levels] == [(8, 8), None]


def test_equation_4():
    """s_k = 0.2 + (0.9 - 0.2) / (m - 1) * (k - 1)."""
    assert linear_scales(6) == pytest.approx([0.2, 0.34, 0.48, 0.62, 0.76, 0.9])
    assert linear_scales(1, 0.3, 0.9) == [0.3]


def test_the_second_square_lies_between_two_levels():
    assert size_pairs([30.0, 60.0, 111.0]) == [(30.0, pytest.approx(42.4264)), (60.0, pytest.approx(81.6088))]


@pytest.mark.parametrize("level", [{"shapes": ()}, {"shapes": ((0.0, 5.0),)}, {"shapes": ((5.0, 5.0),), "stride": (0.0, 8.0)}])
def test_anchors_without_extent_are_refused(level):
    with pytest.raises(ConfigError, match="above 0"):
        AnchorLevel(**level)


def test_the_caffe_boxes_of_ssd300():
    """COCO sizes of SSD300: 21, 45, 99, 153, 207, 261, 315; steps 8, 16, 32, 64, 100, 300 (the settings of SSD's own code)."""
    levels = onestage.create("ssd300_vgg16", 3).config.anchors
    assert [level.shapes[0][0] for level in levels] == pytest.approx([21, 45, 99, 153, 207, 261])
    assert levels[5].shapes[1][0] == pytest.approx(math.sqrt(261 * 315))
    assert [len(level.shapes) for level in levels] == [4, 6, 6, 6, 4, 4]
    assert [level.stride and level.stride[0] for level in levels] == [8, 16, 32, 64, None, None]


def test_centres_are_kept_inside_where_that_is_asked():
    """Ten cells 32 pixels apart on 300 pixels: the last centre, 304, moves onto the border; the shapes stay whole."""
    level = AnchorLevel(((60.0, 40.0),), (32.0, 32.0))
    free = grid(level, (10, 10), (300, 300)).view(10, 10, 4)
    kept = grid(replace(level, inside=True), (10, 10), (300, 300)).view(10, 10, 4)
    assert free[9, 0].tolist() == [16 - 30, 304 - 20, 16 + 30, 304 + 20]
    assert kept[9, 0].tolist() == [16 - 30, 300 - 20, 16 + 30, 300 + 20]
    assert torch.equal(kept[:9, :9], free[:9, :9])
