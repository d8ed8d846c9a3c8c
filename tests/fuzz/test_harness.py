"""The harness itself: it must see a fault and a hang, or the other tests here could not fail."""

import time
from contextlib import suppress
from random import Random

import pytest

from fuzz import harness
from fuzz.harness import fuzz, mutated
from onestage.errors import DataError


def test_an_error_of_onestage_is_an_answer(capsys):
    def attempt(random):
        if random.random() < 0.5:
            raise DataError("not so")
        return "box"

    fuzz("a reader", attempt, seconds=0.05)
    said = capsys.readouterr().out
    assert "0 faults" in said and "box" in said and " 0 refused" not in said


def test_any_other_error_fails_and_names_its_seed():
    def attempt(random):
        return {}["missing"]

    with pytest.raises(AssertionError, match=rf"seed {harness.SEED}\.0:(.|\n)*KeyError"):
        fuzz("a reader", attempt, seconds=0.01)


def test_a_try_without_end_is_a_fault(monkeypatch):
    monkeypatch.setattr(harness, "LONGEST", 0.05)

    def attempt(random):
        while True:
            with suppress(Exception):
                time.sleep(1)

    with pytest.raises(AssertionError, match=r"more than 0\.05 s"):
        fuzz("a reader", attempt, seconds=0.01)


def test_mutations_change_the_data_and_can_be_repeated():
    data = b"0 0.5 0.5 0.2 0.2\n" * 4
    made = [mutated(Random(seed), data) for seed in range(50)]
    assert made == [mutated(Random(seed), data) for seed in range(50)]
    assert len(set(made)) > 45 and sum(m != data for m in made) > 45
