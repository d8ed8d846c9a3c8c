"""create(): what it takes, and what it says of what it cannot take."""

import pytest
import torch

import onestage
from onestage.creation import build
from onestage.errors import ConfigError, WeightsError
from onestage.zoo.table import ZOO, recipe


@pytest.mark.parametrize("make", [onestage.create, onestage.recipe])
def test_a_class_name_that_no_file_can_hold_is_refused(make):
    with pytest.raises(ConfigError, match=r"half a character.*\n.*\n.*'b\\ud800'"):
        make("tinyssd", classes=["a", "b\ud800"])


def test_the_zoo():
    assert onestage.list_models() == list(ZOO)
    assert {"tinyssd", "ssd300_vgg16", "ssd512_vgg16", "ssd"} < set(ZOO)


def test_classes_by_number_or_by_name():
    assert onestage.create("tinyssd", 3).config.classes == ("class 0", "class 1", "class 2")
    named = onestage.create("tinyssd", classes=["no", "012"])
    assert named.config.classes == ("no", "012")
    assert named.config.category_ids == (0, 1)
    assert onestage.create("tinyssd", 2, classes=["a", "b"]).config.classes == ("a", "b")


def test_the_name_is_the_zoo_s():
    assert onestage.create("ssd300_mobilenet_v2", 2).config.name == "ssd300_mobilenet_v2"
    assert onestage.create("ssd", 2, backbone="timm/resnet18").config.backbone.name == "resnet18"


def test_size_is_height_and_width():
    model = onestage.create("tinyssd", 1, size=(64, 128))
    assert model.config.preprocess.size == (64, 128)
    assert model.level_sizes((64, 128))[0] == (8, 16)
    assert onestage.create("tinyssd", 1).config.preprocess.size == (256, 256)


def test_weights_are_drawn_from_torch_s_random_numbers():
    def first():
        torch.manual_seed(5)
        return onestage.create("tinyssd", 1, size=(64, 64)).state_dict()

    a, b = first(), first()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "tinysd", "num_classes": 1}, "did you mean 'tinyssd'"),
        ({"name": "yolo", "num_classes": 1}, "no model 'yolo' in the zoo"),
        ({"name": "tinyssd"}, "say which classes"),
        ({"name": "tinyssd", "num_classes": 0}, "num_classes is not understood"),
        ({"name": "tinyssd", "classes": []}, "must be there"),
        ({"name": "tinyssd", "classes": "cat"}, "a list of names"),
        ({"name": "tinyssd", "classes": ["cat", "cat"]}, "only once"),
        ({"name": "tinyssd", "classes": ["cat"], "num_classes": 2}, "contradicts"),
        ({"name": "tinyssd", "num_classes": 1, "size": 256}, "the input size is"),
        ({"name": "tinyssd", "num_classes": 1, "size": (256,)}, "the input size is"),
        ({"name": "tinyssd", "num_classes": 1, "size": (0, 0)}, "the input size is"),
        ({"name": "tinyssd", "num_classes": 1, "size": (256, 16)}, "the input size is"),
        ({"name": "tinyssd", "num_classes": 1, "size": (256.5, 256)}, "the input size is"),
        ({"name": "tinyssd", "num_classes": 1, "size": ("256", "256")}, "the input size is"),
        ({"name": "tinyssd", "num_classes": 1, "size": "ab"}, "the input size is"),
        ({"name": "tinyssd", "num_classes": 1, "box_sizes": [10, 20]}, "one anchor size per level"),
        ({"name": "ssd300_vgg16", "num_classes": 1, "backbone": "resnet18"}, "part of its name"),
        ({"name": "ssd", "num_classes": 1, "backbone": "resnet81"}, "timm has no such model"),
    ],
)
def test_what_cannot_be_created(arguments, says):
    with pytest.raises(ConfigError, match=says):
        onestage.create(**arguments)


def test_weights_of_a_backbone_come_with_weights_of_the_whole():
    with pytest.raises(ConfigError, match="give one of them"):
        onestage.create("tinyssd", 1, weights="a.pth", backbone_weights="b.pth")


@pytest.mark.parametrize("argument", ["weights", "backbone_weights"])
def test_weights_that_are_not_there(argument):
    with pytest.raises(WeightsError, match="no such weights") as error:
        onestage.create("tinyssd", 1, **{argument: "nowhere.pth"})
    assert "nowhere.pth" in str(error.value)


def test_a_tag_is_told_from_a_mistyped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="did you mean 'coco'"):
        onestage.create("ssd300_vgg16", 90, weights="cocco")


def test_a_recipe_is_a_config_and_builds_nothing():
    config = recipe("ssd300_vgg16", ["cat"], size=(320, 480))
    assert config.preprocess.size == (320, 480)
    assert config.classes == ("cat",)
    assert hash(config) == hash(recipe("ssd300_vgg16", ["cat"], size=(320, 480)))


@pytest.mark.parametrize("change", [{"backbone.freeze": 2}, {"backbone.norm": "frozen"}])
def test_a_frozen_backbone_without_weights_is_told(change):
    with pytest.warns(UserWarning, match="frozen but has no weights"):
        build(recipe("retinanet_r18_fpn", ("cat",), size=(64, 64)).replace(change))
