"""How long evaluation takes against pycocotools and tidecv, in one process, on generated pictures.

COCO's twelve figures are compared with pycocotools', then the same with TIDE's errors and bootstrap intervals, again with
pycocotools' figures alone, then the errors with tidecv's. The programs get data that is read already: ours Detections and
Truth, pycocotools a COCO object for each, tidecv a Data object for each. The figures must be equal. For tidecv: pip install
tidecv
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import tyro
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from common import Clock, Comparison, compare, report
from onestage.analysis.bootstrap import how_sure
from onestage.analysis.errors import errors_of
from onestage.analysis.kinds import kinds_of
from onestage.boxes import to_xywh
from onestage.metrics.coco import coco_figures
from onestage.metrics.matches import match
from onestage.metrics.tables import tabulate
from onestage.structures import Detections, Truth

if TYPE_CHECKING:
    from tidecv import Data

SIZE = 480, 640
"""Of the pictures, (height, width)."""
FOUND = 0.75
"""The share of the objects that get a detection; the other detections are false alarms, of lower scores."""
SWAPPED = 0.1
"""The share of these detections that have a wrong class."""
SEED = 0


@dataclass(frozen=True)
class Pictures:
    """Detections and truths of the same pictures, and the names of the classes."""

    detections: list[Detections]
    truths: list[Truth]
    classes: list[str]


def draw_pictures(*, pictures: int, classes: int, objects: int, detections: int) -> Pictures:
    """Generate about so many objects in all pictures, and exactly so many detections in each; some classes are rare, as in
    COCO.
    """
    rng = np.random.default_rng(SEED)
    share = 1 / np.arange(1, classes + 1)
    counts = rng.multinomial(objects, np.full(pictures, 1 / pictures))
    found, truths = [], []
    for picture, count in enumerate(counts.tolist()):
        labels, boxes = rng.choice(classes, count, p=share / share.sum()), _boxes(rng, count)
        truths.append(_truth(picture, labels, boxes))
        seen = np.flatnonzero(rng.random(count) < FOUND)[:detections]
        false = detections - len(seen)
        near = boxes[seen] + rng.normal(0, 0.06, (len(seen), 4)) * np.tile(boxes[seen, 2:] - boxes[seen, :2], 2)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        theirs = np.where(rng.random(len(seen)) < SWAPPED, rng.integers(0, classes, len(seen)), labels[seen])
        around = rng.choice(labels, false) if count else np.zeros(false, int)
        wrong = np.where(rng.random(false) < 0.5, rng.integers(0, classes, false), around)
        scores = np.concatenate([rng.beta(4, 2, len(seen)), rng.beta(1, 8, false)])
        found.append(_detections(picture, np.append(theirs, wrong), np.concatenate([near, _boxes(rng, false)]), scores))
    return Pictures(found, truths, [f"class {k}" for k in range(classes)])


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes of 8 to 240 pixels a side, small ones more often, inside the picture."""
    side = 8 * 30 ** rng.random((count, 2))
    corner = rng.random((count, 2)) * (np.array(SIZE[::-1]) - side)
    return np.concatenate([corner, corner + side], axis=1)


def _truth(picture: int, labels: np.ndarray, boxes: np.ndarray) -> Truth:
    box = torch.from_numpy(boxes).float()
    area = (box[:, 2:] - box[:, :2]).prod(1)
    no = torch.zeros(len(box), dtype=torch.bool)
    return Truth(box, torch.from_numpy(labels).long(), ignore=no, crowd=no, area=area, image_id=picture, size=SIZE)


def _detections(picture: int, labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> Detections:
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes=torch.from_numpy(boxes[order]).float(),
        scores=torch.from_numpy(scores[order]).float(),
        labels=torch.from_numpy(labels[order]).long(),
        class_names=tuple(f"class {k}" for k in labels[order].tolist()),
        category_ids=tuple(labels[order].tolist()),
        size=SIZE,
        image_id=picture,
    )


def _rows(found: Detections) -> Iterator[tuple[int, list[float], float]]:
    """The label, the box in COCO's format and the score of each detection."""
    return zip(found.labels.tolist(), to_xywh(found.boxes.double()).tolist(), found.scores.tolist(), strict=True)


def for_pycocotools(data: Pictures) -> tuple[COCO, COCO]:
    """The truth and the results, as pycocotools reads them from files."""
    rows, results = [], []
    for truth, found in zip(data.truths, data.detections, strict=True):
        columns = truth.labels.tolist(), to_xywh(truth.boxes.double()).tolist(), truth.area.tolist()
        for k, box, area in zip(*columns, strict=True):
            rows.append({"image_id": truth.image_id, "category_id": k, "bbox": box, "area": area, "iscrowd": 0})
        for k, box, score in _rows(found):
            results.append({"image_id": found.image_id, "category_id": k, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": truth.image_id} for truth in data.truths],
            "categories": [{"id": k, "name": name} for k, name in enumerate(data.classes)],
            "annotations": [{"id": i + 1, **row} for i, row in enumerate(rows)],
        }
        coco.createIndex()
        return coco, coco.loadRes(results)


def pycocotools_figures(truth: COCO, results: COCO) -> list[float]:
    """The twelve figures; NaN where pycocotools says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float("nan") if value < 0 else float(value) for value in evaluation.stats]


def our_figures(data: Pictures) -> list[float]:
    """The twelve figures."""
    return list(coco_figures(tabulate(data.detections, data.truths, data.classes)).values())


def our_errors(data: Pictures) -> dict[str, float]:
    """TIDE's errors in its program's average: the gain of each type, in percent."""
    matches = match(tabulate(data.detections, data.truths, data.classes))
    errors = errors_of(matches.table, kinds_of(matches, average="original"))
    return {row.name: 100 * row.gain for row in errors.types}


def everything(data: Pictures, draws: int) -> None:
    """The twelve figures, TIDE's errors, and the bootstrap intervals of AP, AP50 and each class."""
    table = tabulate(data.detections, data.truths, data.classes)
    coco_figures(table)
    matches = match(table)
    errors_of(table, kinds_of(matches))
    how_sure(matches, draws=draws)


def tidecv_errors(prepared: tuple[Data, Data]) -> dict[str, float]:
    """The gain of each type, in percent."""
    from tidecv import TIDE

    truth, results = prepared
    tide = TIDE()
    tide.evaluate(truth, results, mode=TIDE.BOX, name="results")
    gains: dict[str, float] = tide.get_main_errors()["results"]
    return gains


def for_tidecv(data: Pictures) -> tuple[Data, Data]:
    """The truth and the results, as tidecv reads them from files."""
    from tidecv import Data

    truth, results = Data("truth"), Data("results")
    for k, name in enumerate(data.classes):
        truth.add_class(k, name)
    for known, found in zip(data.truths, data.detections, strict=True):
        truth.add_image(known.image_id, str(known.image_id))
        for k, box in zip(known.labels.tolist(), to_xywh(known.boxes.double()).tolist(), strict=True):
            truth.add_ground_truth(known.image_id, k, box)
        for k, box, score in _rows(found):
            results.add_detection(known.image_id, k, score, box)
    return truth, results


def main(
    *,
    pictures: int = 5000,
    classes: int = 80,
    objects: int = 37_000,
    detections: int = 100,
    draws: int = 1000,
    repeats: int = 1,
    clock: Clock = "wall",
    json: Path | None = None,
) -> list[Comparison]:
    """Compare evaluation.

    Args:
        pictures: how many.
        classes: how many.
        objects: in all pictures together.
        detections: in each picture.
        draws: of the bootstrap.
        repeats: timed turns of each; pycocotools needs minutes for one.
        clock: wall time, or processor time on a busy machine.
        json: a file for all that was measured.
    """
    data = draw_pictures(pictures=pictures, classes=classes, objects=objects, detections=detections)
    truth, results = for_pycocotools(data)
    figures: dict[str, list[float]] = {}
    rows = [
        compare(
            "AP: COCO's twelve figures, pycocotools",
            lambda: figures.update(ours=our_figures(data)),
            lambda: figures.update(theirs=pycocotools_figures(truth, results)),
            repeats=repeats,
            warmup=0,
            clock=clock,
        )
    ]
    np.testing.assert_array_equal(figures["ours"], figures["theirs"])
    rows.append(
        compare(
            f"AP, errors and {draws} draws; pycocotools' AP alone",
            lambda: everything(data, draws),
            lambda: pycocotools_figures(truth, results),
            repeats=repeats,
            warmup=0,
            clock=clock,
        )
    )
    if importlib.util.find_spec("tidecv") is None:
        print("tidecv is not installed, so errors are not compared: pip install tidecv")
    else:
        gains: dict[str, dict[str, float]] = {}
        prepared = for_tidecv(data)
        ours, theirs = (lambda: gains.update(ours=our_errors(data))), (lambda: gains.update(theirs=tidecv_errors(prepared)))
        rows.append(compare("errors, tidecv", ours, theirs, repeats=repeats, warmup=0, clock=clock))
        for name, gain in gains["theirs"].items():
            assert abs(gains["ours"][name] - gain) < 0.005, f"{name}: {gains['ours'][name]}, tidecv {gain}"
    size = f"{pictures} pictures, {classes} classes, {objects} objects, {detections} detections each"
    report(f"evaluation, {size}; {clock} time; same figures", rows, path=json)
    return rows


if __name__ == "__main__":
    tyro.cli(main)
