"""How sure a search is of its best trial: against the definition, with many trials, and with few pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("optuna", reason="pip install 'onestage[tune]'")

from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from onestage.structures import Detections
from onestage.tuning.sureness import DRAWN, SHOWN, STEPS, differences, drawn_of, verdict
from small_runs import pictures

DATA = pictures(40)


def told_of(*shares):
    """The verdict on trials that find the objects of such shares of 40 pictures. The first one has the default settings."""
    made = []
    for number, share in enumerate(shares):
        drawn = drawn_of(found_of(share, number), DATA)
        about = {DRAWN: list(drawn.AP), SHOWN: drawn.pictures}
        bounds = {"lr": FloatDistribution(0.1, 99)}
        made.append(create_trial(value=share, params={"lr": 1.0 + number}, distributions=bounds, user_attrs=about))
        made[-1].number = number
    return verdict(made, made[0], max(made, key=lambda trial: trial.value), pictures=len(DATA))


def found_of(share, seed):
    """The true boxes of a share of the pictures, chosen by the seed, and nothing in the others."""
    chosen = set(np.random.default_rng(seed).permutation(len(DATA))[: round(share * len(DATA))].tolist())
    result = []
    for row in range(len(DATA)):
        truth = DATA.truth(row)
        rows = slice(None) if row in chosen else slice(0)
        boxes, labels = truth.boxes[rows], truth.labels[rows]
        names = tuple(DATA.classes[label] for label in labels.tolist())
        result.append(
            Detections(boxes, torch.ones(len(boxes)), labels, names, tuple(labels.tolist()), truth.size, truth.image_id)
        )
    return result


def test_a_large_gain_is_told_from_chance_and_a_small_one_is_not():
    large, small = told_of(0.3, 0.4, 0.95), told_of(0.5, 0.55, 0.475)
    assert large.better and large.gain_text.endswith("the best is better") and large.best.number == 2
    assert not small.better and "not better than they are" in small.gain_text
    assert set(small.equals) == {0, 2} and "trials 0, 2 cannot be told from it" in small.equals_text
    first = told_of(0.9, 0.5)
    assert first.best.number == 0 and not first.better and "nothing was found that is better" in first.gain_text


def test_trials_of_a_machine_that_became_slower_are_not_compared_as_equals():
    found = told_of(0.3, 0.95)
    found.rule.user_attrs[STEPS], found.best.user_attrs[STEPS] = 300, 440
    even = verdict([found.rule, found.best], found.rule, found.best, pictures=40)
    found.best.user_attrs[STEPS] = 460
    uneven = verdict([found.rule, found.best], found.rule, found.best, pictures=40)
    assert even.better and not even.uneven_text
    assert uneven.uneven == (300, 460) and not uneven.better and "300 to 460 steps" in uneven.uneven_text
    assert "the best is better" not in uneven.gain_text


def test_more_trials_make_an_interval_wider_and_few_pictures_none():
    two, many = told_of(0.5, 0.6), told_of(0.5, 0.6, *[0.45] * 20)
    width = [one.gain.difference.high - one.gain.difference.low for one in (two, many)]
    assert width[1] > 1.2 * width[0]
    made = differences(two.rule, [two.best])[1]
    assert not replace(made, pictures=1, difference=replace(made.difference, low=0.2)).told_apart


def test_the_interval_of_two_is_that_of_their_differences():
    """By the definition: what the differences in pictures that are drawn again do not exceed in 95 of 100 draws."""
    found = told_of(0.5, 0.6).gain.difference
    draws = [np.array(drawn_of(found_of(share, seed), DATA).AP) for seed, share in enumerate((0.5, 0.6))]
    half = np.percentile(np.abs((gain := draws[1] - draws[0]) - gain.mean()), 95)
    assert found.high - found.value == pytest.approx(half) and found.value == pytest.approx(0.1)
