"""Our own files under another config: class outputs of every head, default boxes and input at another size."""

import warnings
from dataclasses import replace

import pytest
import torch

import onestage
from onestage.model.heads.per_level import ConvHead
from onestage.weights.load import load_known_classes, same_anchors, with_parts_of
from onestage.zoo.table import recipe

HEADS = {
    "tinyssd": {},
    "ssdlite320_mobilenet_v3_large": {},
    "dssd": {"backbone": "test_resnet"},
    "retinanet": {"backbone": "test_resnet"},
    "efficientdet": {"backbone": "test_efficientnet"},
}
"""A model of every head class -> its other options."""
SIZE = (96, 96)


def floored(config, count):
    """The config with torchvision's strides on its first levels."""
    levels = [replace(level, stride="floor") if i < count else level for i, level in enumerate(config.anchors)]
    return replace(config, anchors=tuple(levels))


def quietly(*arguments, **options):
    """create() where no warning may be given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return onestage.create(*arguments, **options).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_class_outputs_of_every_head(name, tmp_path):
    """The same names in another order take their rows along; other names start fresh."""
    options = {"size": SIZE, **HEADS[name]}
    torch.manual_seed(0)
    old = onestage.create(name, classes=["cat", "dog", "emu"], **options).eval()
    outputs = {f"head.{k}" for k in old.head.class_outputs()}
    assert outputs
    for key in outputs:
        torch.nn.init.normal_(old.get_parameter(key))
    old.save(tmp_path / "own.safetensors")
    images = torch.randn(1, 3, *SIZE)
    theirs = old(images)
    ours = quietly(name, classes=["emu", "cat", "dog"], weights=tmp_path / "own.safetensors", **options)(images)
    background = list(range(theirs.logits.shape[2] - 3))
    order = [*background, *(len(background) + i for i in (2, 0, 1))]
    torch.testing.assert_close(ours.logits, theirs.logits[:, :, order])
    torch.testing.assert_close(ours.deltas, theirs.deltas)
    with pytest.warns(UserWarning, match=f"{len(outputs)} tensors do not fit .*the file's classes are others: cat, dog, emu"):
        other = onestage.create(name, classes=["a", "b", "c"], weights=tmp_path / "own.safetensors", **options)
    tensors = other.state_dict()
    assert {k for k, v in old.state_dict().items() if not torch.equal(v, tensors[k])} == outputs
    fewer = quietly(name, classes=["emu", "cat"], weights=tmp_path / "own.safetensors", **options)(images)
    torch.testing.assert_close(fewer.logits, theirs.logits[:, :, [*background, len(background) + 2, len(background)]])
    with pytest.warns(UserWarning, match="start fresh.* but not their rows for classes that the file knows by name: dog$"):
        mixed = onestage.create(name, classes=["yak", "dog"], weights=tmp_path / "own.safetensors", **options).eval()
    logits = mixed(images).logits
    torch.testing.assert_close(logits[:, :, [*background, -1]], theirs.logits[:, :, [*background, len(background) + 1]])
    assert not torch.isclose(logits[:, :, [-2]], theirs.logits[:, :, len(background) :]).all(dim=1).any()


def at_sizes(name, old, new, **options):
    """Recipes of a model: with the options at the old size, and the usual ones at the old and the new."""
    return recipe(name, ["cat"], size=old, **options), recipe(name, ["cat"], size=old), recipe(name, ["cat"], size=new)


def test_class_outputs_of_another_kind_of_head_start_fresh():
    stored = recipe("dssd", ("cat", "dog"), size=SIZE, backbone="timm/resnet18")
    wanted = onestage.build(replace(stored, classes=("cat", "emu"), head=ConvHead()))
    before = {name: tensor.clone() for name, tensor in wanted.state_dict().items()}
    assert load_known_classes(wanted, onestage.build(stored).state_dict(), stored) == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in wanted.state_dict().items())


def test_boxes_in_pixels_keep_them_at_another_size():
    """RetinaNet's strides are the same at any size, and so are its shapes; the file's own stride stays, too."""
    sizes = [20, 40, 80, 160, 320, 640]
    own, own_recipe, other = at_sizes("retinanet_r18_fpn", (800, 1333), (480, 800), box_sizes=sizes)
    merged = with_parts_of(own, other, stored_recipe=own_recipe, recipe=other)
    assert merged.anchors == own.anchors != other.anchors
    assert same_anchors(own, merged)
    assert same_anchors(own_recipe, other)
    assert not same_anchors(own, other)
    floor = floored(own, 1)
    assert with_parts_of(floor, other, stored_recipe=own_recipe, recipe=other).anchors == floor.anchors


def test_boxes_in_strides_grow_with_them():
    """At 320 pixels D0's coarsest map has 3 cells, at 512 4: its strides are 106.7 and 128."""
    own, own_recipe, other = at_sizes("efficientdet_d0", (320, 320), (512, 512), box_sizes=[24, 48, 96, 192, 384, 768])
    merged = with_parts_of(own, other, stored_recipe=own_recipe, recipe=other)
    assert [level.stride for level in merged.anchors] == [level.stride for level in other.anchors]
    assert [level.shapes[0][0] for level in merged.anchors] == pytest.approx([24, 48, 96, 192, 384 * 1.2])
    assert same_anchors(own, merged)
    assert same_anchors(own_recipe, other)
    assert not same_anchors(own, other)


def test_boxes_in_parts_of_the_input_grow_with_it():
    """SSD's, on levels with strides and without."""
    own, own_recipe, other = at_sizes("ssd300_vgg16", (300, 300), (330, 360), box_sizes=[30, 60, 111, 162, 213, 264, 315])
    merged = with_parts_of(own, other, stored_recipe=own_recipe, recipe=other)
    assert len(other.anchors) == len(own.anchors)
    for level, grown in zip(own.anchors, merged.anchors, strict=True):
        assert grown.stride == level.stride
        assert grown.shapes[0] == pytest.approx((1.2 * level.shapes[0][0], 1.1 * level.shapes[0][1]))
    assert same_anchors(own, merged)


def test_own_box_sizes_win_over_those_of_a_file():
    sizes = [20, 40, 80, 160, 320, 640]
    mine, own_recipe, other = at_sizes("retinanet_r18_fpn", (800, 1333), (800, 1333), box_sizes=sizes)
    floor = floored(own_recipe, 5)
    assert with_parts_of(floor, mine, stored_recipe=own_recipe, recipe=other).anchors == mine.anchors
    assert with_parts_of(floor, other, stored_recipe=own_recipe, recipe=other).anchors == floor.anchors


def test_how_many_detections_is_a_matter_of_the_classes():
    """A file made for use may report few; with other classes the recipe's number counts."""
    usual = recipe("tinyssd", ["cat", "dog"])
    own = usual.replace({"postprocess.detections": 10, "postprocess.class_agnostic": True})
    for classes, taken in ((["dog", "cat"], True), (["class 0", "class 1"], True), (["cat", "emu"], False), (["cat"], False)):
        config = recipe("tinyssd", classes)
        merged = with_parts_of(own, config, stored_recipe=usual, recipe=config)
        assert merged.postprocess == (own if taken else usual).postprocess
    chosen = usual.replace({"postprocess.detections": 7})
    assert with_parts_of(own, chosen, stored_recipe=usual, recipe=usual).postprocess.detections == 7


def test_how_a_file_fits_pictures_into_the_input_is_kept():
    """Unless somebody chose another way."""
    usual = recipe("tinyssd", ["cat"])
    own = usual.replace({"preprocess.mode": "letterbox"})
    assert with_parts_of(own, usual, stored_recipe=usual, recipe=usual).preprocess.mode == "letterbox"
    chosen = usual.replace({"preprocess.mode": "shortest_edge"})
    assert with_parts_of(own, chosen, stored_recipe=usual, recipe=usual).preprocess.mode == "shortest_edge"
    assert with_parts_of(usual, chosen, stored_recipe=usual, recipe=usual).preprocess == chosen.preprocess


def test_a_setting_that_no_weights_need_is_the_recipes():
    """A file of before there was drop_path is trained with it."""
    usual = recipe("efficientdet_d0", ["cat"])
    old = usual.replace({"backbone.drop_path": None})
    assert with_parts_of(old, usual, stored_recipe=usual, recipe=usual).backbone.drop_path == 0.2
    without = usual.replace({"backbone.drop_path": 0.0})
    assert with_parts_of(old, without, stored_recipe=usual, recipe=usual).backbone.drop_path == 0.0


def test_what_was_chosen_stays_beside_what_the_weights_need():
    """effdet's own D0 pads as PyTorch does and has no biases before batch norm; who leaves no block out gets it all."""
    usual = recipe("efficientdet_d0", ["cat"])
    own = usual.replace({"backbone.name": "efficientnet_b0", "neck.padding": "symmetric", "head.bias": False})
    chosen = usual.replace({"backbone.drop_path": 0.0, "backbone.freeze": 1, "loss.gamma": 2.0})
    merged = with_parts_of(own, chosen, stored_recipe=usual, recipe=usual)
    expected = own.replace({"backbone.drop_path": 0.0, "backbone.freeze": 1, "loss.gamma": 2.0})
    assert merged == expected


def test_parts_of_another_kind_are_taken_whole_or_not_at_all():
    usual = recipe("retinanet_r18_fpn", ["cat"])
    own = usual.replace({"loss": "QualityFocalLoss", "loss.box": "giou"})
    assert with_parts_of(own, usual, stored_recipe=usual, recipe=usual).loss == own.loss
    chosen = usual.replace({"loss.alpha": 0.5})
    assert with_parts_of(own, chosen, stored_recipe=usual, recipe=usual).loss == chosen.loss


@pytest.mark.filterwarnings("ignore:.*made for other default boxes")
def test_size_and_backbone_are_those_of_a_file_of_that_name(tmp_path):
    onestage.create("retinanet", 2, size=(64, 96), backbone="test_resnet").save(tmp_path / "own.safetensors")
    config = quietly("retinanet", 2, weights=tmp_path / "own.safetensors").config
    assert (config.preprocess.size, config.backbone.name) == ((64, 96), "test_resnet")
    asked = quietly("retinanet", 2, size=(96, 96), backbone="test_resnet", weights=tmp_path / "own.safetensors").config
    assert asked.preprocess.size == (96, 96)
    with pytest.warns(UserWarning, match="do not fit"):
        other = onestage.create("ssd", 2, backbone="test_resnet", weights=tmp_path / "own.safetensors").config
    assert other.preprocess.size == recipe("ssd", ["a", "b"]).preprocess.size
