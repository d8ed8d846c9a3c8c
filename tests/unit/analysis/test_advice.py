"""What to do next: when each rule speaks, and that all options in its sentences exist."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from metric_cases import found, known
from onestage.analysis import Analysis, AnalysisSettings, analyse
from onestage.analysis.advice import REMEDIES, RULES, SENTENCES, Epoch, Facts, advise
from onestage.analysis.bootstrap import ClassSureness, Estimate
from onestage.analysis.calibration import Calibrated
from onestage.analysis.reach import Reach, ReachedPart
from onestage.analysis.thresholds import Want
from onestage.cli.main import VERBS, _options

BOX = (100, 100, 160, 160)
FACTS = Facts(run="runs/x", data="pictures/", model="runs/x/last.safetensors")


def analysed() -> Analysis:
    """Of 20 pictures with a cat or a dog each, of which all are found."""
    truths = [known(i, [(i % 2, *BOX)]) for i in range(20)]
    detections = [found(i, [(i % 2, 0.9, *BOX)]) for i in range(20)]
    return analyse(detections, truths, ["cat", "dog"], settings=AnalysisSettings(draws=50))


PERFECT = analysed()


def said(rule: str, analysis: Analysis = PERFECT, facts: Facts = FACTS) -> str | None:
    return RULES[rule](analysis, facts)


def with_reach(*parts: ReachedPart) -> Analysis:
    return replace(PERFECT, reach=Reach(0.5, 0.3, parts[0], parts, (), ()))


def with_gain(**gains: float) -> Analysis:
    errors = PERFECT.errors
    assert errors is not None
    types = tuple(replace(kind, gain=gains.get(kind.name, 0.0)) for kind in errors.types)
    return replace(PERFECT, errors=replace(errors, types=types, AP=0.4))


def with_AP50(mean: float, **classes: tuple[float, float]) -> Analysis:
    """classes: AP50, and the upper end of its interval."""
    every = PERFECT.AP
    assert every is not None
    rows = tuple(ClassSureness(name, Estimate(ap, 0, 1), Estimate(ap, 0, high), 10) for name, (ap, high) in classes.items())
    return replace(PERFECT, AP=replace(every, AP50=Estimate(mean, mean - 0.05, mean + 0.05), per_class=rows))


def test_a_perfect_detector_gets_the_score_alone() -> None:
    (only,) = advise(PERFECT, FACTS)
    assert only.endswith("onestage predict runs/x PICTURES --score 0.9") and "1.000 of them are right" in only


def test_without_objects_there_is_nothing_to_say() -> None:
    assert advise(analyse([found(1)], [known(1)], ["cat"], settings=AnalysisSettings(draws=2))) == ()
    assert advise(Analysis(("cat",))) == ()


def test_objects_that_no_anchor_reaches() -> None:
    poor = ReachedPart("Platelets", 100, 29, 60, 80, 70)
    text = said("unreached", with_reach(poor, ReachedPart("RBC", 900, 890, 0, 90, 10)), replace(FACTS, finer="--model x"))
    assert text == (
        "Platelets: 80 of 100 objects are missed: no anchor is small enough (71 are reached by none, among them 70 of the"
        " missed ones). Train with --fit-anchors, a larger --size or a model with a finer map such as --model x: onestage"
        " train pictures/ --fit-anchors"
    )
    odd = said("unreached", with_reach(replace(poor, small=10)), replace(FACTS, fitted=True, larger=False))
    assert odd and "no anchor has their size and shape" in odd and "Train with --fit-anchors" not in odd
    assert said("unreached", with_reach(replace(poor, reached=71))) is None  # enough are reached
    assert said("unreached", with_reach(replace(poor, missed_unreached=30))) is None  # most missed ones are reached
    assert said("unreached", with_reach(replace(poor, objects=9, reached=0))) is None  # too few to tell
    assert said("unreached") is None


@pytest.mark.parametrize("name", REMEDIES)
def test_the_costliest_error(name: str) -> None:
    assert PERFECT.errors and {kind.name for kind in PERFECT.errors.types} == {*REMEDIES}
    text = said("costliest", with_gain(**{name: 0.2}))
    assert text and text.startswith(f"most of what is lost is {REMEDIES[name][0]}")
    assert "AP50 would be .600 in place of .400" in text and "onestage" in text and "{" not in text
    assert said("costliest", with_gain(**{name: 0.01})) is None
    fitted = said("costliest", with_gain(**{name: 0.2}), replace(FACTS, fitted=True))
    assert fitted and "or with anchors that fit" not in fitted and fitted.count("--fit-anchors") <= 1
    others = {other: 0.15 for other in REMEDIES if other != name}
    assert (said("costliest", with_gain(**{name: 0.2}, **others)) or "").startswith("what costs most is")


def test_the_classes_that_are_mistaken_most_are_named() -> None:
    detections = [found(i, [(1, 0.9, *BOX)]) for i in range(5)]
    truths = [known(i, [(0, *BOX)]) for i in range(5)]
    mixed = analyse(detections, truths, ["cat\x1b", "dog"], settings=AnalysisSettings(draws=2))
    assert "most often cat\\x1b taken for dog (5 times)" in (said("costliest", mixed) or "")


def test_hardly_anything_is_found() -> None:
    assert "onestage data check pictures/" in (said("nothing", with_AP50(0.04)) or "")
    again = said("nothing", with_AP50(0.04), replace(FACTS, recipe="tinyssd"))
    assert again and again.endswith("onestage train pictures/ --model tinyssd")
    assert said("nothing", with_AP50(0.06)) is None


def test_small_objects_are_found_less() -> None:
    small, large = (10, 10, 20, 20), (100, 100, 260, 260)
    truths = [known(i, [(0, *small), (0, *large)]) for i in range(12)]

    def seen(count: int) -> Analysis:
        detections = [found(i, [(0, 0.9, *large), *([(0, 0.9, *small)] if i < count else [])]) for i in range(12)]
        return analyse(detections, truths, ["cat"], settings=AnalysisSettings(draws=2))

    text = said("small", seen(2))
    assert text and "17 % of those below 16 x 16 pixels, 100 % of those from 96 x 96 on" in text and "--size" in text
    run = replace(FACTS, recipe="tinyssd", size=(300, 480), resized=True)
    assert (said("small", seen(2), run) or "").endswith("onestage train pictures/ --model tinyssd --size 512x640")
    assert run.train == "onestage train pictures/ --model tinyssd --size 300x480"
    assert replace(run, resized=False).train == "onestage train pictures/ --model tinyssd"
    finer = said("small", seen(2), replace(FACTS, larger=False, finer="--model x"))
    assert finer and finer.endswith("finer map may find more: onestage train pictures/ --model x")
    assert said("small", seen(10)) is None


def test_the_worst_class() -> None:
    text = said("worst class", with_AP50(0.5, cat=(0.9, 1), dog=(0.1, 0.3)))
    assert text and text.startswith("dog is the worst class: AP50 .100, all classes .500; 10 of its 10 objects are found")
    assert said("worst class", with_AP50(0.5, cat=(0.9, 1), dog=(0.1, 0.6))) is None  # it may be chance
    assert said("worst class", with_AP50(0.5, cat=(0.6, 1), dog=(0.4, 0.45))) is None


def epochs(*rows: tuple[float, float, float]) -> Facts:
    """Rows of loss, validation loss and AP, an epoch each."""
    return replace(FACTS, history=tuple(Epoch(i, *row) for i, row in enumerate(rows, start=1)))


def test_validation_loss_rises() -> None:
    fell, rose = [(2.0, 2.1, 0.1), (1.5, 1.2, 0.2)], [(1.0, 1.25, 0.2), (0.9, 1.3, 0.2), (0.8, 1.4, 0.2)]
    text = said("by heart", facts=epochs(*fell, *rose))
    assert text and text.startswith("validation loss rises since epoch 2 (from 1.2 to 1.4)") and "--augment ssd" in text
    assert said("by heart", facts=epochs(*fell, *rose[:2])) is None  # too short
    assert said("by heart", facts=epochs(*fell, *[(1.6, 1.4, 0.2)] * 3)) is None  # the training loss rises too
    assert said("by heart", facts=epochs(*fell, *[(float("nan"),) * 3] * 3)) is None and said("by heart") is None


def test_a_training_that_was_too_short() -> None:
    rising = [(1.0, 1.0, ap) for ap in (0.1, 0.2, 0.3, 0.34)]
    text = said("unfinished", facts=epochs(*rising))
    assert text and "from .300 to .340" in text and text.endswith("onestage train --resume runs/x --epochs 8")
    assert said("unfinished", facts=epochs(*rising[:3], (1.0, 1.0, 0.31))) is None
    assert said("unfinished", facts=epochs(*rising, (1.0, 1.0, 0.33))) is None
    assert said("unfinished") is None


def test_labels_that_are_probably_wrong() -> None:
    detections = [found(i, [(0, 0.99, *BOX)]) for i in range(20)]
    truths = [known(i, [(0, *BOX)] if i > 5 else [(0, 300, 300, 400, 400)]) for i in range(20)]
    text = said("labels", analyse(detections, truths, ["cat"], settings=AnalysisSettings(draws=2)))
    assert text and text.startswith("6 labels are probably wrong (6 overlooked). Look at these pictures first: ")
    assert "(for a label tool: onestage evaluate RUN DATA --out suspects --suspects coco)" in text
    assert said("labels") is None


@pytest.mark.parametrize(("shift", "speaks"), [(0.0, True), (16.0, False)])
def test_a_detector_that_places_boxes_loosely_does_not_doubt_boxes(shift: float, speaks: bool) -> None:
    """Of 20 labels six are badly placed. shift: pixels by which the detector misses the others."""
    boxes = [(20 + (60 if i < 6 else shift), 20, 120 + (60 if i < 6 else shift), 120) for i in range(20)]
    detections = [found(i, [(0, 0.99, *boxes[i])]) for i in range(20)]
    truths = [known(i, [(0, 20, 20, 120, 120)]) for i in range(20)]
    analysis = analyse(detections, truths, ["cat"], settings=AnalysisSettings(draws=2))
    assert analysis.labels is not None and analysis.labels.counts["badly placed"] >= 6
    text = said("labels", analysis)
    assert ("6 badly placed" in (text or "")) == speaks


def test_an_interval_that_is_wide() -> None:
    every = PERFECT.AP
    assert every is not None
    wide = replace(PERFECT, AP=replace(every, AP=Estimate(0.4, 0.3, 0.45)))
    text = said("unsure", wide)
    assert text and "AP is .400, and with other pictures it could be .300 to .450: 20 pictures tell no more" in text
    assert said("unsure") is None


def test_which_score_to_deploy_with() -> None:
    kept = replace(FACTS, measured="runs/x pictures/ --split val", keeps=True)
    text = said("score", facts=kept)
    assert text and text.endswith("exported files: onestage evaluate runs/x pictures/ --split val --keep-thresholds")
    precise = replace(PERFECT, thresholds=replace(PERFECT.thresholds, want=Want("precision", 0.95)))
    text = said("score", precise, kept)
    assert text and text.startswith("for a precision of 0.95, show")
    assert text.endswith("--keep-thresholds --want precision=0.95")
    text = said("score", facts=replace(kept, thresholds=True))
    assert text and text.endswith("the model holds a score for each class, and uses it: onestage predict runs/x PICTURES")


def test_a_class_that_needs_another_score_is_named() -> None:
    """Cats have scores around .9, dogs of .3; false alarms of cats have .5."""
    truths = [known(i, [(i % 2, *BOX)]) for i in range(40)]
    detections = [found(i, [(1, 0.3, *BOX)] if i % 2 else [(0, 0.9, *BOX), (0, 0.5, 1, 1, 9, 9)]) for i in range(40)]
    text = said("score", analyse(detections, truths, ["cat", "dog"], settings=AnalysisSettings(draws=2)))
    assert text and "at least 0.3: " in text and "; cat alone needs 0.9 (there 1.000 are right, and 1.000 are found)" in text
    assert "alone" not in (said("score") or "")
    hardly = [found(i, [(1, 0.05, *(BOX if i == 1 else (1, 1, 9, 9)))] if i % 2 else [(0, 0.9, *BOX)]) for i in range(40)]
    text = said("score", analyse(hardly, truths, ["cat", "dog"], settings=AnalysisSettings(draws=2)))
    assert text and "alone" not in text  # no score is of use for dogs


def test_scores_that_cannot_be_believed() -> None:
    truths = [known(i, [(0, *BOX)] if i % 4 == 0 else [(0, 300, 300, 400, 400)]) for i in range(80)]
    doubted = analyse(
        [found(i, [(0, 0.85 + i / 2000, *BOX)]) for i in range(80)],
        truths,
        ["cat"],
        settings=AnalysisSettings(draws=2, calibrate="best"),
    )
    kept = replace(FACTS, measured="runs/x pictures/", keeps=True)
    text = said("calibration", doubted, kept)
    assert text and text.startswith("scores cannot be believed: of 40 detections of a score from 0.8 to 0.9, ")
    assert text.endswith("onestage evaluate runs/x pictures/ --calibrate --keep-thresholds")
    assert said("calibration", doubted, replace(kept, calibrated=True)) is None
    assert said("calibration", replace(doubted, calibrated=None), kept) is None
    assert doubted.calibrated and said("calibration", replace(doubted, calibrated=helpless(doubted.calibrated)), kept) is None
    assert said("calibration", facts=kept) is None


def helpless(fitted: Calibrated) -> Calibrated:
    return replace(fitted, shown_after=fitted.shown_before)


def test_at_most_five_come_in_their_order() -> None:
    bad = replace(with_gain(Miss=0.3), reach=with_reach(ReachedPart("cat", 100, 29, 60, 80, 70)).reach)
    every = with_AP50(0.04, cat=(0.9, 1), dog=(0.01, 0.03)).AP
    assert every is not None
    bad = replace(bad, AP=replace(every, AP=Estimate(0.4, 0.3, 0.45)))
    rows = [(1.0, 1.0, 0.1), (0.9, 0.5, 0.1), (0.8, 1.1, 0.1), (0.7, 1.2, 0.1), (0.6, 1.3, 0.3)]
    facts = epochs(*rows)
    sentences = advise(bad, facts)
    assert len(sentences) == SENTENCES
    first = ("unreached", "nothing", "costliest", "by heart", "score")
    assert list(sentences) == [said(name, bad, facts) for name in first]
    without = replace(bad, thresholds=None)
    assert list(advise(without, facts)) == [said(name, without, facts) for name in (*first[:-1], "unfinished")]


def test_every_option_that_a_sentence_names_exists() -> None:
    """Options after a command are those of its verb; others are those of train, which the sentences advise on."""
    options = {
        name: {*_options(getattr(import_module(f"onestage.cli.{verb.module}"), verb.function))} for name, verb in VERBS.items()
    }
    source = import_module("onestage.analysis.advice").__file__
    assert source is not None
    text = re.sub(r'"\n\s+f?"', "", Path(source).read_text(encoding="utf-8"))
    named = {*re.findall(r"--[a-z][a-z-]*", text)}
    assert {"--fit-anchors", "--size", "--epochs", "--balance", "--score"} <= named
    evaluates = {"--keep-thresholds", "--want", "--calibrate", "--suspects", "--sure"}
    assert named - options["train"] == {"--score", "--data"} | evaluates
    assert evaluates <= options["evaluate"]
    assert "--score" in options["predict"] and "--data" in options["compare"]
    assert {verb for verb in re.findall(r"onestage ([a-z]+(?: check)?)", text) if verb not in VERBS} == set()
