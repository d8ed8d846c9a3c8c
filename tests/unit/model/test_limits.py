"""A config states sizes, and no size commands time or memory. Every number and every list of every part is tried."""

import dataclasses
import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
import torch

import onestage
from onestage.errors import ConfigError
from onestage.model import codec, limits
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.zoo.table import recipe

NUMBERS = (10**3, 10**6, 10**9, 2**63, 10**30, -1, float("nan"), float("inf"))
WRONG = ("word", True, None, {}, [1], "9" * 10_000, [[[]]])
MOST_BYTES = 2 * 2**30

TINY = recipe("tinyssd", ["a", "b"], size=(64, 64))
TIMM = {"kind": "TimmBackbone", "name": "test_byobnet", "strides": [8, 16, 32]}
FOLDED = [
    {"kind": "FoldedLayer", "channels": 8, "source": -1, "kernel": 3, "stride": 8},
    {"kind": "FoldedLayer", "channels": 8, "source": 0, "kernel": 3, "stride": 2, "depthwise": True},
    {"kind": "FoldedLayer", "channels": 8, "source": 1, "add": 1},
]
BLOCK = {"kind": "ExtraBlock", "middle": 4, "out": 8}
CHANGES = (
    {},
    {"neck": "FPN", "neck.width": 32, "neck.extra": 0, "head": "SharedHead", "anchors": "OctaveAnchors", "loss": "FocalLoss"},
    {
        "neck": "BiFPN",
        "head": "SeparableHead",
        "anchors": "OctaveAnchors",
        "loss": "QualityFocalLoss",
        "assigner": "ATSSAssigner",
    },
    {"neck": {"kind": "ExtraLevels", "blocks": []}, "head": "ResidualHead", "loss.box": "Huber", "postprocess.nms": "SoftNMS"},
    {"backbone": TIMM, "neck": {"kind": "ExtraLevels", "blocks": [BLOCK]}, "anchors": "SSDAnchors", "loss.box": "L1"},
    {"backbone": {"kind": "FoldedBackbone", "layers": FOLDED, "maps": [0, 2]}, "neck": {"kind": "Deconvolution"}}
    | {"anchors": {"kind": "SSDAnchors", "sizes": [8, 16, 32], "ratios": [2]}, "postprocess.nms": "DIoUNMS"},
    {"backbone": "MobileNetBackbone", "anchors": "OctaveAnchors", "postprocess.nms": "LinearSoftNMS", "loss.box": "giou"},
    {"backbone": "VGG16Backbone", "anchors": {"kind": "OctaveAnchors", "sizes": [8, 16, 32]}},
)
CONFIGS = [TINY.replace(change) for change in CHANGES]


def parts(value):
    """Every part in a config, at any depth."""
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        yield from itertools.chain.from_iterable(map(parts, value))


def kinds(declared):
    """Every kind of part that a declared type names, and that its fields name in turn."""
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        yield declared
        for hint in codec._hints(declared).values():
            yield from kinds(hint)
    for inner in get_args(declared) if get_origin(declared) is not Literal else ():
        yield from kinds(inner)


def unlimited(declared):
    """Whether a declared type has a whole number or a list of any length without a limit."""
    if get_origin(declared) is Annotated:
        inner = get_args(declared)[0]
        return any(map(unlimited, get_args(inner)))
    return declared is int or declared is str or Ellipsis in get_args(declared) or any(map(unlimited, get_args(declared)))


def test_every_kind_of_part_is_tried():
    assert {type(part) for config in CONFIGS for part in parts(config)} == set(kinds(DetectorConfig))


@pytest.mark.parametrize("kind", sorted(set(kinds(DetectorConfig)), key=lambda kind: kind.__name__))
def test_every_part_checks_its_fields(kind):
    """A new kind of part that forgets its base, or a number without a limit, is found here."""
    assert issubclass(kind, codec.Part)
    declared = codec._hints(kind)
    assert {name for name, hint in declared.items() if unlimited(hint)} <= {"strides"}  # those of maps that timm offers
    for name, hint in declared.items():
        values = {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
        with pytest.raises(ConfigError):
            kind(**{n: object() for n in declared if n not in values} | values | {name: object()})
        assert hint is not None


def places(plain, path=()):
    """The path of every number and every list in plain data."""
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        yield path
    if isinstance(plain, list):
        yield path
        for index in range(min(len(plain), 2)):
            yield from places(plain[index], (*path, index))
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from places(value, (*path, key))


def changed(plain, path, value):
    """A copy of plain data with another value at the path."""
    if not path:
        return value
    copy = plain.copy()
    copy[path[0]] = changed(plain[path[0]], path[1:], value)
    return copy


def at(plain, path):
    return at(plain[path[0]], path[1:]) if path else plain


def tries():
    """Plain configs, each with one number or list that nobody would write; no two have the same part with the same value."""
    seen = set()
    for config in CONFIGS:
        plain = json.loads(config.to_json())
        for path in places(plain):
            place = (at(plain, path[:-1]).get("kind") if isinstance(at(plain, path[:-1]), dict) else path[:-1], path[-1])
            if str(place) in seen:
                continue
            seen.add(str(place))
            old = at(plain, path)
            values = [old * 10_000, [*old, *old[:1] * 10_000], []] if isinstance(old, list) else NUMBERS
            yield from (("/".join(map(str, path)), value, changed(plain, path, value)) for value in (*values, *WRONG))


def cost(text):
    """Bytes of the weights of the detector in a config; 0 if it is refused. Nothing is allocated."""
    try:
        config = DetectorConfig.from_json(text)
        usual = {name: getattr(TINY, name) for name in ("coder", "assigner", "postprocess")}
        return weights(dataclasses.replace(config, loss=type(config.loss)(), **usual))  # these build nothing
    except ConfigError as e:
        assert len(str(e)) < 5000
        return 0


@cache
def weights(config):
    """Bytes of the weights of the detector of a config."""
    with torch.device("meta"):
        detector = Detector(config)
    assert sum(detector.level_counts(detector.config.preprocess.largest)) <= limits.ANCHORS.most
    return 4 * sum(t.numel() for t in detector.state_dict().values())


def test_no_number_commands_memory():
    """It also ends: no value makes a loop that has no end."""
    wrong = [(path, str(value)[:50]) for path, value, plain in tries() if cost(json.dumps(plain)) > MOST_BYTES]
    assert wrong == []


def test_honest_sizes_pass():
    """The largest networks of the zoo, 10,000 classes, and an input of 8,192 pixels."""
    many = [f"class {i}" for i in range(10_000)]
    for name in ("efficientdet_d7x", "retinanet_r101_fpn"):
        with torch.device("meta"):
            detector = Detector(recipe(name, many, size=(1536, 1536)))
        assert DetectorConfig.from_json(detector.config.to_json()) == detector.config
    for name in ("efficientdet_lite0", "retinanet_r18_fpn", "tinyssd"):
        with torch.device("meta"):
            assert Detector(recipe(name, ["a"], size=(8192, 8192))).config.preprocess.size == (8192, 8192)


@pytest.mark.parametrize("size", [(8193, 300), (10**9, 10**9), (300, 2**70)])
def test_an_absurd_input_is_refused(size):
    with pytest.raises(ConfigError, match="too many pixels along a side"):
        onestage.create("tinyssd", 1, size=size)
    with pytest.raises(ConfigError, match="too many pixels along a side"):
        dataclasses.replace(TINY.preprocess, size=size)


def test_the_weights_of_many_small_numbers_are_counted():
    """Each number is within its limit; together they would take terabytes."""
    wide = {"neck": {"kind": "BiFPN", "width": 8000, "layers": 60, "levels": 5}, "head": "SeparableHead"}
    config = TINY.replace({**wide, "anchors": "OctaveAnchors"})
    with pytest.raises(ConfigError, match="too many numbers in the weights"):
        Detector(config)
    block = {"kind": "ExtraBlock", "middle": 8192, "out": 8192, "kernel": 64, "padding": 64}
    neck = {"kind": "ExtraLevels", "blocks": [block]}
    with pytest.raises(ConfigError, match=r"too many numbers|cannot be built"):
        Detector(TINY.replace({"neck": neck, "anchors": "SSDAnchors"}))


def test_plain_values_of_python_become_what_is_declared():
    """Lists, NumPy's numbers and whole numbers for floats: the config is the same, and can be a key of a dict."""
    import numpy as np

    config = dataclasses.replace(TINY, classes=["a", "b"], category_ids=[np.int64(3), 4], loss={"kind": "MultiBoxLoss"})
    assert config.category_ids == (3, 4) and {config: 1}
    assert onestage.model.output.postprocess.Postprocess(np.float32(0)).score_threshold == 0.0


def test_the_limits_stand_in_the_docs():
    text = (Path(__file__).resolve().parents[3] / "docs" / "limits.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([\d,]+) \|", text, re.M))
    found = [v for v in vars(limits).values() if isinstance(v, codec.Limit)]
    found += [bound for v in vars(limits).values() if get_origin(v) is not None for bound in get_args(v)[1:]]
    found = [limit for limit in found if isinstance(limit, codec.Limit)]
    assert rows == {limit.what: f"{limit.most:,}" for limit in found}


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        ({"postprocess.score_threshold": 1.0}, "postprocess.score_threshold", "at least 0, below 1"),
        ({"postprocess.nms.iou_threshold": "1.5"}, "postprocess.nms.iou_threshold", "at least 0, at most 1"),
        ({"coder.variances": [0.1, 0.1, 0.2, 0]}, "coder.variances[3]", "above 0"),
        ({"head.prior": 0}, "head.prior", "above 0, below 1, or null"),
        ({"head": {"kind": "ResidualHead", "width": 0}}, "head.width", "at least 4"),
    ],
)
def test_a_number_out_of_its_range_is_named_with_its_place(change, where, expected):
    with pytest.raises(ConfigError, match="out of its range") as raised:
        TINY.replace(change)
    assert (raised.value.where, raised.value.expected) == (where, expected)
