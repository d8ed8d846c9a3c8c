"""Curves as pictures: precision over recall, and the course of a training. Drawn without matplotlib's global state."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from onestage.errors import printable, without_warnings
from onestage.files import write_file
from onestage.metrics.ap import RECALLS
from onestage.metrics.coco import CocoMetrics

History: TypeAlias = Sequence[Mapping[str, float | None]]
"""The figures of a training: one mapping per epoch, in order."""

Shapes: TypeAlias = Sequence[tuple[float, float]]
"""Pairs of width and height."""

INK, FAINT, GRID = "#2b2f36", "#8a919c", "#e4e7ec"
COLOURS = ("#2f6fde", "#e0662f", "#2a9d6f", "#b5489c", "#c79a12", "#5b5bd6", "#1b9aaa", "#d1495b", "#7a8b2c", "#8d6e63")
"""Ten hues that stay apart on white."""

PART_STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
"""Line and marker of the whole loss and of each part. The colour tells training from validation."""

HEIGHT = 3.9
"""Inches of a figure that has no legends below its panels."""

UNNAMED = "_unnamed"
"""The label of a curve that is not in the legend."""


def plot_pr_curves(metrics: CocoMetrics, path: str | Path) -> None:
    """Draw precision over recall as a PNG: left the mean over the classes at three IoUs, right each class at IoU .50.

    Of more than ten classes, the ten with the most objects have a colour and a name; the rest are grey.
    """
    rows = metrics.per_class
    known = sorted((k for k in range(len(rows)) if rows[k].objects), key=lambda k: -rows[k].objects)
    named, unnamed = known[: len(COLOURS)], known[len(COLOURS) :]
    which = f"the {len(named)} most frequent classes" if unnamed else "each class"
    names = max(3, len(named))  # lines of the longer legend
    figure, (left, right) = panels(["Mean over the classes", f"IoU .50, {which}"], height=HEIGHT + 0.1 + 0.2 * names)
    for iou, name, value in ((0.5, ".50", metrics.AP50), (0.75, ".75", metrics.AP75), (None, ".50:.95", metrics.AP)):
        left.plot(RECALLS, metrics.curve(iou), label=f"IoU {name}   AP {value:.3f}", linewidth=2.2)
    for k in unnamed:
        right.plot(RECALLS, metrics.curve(0.5, k), color=GRID, linewidth=1, label=UNNAMED)
    for k in sorted(named, key=lambda k: -rows[k].AP50):
        right.plot(RECALLS, metrics.curve(0.5, k), label=f"{_short(rows[k].name)}   {rows[k].AP50:.3f}", linewidth=1.8)
    for axes in (left, right):
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02))
        _legend(axes, empty="no objects to find", below=True)
    save(figure, path)


def plot_training_curves(history: History, path: str | Path) -> None:
    """Draw a training as a PNG: losses, AP and learning rate over the epochs.

    history: one mapping per epoch, in order, with "epoch" and any of "loss", "loss/PART", "val/loss", "val/loss/PART",
    "val/AP...", "lr". Where a key is missing, or its value is None or NaN, the curve has a gap.
    """
    figure, (losses, accuracy, rate) = panels(["Loss", "Average precision, validation", "Learning rate"])
    keys = list(dict.fromkeys(key for record in history for key in record))
    _draw_losses(losses, history, keys)
    _draw_accuracy(accuracy, history, keys)
    _draw_curve(rate, history, "lr", label=UNNAMED, color=COLOURS[0])
    rate.set_ylim(bottom=0)
    epochs = _values(history, "epoch") or [0]
    for axes in (losses, accuracy, rate):
        axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        _legend(axes, empty="no values")
    save(figure, path)


def class_curves(history: History, classes: Mapping[str, str]) -> bytes:
    """The AP of each class over the epochs, as a PNG. classes: the names, by the key of the class in ``history``.

    Of more than ten classes, the five that end best and the five that end worst have a colour and a name; the rest are grey.
    """
    last = {key: next((v for v in reversed(_values(history, key)) if math.isfinite(v)), -1.0) for key in classes}
    order = sorted(classes, key=lambda key: -last[key])
    half = len(COLOURS) // 2
    named = order if len(order) <= len(COLOURS) else [*order[:half], *order[-half:]]
    figure, (axes,) = panels(["Average precision of each class, validation"], height=HEIGHT + 0.2 * len(named), width=9.2)
    for key in order:
        if key in named:
            _draw_curve(axes, history, key, label=f"{_short(classes[key])}   last {max(last[key], 0):.3f}")
        else:
            _draw_curve(axes, history, key, label=UNNAMED, color=GRID)
    axes.set(xlabel="epoch", ylim=(0, 1.02))
    _legend(axes, empty="no values", below=True)
    return as_png(figure)


def plot_anchors(objects: Shapes, before: Sequence[Shapes], after: Sequence[Shapes], path: str | Path) -> None:
    """Draw objects as a cloud, and the anchor shapes of every level before and after a fit, as a PNG.

    objects: width and height of each, in input pixels. before, after: the shapes of each level, fine to coarse.
    """
    cloud = np.array(objects, dtype=float).reshape(-1, 2)
    figure, row = panels(["Anchors before", "Anchors after"], height=HEIGHT + 0.7)
    sides = np.array([*objects, *(shape for levels in (before, after) for level in levels for shape in level)]).reshape(-1, 2)
    limits = {
        "xlim": (sides[:, 0].min() / 1.2, sides[:, 0].max() * 1.2),
        "ylim": (sides[:, 1].min() / 1.2, sides[:, 1].max() * 1.2),
    }
    for axes, levels in zip(row, (before, after), strict=True):
        axes.scatter(cloud[:, 0], cloud[:, 1], s=6, color=INK, alpha=0.25, linewidths=0)
        for number, level in enumerate(levels):
            colour, marker = COLOURS[number % len(COLOURS)], "os^Dv*XP"[number % 8]
            axes.plot(
                *np.array(level).T,
                linestyle="none",
                marker=marker,
                color=colour,
                markersize=7,
                label=f"level {number}",
                markeredgecolor="white",
            )
        axes.set(xlabel="width, input pixels", ylabel="height, input pixels", xscale="log", yscale="log", **limits)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
        _legend(axes, empty="no anchors")
    save(figure, path)


def _draw_losses(axes: Axes, history: History, keys: Sequence[str]) -> None:
    """The whole loss first, then its parts; in training and validation."""
    names = dict.fromkeys(key.removeprefix("val/") for key in keys)
    parts = sorted((name for name in names if name.partition("/")[0] == "loss"), key=lambda name: name != "loss")
    for name, (line, marker) in zip(parts, PART_STYLES, strict=False):
        part = name.partition("/")[2] or "total"
        _draw_curve(axes, history, name, label=f"{part}, training", color=COLOURS[0], line=line, marker=marker)
        _draw_curve(axes, history, f"val/{name}", label=f"{part}, validation", color=COLOURS[1], line=line, marker=marker)
    axes.set_ylim(bottom=0)


def _draw_accuracy(axes: Axes, history: History, keys: Sequence[str]) -> None:
    """A curve for every kind of AP, its best value in the legend."""
    for key in (key for key in keys if key.startswith("val/AP")):
        best = max(filter(math.isfinite, _values(history, key)), default=math.nan)
        _draw_curve(axes, history, key, label=f"{key.removeprefix('val/')}   best {best:.3f}")
    axes.set_ylim(0, 1.02)


def _values(history: History, key: str) -> list[float]:
    """The value of each epoch; NaN for None and for a missing key."""
    values = (record.get(key) for record in history)
    return [math.nan if value is None else float(value) for value in values]


def _draw_curve(
    axes: Axes, history: History, key: str, *, label: str, color: str | None = None, line: str = "-", marker: str = "o"
) -> None:
    """Draw the values of ``key`` over the epochs that have it, unless no value is a number. color: by default the next one.

    Few points get marks. A single point has no line, so it gets a large mark.
    """
    points = [(record["epoch"], value) for record, value in zip(history, _values(history, key), strict=True) if key in record]
    if not any(math.isfinite(value) for _, value in points):
        return
    single = len(points) == 1
    axes.plot(
        *zip(*points, strict=True),
        label=label,
        color=color,
        linewidth=1.8,
        linestyle="none" if single else line,
        marker=marker if len(points) <= 30 else None,
        markersize=8 if single else 4.5,
    )


def _short(name: str, most: int = 28) -> str:
    shown = printable(name)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def panels(titles: Sequence[str], *, height: float = HEIGHT, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, each of ``width`` x ``height`` inches, in the project's plain style, and its panels."""
    figure = Figure(figsize=(width * len(titles), height), dpi=120, layout="constrained", facecolor="white")
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
    """Name the curves. Write ``empty`` into the middle of the panel if there are none.

    below: under the panel, for curves that may cross all of it; by default at the place with the most room.
    """
    lines = axes.get_lines()
    if all(np.isnan(np.asarray(line.get_ydata(), dtype=float)).all() for line in lines):
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color=FAINT, fontsize=12)
        return
    if not (named := [line for line in lines if line.get_label() != UNNAMED]):
        return
    names = [str(line.get_label()) for line in named]
    if below:
        under = axes.transAxes + ScaledTranslation(0, -46 / 72, axes.figure.dpi_scale_trans)  # the axis takes 46 points
        legend = axes.legend(
            named, names, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=under, borderaxespad=0, borderpad=0,
            frameon=False, fontsize=9.5, handlelength=2.4,
        )  # fmt: skip
    else:
        legend = axes.legend(named, names, loc="best", edgecolor=GRID, fontsize=9.5, handlelength=2.4)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called "$x"


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as a PNG. Raise WriteError if the file cannot be written."""
    write_file(path, as_png(figure))


def as_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    drawn = io.BytesIO()  # Pillow, which encodes it, does not notice when a file on a full disk takes only a part of its bytes
    with without_warnings("Glyph .* missing"):  # a script that the font lacks shows as boxes
        figure.savefig(drawn, format="png")
    return drawn.getvalue()
