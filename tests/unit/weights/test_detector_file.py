"""A detector as a file: the same to the bit, and refused where it is not what it says."""

import json
import warnings
from dataclasses import replace

import pytest
import safetensors.torch
import torch

import onestage
from onestage.errors import WeightsError
from onestage.model.config import DetectorConfig
from onestage.model.output.scores import Scores
from onestage.structures import Targets
from onestage.training.loop import train
from onestage.weights.detector_file import (
    CONFIG_KEY,
    SCORES_KEY,
    keep_scores,
    load_detector,
    metadata,
    save_detector,
    stored_config,
)
from onestage.weights.load import load_fitting
from onestage.weights.safetensors_file import save_tensors
from onestage.weights.tensor_file import open_file
from small_runs import CONFIG, pictures
from small_runs import detector as small_detector
from tensor_files import load_tensors


def read_config(path):
    with open_file(path) as file:
        return stored_config(file)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = onestage.create("tinyssd", classes=["cat", "dog"], size=(64, 64)).train()
    output = model(torch.randn(2, 3, 64, 64))  # moves the statistics of batch norm
    model.loss(output, [Targets(torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([1]))] * 2)
    return model


@pytest.fixture
def saved(model, tmp_path):
    save_detector(model, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def rewritten(path, *, config=None, tensors=None):
    """The file with parts of its config (by a function of the plain data) or some tensors (None: left out) changed."""
    old, header = load_tensors(path)
    if config is not None:
        data = json.loads(header[CONFIG_KEY])
        config(data)
        header = header | {CONFIG_KEY: json.dumps(data)}
    new = {k: v for k, v in (old | (tensors or {})).items() if v is not None}
    save_tensors(path, new, header)
    return path


def test_a_round_trip_keeps_every_bit(model, saved):
    again = load_detector(saved)
    assert again.config == model.config
    assert not again.training
    own, other = model.state_dict(), again.state_dict()
    assert list(own) == list(other)
    assert all(torch.equal(own[k], other[k]) and own[k].dtype == other[k].dtype for k in own)
    first = saved.read_bytes()
    save_detector(again, saved)
    assert saved.read_bytes() == first


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "ssd300_resnet50"])
def test_other_families(name, tmp_path):
    model = onestage.create(name, 2, size=(96, 96))
    model.save(tmp_path / "m.safetensors")
    again = onestage.load(tmp_path / "m.safetensors").state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())


def test_the_header_says_what_it_is(model, saved):
    assert read_config(saved) == model.config
    assert load_tensors(saved)[1] == metadata(model)


def test_a_foreign_safetensors_file(tmp_path):
    save_tensors(tmp_path / "f.safetensors", {"a": torch.zeros(1)}, {})
    assert read_config(tmp_path / "f.safetensors") is None
    with pytest.raises(WeightsError, match=r"no detector of this project(.*\n)*.*onestage import \S+ -o"):
        load_detector(tmp_path / "f.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["backbone"].update(width=-5),
        lambda c: c["backbone"].update(base=[]),
        lambda c: c["backbone"].update(kind="Pickle"),
        lambda c: c["anchors"].pop(),
        lambda c: c.update(backbone={"kind": "TimmBackbone", "name": "no such model"}),
        lambda c: c.update(extra=1),
        lambda c: c.pop("classes"),
        lambda c: c["backbone"].update(kind=[]),
    ],
    ids=[
        "negative width",
        "no base",
        "unknown kind",
        "a level less",
        "unknown backbone",
        "unknown key",
        "no classes",
        "a list for a kind",
    ],
)
def test_a_config_that_makes_no_detector(saved, change):
    with pytest.raises(WeightsError) as error:
        load_detector(rewritten(saved, config=change))
    assert str(saved) in str(error.value)


def test_an_error_in_a_config_has_each_part_in_its_place(saved):
    path = rewritten(saved, config=lambda c: c["backbone"].update(kind="Pickle"))
    with pytest.raises(WeightsError, match="cannot be used") as caught:
        load_detector(path)
    error = caught.value
    assert error.where == path and "VGG16" in error.expected
    assert error.got.startswith("config.backbone") and "\n" not in error.got


@pytest.mark.parametrize("kind", [TypeError, ValueError, KeyError])
def test_a_config_that_nobody_foresaw(saved, monkeypatch, kind):
    def broken(text):
        raise kind("odd")

    monkeypatch.setattr(DetectorConfig, "from_json", broken)
    with pytest.raises(WeightsError, match="damaged") as error:
        read_config(saved)
    assert str(saved) in str(error.value)


def test_a_config_that_is_no_json(saved):
    tensors, header = load_tensors(saved)
    save_tensors(saved, tensors, header | {CONFIG_KEY: "{"})
    with pytest.raises(WeightsError, match="cannot be used"):
        load_detector(saved)


def test_tensors_that_disagree_with_the_config(saved):
    changes = {"head.cls.0.weight": torch.zeros(7, 7), "head.cls.1.bias": None, "stray": torch.zeros(2)}
    with pytest.raises(WeightsError) as error:
        load_detector(rewritten(saved, tensors=changes))
    message = str(error.value)
    assert "3 tensors do not fit" in message
    assert "head.cls.0.weight: (7, 7), expected (12, 64, 3, 3)" in message
    assert "head.cls.1.bias: missing, expected (12,)" in message
    assert "stray: not part of this detector" in message


def test_a_huge_config_is_refused_before_anything_is_allocated(saved):
    """A hundred thousand channels a layer would take 360 GB; nothing but the header is looked at."""
    with pytest.raises(WeightsError, match="too many channels of a layer"):
        load_detector(rewritten(saved, config=lambda c: c["backbone"].update(width=100_000)))


def test_nan_weights_are_refused(saved):
    with pytest.raises(WeightsError, match="NaN"):
        bad = {"head.cls.1.bias": torch.full((12,), torch.nan)}
        rewritten(saved, tensors=bad)
        load_detector(saved)


def test_load_fitting_names_what_starts_fresh(model):
    other = onestage.create("tinyssd", 5, size=(64, 64))
    fresh = load_fitting(other, model.state_dict(), where="here")
    assert set(fresh) == {f"head.cls.{i}.{part}" for i in range(5) for part in ("weight", "bias")}
    assert torch.equal(other.backbone.stages[0][0][0].weight, model.backbone.stages[0][0][0].weight)
    assert load_fitting(onestage.create("tinyssd", 2), model.state_dict(), where="here") == ()


def test_load_fitting_refuses_what_is_of_something_else(model):
    ssd = onestage.create("ssdlite320_mobilenet_v3_large", 2, size=(96, 96))
    with pytest.raises(WeightsError, match="not those of ssdlite320") as error:
        load_fitting(ssd, model.state_dict(), where="here.pth")
    assert "here.pth" in str(error.value)
    with pytest.raises(WeightsError):
        load_fitting(ssd, {}, where="empty")
    names = {k: v if v.ndim == 0 else torch.zeros(*v.shape, 1) for k, v in ssd.state_dict().items()}
    with pytest.raises(WeightsError, match="not those of ssdlite320"):
        load_fitting(ssd, names, where="the names alone")


def test_nothing_is_warned_of_on_the_way(saved, model):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = load_detector(saved)
    assert warned == [] and loaded.config == model.config


KEPT = Scores(thresholds=(0.25, 0.5), temperatures=(0.7, 1.0))


def test_scores_are_kept_beside_the_weights(model, saved):
    plain = saved.read_bytes()
    detector = load_detector(saved)
    assert detector.scores is None
    detector.scores = KEPT
    assert keep_scores(saved, detector) == saved
    again = load_detector(saved)
    assert again.scores == KEPT and again.config == model.config
    old, new = (safetensors.torch.load(data) for data in (plain, saved.read_bytes()))
    assert old.keys() == new.keys() and all(old[name].equal(new[name]) for name in old)
    again.save(saved)
    assert load_detector(saved).scores == KEPT
    detector.scores = None
    keep_scores(saved, detector)
    assert saved.read_bytes() == plain  # as a file in which nothing was ever kept


def test_scores_are_not_kept_with_weights_that_they_were_not_measured_with(saved):
    detector = load_detector(saved)
    detector.scores = KEPT
    with torch.no_grad():
        next(detector.parameters()).add_(1)
    before = saved.read_bytes()
    with pytest.raises(WeightsError, match="the model has changed since it was measured"):
        keep_scores(saved, detector)
    assert saved.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"thresholds": [0.5]}', '{"temperatures": [0, 1]}', '{"other": 1}', "NaN", "[" * 9999]
)
def test_damaged_scores_are_refused(saved, text):
    tensors, header = load_tensors(saved)
    save_tensors(saved, tensors, header | {SCORES_KEY: text})
    with pytest.raises(WeightsError, match="what the weights file says about scores") as error:
        load_detector(saved)
    assert error.value.where == saved


def test_a_training_drops_what_was_measured_before_it(tmp_path):
    detector = small_detector()
    detector.scores = Scores(thresholds=(0.5,) * len(detector.classes))
    train(detector, pictures(12), out=tmp_path / "run", config=replace(CONFIG, epochs=1))
    assert detector.scores is None and load_detector(tmp_path / "run").scores is None
