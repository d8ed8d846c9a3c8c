"""The page of a search: index.html in its folder, one file that holds everything. It is written after every trial."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from onestage.analysis.compare import Difference
from onestage.errors import counted
from onestage.files import write_file
from onestage.metrics.page import Section, as_base64, fragment, sectioned, table
from onestage.metrics.plots import COLOURS
from onestage.tuning.space import Value, told
from onestage.tuning.study import BEFORE, TRIED, WHY, Search
from onestage.tuning.sureness import LUCK, STEPS, Verdict

NAME = "index.html"
FIGURE = """<figure><img src="data:image/png;base64,{{ data }}" alt="{{ alt }}"><figcaption>{{ alt }}</figcaption></figure>
"""
COLUMNS = 3
STATES = {
    TrialState.COMPLETE: "whole",
    TrialState.PRUNED: "stopped early",
    TrialState.RUNNING: "trains",
    TrialState.WAITING: "waits",
}
"""What the state of a trial is called; one that failed goes on under another number."""


def save_page(search: Search, *, title: str, command: str) -> None:
    """Write the page of a search as it is now. command: trains with the best settings.

    Raise WriteError if it cannot be written.
    """
    shown = [trial for trial in search.trials if trial.state in STATES]
    found = search.verdict
    lead = [] if found is None else _lead(search, found)
    parts = [Section("Use it", fragment("<p><code>{{ command }}</code></p>\n", command=command))] if found is not None else []
    if search.complete:
        alt = "AP of the trials, and the best one so far. Dashed: the default settings"
        parts.append(Section("The search", _figure(_progress(shown, found), alt)))
    if found is not None and found.rule is not None and (gains := found.gains):
        alt = f"AP less that of the default settings, with intervals that hold for all {counted(len(gains), 'trial')} at once"
        parts.append(Section("Better than the default settings?", _figure(_gains(gains), alt)))
    if search.complete and search.plan.space.names:
        alt = "AP of the trials by the value of each setting"
        parts.append(Section("Each setting", _figure(_settings(search, shown), alt)))
    parts.append(Section("Trials", _table(search, shown)))
    page = sectioned(
        title,
        f"{counted(len(search.complete), 'trial')} of {search.plan.minutes:g} min each, all measured on the same"
        f" {counted(search.plan.pictures, 'validation picture')}",
        parts=parts,
        lead=lead,
        note="The best of many trials looks better than it is: measure it on pictures that neither trained nor chose it.",
    )
    write_file(search.out / NAME, page.encode("utf-8", "replace"))


def _lead(search: Search, found: Verdict) -> list[str]:
    """What the search has found, in sentences."""
    best, first = found.best, search.plan.space.first
    lines = [f"Best so far: trial {best.number}, AP {best.value:.3f}: {told(_values(best), first)}.", f"{found.gain_text}."]
    lines += [f"{text}." for text in (found.equals_text, found.uneven_text) if text]
    return [*(line[0].upper() + line[1:] for line in lines), *([LUCK] if found.gain is not None else [])]


def _values(trial: FrozenTrial) -> dict[str, Value]:
    return dict(trial.params)


def _table(search: Search, trials: Sequence[FrozenTrial]) -> Markup:
    """All trials, the best first."""
    order = sorted(trials, key=lambda trial: (-_ap(trial), trial.number))
    head = ("trial", "what differs from the default settings", "state", "AP", "steps", "minutes")
    rows = [
        (
            str(trial.number),
            told(_values(trial), search.plan.space.first),
            _state(trial),
            f"{_ap(trial):.3f}" if trial.intermediate_values or trial.value is not None else "-",
            str(trial.user_attrs.get(STEPS, "-")),
            _minutes(trial),
        )
        for trial in order
    ]
    return table("all trials, the best first", head, rows, texts=3)


def _state(trial: FrozenTrial) -> str:
    if why := trial.user_attrs.get(WHY):
        return str(why)
    before = trial.user_attrs.get(BEFORE) if trial.user_attrs.get(TRIED) else None
    return STATES[trial.state] if before is None else f"{STATES[trial.state]}; before: {before}"


def _minutes(trial: FrozenTrial) -> str:
    return "-" if trial.duration is None else f"{trial.duration.total_seconds() / 60:.1f}"


def _ap(trial: FrozenTrial) -> float:
    """The AP of a trial, so far; 0 before the first measurement."""
    return max((*trial.intermediate_values.values(), trial.value or 0.0))


def _figure(figure: Figure, alt: str) -> Markup:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return fragment(FIGURE, data=as_base64(data.getvalue()), alt=alt)


def _gains(gains: Mapping[int, Difference]) -> Figure:
    """The difference of each trial from the default settings, with its interval; those that are told apart filled."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, gain in gains.items():
        one, sure = gain.difference, gain.told_apart
        axes.plot([number, number], [one.low, one.high], "-", color=COLOURS[0], alpha=1.0 if sure else 0.4)
        axes.plot(number, one.value, "o", color=COLOURS[0], fillstyle="full" if sure else "none")
    axes.axhline(0, color=COLOURS[1], linestyle="--")
    axes.set(xlabel="trial (a ring: cannot be told from the default settings)", ylabel="AP less the default's")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return figure


def _progress(trials: Sequence[FrozenTrial], found: Verdict | None) -> Figure:
    """AP over the number of the trial; those that were stopped early as rings, those that were not measured left out."""
    trials = [trial for trial in trials if trial.intermediate_values or trial.value is not None]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    best, points = 0.0, list[tuple[int, float]]()
    for trial in trials:
        whole = trial.state is TrialState.COMPLETE
        axes.plot(trial.number, _ap(trial), "o", color=COLOURS[0], fillstyle="full" if whole else "none")
        best = max(best, _ap(trial)) if whole else best
        points.append((trial.number, best))
    if found is not None and found.rule is not None:
        axes.axhline(found.rule.value or 0.0, color=COLOURS[1], linestyle="--", alpha=0.5)
    axes.step(*zip(*points, strict=True), where="post", color=COLOURS[1], label="best so far")
    axes.set(xlabel="trial (a ring: stopped early)", ylabel="AP")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _settings(search: Search, trials: Sequence[FrozenTrial]) -> Figure:
    """AP by the value of each setting."""
    names = search.plan.space.names
    rows = math.ceil(len(names) / COLUMNS)
    figure = Figure(figsize=(8, 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).flat
    for axes, name in zip(grid, [*names, *[""] * (rows * COLUMNS - len(names))], strict=True):
        if not name:
            axes.set_axis_off()
            continue
        known = [trial for trial in trials if name in trial.params and (trial.intermediate_values or trial.value is not None)]
        choices = search.plan.space.choices.get(name)
        for trial in known:
            value = trial.params[name]
            place = value if choices is None else choices.index(value)
            axes.plot(
                place, _ap(trial), "o", color=COLOURS[0], fillstyle="full" if trial.state is TrialState.COMPLETE else "none"
            )
        if choices is None:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"x{value:g}"))
        else:
            axes.set_xticks(range(len(choices)), [*_labels(choices)], rotation=20)
            axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.set_title(f"{name} (x: times the rule's)" if choices is None else name, fontsize="medium")
        axes.grid(alpha=0.3)
    return figure


def _labels(choices: Sequence[Value]) -> Iterator[str]:
    for choice in choices:
        yield f"x{choice:g}" if isinstance(choice, float) else str(choice).replace(" timm/", "\n")


def page_of(out: Path) -> Path:
    """Where the page of a search is."""
    return out / NAME
