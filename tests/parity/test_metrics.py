"""COCO AP equals pycocotools' and the published results; VOC AP equals the published results of two public tools."""

import contextlib
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metric_cases import found, known
from onestage.boxes import from_xywh
from onestage.metrics.coco import FIGURES, coco_metrics
from onestage.metrics.voc import voc_metrics
from onestage.structures import Detections, Truth

Inputs = tuple[list[Detections], list[Truth], list[str]]


def read_coco(truth_file: Path, result_file: Path) -> Inputs:
    """COCO's two files -> detections and truths by label, categories in order of their ids."""
    truth, results = json.loads(truth_file.read_text()), json.loads(result_file.read_text())
    if isinstance(results, dict):
        results = results["annotations"]
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    label = {c["id"]: k for k, c in enumerate(categories)}
    by_image: dict[str, dict[int, list[Any]]] = {"truth": defaultdict(list), "results": defaultdict(list)}
    for name, rows in (("truth", truth["annotations"]), ("results", results)):
        for row in rows:
            by_image[name][int(row["image_id"])].append(row)
    detections, truths = [], []
    for image in (int(i["id"]) for i in truth["images"]):
        there, here = by_image["truth"][image], by_image["results"][image]
        detections.append(found(image, [(label[r["category_id"]], r["score"], *xyxy(r["bbox"])) for r in here]))
        boxes = [(label[r["category_id"]], *xyxy(r["bbox"])) for r in there]
        crowd = [i for i, r in enumerate(there) if r.get("iscrowd")]
        truths.append(known(image, boxes, crowd=crowd, area=[float(r["area"]) for r in there]))
    return detections, truths, [c["name"] for c in categories]


def read_text(truth_folder: Path, result_folder: Path) -> Inputs:
    """One text file per picture: "class left top width height", in results with the score after the class."""
    detections, truths = [], []
    for file in sorted(truth_folder.glob("*.txt")):
        there = [[float(v) for v in line.split()[1:]] for line in file.read_text().splitlines()]
        here = [[float(v) for v in line.split()[1:]] for line in (result_folder / file.name).read_text().splitlines()]
        detections.append(found(file.stem, [(0, r[0], *xyxy(r[1:])) for r in here]))
        truths.append(known(file.stem, [(0, *xyxy(r)) for r in there]))
    return detections, truths, ["object"]


def xyxy(box: list[float]) -> list[float]:
    return from_xywh(torch.tensor(box, dtype=torch.float64)).tolist()


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


def run_pycocotools(detections: list[Detections], truths: list[Truth], classes: list[str]) -> tuple[Any, Any]:
    """The twelve figures and the precision at all sizes (T, R, K), from the original program."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        rows = [
            {"image_id": t.image_id, "category_id": k, "bbox": xywh(b), "area": a, "iscrowd": int(c)}
            for t in truths
            for k, b, a, c in zip(t.labels.tolist(), t.boxes.tolist(), t.area.tolist(), t.crowd.tolist(), strict=True)
        ]
        coco.dataset = {
            "images": [{"id": t.image_id} for t in truths],
            "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
            "annotations": [{"id": i + 1, **row} for i, row in enumerate(rows)],
        }
        coco.createIndex()
        results = [
            {"image_id": d.image_id, "category_id": k, "bbox": xywh(b), "score": s}
            for d in detections
            for k, b, s in zip(d.labels.tolist(), d.boxes.tolist(), d.scores.tolist(), strict=True)
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"][..., 0, 2]


def xywh(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def random_case(seed: int) -> Inputs:
    """Pictures with crowds and absent classes; detections near the objects and elsewhere; many equal scores."""
    rng = np.random.default_rng(seed)
    pictures, classes = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    detections, truths = [], []
    for image in rng.permutation(100)[:pictures].tolist():
        count = int(rng.integers(0, 8))
        corners, sides = rng.integers(0, 300, (count, 2)), rng.choice([8, 20, 40, 90, 150], (count, 2))
        labels = rng.integers(0, classes, count)
        boxes = np.hstack([corners, corners + sides])
        crowd = np.flatnonzero(rng.random(count) < 0.15).tolist()
        truths.append(known(image, np.column_stack([labels, boxes]), crowd=crowd))
        near = np.repeat(boxes, 3, axis=0) + rng.integers(-6, 7, (3 * count, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        far = rng.integers(0, 200, (5, 4)) + np.array([0, 0, 200, 200])
        rows = np.vstack([near, far])
        guesses = np.concatenate([np.repeat(labels, 3), rng.integers(0, classes, 5)])
        scores = rng.integers(1, 20, len(rows)) / 32
        detections.append(found(image, np.column_stack([guesses, scores, rows])))
    return detections, truths, [f"class {k}" for k in range(classes)]


@pytest.mark.parametrize("seed", range(25))
def test_coco_equals_pycocotools_on_random_pictures_with_crowds(seed: int) -> None:
    case = random_case(seed)
    metrics = coco_metrics(*case)
    figures, precision = run_pycocotools(*case)
    ours = np.nan_to_num([metrics.figures[name] for name in FIGURES], nan=-1)
    np.testing.assert_allclose(ours, figures, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.nan_to_num(metrics.precision, nan=-1), precision, rtol=0, atol=1e-12)


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
