"""The inputs of the reference figures for error analysis, as detections and truths; ../shared/data/error_analysis has them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from metric_cases import found, known
from onestage.structures import Detections, Truth

FOLDER = "error_analysis"
LAST_BIT = 1e-15
"""How far means from 0 to 1 may be from those of the files: another numpy may add up in another order."""


@dataclass(frozen=True)
class Case:
    """One input. found_at, true_at: the picture and the row there of each detection and object, in the order of the files."""

    detections: list[Detections]
    truths: list[Truth]
    classes: list[str]
    found_at: list[tuple[Any, int]]
    true_at: list[tuple[Any, int]]


@cache
def reference(shared: Path) -> dict[str, Any]:
    return json.loads((shared / FOLDER / "error_analysis_reference.json").read_text(encoding="utf-8"))


def file_case(shared: Path, inputs: Mapping[str, str]) -> Case:
    """The case of two files in COCO's format; a result file with pictures and categories is joined by their names."""
    return _read_case(*(_place(shared, inputs[key]) for key in ("truth", "detections")))


@cache
def _read_case(truth_file: Path, result_file: Path) -> Case:
    truth, result = (json.loads(file.read_text(encoding="utf-8")) for file in (truth_file, result_file))
    pictures, categories = _ids(truth["images"], "file_name"), _ids(truth["categories"], "name")
    if isinstance(result, dict):
        names = _names(result["images"], "file_name"), _names(result["categories"], "name")
        rows = [(pictures[names[0][r["image_id"]]], categories[names[1][r["category_id"]]], r) for r in result["annotations"]]
    else:
        rows = [(r["image_id"], r["category_id"], r) for r in result]
    return made_case(
        images=[i["id"] for i in truth["images"]],
        categories=_names(truth["categories"], "name"),
        truth=[(a["image_id"], a["category_id"], a["bbox"], a["iscrowd"]) for a in truth["annotations"]],
        found=[(image, category, r["score"], r["bbox"]) for image, category, r in rows],
    )


def made_case(
    images: Iterable[Any],
    categories: Mapping[int, str],
    *,
    truth: Sequence[Sequence[Any]],
    found: Sequence[Sequence[Any]],
) -> Case:
    """Truth: picture, category, left top width height, crowd. Detections: picture, category, score, left top width height."""
    label = {category: k for k, category in enumerate(sorted(categories))}
    mine: dict[Any, list[int]] = defaultdict(list)
    theirs: dict[Any, list[int]] = defaultdict(list)
    for i in sorted(range(len(found)), key=lambda i: -found[i][2]):
        mine[found[i][0]].append(i)
    for i, row in enumerate(truth):
        theirs[row[0]].append(i)
    pictures = list(images)
    rows = {image: [(label[found[i][1]], found[i][2], *xyxy(found[i][3])) for i in mine[image]] for image in pictures}
    objects = {image: [(label[truth[i][1]], *xyxy(truth[i][2])) for i in theirs[image]] for image in pictures}
    crowds = {image: [n for n, i in enumerate(theirs[image]) if truth[i][3]] for image in pictures}
    return Case(
        detections=[exact_found(image, rows[image]) for image in pictures],
        truths=[exact_known(image, objects[image], crowds[image]) for image in pictures],
        classes=[categories[c] for c in sorted(categories)],
        found_at=[(row[0], mine[row[0]].index(i)) for i, row in enumerate(found)],
        true_at=[(row[0], theirs[row[0]].index(i)) for i, row in enumerate(truth)],
    )


def exact_found(image: Any, rows: Sequence[Sequence[float]]) -> Detections:
    """As ``found``, with float64 numbers."""
    table = torch.tensor([list(r) for r in rows], dtype=torch.float64).reshape(-1, 6)
    return replace(found(image, rows), boxes=table[:, 2:], scores=table[:, 1])


def exact_known(image: Any, rows: Sequence[Sequence[float]], crowd: Sequence[int]) -> Truth:
    """As ``known``, with float64 boxes."""
    boxes = torch.tensor([list(r) for r in rows], dtype=torch.float64).reshape(-1, 5)[:, 1:]
    return replace(known(image, rows, crowd=crowd), boxes=boxes)


def xyxy(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, width, height = box
    return left, top, left + width, top + height


def _place(shared: Path, path: str) -> Path:
    return shared / FOLDER / path if path.startswith("cases/") else shared / path


def _ids(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, Any]:
    return {row[name]: row["id"] for row in rows}


def _names(rows: Iterable[Mapping[str, Any]], name: str) -> dict[Any, str]:
    return {row["id"]: row[name] for row in rows}
