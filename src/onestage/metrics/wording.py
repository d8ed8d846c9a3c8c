"""Titles, table rows and numbers as text: what the terminal and the web page share."""

from __future__ import annotations

import math
from dataclasses import astuple

from onestage.errors import counted
from onestage.metrics.results import ClassRow, Results

CLASS_TITLES = ("class", "objects", "boxes", "AP", "AP50", "AR", "VOC07", "VOC10")
FIGURE_TITLES = ("COCO", "IoU", "all", "small", "medium", "large")

NO_LOGITS = "there are boxes, but no logits"
"""Why a figure of FIGURES_OF_LOGITS can be missing."""
FIGURES_OF_LOGITS = {"losses": "loss", "class_error": "class error", "box_mae": "box MAE"}
"""The figures that need logits, and their names for the reader."""
NOT_MEASURED = f"not measured: {NO_LOGITS}"


def title(results: Results) -> str:
    """The model and the data."""
    return " on ".join(name for name in (results.model, results.data) if name) or "Evaluation"


def subtitle(results: Results) -> str:
    """How much was measured."""
    coco = results.coco
    counts = (coco.pictures, coco.objects, sum(row.found for row in coco.per_class), len(coco.per_class))
    return " · ".join(map(counted, counts, ("picture", "object", "detection", "class")))


def figure_rows(results: Results) -> list[tuple[str, ...]]:
    """COCO's twelve figures in the columns of FIGURE_TITLES: one row per measure, one column per size of the objects."""
    coco = {name: figure(value) for name, value in results.coco.figures.items()}
    return [
        ("AP", ".50:.95", *(coco[name] for name in ("AP", "APs", "APm", "APl"))),
        ("AP50", ".50", coco["AP50"], "", "", ""),
        ("AP75", ".75", coco["AP75"], "", "", ""),
        ("AR, 1 each", ".50:.95", coco["AR1"], "", "", ""),
        ("AR, 10 each", ".50:.95", coco["AR10"], "", "", ""),
        ("AR, 100 each", ".50:.95", *(coco[name] for name in ("AR100", "ARs", "ARm", "ARl"))),
    ]


def class_cells(row: ClassRow) -> list[str]:
    """The row of a class in the columns of CLASS_TITLES, without the name."""
    return [f"{row.objects:,}", f"{row.found:,}", *(figure(value) for value in astuple(row)[3:])]


def figure(value: float) -> str:
    """A figure between 0 and 1; a dash if there is nothing to measure."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def loss_line(results: Results) -> str:
    """The validation loss and its parts in one line."""
    return " · ".join(f"{name} {value:.4f}" for name, value in (results.losses or {}).items()) or NOT_MEASURED


def book_line(results: Results) -> str:
    """Class error and box MAE in one line."""
    book = results.book
    return f"class error {book.class_error:.2e} · box MAE {book.box_mae:.2e}" if book else NOT_MEASURED


def missing_line(results: Results) -> str:
    """Which figures were not measured, and why; empty if none is missing."""
    names = ", ".join(FIGURES_OF_LOGITS[name] for name in results.not_measured)
    return f"Not measured: {names} ({NO_LOGITS})." if names else ""
