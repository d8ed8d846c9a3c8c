"""Bootstrap, thresholds, calibration and oLRP: equal to the figures of the original programs, and right where one can count."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis_cases import LAST_BIT
from coco_cases import FILES, random_case, read_coco
from metric_cases import found, known
from onestage.analysis import bootstrap
from onestage.analysis.bootstrap import class_rows, drawn_ap, how_sure, over_classes, weighted_ap
from onestage.analysis.calibration import Calibration, Lines, Temperature, calibrate, fit_lines, fit_temperature
from onestage.analysis.olrp import optimal_lrp
from onestage.analysis.reliability import localisation_reliability, reliability
from onestage.analysis.thresholds import Want, find_thresholds, without_use
from onestage.analysis.wording import interval
from onestage.errors import ConfigError
from onestage.metrics.ap import average_precision
from onestage.metrics.coco import coco_figures
from onestage.metrics.matches import Matches, match
from onestage.metrics.tables import tabulate

SETS = ("fakebbox100", "harder100", "coco_tiny_made", "voc100")


@cache
def matched(folder: Path, name: str) -> Matches:
    return match(tabulate(*read_coco(*(folder / file for file in FILES[name]), kind=torch.float64)))


@cache
def reference(folder: Path) -> dict:
    return json.loads((folder / "error_analysis" / "error_analysis_reference.json").read_text())


def equal(ours, theirs, within=1e-12):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within)


@pytest.mark.parametrize("name", SETS)
def test_the_twelve_figures_are_those_of_pycocotools(shared_data, name):
    """With the numpy that is installed they are its to the last bit (tests/unit/metrics). These are of another numpy."""
    matches, expected = matched(shared_data, name), reference(shared_data)["tide"][name]
    assert list(coco_figures(matches.table).values()) == pytest.approx(expected["pycocotools_stats"], rel=0, abs=LAST_BIT)
    assert np.count_nonzero(matches.truths) == expected["pycocotools_classes_averaged"]


@pytest.mark.parametrize("name", SETS)
def test_reliability_is_that_of_netcal_and_detection_calibration(shared_data, name):
    matches, expected = matched(shared_data, name), reference(shared_data)["calibration"]["sets"][name]
    for bins, figures in expected["confidence_only"].items():
        equal(reliability(matches, bins=int(bins)).error, figures["ECE"])
    found = reliability(matches)
    assert (found.detections, found.hits) == (expected["detections"], expected["hits"])
    equal([found.detections, found.error], [expected["hotcoco_1.3.0"][key] for key in ("num_detections", "ece")])
    for ours, theirs in zip(found.bins, expected["reliability_10"], strict=True):
        values = [np.nan if v is None else v for v in theirs.values()]
        equal([ours.low, ours.high, ours.count, ours.score, ours.hits], values)
    boxes, expected = localisation_reliability(matches.table), reference(shared_data)["lrp_and_laece"][name]
    equal([boxes.LaECE, boxes.LaACE], [expected["LaECE_00_25bins"], expected["LaACE_00"]])
    if not expected["D-ECE_classes_left_out_or_it_crashes"]:
        equal([reliability(matches, bins=bins).error for bins in (10, 25)], [expected[f"D-ECE_50_{n}bins"] for n in (10, 25)])


@pytest.mark.parametrize("name", SETS)
def test_olrp_is_that_of_its_authors(shared_data, name):
    expected = reference(shared_data)["lrp_and_laece"][name]
    for iou, key in ((0.5, "oLRP_IoU50"), (0.1, "oLRP_IoU10")):
        figures = optimal_lrp(match(matched(shared_data, name).table, ious=(iou,)), iou=iou)
        columns = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
        equal(dataclasses.astuple(figures.mean)[:4], [expected[key][column] for column in columns])
        assert sum(not np.isnan(row.error) for row in figures.per_class) == expected[key]["classes"]
    figures = optimal_lrp(matched(shared_data, name))
    rows = dict(zip(matched(shared_data, name).table.classes, figures.per_class, strict=True))
    for label, row in expected["oLRP_IoU50"]["by_class"].items():
        equal(dataclasses.astuple(rows[label]), [np.nan if v is None else v for v in row.values()])


@pytest.mark.parametrize("name", ["fakebbox100", "voc100"])
def test_thresholds_of_best_f1_are_those_of_libreyolo(shared_data, name):
    found = find_thresholds(matched(shared_data, name), draws=2)
    expected = reference(shared_data)["thresholds_and_confusion"][name]["libreyolo"]
    equal([found.overall.score.value, found.overall.f1.value], expected["all_classes_pooled"])
    ours = {row.name: [row.score.value, row.f1.value] for row in found.per_class if not np.isnan(row.score.value)}
    assert ours.keys() == expected["by_class"].keys()
    for label, values in ours.items():
        equal(values, expected["by_class"][label])


@pytest.mark.parametrize(("name", "within"), [("voc100", 1e-12), ("fakebbox100", 5e-4)], ids=["no ties", "ties"])
def test_intervals_are_those_of_pycocotools_on_drawn_pictures(shared_data, name, within):
    matches, expected = matched(shared_data, name), reference(shared_data)["bootstrap"]["sets"][name]
    drawn = drawn_ap(matches, draws=expected["replicates"])
    there = (~np.isnan(drawn[:, 0])).sum(1)
    assert [there.min(), there.max()] == expected["classes_with_truth_min_max"]
    for by_class, key in ((drawn.mean(1), "AP"), (drawn[:, 0], "AP50")):
        ours = over_classes(by_class)
        equal(ours[:5], [row[key] for row in expected["first_replicates"]], within)
        equal([ours.mean(), ours.std(ddof=1)], np.array([expected[f"{key}_{what}"] for what in ("mean", "sd")]) / 100, within)
        for some in (200, 500):
            equal(np.percentile(ours[:some], [2.5, 97.5]), np.array(expected[f"{key}_percentile_first_{some}"]) / 100, within)
    sure = how_sure(matches)
    for ours, key in ((sure.AP, "AP"), (sure.AP50, "AP50")):
        equal(dataclasses.astuple(ours), np.array([expected[key], *expected[f"{key}_percentile_2_5_97_5"]]) / 100, within)


def untied(seed):
    """A random case in which no two scores are equal."""
    detections, truths, classes = random_case(seed)
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.rand(len(d), generator=generator) for d in detections]
    scores = [(d.scores * 0.99 + 0.01 * n) for d, n in zip(detections, noise, strict=True)]
    changed = [dataclasses.replace(d, scores=s) for d, s in zip(detections, scores, strict=True)]
    return [d.select(d.scores.argsort(descending=True)) for d in changed], truths, classes


def repeated(detections, truths, counts):
    """Each picture as often as counts (P,) say, under new ids."""
    chosen = np.repeat(np.arange(len(truths)), counts).tolist()
    return tuple([dataclasses.replace(items[i], image_id=n) for n, i in enumerate(chosen)] for items in (detections, truths))


@pytest.mark.parametrize("size", ["all", "medium"])
def test_a_weight_is_as_many_repeats_of_the_picture(size):
    detections, truths, classes = untied(3)
    matches = match(tabulate(detections, truths, classes), size=size)
    order = {image_id: p for p, image_id in enumerate(matches.table.image_ids)}
    counts = np.random.default_rng(0).integers(0, 4, len(truths))
    weights = counts[[order[t.image_id] for t in truths]]
    ours = weighted_ap(class_rows(matches), counts[None].astype(np.int32), (10, len(classes)))[0]
    theirs = average_precision(match(tabulate(*repeated(detections, truths, weights), classes), size=size))
    equal(ours, theirs.by_class)


def test_draws_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch):
    matches = match(tabulate(*random_case(0)))
    whole = drawn_ap(matches, draws=7, seed=3)
    monkeypatch.setattr(bootstrap, "CELLS", 1)
    equal(drawn_ap(matches, draws=7, seed=3), whole)
    monkeypatch.setattr(bootstrap, "WEIGHTS", 1)
    equal(drawn_ap(matches, draws=7, seed=3), whole)
    assert not np.array_equal(drawn_ap(matches, draws=7, seed=4), whole, equal_nan=True)
    with pytest.raises(ConfigError, match="draws"):
        drawn_ap(matches, draws=-1)


def squares(scores_and_hits):
    """Detections of one class in one picture each: a hit of its object, or a false alarm beside it."""
    box, beside = (0, 0, 10, 10), (50, 50, 60, 60)
    detections = [found(i, [(0, score, *(box if hit else beside))]) for i, (score, hit) in enumerate(scores_and_hits)]
    return detections, [known(i, [(0, *box)]) for i in range(len(scores_and_hits))], ["a"]


def test_a_wanted_precision_or_recall():
    matches = match(tabulate(*squares([(0.9, True), (0.8, True), (0.75, False), (0.75, True), (0.5, True), (0.4, False)])))
    chosen = {
        want: find_thresholds(matches, want, draws=200).overall
        for want in (Want("precision", 0.76), Want("recall", 0.5), Want("precision", 1), Want("recall", 0.9), Want())
    }
    values = [(row.score.value, row.precision.value, row.recall.value) for row in chosen.values()]
    equal(values, [(0.5, 0.8, 4 / 6), (0.5, 0.8, 4 / 6), (0.8, 1, 2 / 6), (np.nan,) * 3, (0.5, 0.8, 4 / 6)], 1e-7)
    best = chosen[Want()]
    assert best.recall.low < best.recall.value < best.recall.high and best.reached == 1
    assert chosen[Want("recall", 0.9)].reached < 0.5 and best.f1.value == pytest.approx(2 * 4 / (5 + 6))


@pytest.mark.parametrize("wrong", [("f2", 0.5), ("recall", 1.1), ("precision", float("nan")), ("recall", "all")])
def test_a_want_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        Want(*wrong)


def believed(count, rule, seed=0):
    """Scores, and hits as often as ``rule`` says for each."""
    generator = np.random.default_rng(seed)
    score = generator.uniform(0.02, 0.98, count)
    return score, generator.uniform(size=count) < rule(score)


def test_fits_find_the_rule_by_which_scores_err():
    score, hit = believed(20_000, Temperature(2.5))
    assert fit_temperature(score, hit).value == pytest.approx(2.5, rel=0.05)
    lines = fit_lines(score, hit)
    inside = np.linspace(0.1, 0.9, 50)
    assert np.abs(lines(inside) - Temperature(2.5)(inside)).max() < 0.05
    assert all(np.diff([0, *column, 1]).min() > 0 for column in zip(*lines.knots, strict=True))
    nothing = np.zeros(0), np.zeros(0, bool)
    assert (fit_temperature(*nothing), fit_lines(*nothing)) == (Temperature(1.0), Lines())


@pytest.mark.parametrize("rule", [Temperature(0.05), Temperature(20.0), Temperature(), Lines(), Lines(((0.2, 0.9),))])
def test_rules_rise_and_keep_0_and_1(rule):
    score = np.linspace(0, 1, 101)
    assert (rule(score)[0], rule(score)[-1]) == (0, 1) and np.all(np.diff(rule(score)) >= 0)


@pytest.mark.parametrize("method", ["best", "temperature", "lines"])
def test_calibration_helps_on_other_pictures_and_leaves_ap(method):
    score, hit = believed(400, Temperature(0.3), seed=5)
    matches = match(tabulate(*squares(list(zip(score.tolist(), hit.tolist(), strict=True)))))
    found = calibrate(matches, method=method, seed=1)
    assert (found.fitted_pictures, found.pictures, found.after.detections) == (200, 200, 200)
    assert found.helps and found.after.error < 0.6 * found.before.error and found.AP_after == pytest.approx(found.AP_before)
    again = [str(calibrate(matches, method=method, seed=seed)) for seed in (1, 2)]
    assert str(found) == again[0] != again[1]


def test_scores_that_can_be_believed_stay():
    score, hit = believed(400, Temperature(), seed=2)
    matches = match(tabulate(*squares(list(zip(score.tolist(), hit.tolist(), strict=True)))))
    (rule,) = calibrate(matches, method="temperature").calibration.rules
    assert isinstance(rule, Temperature) and rule.value == pytest.approx(1, abs=0.2)
    with pytest.raises(ConfigError, match="calibrate"):
        calibrate(matches, method="magic")
    empty = calibrate(match(tabulate([], [], ["a"])))
    assert empty.calibration.rules == (Temperature(),) and np.isnan(empty.AP_after)


def test_calibrated_detections_are_best_first_again():
    detections = found(1, [(0, 0.9, 0, 0, 9, 9), (1, 0.8, 0, 0, 5, 5), (0, 0.7, 0, 0, 7, 7)])
    calibrated = Calibration((Lines(((0.8, 0.3),)), Temperature(1.0))).apply(detections)
    assert calibrated.labels.tolist() == [1, 0, 0] and calibrated.boxes[:, 2].tolist() == [5, 9, 7]
    assert calibrated.scores.tolist() == pytest.approx([0.8, 0.65, 0.2625]) and calibrated.scores.dtype == torch.float32


def test_the_distance_in_some_pictures_is_that_of_a_table_without_the_others():
    detections, truths, classes = untied(4)
    table = tabulate(detections, truths, classes)
    some = np.arange(len(truths)) % 2 == 0
    chosen = {image_id for image_id, there in zip(table.image_ids, some, strict=True) if there}
    alone = [[one for one in items if one.image_id in chosen] for items in (detections, truths)]
    ours = dataclasses.astuple(localisation_reliability(table, pictures=some))
    equal(ours, dataclasses.astuple(localisation_reliability(tabulate(*alone, classes))))
    assert not np.allclose(ours, dataclasses.astuple(localisation_reliability(table)))


def test_a_class_in_one_picture_has_no_interval():
    box = (0, 0, 10, 10)
    detections = [found(i, [(0, 0.9 - i / 100, *box), (1, 0.5, *box)]) for i in range(6)]
    truths = [known(i, [(0, *box), *([(1, *box)] if i == 3 else [])]) for i in range(6)]
    matches = match(tabulate(detections, truths, ["a", "b"]))
    sure, cuts = how_sure(matches, draws=50), find_thresholds(matches, draws=50)
    assert [row.pictures for row in sure.per_class] == [row.pictures for row in cuts.per_class] == [6, 1]
    assert cuts.overall.pictures == 6
    for one in (sure.per_class[1].AP, sure.per_class[1].AP50, cuts.per_class[1].score, cuts.per_class[1].f1):
        assert not np.isnan(one.value) and np.isnan([one.low, one.high]).all()
        assert interval(one, 1) == "one picture: no interval"
    assert not np.isnan([sure.per_class[0].AP.low, sure.AP.low, cuts.overall.score.low]).any()
    alone = match(tabulate(detections[3:4], truths[3:4], ["a", "b"]))
    assert np.isnan(how_sure(alone, draws=20).AP.low) and interval(how_sure(alone, draws=20).AP, 1).startswith("one picture")
    assert interval(how_sure(match(tabulate([], [], ["a"])), draws=2).AP) == "-"


def test_a_class_that_is_hardly_found_has_no_score_of_use():
    box, beside = (0, 0, 10, 10), (50, 50, 60, 60)
    alarms = [(1, 0.3, *beside)] * 3
    detections = [found(i, [(0, 0.9, *box), *alarms, *([(1, 0.1, *box)] if i < 2 else [])]) for i in range(20)]
    truths = [known(i, [(0, *box), (1, *box)]) for i in range(20)]
    cuts = find_thresholds(match(tabulate(detections, truths, ["a", "b"])), draws=0)
    assert [row.name for row in without_use(cuts)] == ["b"] and cuts.per_class[1].f1.value < 0.2
    assert without_use(dataclasses.replace(cuts, want=Want("recall", 0.1))) == []
    assert np.isnan(cuts.overall.reached)


@pytest.mark.parametrize("want", [Want(), Want("precision", 0.6), Want("recall", 0.3)], ids=["f1", "precision", "recall"])
def test_the_threshold_is_the_best_of_all_scores(want):
    """All scores are tried, one by one, for the class with most objects and for all classes."""
    for seed in range(4):
        matches = match(tabulate(*random_case(seed)))
        cuts, at, label = find_thresholds(matches, want, draws=0), matches.at(0.5), int(matches.truths.argmax())
        for chosen, mine, truths in (
            (cuts.overall, np.ones(len(matches.score), bool), int(matches.counted.sum())),
            (cuts.per_class[label], matches.table.found.label == label, int(matches.truths[label])),
        ):
            rated = mine & ~matches.ignored[at]
            tried = []
            for score in np.unique(matches.score[rated]):
                shown = rated & (matches.score >= score)
                hits, count = int((matches.hit[at] & shown).sum()), int(shown.sum())
                figures = {"f1": 2 * hits / (count + truths), "precision": hits / count, "recall": hits / truths}
                if hits and figures[want.figure] >= want.value:
                    goal = {"f1": "f1", "precision": "recall", "recall": "precision"}[want.figure]
                    tried.append((figures[goal], figures["precision"], score))
            equal(chosen.score.value, max(tried)[2] if tried else np.nan)
