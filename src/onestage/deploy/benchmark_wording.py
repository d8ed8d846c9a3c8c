"""What the figures of a benchmark say, in sentences and cells of tables: the same on the terminal, the page and in the docs."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from onestage.deploy.cells import BUSY, PERCENTILES, Row, Wish, best, lost, turns_for
from onestage.deploy.export import FORMATS
from onestage.deploy.runtimes import format_for
from onestage.errors import counted
from onestage.predict.exported import is_exported

NO_WISH = Wish()
NAMED = 4
"""Models of which a sentence says what is the fastest for each. Of more, only the fastest one is named."""


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds, with three digits; "-" if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def megabytes(count: int | None) -> str:
    """Bytes in millions."""
    return "-" if count is None else f"{count / 1e6:,.0f}"


def percent(share: float | None) -> str:
    """A share of 1 in percent."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.0f} %"


def accuracy(value: float | None) -> str:
    """An AP, 0..1."""
    return "-" if value is None else f"{value:.4f}".removeprefix("0") if value < 1 else "1.000"


def cost(value: float | None) -> str:
    """How much AP is lost, as a change: -.0045 for a loss."""
    if value is not None and abs(value) < 0.00005:
        return "0"
    return "-" if value is None else f"{-value:+.4f}".replace("0.", ".", 1)


def rate(value: float) -> str:
    """Pictures per second."""
    return "-" if not value else f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def engine(row: Row) -> str:
    """What runs a cell. A file in fp16 may be computed in fp32, and then this says so."""
    computed = "" if row.timing is None or row.cell.numbers in (row.timing.numbers, "int8") else f" (in {row.timing.numbers})"
    return row.cell.engine + computed


def network(row: Row) -> str:
    """The median milliseconds of the engine alone, of a turn."""
    return "-" if row.timing is None else milliseconds(statistics.median(row.timing.network))


def speed(row: Row) -> str:
    """How long a turn of a cell takes, as exactly as the number of its turns allows."""
    assert row.timing is not None
    turns = len(row.timing.whole)
    if turns >= turns_for(90):
        return f"90 % of {counted(turns, 'turn')} take at most {milliseconds(row.latency)} ms"
    return f"the slowest of {counted(turns, 'turn')} takes {milliseconds(row.latency)} ms"


def name(row: Row, rows: Sequence[Row]) -> str:
    """A cell in words: its model, what runs it, and, if it differs among the cells, how many pictures go through at once."""
    together = f", {row.cell.batch} at once" if len({other.cell.batch for other in rows}) > 1 else ""
    return f"{row.cell.model} by {engine(row)}{together}"


def conclusion(rows: Sequence[Row], wish: Wish = NO_WISH) -> list[str]:
    """Which cell to deploy, in sentences: the best one that is as wished, or that none is. Without a wish the fastest ones."""
    measured = [row for row in rows if row.timing is not None]
    if not measured:
        return ["Nothing was measured."]
    if wish == NO_WISH:
        return _fastest(measured)
    wanted = " and ".join(
        ([] if wish.at_most is None else [f"at most {milliseconds(wish.at_most)} ms"])
        + ([] if wish.least_ap is None else [f"an AP of at least {accuracy(wish.least_ap)}"])
    )
    found = best(measured, wish)
    if found is not None:
        return [f"For {wanted}: deploy {name(found, rows)}. {_about(found, rows)}."]
    nearest = _nearest(measured, wish)
    known = "" if nearest is None else f" The nearest is {name(nearest, rows)}: {_about(nearest, rows)}."
    return [f"Nothing that was measured gives {wanted}: none fits.{known}"]


def _nearest(measured: Sequence[Row], wish: Wish) -> Row | None:
    """The fastest cell that has the AP; if none has it, the one of most AP. None if no AP is known and one is wished."""
    good = [row for row in measured if Wish(least_ap=wish.least_ap).fits(row)]
    if good:
        return min(good, key=lambda row: row.latency)
    return max((row for row in measured if row.ap is not None), key=lambda row: row.ap or 0.0, default=None)


def _about(row: Row, rows: Sequence[Row]) -> str:
    """The speed and the AP of a cell."""
    text = f"{speed(row)[:1].upper()}{speed(row)[1:]}; {rate(row.rate)} pictures a second"
    if row.ap is None:
        return text
    change = lost(rows, row)
    against = "" if change is None else f", {cost(change)} against fp32"
    return f"{text}; AP {accuracy(row.ap)}{against}"


def _fastest(measured: Sequence[Row]) -> list[str]:
    """The fastest cell of each model, if there are few, or of all."""
    models = list(dict.fromkeys(row.cell.model for row in measured))
    several = [model for model in models if sum(row.cell.model == model for row in measured) > 1]
    chosen = several if len(models) <= NAMED else []
    found = [min((r for r in measured if r.cell.model == model), key=lambda r: r.latency / r.cell.batch) for model in chosen]
    lines = [f"{row.cell.model}: {_what(row, measured)} is the fastest. {_about(row, measured)}." for row in found]
    if len(models) > 1:
        row = min(measured, key=lambda row: row.latency / row.cell.batch)
        lines.append(f"Of all, {name(row, measured)} is the fastest. {_about(row, measured)}.")
    return lines or [f"{name(measured[0], measured)}: {_about(measured[0], measured)}."]


def _what(row: Row, rows: Sequence[Row]) -> str:
    return name(row, rows).removeprefix(f"{row.cell.model} by ")


def command(row: Row, data: Path | None, *, is_recipe: bool) -> str:
    """What to type to use a cell."""
    model, runtime, numbers, batch = row.cell.model, row.cell.runtime, row.cell.numbers, row.cell.batch
    together = f" --batch-size {batch}" if batch > 1 else ""
    if is_recipe:
        return f"onestage train DATA --model {model}"
    if is_exported(model):
        return f"onestage predict {shlex.quote(model)} PICTURES --runtime {runtime}{together}"
    if numbers in ("fp16", "int8") and runtime != "torch":
        to = format_for(runtime, numbers)
        file = f"{Path(model).name.removesuffix('.safetensors')}{FORMATS[to].suffix}"
        given = f" --data {shlex.quote(str(data))}" if data is not None and numbers == "int8" else ""
        made = f"onestage export {shlex.quote(model)} --to {to} -o {shlex.quote(file)} --precision {numbers}{given}"
        return f"{made} && onestage predict {shlex.quote(file)} PICTURES --runtime {runtime}{together}"
    precision = " --precision bf16" if numbers == "bf16" else ""
    return f"onestage predict {shlex.quote(model)} PICTURES --runtime {runtime}{precision}{together}"


NO_DATA = "there are no labelled pictures: --data"
"""Why a cell has no AP if none was asked for."""


def remarks(rows: Sequence[Row], peaks: Mapping[str, float]) -> list[str]:
    """What a reader should know of the figures, in sentences: percentiles that need more turns, other work on the machine,
    shares above the peak, and why labelled pictures gave no AP.
    """
    counts = [len(row.timing.whole) for row in rows if row.timing is not None]
    needed = [(p, turns_for(p)) for p in PERCENTILES[1:] if counts and min(counts) < turns_for(p)]
    found = [f"The {p}th percentile takes {most} turns, so fewer do not give it: --repeats {most}." for p, most in needed]
    busy = max((row.others for row in rows if row.others is not None), default=0.0)
    if busy > BUSY:
        found.append(
            f"Other programs used up to {percent(busy)} of the processors, so these times are too long: measure on a quiet one."
        )
    shares = [share for row in rows if (share := row.share(dict(peaks))) is not None]
    if shares and max(shares) > 1:
        what = "A share above 100 % is possible: operations are counted as plain convolutions have them"
        found.append(f"{what}, and Winograd's algorithm needs fewer.")
    return [*found, *(f"No AP was measured: {reason}." for reason in _without_ap(rows))]


def _without_ap(rows: Sequence[Row]) -> list[str]:
    """Why labelled pictures gave no AP, each reason once."""
    return list(dict.fromkeys(row.no_ap for row in rows if row.ap is None and row.no_ap not in ("", NO_DATA)))
