"""The types of errors as a picture, for a report or a slide that takes no web page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from onestage.analysis.errors import Errors
from onestage.analysis.wording import by_cost
from onestage.metrics.plots import COLOURS, INK, panels, save
from onestage.metrics.wording import figure


def plot_errors(errors: Errors, path: str | Path) -> None:
    """Draw what each type of error costs, and how many there are, as a PNG. Raise WriteError if it cannot be written."""
    kinds = by_cost(errors)
    names = [kind.name for kind in kinds]
    chart, (costs, counts) = panels([f"AP50 that each type costs (AP50 is {figure(errors.AP)})", "Errors of each type"])
    _bars(costs, names, [kind.gain for kind in kinds], texts=[figure(kind.gain) for kind in kinds])
    _bars(counts, names, [kind.count for kind in kinds], texts=[f"{kind.count:,}" for kind in kinds])
    save(chart, path)


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], *, texts: Sequence[str]) -> None:
    """Bars one below the other, each with its name and its text; a value that is not known has no bar."""
    lengths = [value if math.isfinite(value) else 0.0 for value in values]
    bars = axes.barh(range(len(names)), lengths, color=COLOURS[0], height=0.62)
    axes.bar_label(bars, labels=list(texts), padding=4, color=INK, fontsize=10)
    axes.set_yticks(range(len(names)), labels=list(names))
    axes.set_xlim(0, 1.18 * max([*lengths, 1e-9]))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
