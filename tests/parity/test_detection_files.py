"""Files of detections that other programs wrote give the published figures, in every form in which they come."""

from pathlib import Path

import pytest

from analysis_cases import LAST_BIT, reference
from onestage.data import open_data
from onestage.data.detections import open_detections
from onestage.evaluation import measure_detections
from onestage.metrics.report import Report

COCO, VOC = "coco_eval_fixtures/tests/dataset", "metrics_formats/data/database"
SAMPLED, TOY = "metrics_formats/tests/test_coco_eval", "metrics_formats/toyexample"


def report_of(root: Path, found: str, truth: str) -> Report:
    dataset = open_data(root / truth, labels_alone=True).load()
    return measure_detections(open_detections(root / found), dataset).report


@pytest.mark.parametrize(
    ("found", "truth", "ap", "ap50"),
    [
        (f"{COCO}/dt_ignore_test.json", f"{COCO}/gt_ignore_test.json", 0.710, 1.0),
        (f"{SAMPLED}/dets/sampled_bbox_results.json", f"{SAMPLED}/gts/sampled_gts_bbox_area.json", 0.504, 0.696973),
    ],
    ids=["ignore", "sampled"],
)  # fmt: skip
def test_coco_results_give_what_others_published(shared_data: Path, found: str, truth: str, ap: float, ap50: float) -> None:
    figures = report_of(shared_data, found, truth).coco
    assert round(figures.AP, 3) == ap
    assert abs(figures.AP50 - ap50) < 1e-6


def by_pycocotools(shared: Path, name: str) -> list[float]:
    """The twelve figures of a set, as the reference for the error analysis has them."""
    figures: list[float] = reference(shared)["tide"][name]["pycocotools_stats"]
    return figures


@pytest.mark.parametrize(
    ("name", "found", "truth"),
    [
        ("fakebbox100", f"{COCO}/cocoapi/instances_val2014_fakebbox100_results.json",
         f"{COCO}/cocoapi/instances_val2014_100.json"),
        ("harder100", "error_analysis/cases/harder100.json", f"{COCO}/cocoapi/instances_val2014_100.json"),
        ("coco_tiny_made", "error_analysis/cases/coco_tiny_made.json", "coco_tiny"),
    ],
    ids=["demo", "made worse", "made of labels"],
)  # fmt: skip
def test_coco_results_give_the_figures_of_pycocotools(shared_data: Path, name: str, found: str, truth: str) -> None:
    figures = report_of(shared_data, found, truth).coco.figures
    assert list(figures.values()) == pytest.approx(by_pycocotools(shared_data, name), rel=0, abs=LAST_BIT)


@pytest.mark.parametrize("found", ["abs_xywh", "abs_xyx2y2", "rel_xywh", "coco_format/coco_dets.json"])
def test_four_forms_of_the_same_detections(shared_data: Path, found: str) -> None:
    figures = report_of(shared_data, f"{VOC}/dets/{found}", f"{VOC}/gts/coco_format_v1").coco.figures
    rounded = found == "rel_xywh"  # the file itself is
    assert list(figures.values()) == pytest.approx(
        by_pycocotools(shared_data, "voc100"), rel=0, abs=1e-5 if rounded else LAST_BIT
    )


FORMS = [f"dets_class{key}_{form}" for key in ("id", "name") for form in ("abs_xywh", "abs_xyx2y2", "rel_xcycwh")]


@pytest.mark.parametrize("found", [*FORMS, "dets_coco_format/coco_dets.json"])
def test_the_cats_in_seven_forms(shared_data: Path, found: str) -> None:
    """review_object_detection_metrics' README, "A practical example"."""
    report = report_of(shared_data, f"{TOY}/{found}", f"{TOY}/gts_vocpascal_format")
    assert round(report.voc10.mAP, 4) == 0.8958
    assert round(report.voc07.mAP, 4) == 0.8864


@pytest.mark.parametrize("kind", ["segm100", "cap", "keypoints100"])
def test_results_of_other_tasks_are_refused(shared_data: Path, kind: str) -> None:
    folder = shared_data / "coco_eval_fixtures/cocoapi/results"
    (file,) = folder.glob(f"*fake{kind}_results.json")
    with pytest.raises(ValueError, match="no bbox"):
        report_of(shared_data, str(file), f"{COCO}/cocoapi/instances_val2014_100.json")
