"""The figures of a benchmark as files: JSON with every single time, CSV, a picture, and a page that holds all of it."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from onestage.deploy import benchmark_wording as wording
from onestage.deploy.cells import PERCENTILES, SURE, Row, Wish, front, lost, turns_for
from onestage.errors import printable, shortened
from onestage.files import Json, write_file
from onestage.metrics.page import Section, as_base64, fragment, sectioned, table
from onestage.metrics.plots import COLOURS, FAINT, HEIGHT, INK, as_png, panels

FILES = ("benchmark.json", "benchmark.csv", "benchmark.png", "index.html")
"""What is written into a folder."""
MARKERS = {"torch": "o", "onnxruntime": "s", "openvino": "D", "ncnn": "^", "litert": "v"}
"""The mark of each runtime."""
LINE, WIDTH = 14, 42
"""Pixels: the height and the width of a label beside a point."""
LONGEST = 30
"""Characters of a name in the picture."""
COLUMNS = (
    *("model", "runtime", "numbers", "computed_in", "batch", "input", "turns", "p50_ms", "p90_ms", "p99_ms", "slowest_ms"),
    *(
        "spread",
        "pictures_per_second",
        "decode_ms",
        "resize_ms",
        "network_ms",
        "boxes_ms",
        "memory_bytes",
        "memory_before_bytes",
    ),
    *("gpu_memory_bytes", "multiply_adds", "gop_per_second", "share_of_peak", "ap", "ap_lost", "ap_pictures", "other_work"),
    "not_measured",
)
"""Of the CSV file. Times are of a turn: of all pictures that go through at once."""


@dataclass(frozen=True)
class Findings:
    """All that a benchmark found. peaks: thousand million operations a second that this machine can do, by the numbers.
    environment: what the times depend on. data: what the pictures are. command: what was typed.
    """

    rows: Sequence[Row]
    wish: Wish = wording.NO_WISH
    peaks: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str | int] = field(default_factory=dict)
    data: str = ""
    command: str = ""

    @property
    def measured(self) -> list[Row]:
        """The cells that have times."""
        return [row for row in self.rows if row.timing is not None]

    @property
    def sentences(self) -> list[str]:
        """Which cell to deploy."""
        return wording.conclusion(self.rows, self.wish)


def save(findings: Findings, folder: Path) -> None:
    """Write FILES into the folder."""
    picture = plot(findings)
    write_file(folder / "benchmark.json", to_json(findings))
    write_file(folder / "benchmark.csv", to_csv(findings))
    write_file(folder / "benchmark.png", picture)
    write_file(folder / "index.html", page(findings, picture))


def to_json(findings: Findings) -> str:
    """Every single time, in seconds, and what they depend on."""
    plain: dict[str, Json] = {
        "environment": dict(findings.environment),
        "command": findings.command,
        "data": findings.data,
        "peaks": dict(findings.peaks),
        "conclusion": list(findings.sentences),
        "timings": [_timed(row, findings) for row in findings.measured],
        "not_measured": [asdict(row.cell) | {"reason": row.reason} for row in findings.rows if row.timing is None],
    }
    return json.dumps(plain, indent=1)


def _timed(row: Row, findings: Findings) -> dict[str, Json]:
    """A cell with its times."""
    timing = row.timing
    assert timing is not None
    figures = {key: value for key, value in cells(row, findings).items() if key not in ("model", "input", "not_measured")}
    times: dict[str, Json] = {
        stage: list(getattr(timing, stage)) for stage in ("predict", "decode", "resize", "network", "boxes")
    }
    about: dict[str, Json] = {"given": row.cell.model, "model": timing.model, "input": list(timing.input)}
    return about | figures | times


def cells(row: Row, findings: Findings) -> dict[str, Json]:
    """The figures of a cell by the names of the columns; None where there is none."""
    timing, found = row.timing, dict[str, Json].fromkeys(COLUMNS)
    found |= {"model": row.cell.model, "runtime": row.cell.runtime, "numbers": row.cell.numbers, "batch": row.cell.batch}
    found["not_measured"] = row.reason or None
    if timing is None:
        return found
    found |= {f"p{p}_ms": _rounded(row.percentile(p), 1000) for p in PERCENTILES}
    for stage in ("decode", "resize", "network", "boxes"):
        found[f"{stage}_ms"] = _rounded(statistics.median(getattr(timing, stage)), 1000)
    return found | {
        "computed_in": timing.numbers,
        "input": f"{timing.input[0]}x{timing.input[1]}",
        "turns": len(timing.whole),
        "slowest_ms": _rounded(max(timing.whole), 1000),
        "spread": _rounded(row.spread),
        "pictures_per_second": _rounded(row.rate),
        "memory_bytes": row.memory,
        "memory_before_bytes": row.before,
        "gpu_memory_bytes": row.gpu_memory,
        "multiply_adds": row.multiply_adds,
        "gop_per_second": _rounded(row.operations),
        "share_of_peak": _rounded(row.share(dict(findings.peaks))),
        "ap": _rounded(row.ap),
        "ap_lost": _rounded(lost(findings.rows, row)),
        "ap_pictures": row.measured or None,
        "other_work": _rounded(row.others),
    }


def _rounded(value: float | None, times: float = 1.0) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value * times, 5)


def to_csv(findings: Findings) -> str:
    """A row for each cell, those that were not measured too."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(cells(row, findings) for row in findings.rows)
    return text.getvalue()


def plot(findings: Findings) -> bytes:
    """AP over latency as a PNG; without AP the latency of each cell, from the median to the 90th percentile."""
    with_ap = [row for row in findings.measured if row.ap is not None]
    rows = with_ap or findings.measured
    if with_ap:
        figure, (axes,) = panels(["AP against latency"], height=HEIGHT + 1.2, width=9.2)
        _draw_points(axes, rows)
    else:
        figure, (axes,) = panels(["Latency"], height=1.4 + 0.3 * max(len(rows), 3), width=9.2)
        _draw_bars(axes, rows)
    if findings.wish.at_most is not None:
        axes.axvline(1000 * findings.wish.at_most, color=INK, linewidth=1.2, linestyle="--", label="wished")
    if with_ap and findings.wish.least_ap is not None:
        axes.axhline(findings.wish.least_ap, color=INK, linewidth=1.2, linestyle="--")
    if with_ap:
        _name_points(figure, axes)
    return as_png(figure)


def _draw_points(axes: Axes, rows: Sequence[Row]) -> None:
    """A point for each cell, with a line to its 90th percentile; those that no other one beats are joined."""
    models = list(dict.fromkeys(row.cell.model for row in rows))
    best = front(rows)
    axes.plot([1000 * row.latency for row in best], [row.ap or 0.0 for row in best], color=FAINT, linewidth=1, zorder=1)
    for model in models:
        colour = COLOURS[models.index(model) % len(COLOURS)]
        for row in (row for row in rows if row.cell.model == model):
            x, y = 1000 * row.latency, row.ap or 0.0
            axes.plot([1000 * row.median, x], [y, y], color=colour, linewidth=1.5, alpha=0.5, zorder=2)
            marker = MARKERS.get(row.cell.runtime, "P")
            axes.plot([x], [y], marker, color=colour, markersize=8, markeredgecolor="white", zorder=3)
        axes.plot([], [], "o", color=colour, label=shortened(printable(model), LONGEST))
    for runtime in dict.fromkeys(row.cell.runtime for row in rows):
        axes.plot([], [], MARKERS.get(runtime, "P"), color=FAINT, label=runtime)
    axes.set(xlabel=f"milliseconds of a turn, {_which(rows)}", ylabel="AP", xscale="log")
    _plain_numbers(axes)
    axes.margins(0.12)
    _label_points(axes, rows)


def _label_points(axes: Axes, rows: Sequence[Row]) -> None:
    """Write beside each point what it is computed in, at the nearest place where no other label is."""
    axes.autoscale_view()
    models, taken = list(dict.fromkeys(row.cell.model for row in rows)), list[tuple[float, float]]()
    for row in sorted(rows, key=lambda row: row.latency):
        point = (1000 * row.latency, row.ap or 0.0)
        x, y = axes.transData.transform(point)
        places = [step * LINE for step in (0.5, -1.3, 1.5, -2.3, 2.5, -3.3)]
        free = (up for up in places if not any(abs(x - a) < WIDTH and abs(y + up - b) < 0.9 * LINE for a, b in taken))
        up = next(free, places[0])
        taken.append((x, y + up))
        place, colour = (5, up * 72 / axes.figure.dpi), COLOURS[models.index(row.cell.model) % len(COLOURS)]
        axes.annotate(_short_engine(row, rows), point, place, textcoords="offset points", fontsize=8, color=colour)


def _short_engine(row: Row, rows: Sequence[Row]) -> str:
    """The numbers of a cell; and how many pictures go through at once, if that differs."""
    return row.cell.numbers + (f" ×{row.cell.batch}" if len({other.cell.batch for other in rows}) > 1 else "")


def _which(rows: Sequence[Row]) -> str:
    """What a latency is."""
    enough = all(row.timing is not None and len(row.timing.whole) >= turns_for(90) for row in rows)
    return "which 90 % do not exceed" if enough else "which 90 % do not exceed (of few turns, the slowest)"


def _draw_bars(axes: Axes, rows: Sequence[Row]) -> None:
    """A bar for each cell, the fastest at the top."""
    models = list(dict.fromkeys(row.cell.model for row in rows))
    order = sorted(rows, key=lambda row: -row.median)
    for place, row in enumerate(order):
        colour = COLOURS[models.index(row.cell.model) % len(COLOURS)]
        axes.barh(place, 1000 * row.median, color=colour, height=0.6)
        axes.plot([1000 * row.median, 1000 * row.latency], [place, place], color=INK, linewidth=1.5)
        axes.text(1000 * row.latency, place, f"  {wording.milliseconds(row.latency)}", va="center", fontsize=9, color=INK)
    names = [shortened(printable(wording.name(row, rows)), 2 * LONGEST) for row in order]
    axes.set_yticks(range(len(order)), names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a file may be called "$x"
    axes.margins(x=0.12)
    axes.set(
        xlabel=f"milliseconds of a turn: the median, and\n{_which(rows)}", xlim=(0, None), ylim=(-0.7, max(len(order), 3) - 0.3)
    )


def _plain_numbers(axes: Axes) -> None:
    """Plain numbers at the ticks of a logarithmic axis."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _name_points(figure: Figure, axes: Axes) -> None:
    legend = axes.legend(loc="best", fontsize=9, frameon=True, ncols=2)
    for text in legend.get_texts():
        text.set_parse_math(False)


FIGURE = """<figure><img src="data:image/png;base64,{{ data }}" alt="{{ alt }}; the table has the figures"></figure>
"""
LINES = "{% for line in lines %}<p>{{ line }}</p>\n{% endfor %}"


def page(findings: Findings, picture: bytes) -> str:
    """The page as HTML. picture: the PNG of ``plot``."""
    environment = " · ".join(f"{key} {value}" for key, value in findings.environment.items())
    title, alt = "Latency", "The latency of each cell"
    if any(row.ap is not None for row in findings.measured):
        title, alt = "AP against latency", "AP of each cell over its latency"
    lines = [_line(row, findings) for row in findings.measured]
    parts = [
        Section(title, fragment(FIGURE, data=as_base64(picture), alt=alt)),
        Section("Every cell", table("Times are of a turn, from picture files to boxes", HEAD, lines, texts=2)),
        *_more_sections(findings),
        Section("How to read this page", fragment(LINES, lines=reading(findings))),
    ]
    subtitle = " · ".join(filter(None, (findings.data, environment)))
    return sectioned(
        "Which detector to deploy", subtitle, lead=findings.sentences, parts=parts, tiles=_tiles(findings), style=STYLE
    )


STYLE = """  td, th { padding: .35rem .5rem; font-size: .9rem; }
"""
"""Many columns: less room between them."""


def _tiles(findings: Findings) -> list[tuple[str, str]]:
    """The first figures of the page."""
    measured = findings.measured
    tiles = [("cells measured", f"{len(measured)} of {len(findings.rows)}")]
    if measured:
        tiles.append(("least median, ms", wording.milliseconds(min(row.median for row in measured))))
        tiles.append(("most pictures a second", wording.rate(max(row.rate for row in measured))))
    if known := [row.ap for row in measured if row.ap is not None]:
        tiles.append(("best AP", wording.accuracy(max(known))))
    return tiles


def _more_sections(findings: Findings) -> list[Section]:
    """What could not be measured, and what the machine can do."""
    sections = []
    failed = [(str(row.cell), row.reason) for row in findings.rows if row.timing is None]
    failed += [(f"the AP of {row.cell}", row.no_ap) for row in findings.measured if row.ap is None and row.no_ap]
    if failed:
        sections.append(Section("Not measured", table("Why", ("cell", "reason"), failed, texts=2)))
    if findings.peaks:
        peaks = [(kind, f"{value:,.0f}") for kind, value in findings.peaks.items()]
        caption = "Thousand million operations a second of plain products, the best of a matrix product and a convolution"
        sections.append(Section("What this machine can do", table(caption, ("numbers", "measured peak"), peaks)))
    return sections


HEAD = (
    *("model", "runs on", "at once", "median ms", "90 % ms", "99 % ms", "pictures/s", "AP", "against fp32", "memory MB"),
    *("of the peak", "network ms", "spread", "turns", "input"),
)


def _line(row: Row, findings: Findings) -> list[str]:
    """The figures of a cell in words."""
    timing = row.timing
    assert timing is not None
    return [
        row.cell.model,
        wording.engine(row),
        str(row.cell.batch),
        wording.milliseconds(row.median),
        wording.milliseconds(row.percentile(90)),
        wording.milliseconds(row.percentile(99)),
        wording.rate(row.rate),
        wording.accuracy(row.ap),
        wording.cost(lost(findings.rows, row)),
        wording.megabytes(row.memory),
        wording.percent(row.share(dict(findings.peaks))),
        wording.network(row),
        wording.percent(row.spread),
        f"{len(timing.whole)}",
        f"{timing.input[0]}x{timing.input[1]}",
    ]


def reading(findings: Findings) -> list[str]:
    """What a newcomer needs to know, and the remarks about these figures."""
    needed = ", ".join(f"{turns_for(p)} for {p} %" for p in PERCENTILES)
    return [
        "A turn takes picture files to boxes: it reads and decodes them, resizes them, runs the network, and ends with boxes \
in pixels of the pictures. All pictures of a turn are there when it begins, so a turn is what each of them waits.",
        f"90 % of the turns take at most the time in that column. A percentile is given only if the slowest turn lies above \
the true one with a probability of {SURE:.0%}. The turns that this takes: {needed}. Spread: the range of the middle half of \
the turns, as a share of the median.",
        "Each cell ran alone, in a process that ended afterwards. Memory is the most that this process had at a time; Python, \
torch and this package are in it, whatever runs the model.",
        "Of the peak: two operations for each multiply-add of the network, divided by the time of the engine and by what plain \
products reach on this machine with the same numbers. NMS and all that is in the file counts as time.",
        "Against fp32: how the AP differs from that of the same model by torch in fp32, or else by another runtime in fp32, on \
the same pictures.",
        *wording.remarks(findings.rows, findings.peaks),
        *([f"Made by: {findings.command}"] if findings.command else []),
    ]
