"""Curves as pictures: precision over recall, and how a training went. Drawn without matplotlib's global state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from onestage.metrics.coco import RECALLS, CocoMetrics

INK, FAINT, GRID = "#2b2f36", "#8a919c", "#e4e7ec"
COLOURS = ("#2f6fde", "#e0662f", "#2a9d6f", "#b5489c", "#c79a12", "#5b5bd6", "#1b9aaa", "#d1495b", "#7a8b2c", "#8d6e63")
"""Ten hues that stay apart on white."""

PART_STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
"""Line and marker of the whole loss and of its parts; its colour says what it was measured on."""

HEIGHT = 3.9
"""Inches of a figure without legends below its panels."""

UNNAMED = "_unnamed"
"""The label of a curve that is not in the legend."""


def plot_pr_curves(metrics: CocoMetrics, path: str | Path) -> None:
    """Precision over recall as a PNG: the mean over the classes at three IoUs on the left, each class at IoU .50 on the right.

    Of more than ten classes, those with the most objects are named and the others are grey.
    """
    rows = metrics.per_class
    known = sorted((k for k in range(len(rows)) if rows[k].objects), key=lambda k: -rows[k].objects)
    named, others = known[: len(COLOURS)], known[len(COLOURS) :]
    which = f"the {len(named)} most frequent classes" if others else "each class"
    names = max(3, len(named))  # lines of the longer legend
    figure, (left, right) = panels(["Mean over the classes", f"IoU .50, {which}"], height=HEIGHT + 0.1 + 0.2 * names)
    for iou, name, value in ((0.5, ".50", metrics.AP50), (0.75, ".75", metrics.AP75), (None, ".50:.95", metrics.AP)):
        left.plot(RECALLS, metrics.curve(iou), label=f"IoU {name}   AP {value:.3f}", linewidth=2.2)
    for k in others:
        right.plot(RECALLS, metrics.curve(0.5, k), color=GRID, linewidth=1, label=UNNAMED)
    for k in sorted(named, key=lambda k: -rows[k].AP50):
        right.plot(RECALLS, metrics.curve(0.5, k), label=f"{_short(rows[k].name)}   {rows[k].AP50:.3f}", linewidth=1.8)
    for axes in (left, right):
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02))
        _legend(axes, empty="no objects to find", below=True)
    save(figure, path)


def plot_training_curves(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """How a training went, as a PNG: losses, AP and learning rate over the epochs.

    history: one mapping per epoch, in order, with "epoch" and any of "loss", "loss/PART", "val/loss", "val/loss/PART",
    "val/AP...", "lr". A key may be missing, a value None or NaN: the curve has a gap there.
    """
    figure, (losses, accuracy, rate) = panels(["Loss", "Average precision, validation", "Learning rate"])
    keys = list(dict.fromkeys(key for entry in history for key in entry))
    names = {key.removeprefix("val/"): None for key in keys}  # a dict, to keep their order
    parts = sorted((name for name in names if name.partition("/")[0] == "loss"), key=lambda name: name != "loss")
    for key, (line, marker) in zip(parts, PART_STYLES, strict=False):
        for name, label, colour in ((key, "training", COLOURS[0]), (f"val/{key}", "validation", COLOURS[1])):
            _curve(losses, history, name, label=f"{_part(key)}, {label}", color=colour, linestyle=line, marker=marker)
    for key in (key for key in keys if key.startswith("val/AP")):
        best = max((v for v in _values(history, key) if math.isfinite(v)), default=math.nan)
        _curve(accuracy, history, key, label=f"{key.removeprefix('val/')}   best {best:.3f}")
    _curve(rate, history, "lr", color=COLOURS[0], label=UNNAMED)
    accuracy.set_ylim(0, 1.02)
    losses.set_ylim(bottom=0)
    rate.set_ylim(bottom=0)
    epochs = [entry["epoch"] for entry in history] or [0]
    for axes in (losses, accuracy, rate):
        axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        _legend(axes, empty="no values")
    save(figure, path)


def _values(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [math.nan if entry.get(key) is None else float(entry[key]) for entry in history]


def _curve(axes: Axes, history: Sequence[Mapping[str, Any]], key: str, *, marker: str = "o", **style: Any) -> None:
    """Draws the values of ``key`` over the epochs that have it, unless none is a number. Few points are marked, a single one,
    which has no line to be seen by, with a large mark.
    """
    points = [(entry["epoch"], value) for entry, value in zip(history, _values(history, key), strict=True) if key in entry]
    if any(math.isfinite(value) for _, value in points):
        marks: dict[str, Any] = {"marker": marker, "markersize": 4.5} if len(points) <= 30 else {}
        if len(points) == 1:
            marks |= {"markersize": 8, "linestyle": "none"}
        axes.plot(*zip(*points, strict=True), linewidth=1.8, **style | marks)


def _part(key: str) -> str:
    """The name of a part of the loss: "loss" is the whole, "loss/box" its part of that name."""
    return key.partition("/")[2] or "total"


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def panels(titles: Sequence[str], *, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, ``height`` inches high, in the project's plain style."""
    figure = Figure(figsize=(4.6 * len(titles), height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    row = [figure.add_subplot(1, len(titles), number + 1) for number in range(len(titles))]
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
        axes.set_prop_cycle(color=COLOURS)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=10)
        axes.xaxis.label.set_fontsize(11)
        axes.yaxis.label.set_fontsize(11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
    return figure, row


def _legend(axes: Axes, *, empty: str, below: bool = False) -> None:
    """Names the curves; where there are none, says so in the middle of the panel.

    below: under the panel, for curves that may go anywhere in it; else where they leave most room.
    """
    lines = axes.get_lines()
    if all(np.isnan(np.asarray(line.get_ydata(), dtype=float)).all() for line in lines):
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color=FAINT, fontsize=12)
        return
    named = [line for line in lines if line.get_label() != UNNAMED]
    if named:
        names = [str(line.get_label()) for line in named]
        place: dict[str, Any] = {"loc": "best", "edgecolor": GRID}
        if below:
            under = ScaledTranslation(0, -46 / 72, axes.figure.dpi_scale_trans)  # the axis has 46 points
            place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": axes.transAxes + under}
            place |= {"borderaxespad": 0, "borderpad": 0, "frameon": False}
        legend = axes.legend(named, names, fontsize=9.5, handlelength=2.4, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be called "$x"


def save(figure: Figure, path: str | Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks shows as boxes
        figure.savefig(path, format="png")
