"""Configs: there and back as JSON, changes by name, and what a wrong one says."""

import dataclasses
import json
from typing import get_args, get_type_hints

import pytest

from onestage.errors import ConfigError
from onestage.model.anchors.atss import ATSSAssigner
from onestage.model.anchors.levels import AnchorLevel
from onestage.model.anchors.max_iou import MaxIoUAssigner
from onestage.model.anchors.plans import OctaveAnchors
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.backbones.mobilenet import MobileNetBackbone
from onestage.model.codec import encode
from onestage.model.config import DetectorConfig
from onestage.model.heads.shared import SharedHead
from onestage.model.losses.boxes import L1, Huber, IoULoss
from onestage.model.losses.focal import FocalLoss
from onestage.model.necks.fpn import FPN
from onestage.model.output.suppress import SoftNMS
from onestage.zoo.table import ZOO, recipe

TINY = recipe("tinyssd", ("cat", "dog"))


def changed(path, value):
    """TINY as JSON with the value at a path ("a.b.0") replaced, or removed where it is None."""
    data = json.loads(TINY.to_json())
    *parents, last = [int(k) if k.isdigit() else k for k in path.split(".")]
    part = data
    for key in parents:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return json.dumps(data)


@pytest.mark.parametrize("name", ZOO)
def test_there_and_back(name):
    config = recipe(name, ("cat", "dog", "1e-3"), size=(224, 256))
    again = DetectorConfig.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.name == name


def test_json_is_plain_and_names_every_kind():
    data = json.loads(TINY.to_json())
    assert data["assigner"] == {
        "kind": "MaxIoUAssigner",
        "positive": 0.5,
        "negative": 0.5,
        "claim": "greedy",
        "ignore_cover": 0.5,
    }
    assert data["neck"] is None
    assert data["category_ids"] == [0, 1]


def test_logits_count_the_background_only_where_there_is_one():
    assert TINY.logits == 3


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("loss.negative_ratio", "2", 2.0),
        ("loss.negative_ratio", 2, 2.0),
        ("postprocess.score_threshold", "1e-3", 0.001),
        ("assigner.claim", "none", "none"),
        ("preprocess.antialias", "false", False),
        ("preprocess.size", "[100, 200]", (100, 200)),
        ("coder.variances", (0.2, 0.2, 0.1, 0.1), (0.2, 0.2, 0.1, 0.1)),
        ("classes", '["no", "on"]', ("no", "on")),
        ("name", "012", "012"),
        ("name", "null", "null"),
        ("backbone", TimmBackbone("resnet18"), TimmBackbone("resnet18")),
        ("backbone", '{"kind": "TimmBackbone", "name": "resnet18"}', TimmBackbone("resnet18")),
        ("neck", "null", None),
        ("loss", "FocalLoss", FocalLoss()),
        ("loss", '{"kind": "FocalLoss", "gamma": 1.5}', FocalLoss(gamma=1.5)),
        ("loss", FocalLoss(box=IoULoss("ciou")), FocalLoss(box=IoULoss("ciou"))),
        ("loss.box", "L1", L1()),
        ("loss.box", IoULoss("diou"), IoULoss("diou")),
        ("loss.box", "ciou", IoULoss("ciou")),
        ("loss.box", "GIoU", IoULoss("giou")),
        ("backbone", "v2", MobileNetBackbone("v2")),
        ("postprocess.nms", "SoftNMS", SoftNMS()),
        ("postprocess.scope", "level", "level"),
        ("assigner", "ATSSAssigner", ATSSAssigner()),
        ("neck", "FPN", FPN()),
        ("head", "SharedHead", SharedHead()),
        ("preprocess.mode", "letterbox", "letterbox"),
    ],
)
def test_replace(path, value, expected):
    found = TINY.replace({path: value})
    for key in path.split("."):
        found = getattr(found, key)
    assert found == expected
    assert type(found) is type(expected)


def test_what_holds_of_all_changes_together_need_not_hold_of_each():
    """In any order."""
    changes = {"assigner.negative": 0.6, "assigner.positive": 0.7}
    ids = {"category_ids": [7, 8, 9], "classes": ["a", "b", "c"]}
    for order in (list, lambda items: list(reversed(items))):
        assert TINY.replace(dict(order(changes.items()))).assigner == MaxIoUAssigner(0.7, 0.6, claim="greedy")
        new = TINY.replace(dict(order(ids.items())))
        assert (new.classes, new.category_ids) == (("a", "b", "c"), (7, 8, 9))


def test_ids_that_nobody_chose_follow_the_classes():
    assert TINY.replace({"classes": ["a", "b", "c"]}).category_ids == (0, 1, 2)
    chosen = TINY.replace({"category_ids": [4, 5]})
    assert chosen.replace({"classes": ["a", "b"]}).category_ids == (4, 5)
    with pytest.raises(ConfigError, match="one category id for each of the 3 classes"):
        chosen.replace({"classes": ["a", "b", "c"]})


@pytest.mark.parametrize("nothing", [None, "null", "None", "none"])
def test_nothing_has_several_names(nothing):
    assert TINY.replace({"neck": FPN()}).replace({"neck": nothing}).neck is None
    assert TINY.replace({"loss": FocalLoss()}).replace({"loss.alpha": nothing}).loss.alpha is None


def test_a_part_that_has_one_kind_by_its_name():
    changed = TINY.replace({"coder.variances": [1, 1, 1, 1]})
    assert changed.replace({"coder": "BoxCoder"}) == TINY


def test_anchors_by_a_rule_there_and_back():
    config = TINY.replace({"anchors": "OctaveAnchors", "anchors.scale": 3, "anchors.sizes": [8, 16, 32, 64, 128, 256]})
    assert config.anchors == OctaveAnchors(3.0, sizes=(8.0, 16.0, 32.0, 64.0, 128.0, 256.0))
    assert DetectorConfig.from_json(config.to_json()) == config


def test_a_part_and_then_its_fields():
    new = TINY.replace(
        {"loss": "FocalLoss", "loss.gamma": "1.5", "loss.alpha": "null", "loss.box": "Huber", "loss.box.delta": "0.1"}
    )
    assert new.loss == FocalLoss(alpha=None, gamma=1.5, box=Huber(0.1))
    assert (new.logits, TINY.logits) == (2, 3)


@pytest.mark.parametrize("stride", [None, "floor", (8.0, 16.0)])
def test_strides_there_and_back(stride):
    config = dataclasses.replace(TINY, anchors=(AnchorLevel(((4.0, 5.0),), stride),) * 5)
    again = DetectorConfig.from_json(config.to_json())
    assert again == config and again.anchors[0].stride == stride


def parts_of(declared):
    """All kinds of parts that a declared type allows, and theirs."""
    choices = [declared, *get_args(declared)]
    own = {c for c in choices if dataclasses.is_dataclass(c)} | {p for c in get_args(declared) for p in parts_of(c)}
    return own | {p for c in own for hint in get_type_hints(c).values() for p in parts_of(hint)}


def test_no_field_has_the_name_of_the_tag():
    """JSON tells a part by "kind"; a field of that name would be lost in it."""
    parts = parts_of(DetectorConfig)
    assert {FocalLoss, IoULoss, SoftNMS, FPN, SharedHead, AnchorLevel, TimmBackbone} < parts
    assert not [part for part in parts if "kind" in get_type_hints(part)]


def test_replace_several_and_leave_the_original():
    new = TINY.replace({"assigner.positive": 0.6, "assigner.claim": "best", "loss.box.beta": "0.1"})
    assert new.assigner == MaxIoUAssigner(positive=0.6, claim="best")
    assert new.loss.box.beta == 0.1
    assert TINY.assigner.positive == 0.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"los.box": 1}, "did you mean 'loss'"),
        ({"loss.negativ_ratio": 1}, "did you mean 'negative_ratio'"),
        ({"loss.box.beta.x": 1}, "no parts"),
        ({"neck.style": "plain"}, "no parts"),
        ({"loss.box.beta": "fast"}, "wrong kind"),
        ({"loss.min_negatives": "2.5"}, "wrong kind"),
        ({"loss.min_negatives": True}, "wrong kind"),
        ({"loss.box.beta": "NaN"}, "finite"),
        ({"loss.box.beta": "1e999"}, "finite"),
        ({"preprocess.antialias": "1"}, "wrong kind"),
        ({"preprocess.size": "[1, 2, 3]"}, "2 values"),
        ({"preprocess.size": "5"}, "a list"),
        ({"assigner.claim": "greddy"}, "did you mean 'greedy'"),
        ({"assigner": '{"kind": "MaxIouAssigner"}'}, "did you mean 'MaxIoUAssigner'"),
        ({"backbone": '{"kind": "TimBackbone", "name": "x"}'}, "did you mean 'TimmBackbone'"),
        ({"backbone": '{"kind": "TimmBackbone"}'}, "keys are missing"),
        ({"backbone": "resnet18"}, "one of TinyBackbone"),
        ({"classes": '["cat"]', "category_ids": "[1, 2]"}, "one category id for each"),
        ({"loss.activation": "sigmoid"}, "unknown key 'activation'"),
        ({"postprocess.nms.iou_threshold": 2}, "where:    postprocess.nms"),
        ({"loss": {"kind": "FocalLoss", "gamma": -1}}, "where:    loss"),
        ({"neck.width": 2}, "give neck as a whole"),
        ({"neck": "resnet"}, "Deconvolution, or null"),
        ({"head.prior": "high"}, "a number, or null"),
        ({"classes": '["cat", "cat"]'}, "only once"),
        ({"classes": "[]"}, "must be there"),
        ({"category_ids": "[4, 4]"}, "one category id for each"),
        ({"postprocess.activation": "sigmoid"}, "unknown key 'activation'"),
        ({"assigner.positive": "0.4"}, "negative <= positive"),
        ({"loss": "FocalLos"}, "did you mean 'FocalLoss'"),
        ({"loss.box": "smoothL1"}, "did you mean 'SmoothL1'"),
        ({"loss.gamma": 1.5}, "unknown key 'gamma'"),
        ({"postprocess.nms.sigma": 0.5}, "unknown key 'sigma'"),
        ({"postprocess.scope": "clas"}, "did you mean 'class'"),
        ({"anchors": [{"shapes": [[1, 2]], "stride": "flor"}]}, "did you mean 'floor'"),
    ],
)
def test_replace_says_what_is_wrong(changes, says):
    with pytest.raises(ConfigError, match=says):
        TINY.replace(changes)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("loss.kind", "FocalLos", "did you mean 'FocalLoss'"),
        ("backbone.kind", "Resnet", "one of TinyBackbone"),
        ("backbone.kind", None, "one of TinyBackbone"),
        ("loss.gamma", 2.0, "unknown key 'gamma'"),
        ("loss.activation", "softmax", "unknown key 'activation'"),
        ("anchors", "OctaveAnchor", "a list, or OctaveAnchors, or SSDAnchors"),
        ("preprocess.size", None, "keys are missing"),
        ("classes", None, "keys are missing"),
        ("classes.0", 5, r"config.classes\[0\]"),
        ("anchors.2.shapes", [], "above 0"),
        ("preprocess.mean", [0.1, "x", 0.1], r"config.preprocess.mean\[1\]"),
        ("loss", 7, "one of MultiBoxLoss, FocalLoss"),
        ("loss.box.beta", float("inf"), "finite"),
        ("loss.box.beta", 10**400, "finite"),
        ("head.style", ["plain"], "'plain' or 'separable'"),
        ("loss.kind", ["FocalLoss"], "one of MultiBoxLoss, FocalLoss"),
    ],
)
def test_a_stored_config_that_is_wrong_names_the_place(path, value, says):
    with pytest.raises(ConfigError, match=says):
        DetectorConfig.from_json(changed(path, value))


def test_all_choices_are_part_of_what_is_expected():
    with pytest.raises(ConfigError) as raised:
        TINY.replace({"head.prior": "high"})
    error = raised.value
    assert (error.what, error.where) == ("a value of the wrong kind", "head.prior")
    assert (error.got, error.expected) == ("'high'", "a number, or null")


def test_an_error_that_expects_nothing_names_no_choices():
    with pytest.raises(ConfigError) as raised:
        DetectorConfig.from_json(changed("anchors.2.shapes", []))
    assert raised.value.expected is None
    assert "OctaveAnchors" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '"x"', "[" * 100_000])
def test_a_stored_config_that_is_none(text):
    with pytest.raises(ConfigError):
        DetectorConfig.from_json(text)


def test_a_text_is_no_list_of_classes():
    with pytest.raises(ConfigError, match="wrong kind"):
        dataclasses.replace(TINY, classes=(1, 2))


def test_encode_goes_into_nested_tuples():
    assert encode(((1.0, (2.0,)), "a", None)) == [[1.0, [2.0]], "a", None]


def test_sigmoids_start_from_a_prior():
    focal = TINY.replace({"loss": "FocalLoss"})
    assert (TINY.head.prior, focal.head.prior) == (None, 0.01)
    assert TINY.replace({"loss": "FocalLoss", "head.prior": 0.1}).head.prior == 0.1
