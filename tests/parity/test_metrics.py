"""COCO AP equals pycocotools' and the published results; VOC AP equals the published results of two public tools."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coco_cases import Inputs, random_case, read_coco, run_pycocotools, xyxy
from metric_cases import found, known
from onestage.metrics.coco import FIGURES, coco_metrics
from onestage.metrics.voc import voc_metrics


def read_text(truth_folder: Path, result_folder: Path) -> Inputs:
    """One text file per picture: "class left top width height", in results with the score after the class."""
    detections, truths = [], []
    for file in sorted(truth_folder.glob("*.txt")):
        there = [[float(v) for v in line.split()[1:]] for line in file.read_text().splitlines()]
        here = [[float(v) for v in line.split()[1:]] for line in (result_folder / file.name).read_text().splitlines()]
        detections.append(found(file.stem, [(0, r[0], *xyxy(r[1:])) for r in here]))
        truths.append(known(file.stem, [(0, *xyxy(r)) for r in there]))
    return detections, truths, ["object"]


# The table printed by pycocotools for its demo, cocoapi results/val2014_fake_eval_res.txt (bbox).
DEMO = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)
# review_object_detection_metrics tests/test_coco_eval.py, made with pycocotools.
SAMPLED = (0.503647, 0.696973, 0.571667, 0.593252, 0.557991, 0.489363,
           0.386813, 0.593680, 0.595353, 0.654764, 0.603130, 0.553744)  # fmt: skip
# faster-coco-eval tests/test_dataset.py, test_ignore_coco_eval; -1 there is NaN here.
IGNORE = (0.7099009900990099, 1.0, 0.8415841584158416, None, 0.7099009900990099, None, 0.0, 0.45384615384615384,
          0.7153846153846154, None, 0.7153846153846154, None)  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "truth", "results", "digits", "published"),
    [
        ("coco_eval_fixtures/tests/dataset/cocoapi", "instances_val2014_100.json",
         "instances_val2014_fakebbox100_results.json", 3, DEMO),
        ("metrics_formats/tests/test_coco_eval", "gts/sampled_gts_bbox_area.json",
         "dets/sampled_bbox_results.json", 6, SAMPLED),
        ("coco_eval_fixtures/tests/dataset", "gt_ignore_test.json", "dt_ignore_test.json", 12, IGNORE),
    ],
    ids=["cocoapi demo with crowds", "sampled, six digits", "ignore and crowd"],
)  # fmt: skip
def test_coco_figures_equal_the_published_ones(
    shared_data: Path, folder: str, truth: str, results: str, digits: int, published: tuple[float | None, ...]
) -> None:
    metrics = coco_metrics(*read_coco(shared_data / folder / truth, shared_data / folder / results))
    ours = [None if np.isnan(v) else round(v, digits) for v in metrics.figures.values()]
    assert ours == [None if v is None else round(v, digits) for v in published]


@pytest.mark.parametrize("seed", range(25))
def test_coco_equals_pycocotools_on_random_pictures_with_crowds(seed: int) -> None:
    case = random_case(seed)
    metrics = coco_metrics(*case)
    figures, precision = run_pycocotools(*case)
    ours = np.nan_to_num([metrics.figures[name] for name in FIGURES], nan=-1)
    np.testing.assert_array_equal(ours, figures)
    np.testing.assert_array_equal(np.nan_to_num(metrics.precision, nan=-1), precision)


TOY = ("metrics_toy/groundtruths", "metrics_toy/detections")
CASE_1 = ("metrics_formats/tests/test_case_1/gts", "metrics_formats/tests/test_case_1/dets")


@pytest.mark.parametrize(
    ("folders", "iou", "style", "digits", "published"),
    [
        # Object-Detection-Metrics' README prints 24.56 %, cut; its results/results.txt prints 24.57 %, rounded.
        (TOY, 0.3, "2007", 4, 0.2684),
        (TOY, 0.3, "2010", 4, 0.2457),
        # review_object_detection_metrics tests/test_eval_pascal.py
        (CASE_1, 0.1, "2007", 10, 0.3333333333),
        (CASE_1, 0.3, "2007", 10, 0.2683982684),  # printed there cut: ...2683
        (CASE_1, 0.5, "2007", 10, 0.0303030303),
        (CASE_1, 0.75, "2007", 10, 0.0),
        (CASE_1, 0.1, "2010", 10, 0.3371980676),
        (CASE_1, 0.3, "2010", 10, 0.2456866805),  # printed there cut: ...6804
        (CASE_1, 0.5, "2010", 10, 0.0222222222),
        (CASE_1, 0.75, "2010", 10, 0.0),
    ],
)
def test_voc_ap_equals_the_published_one(
    shared_data: Path, folders: tuple[str, str], iou: float, style: Any, digits: int, published: float
) -> None:
    """Those tools take a box's last pixel as part of it (+1): the inclusive convention."""
    case = read_text(*(shared_data / folder for folder in folders))
    metrics = voc_metrics(*case, iou=iou, style=style, inclusive=True)
    assert round(metrics.mAP, digits) == published


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize(
    ("iou", "style", "published"),
    [(0.5, "2007", 0.8864), (0.5, "2010", 0.8958), (0.75, "2007", 0.4924), (0.75, "2010", 0.5097)],
)
def test_voc_ap_of_the_cats_equals_the_published_one(
    shared_data: Path, iou: float, style: Any, published: float, inclusive: bool
) -> None:
    """review_object_detection_metrics' README, "A practical example"; its toyexample folder."""
    toy = shared_data / "metrics_formats/toyexample"
    case = read_coco(toy / "gts_coco_format/toy_example_coco.JSON", toy / "dets_coco_format/coco_dets.json")
    assert round(voc_metrics(*case, iou=iou, style=style, inclusive=inclusive).mAP, 4) == published
