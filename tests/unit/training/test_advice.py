"""Which advice which history gives: tables of invented histories."""

import math
from dataclasses import replace

import pytest

from onestage.training.advice import RULES, ClassCount, Facts, all_advice, new_advice

FACTS = Facts((ClassCount("ball", 90, 40), ClassCount("cube", 90, 40)), epochs=20, warmup=1, lr=0.01)


def rows(**columns):
    """A history of an epoch per value."""
    length = len(next(iter(columns.values())))
    names = {name: name.replace("_", "/") if name != "images_per_s" else name for name in columns}
    return [{"epoch": i + 1, "step": i + 1} | {names[name]: columns[name][i] for name in columns} for i in range(length)]


GOOD = {
    "loss": [5, 3, 2, 1.5, 1.2, 1, 0.9, 0.8, 0.7, 0.6],
    "val_loss": [5, 3.2, 2.2, 1.7, 1.5, 1.3, 1.2, 1.1, 1.0, 0.9],
    "val_AP": [0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.42, 0.44, 0.46, 0.48],
    "class_ball": [0, 0, 0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.4, 0.4],
    "class_cube": [0, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    "images_per_s": [18, 20, 20, 20, 19, 20, 20, 18, 20, 20],
    "waiting": [0.3, 0.02, 0.01, 0.01, 0.01, 0.2, 0.01, 0.01, 0.01, 0.01],
}


def test_a_good_training_gets_no_advice():
    assert all_advice(rows(**GOOD), FACTS) == []


@pytest.mark.parametrize(
    ("rule", "columns", "words"),
    [
        ("by heart", {"val_loss": [5, 3, 2, 1.9, 2, 2, 2, 2, 2, 2]}, "has not fallen since epoch 4"),
        ("stands still", {"val_AP": [0, 0.1, 0.2, 0.3] + 6 * [0.301]}, "AP has not risen above 0.300 for 6 epochs"),
        ("learns nothing", {"loss": 10 * [5.0]}, "a learning rate of 0.01 does nothing here. Try --lr 0.1"),
        ("loss rises", {"loss": [5, 3, 2, 2, 3, 3, 3, 3, 3, 3]}, "has risen from 2 to 3"),
        ("never found", {"class_ball": 10 * [0.0]}, "never found: ball (90 training objects)"),
        ("slower", {"images_per_s": [18, 20, 20, 20, 2, 2, 2, 2, 2, 2]}, "2 pictures a second, 20 at the start"),
        ("waiting", {"waiting": 10 * [0.2]}, "20 % of the time goes into waiting"),
    ],
)
def test_each_rule_speaks_once(rule, columns, words):
    columns = GOOD | columns
    found = [advice for advice in all_advice(rows(**columns), FACTS) if advice.rule == rule]
    assert len(found) == 1 and words in found[0].text, found


def test_advice_comes_again_only_if_it_is_worse():
    waiting = [0.2, 0.2, 0.2, 0.3, 0.39, 0.6, 0.6, 0.6, 0.9, 0.9]
    found = all_advice(rows(**GOOD | {"waiting": waiting}), FACTS)
    assert [(advice.epoch, advice.level) for advice in found] == [(2, 0.2), (7, 0.6)]


def test_a_run_that_goes_on_knows_what_was_said():
    history = rows(**GOOD | {"waiting": 10 * [0.2]})
    assert new_advice(history, FACTS, all_advice(history[:5], FACTS)) == []


def test_few_examples_are_told_before_the_first_step():
    facts = replace(FACTS, classes=(ClassCount("rare\x1b", 5, 4), *FACTS.classes, ClassCount("none", 30, 0)))
    (advice,) = all_advice([], facts)
    assert advice.epoch == 0
    assert advice.text.splitlines()[1:] == [
        "  none: 30 to train, 0 to measure; label about 20 more pictures with it",
        "  rare\\x1b: 5 to train, 4 to measure, each 25 points of recall; label about 31 more pictures with it",
    ]
    many = replace(FACTS, classes=tuple(ClassCount(f"c{i}", 1, 0) for i in range(80)))
    lines = all_advice([], many)[0].text.splitlines()
    assert lines[-1] == "  and 75 more" and max(map(len, lines)) < 110 and len(lines) == 7
    assert ClassCount("c", 5, 30, each=2.0).lacking == 8 and ClassCount("c", 20, 20).lacking == 0


@pytest.mark.parametrize(("busy", "threads", "said"), [(0.3, 2, True), (0.9, 1, False), (0.2, 2, False), (math.nan, 2, False)])
def test_other_work_is_told_where_threads_can_suffer(busy, threads, said):
    facts = replace(FACTS, busy=busy, threads=threads)
    assert bool(all_advice([], facts)) == said
    history = rows(**GOOD)  # it has been watched for some seconds, which may be the whole training
    assert bool(new_advice(history, facts, all_advice(history, FACTS))) == said


@pytest.mark.parametrize("columns", [{"loss": 10 * [5.0]}, {"class_ball": 10 * [0.0]}])
def test_advice_to_look_at_the_data_is_a_command_to_copy(columns):
    (advice,) = all_advice(rows(**GOOD | columns), replace(FACTS, doctor="onestage data check 'my pictures'"))
    assert "onestage data check 'my pictures'" in advice.text


@pytest.mark.parametrize("columns", [{"val_AP": [0, 0.1, 0.2, 0.3] + 6 * [0.301]}, {"class_ball": 10 * [0.0]}])
def test_a_larger_input_is_advised_only_if_there_are_more_pixels(columns):
    for larger in (True, False):
        (advice,) = all_advice(rows(**GOOD | columns), replace(FACTS, larger=larger))
        assert ("--size" in advice.text) == larger


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_no_rule_fails_at_a_history_of_nothing(value):
    keys = ("loss", "val_loss", "val_AP", "images_per_s", "waiting", "class_ball")
    all_advice(rows(**{key: 9 * [value] for key in keys}), FACTS)
    all_advice([{"epoch": i, "step": i} for i in range(9)], FACTS)


def test_the_guide_has_every_rule():
    from loaded import ROOT

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in RULES if f"| {name} |" not in text] == []
