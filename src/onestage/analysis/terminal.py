"""An analysis on the terminal: in short how sure AP is, which score to use, and which errors cost most."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from onestage.analysis.analysis import Analysis
from onestage.analysis.wording import by_cost, olrp_line, reliability_line, sure, threshold_line
from onestage.metrics.terminal import plain_table
from onestage.metrics.wording import figure

TITLES = ("error", "count", "AP50 it costs")


def analysis_table(analysis: Analysis) -> RenderableType:
    """A line for each of AP, AP50, the score to deploy with and oLRP, and a table of the errors. Absent parts are left out."""
    parts: list[RenderableType] = [Text.assemble((f"{name:<14}", "bold"), line) for name, line in _lines(analysis)]
    if analysis.errors is not None:
        rows = [(kind.name, f"{kind.count:,}", figure(kind.gain)) for kind in by_cost(analysis.errors)]
        parts += [Text(), plain_table(TITLES, rows, texts=1)]
    return Group(*parts)


def _lines(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """The name and the words of each line."""
    if analysis.AP is not None:
        drawn = f"   95 % of {analysis.AP.draws:,} draws" if analysis.AP.draws else ""
        yield "AP", sure(analysis.AP.AP) + drawn
        yield "AP50", sure(analysis.AP.AP50)
    if analysis.thresholds is not None:
        yield "Best score", threshold_line(analysis.thresholds.overall, analysis.thresholds.want)
    if analysis.reliability is not None:
        yield "D-ECE", reliability_line(analysis.reliability, analysis.calibrated)
    if analysis.olrp is not None:
        yield "oLRP", olrp_line(analysis.olrp.mean)
