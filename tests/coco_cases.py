"""COCO's files as detections and truths, and pycocotools' figures for them."""

import contextlib
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metric_cases import found, known
from onestage.boxes import from_xywh
from onestage.structures import Detections, Truth

COCOAPI = "coco_eval_fixtures/tests/dataset/cocoapi/instances_val2014_100.json"
FILES = {
    "fakebbox100": (COCOAPI, "coco_eval_fixtures/tests/dataset/cocoapi/instances_val2014_fakebbox100_results.json"),
    "harder100": (COCOAPI, "error_analysis/cases/harder100.json"),
    "coco_tiny_made": ("coco_tiny/annotations/instances_train2017.json", "error_analysis/cases/coco_tiny_made.json"),
    "voc100": (
        "metrics_formats/data/database/gts/coco_format_v1/instances_default.json",
        "metrics_formats/data/database/dets/coco_format/coco_dets.json",
    ),
    "sampled": (
        "metrics_formats/tests/test_coco_eval/gts/sampled_gts_bbox_area.json",
        "metrics_formats/tests/test_coco_eval/dets/sampled_bbox_results.json",
    ),
    "ignore": ("coco_eval_fixtures/tests/dataset/gt_ignore_test.json", "coco_eval_fixtures/tests/dataset/dt_ignore_test.json"),
}
"""The truth and the results of each set, below the folder of shared data."""

Inputs = tuple[list[Detections], list[Truth], list[str]]


def read_coco(truth_file: Path, result_file: Path, *, kind: torch.dtype = torch.float32) -> Inputs:
    """COCO's two files -> detections and truths by label, categories in order of their ids; numbers of that kind."""
    truth, results = json.loads(truth_file.read_text()), json.loads(result_file.read_text())
    if isinstance(results, dict):
        results = joined(results, truth)
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    label = {c["id"]: k for k, c in enumerate(categories)}
    by_image: dict[str, dict[int, list[Any]]] = {"truth": defaultdict(list), "results": defaultdict(list)}
    for name, rows in (("truth", truth["annotations"]), ("results", results)):
        for row in rows:
            by_image[name][int(row["image_id"])].append(row)
    detections, truths = [], []
    for image in (int(i["id"]) for i in truth["images"]):
        there, here = by_image["truth"][image], by_image["results"][image]
        detections.append(found(image, [(label[r["category_id"]], r["score"], *xyxy(r["bbox"])) for r in here], kind=kind))
        boxes = [(label[r["category_id"]], *xyxy(r["bbox"])) for r in there]
        crowd = [i for i, r in enumerate(there) if r.get("iscrowd")]
        truths.append(known(image, boxes, crowd=crowd, area=[float(r["area"]) for r in there], kind=kind))
    return detections, truths, [c["name"] for c in categories]


def joined(results: dict[str, Any], truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The results with the truth's ids: pictures by their file names, categories by their names."""
    ids = [{row[key]: row["id"] for row in truth[what]} for what, key in (("images", "file_name"), ("categories", "name"))]
    picture = {row["id"]: ids[0][row["file_name"]] for row in results["images"]}
    category = {row["id"]: ids[1][row["name"]] for row in results["categories"]}
    rows = results["annotations"]
    return [row | {"image_id": picture[row["image_id"]], "category_id": category[row["category_id"]]} for row in rows]


def xyxy(box: list[float]) -> list[float]:
    return from_xywh(torch.tensor(box, dtype=torch.float64)).tolist()


def random_case(seed: int) -> Inputs:
    """Pictures with crowds and absent classes; detections near the objects and far from them; many equal scores."""
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
