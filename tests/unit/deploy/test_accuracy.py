"""The accuracy by which exported files are judged: the AP of ``evaluate``, on all pictures and on samples of them."""

import math

import pytest
import torch

import onestage
from lively import lively
from onestage.deploy import accuracy as module
from onestage.deploy.accuracy import accuracy
from onestage.evaluation import evaluate
from small_runs import pictures


@pytest.fixture(scope="module")
def measured():
    torch.manual_seed(0)
    model = lively(onestage.create("tinyssd", classes=["ball", "cube", "star"], size=(64, 64)))
    dataset = pictures(6)
    return accuracy(model, dataset), evaluate(model, dataset, workers=0)


def test_it_is_what_evaluate_says(measured):
    ours, report = measured
    assert ours.AP == report.coco.AP > 0 and len(ours.found) == len(ours.truths) == 6
    assert [one.image_id for one in ours.found] == [one.image_id for one in ours.truths]


def test_other_processes_decode_many_pictures_and_change_nothing(monkeypatch):
    model, dataset, asked = onestage.create("tinyssd", classes=["ball", "cube", "star"], size=(64, 64)).eval(), pictures(3), []
    real = module.evaluate_dataset
    monkeypatch.setattr(
        module, "evaluate_dataset", lambda *args, **options: asked.append(options["workers"]) or real(*args, **options)
    )
    few = accuracy(model, dataset)
    monkeypatch.setattr(module, "FEW", 2)
    many = accuracy(model, dataset)
    assert asked == [0, None] and few.AP == many.AP
    assert all(one.boxes.equal(two.boxes) for one, two in zip(few.found, many.found, strict=True))


def test_pictures_can_be_chosen_and_repeated(measured):
    ours, _ = measured
    assert ours.on(range(6)) == ours.AP
    twice = ours.on([*range(6), *range(6)])
    assert twice == pytest.approx(ours.AP, abs=0.05) and ours.on([0, 1, 2]) != ours.AP
    assert math.isnan(ours.on([]))
