"""Charts as inline SVG: they follow the colours of the page, light and dark, and need no file and no script.

For a screen reader a chart is one picture that its label describes; the figures in it also stand in a table. Lengths are in the
units of the drawing, which are pixels where the page is wide enough. Curves differ in colour and in dashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup

from onestage.errors import printable, shortened
from onestage.metrics.plots import COLOURS

WIDTH = 480
"""Of every chart."""
LONGEST = 34
"""The most characters of a name."""
NEXT_TO_FIGURES = 26
"""The most characters of a name that has an interval beside it."""
ROW = 40
"""The height of a bar with its name."""
LEFT, TOP, SIDE = 44, 10, 300
"""Where the area of a line chart begins, and its height."""
NAMES = 130
"""The room for the names beside and above a matrix."""
DASHES = ("none", "9 4", "2 3", "11 3 2 3")
"""Of one curve after the other."""

STYLE = """  svg.chart { display: block; width: 100%; max-width: 34rem; height: auto; font: 13px system-ui, sans-serif; }
  .chart text { fill: var(--ink); }
  .chart .grid { stroke: var(--line); }
  .chart .track { fill: var(--line); }
  .chart .bar, .chart .cell { fill: var(--blue); }
  .chart .bar.first { fill: #e0662f; stroke: none; }
  .chart .bar.second { fill: var(--blue); stroke: none; }
  .chart .range { stroke: var(--ink); stroke-width: 2; }
  .chart .first { stroke: #e0662f; fill: #e0662f; stroke-width: 2.5; }
  .chart .second { stroke: var(--blue); fill: var(--blue); stroke-width: 2.5; }
  .chart .unsure { stroke: var(--faint); fill: var(--paper); stroke-width: 2; stroke-dasharray: 4 3; }
  .chart circle.unsure { stroke-dasharray: none; }
  .chart .zero { stroke: var(--faint); stroke-width: 1.5; }
  .chart .curve { fill: none; stroke-width: 2; }
  .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1.5rem; }
  @media (max-width: 40rem) { svg.rows { font-size: 16px; } }
  @media print { .chart * { print-color-adjust: exact; } }
"""
"""What a page with charts adds to its style."""


Side = Literal["first", "second", ""]
"""One of two things, which has a colour, or neither."""


class Bar(NamedTuple):
    """A value with its name and its text; low, high: its interval, or NaN. side: what it belongs to."""

    name: str
    value: float
    text: str
    low: float = math.nan
    high: float = math.nan
    side: Side = ""


class Change(NamedTuple):
    """A difference of the second of two things less the first, with its name, text and interval. side: which of the two it
    speaks for; empty if for none.
    """

    name: str
    value: float
    text: str
    low: float
    high: float
    side: Side


class Curve(NamedTuple):
    """Points from left to right, each (x, y) within 0..1; those with a NaN are left out."""

    name: str
    points: Sequence[tuple[float, float]]


def bar_chart(label: str, bars: Sequence[Bar], *, most: float = 1.0) -> Markup:
    """Bars one below the other, each under its name and text; one of the value ``most`` has the full width."""
    drawn = (part for number, bar in enumerate(bars) for part in _bar(bar, ROW * number, most))
    return _svg(label, ROW * max(len(bars), 1), drawn, kind="chart rows")


def difference_chart(label: str, rows: Sequence[Change], *, left: str, right: str) -> Markup:
    """Differences one below the other, each under its name and text: a point and its interval beside or across the line of 0.

    Those that speak for neither have a hollow point and a dashed line. left, right: what the two sides mean.
    """
    most = _round_limit([abs(part) for row in rows for part in (row.value, row.low, row.high)])
    bottom = TOP + 20 + ROW * len(rows)
    zero = Markup('<path class="zero" d="M{0} {1}V{2}"/>').format(WIDTH // 2, TOP + 16, bottom)
    heads = [_text(0, TOP + 4, f"\u2190 {left}"), _text(WIDTH, TOP + 4, f"{right} \u2192", anchor="end")]
    drawn = [part for number, row in enumerate(rows) for part in _change(row, TOP + 20 + ROW * number, most)]
    scale = [(0, f"-{most:g}", "start"), (WIDTH // 2, "0", "middle"), (WIDTH, f"+{most:g}", "end")]
    foot = [_text(x, bottom + 16, text, anchor=anchor) for x, text, anchor in scale]
    return _svg(label, bottom + 22, [*heads, zero, *drawn, *foot], kind="chart rows")


def line_chart(label: str, curves: Sequence[Curve], *, x: str, y: str, diagonal: str = "") -> Markup:
    """Curves from 0 to 1 both ways, with their names below. x, y: what the axes show. diagonal: the name of the line x = y."""
    named = [Curve(diagonal, [(t / 20, t / 20) for t in range(21)]), *curves] if diagonal else curves
    drawn = [*_axes(x, y), *(part for number, curve in enumerate(named) for part in _curve(curve, number))]
    return _svg(label, TOP + SIDE + 52 + 20 * len(named), drawn)


def matrix_chart(label: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """A square of counts, the darker the larger the share of its row. names: of the rows, and of the columns."""
    return _svg(label, WIDTH, _cells(names, counts, (WIDTH - NAMES) / max(len(names), 1)))


def _svg(label: str, height: float, parts: Iterable[Markup], *, kind: str = "chart") -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {:g}" role="img" aria-label="{}">\n{}\n</svg>')
    return head.format(kind, WIDTH, height, printable(label), Markup("\n").join(parts))


def _text(x: float, y: float, text: str, *, anchor: str = "start", turned: int = 0) -> Markup:
    """A text at its start, middle or end; turned: by so many degrees, clockwise."""
    turn = Markup(' transform="rotate({} {:.1f} {:.1f})"').format(turned, x, y) if turned else Markup()
    shown = shortened(printable(text), LONGEST)
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(x, y, anchor, turn, shown)


def _bar(bar: Bar, top: float, most: float) -> Iterator[Markup]:
    rectangle = Markup('<rect class="{}" x="0" y="{:g}" width="{:.1f}" height="10" rx="3"/>')
    yield _text(0, top + 14, bar.name)
    yield _text(WIDTH, top + 14, bar.text, anchor="end")
    yield rectangle.format("track", top + 20, WIDTH)
    yield rectangle.format(f"bar {bar.side}".strip(), top + 20, _part(bar.value, most))
    if math.isfinite(bar.low) and math.isfinite(bar.high):
        low, high = _part(bar.low, most), _part(bar.high, most)
        line = Markup('<path class="range" d="M{:.1f} {:g}H{:.1f}M{:.1f} {:g}v8M{:.1f} {:g}v8"/>')
        yield line.format(low, top + 25, high, low, top + 21, high, top + 21)


def _part(value: float, most: float) -> float:
    """The length of a bar; none for NaN."""
    return WIDTH * min(max(value / most, 0.0), 1.0) if math.isfinite(value) and most > 0 else 0.0


def _round_limit(values: Iterable[float]) -> float:
    """The least of .01, .02, .05, .1 ... 1 that none of the values, 0..1, exceeds."""
    highest = max((value for value in values if math.isfinite(value)), default=0.0)
    return next(limit for limit in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0) if limit >= highest or limit == 1)


def _change(row: Change, top: float, most: float) -> Iterator[Markup]:
    """A difference with its name and text above it; without a point if it is not known."""
    kind, middle = row.side or "unsure", top + 26
    yield _text(0, top + 14, shortened(row.name, NEXT_TO_FIGURES))
    yield _text(WIDTH, top + 14, row.text, anchor="end")
    yield Markup('<path class="grid" d="M0 {:g}H{}"/>').format(middle, WIDTH)
    value, low, high = (_part(0.5 + part / most / 2, 1.0) for part in (row.value, row.low, row.high))
    if math.isfinite(row.low) and math.isfinite(row.high):
        line = Markup('<path class="{}" d="M{:.1f} {:g}H{:.1f}M{:.1f} {:g}v8M{:.1f} {:g}v8"/>')
        yield line.format(kind, low, middle, high, low, middle - 4, high, middle - 4)
    if math.isfinite(row.value):
        yield Markup('<circle class="{}" cx="{:.1f}" cy="{:g}" r="5"/>').format(kind, value, middle)


def _place(x: float, y: float) -> str:
    return f"{LEFT + x * (WIDTH - LEFT - 10):.1f} {TOP + (1 - y) * SIDE:.1f}"


def _axes(x: str, y: str) -> Iterator[Markup]:
    """The grid with its numbers, and what the axes show."""
    bottom, right = TOP + SIDE, WIDTH - 10
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        across, down = (float(part) for part in _place(tick, tick).split())
        line = Markup('<path class="grid" d="M{} {}H{}M{} {}V{}"/>')
        yield line.format(LEFT, down, right, across, TOP, bottom)
        yield _text(LEFT - 6, down + 4, f"{tick:.1f}", anchor="end")
        yield _text(across, bottom + 18, f"{tick:.1f}", anchor="middle")
    yield _text((LEFT + right) / 2, bottom + 36, x, anchor="middle")
    yield _text(12, TOP + SIDE / 2, y, anchor="middle", turned=-90)


def _curve(curve: Curve, number: int) -> Iterator[Markup]:
    """The curve, and its line in the list of names."""
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    known = [_place(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y)]
    line = Markup('<path class="curve" stroke="{}" stroke-dasharray="{}" d="{}"/>')
    if known:
        yield line.format(colour, dash, "M" + "L".join(known))
    for point in known if len(known) <= 12 else ():
        x, y = point.split()
        yield Markup('<circle cx="{}" cy="{}" r="3.5" fill="{}"/>').format(x, y, colour)
    top = TOP + SIDE + 60 + 20 * number
    yield line.format(colour, dash, f"M{LEFT} {top - 4}h34")
    yield _text(LEFT + 42, top, curve.name)


def _cells(names: Sequence[str], counts: Sequence[Sequence[int]], side: float) -> Iterator[Markup]:
    """The cells that are not 0, and the names; side: of a cell."""
    cell = Markup(
        '<rect class="cell" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}"><title>{}</title></rect>'
    )
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        place, total = NAMES + (i + 0.5) * side, sum(row)
        yield _text(NAMES - 6, place + 4, shortened(name, 18), anchor="end")
        yield _text(place + 4, NAMES - 6, shortened(name, 18), turned=-90)
        for j, count in enumerate(row):
            if count:
                told = printable(f"{name}, detected as {names[j]}: {count:,}")
                corner = NAMES + j * side, NAMES + i * side
                yield cell.format(*corner, side - 1, side - 1, 0.08 + 0.5 * count / total, told)
                if side >= 30:
                    yield _text(corner[0] + side / 2, corner[1] + side / 2 + 4, f"{count:,}", anchor="middle")
