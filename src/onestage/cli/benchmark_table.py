"""The figures of ``onestage benchmark`` on the terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from onestage.console import Terminal, words
from onestage.deploy import benchmark_wording as wording
from onestage.deploy.cells import Row, lost

if TYPE_CHECKING:
    from onestage.deploy.benchmark_views import Findings

TEXTS = ("model", "runs on")
"""Columns of words; the others are numbers."""
LEAST_FIRST = ("spread", "network", "99 %", "MB", "of peak", "pictures/s", "against fp32")
"""The columns that a narrow terminal does without, in this order."""
NARROWEST = 12
"""Characters that the model's name gets at least; it may go on in the next line."""


def show(terminal: Terminal, findings: Findings) -> None:
    """Print the cells, the machine, what a reader should know, and which cell to deploy."""
    terminal.print(_table(findings, terminal.width))
    if findings.peaks:
        peaks = ", ".join(f"{kind} {value:,.0f}" for kind, value in findings.peaks.items())
        terminal.print(words((f"this machine's peak, thousand million operations a second: {peaks}", "dim")))
    terminal.print(words((", ".join(f"{key} {value}" for key, value in findings.environment.items()), "dim")))
    for remark in wording.remarks(findings.rows, findings.peaks):
        terminal.print(words((remark, "yellow")))
    for sentence in findings.sentences:
        terminal.print(words((sentence, "bold")))


def _table(findings: Findings, width: int) -> Table:
    """The table in ``width`` characters, without the least important columns if they do not fit."""
    columns = dict(COLUMNS)
    rows = findings.measured
    if len({row.cell.batch for row in rows}) == 1:
        del columns["at once"]
    if all(row.ap is None for row in rows):
        del columns["AP"], columns["against fp32"]
    if not findings.peaks:
        del columns["of peak"]
    if len({row.cell.model for row in rows}) == 1:
        del columns["model"]
    for least in LEAST_FIRST:
        if _needs(findings, columns) <= width:
            break
        columns.pop(least, None)
    return _made(findings, columns, folded=True)


def _needs(findings: Findings, columns: Mapping[str, Cells]) -> int:
    """The width of the table, if the models' names may break."""
    longest = max((len(_name(row, findings)) for row in findings.measured), default=0) if "model" in columns else 0
    table = _made(findings, columns, folded=False)
    return Terminal(width=10_000).measure(table).maximum - max(0, longest - NARROWEST)


def _made(findings: Findings, columns: Mapping[str, Cells], *, folded: bool) -> Table:
    models = list(dict.fromkeys(row.cell.model for row in findings.measured))
    batches = {row.cell.batch for row in findings.measured}
    title = "milliseconds of a turn, from picture files to boxes"
    title = f"{models[0]}: {title}" if "model" not in columns else title
    title += f", {batches.pop()} at once" if len(batches) == 1 and batches != {1} else ""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=words(title), title_justify="left")
    for name in columns:
        text = name in TEXTS
        table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not (folded and name == "model"))
    for row in findings.measured:
        table.add_row(*(words((cell(row, findings), "bold" if name in TEXTS[:1] else "")) for name, cell in columns.items()))
    return table


def _name(row: Row, findings: Findings) -> str:
    """The model's name; without .safetensors, unless another model is called so."""
    short = row.cell.model.removesuffix(".safetensors")
    return row.cell.model if any(other.cell.model == short for other in findings.measured) else short


Cells = Callable[[Row, "Findings"], str]
"""A function that gives the text of a cell."""

COLUMNS: dict[str, Cells] = {
    "model": _name,
    "runs on": lambda row, _: wording.engine(row),
    "at once": lambda row, _: str(row.cell.batch),
    "median": lambda row, _: wording.milliseconds(row.median),
    "90 %": lambda row, _: wording.milliseconds(row.percentile(90)),
    "99 %": lambda row, _: wording.milliseconds(row.percentile(99)),
    "spread": lambda row, _: wording.percent(row.spread),
    "network": lambda row, _: wording.network(row),
    "pictures/s": lambda row, _: wording.rate(row.rate),
    "MB": lambda row, _: wording.megabytes(row.memory),
    "of peak": lambda row, findings: wording.percent(row.share(dict(findings.peaks))),
    "AP": lambda row, _: wording.accuracy(row.ap),
    "against fp32": lambda row, findings: wording.cost(lost(findings.rows, row)),
}
"""All columns, and what stands in each."""
