"""Write models.md: the zoo as a table, from ``onestage models`` and the times in latency.json. It also refreshes such
numbers in other pages: the times in which-model.md, the lines of source files in architecture.md, the README's table of models.

onestage benchmark --repeats 30 --json docs/latency.json   # on a quiet machine
python docs/make_models.py

A number from latency.json is between ``<!-- time: MODEL -->``, ``<!-- ratio: MODEL / OTHER -->`` or
``<!-- machine -->`` and ``<!-- end -->``; a number of lines after the name of its file, or of several as in ``adapt_*.py``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from onestage.cli.models import models
from onestage.errors import DataError, OnestageError

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS.parent / "src" / "onestage"
NOISE = 0.03
"""predict() does more than the network alone. It may still seem faster, by at most this part of the network's time."""
MARK = re.compile(r"(?P<start><!-- (?P<kind>time|ratio|machine):?(?P<models>[^>]*?) -->).*?<!-- end -->")

INTRODUCTION = """# The zoo

Made by `python docs/make_models.py` from `onestage models` and `onestage benchmark`; do not edit.

Parameters and multiply-adds (a multiplication and its addition count as one) are for 80 classes at the model's usual input size
(height x width). Any model takes another `--size`. Times are milliseconds for one 640x480 picture, decoded, by torch in fp32,
{how}, with random weights: `predict()` as a whole, with resizing and postprocessing, and the network
alone, the median of {repeats} turns, on this machine: {environment}.

Which model to choose: [which-model.md](which-model.md).
"""


def page(rows: list[dict[str, Any]], latency: dict[str, Any]) -> str:
    """The whole page, from the rows of ``onestage models --json`` and the file of ``onestage benchmark --json``."""
    timings = {timing["model"]: timing for timing in latency["timings"]}
    environment = ", ".join(f"{key} {value}" for key, value in latency["environment"].items())
    repeats = len(latency["timings"][0]["predict"])
    how = "as `onestage predict` runs it" if "turns" in latency["timings"][0] else "as the network is written"
    parts = [INTRODUCTION.format(environment=environment, repeats=repeats, how=how)]
    lines = [
        "| model | input | parameters | multiply-adds | anchors | predict() ms | network ms |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(row, timings.get(row["name"])) for row in rows]
    parts.append("\n".join(lines) + "\n")
    lines = ["## What their authors measured", "", "| model | accuracy, and its source |", "|---|---|"]
    lines += [f"| {row['name']} | {row['published']} |" for row in rows if row["published"]]
    parts.append("\n".join(lines) + "\n")
    lines = [
        "## Published weights",
        "",
        "`onestage.create(MODEL, weights=TAG)` or `onestage predict MODEL.TAG PICTURES` fetches them, checks and keeps them.",
        "",
        "| model.tag | COCO val2017 AP | licence | recipe |",
        "|---|---:|---|---|",
    ]
    lines += [f"| {r['name']}.{w['tag']} | {w['ap']} | {w['licence']} | {w['recipe']} |" for r in rows for w in r["weights"]]
    parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _counts(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        "x".join(map(str, row["size"])),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['multiply_adds'] / 1e9:.2f} G",
        f"{row['anchors']:,}",
    ]


def _row(row: dict[str, Any], timing: dict[str, Any] | None) -> str:
    times = [_milliseconds(timing, what) for what in ("predict", "network")] if timing else []
    cells = [
        *_counts(row),
        *(f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" for ms in times),
        *["-"] * (2 - len(times)),
    ]
    return "| " + " | ".join(cells) + " |"


def _milliseconds(timing: dict[str, Any], what: str) -> float:
    """Of "predict" or "network", per picture."""
    return 1000 * statistics.median(timing[what]) / timing["batch"]


def read_latency(file: Path = DOCS / "latency.json") -> dict[str, Any]:
    """The contents of the file that ``onestage benchmark --json`` wrote. Raise DataError if the times are impossible, for
    example after too few repeats.
    """
    latency: dict[str, Any] = json.loads(file.read_text())
    for timing in latency["timings"]:
        whole, network = (_milliseconds(timing, what) for what in ("predict", "network"))
        if whole < (1 - NOISE) * network:
            what = "predict() is faster than the network inside it, so these times are noise"
            got, fix = f"{whole:.1f} and {network:.1f} ms", "measure again on a quiet machine, with more --repeats"
            raise DataError(what, where=f"{file.name}, {timing['model']}", got=got, fix=fix)
    return latency


def with_times(text: str, latency: dict[str, Any]) -> str:
    """The page with every marked number from ``latency``. Raise DataError for a model that was not timed."""
    milliseconds = {timing["model"]: _milliseconds(timing, "predict") for timing in latency["timings"]}

    def number(mark: re.Match[str]) -> str:
        kind, names = mark["kind"], [name for name in re.split(r"[\s/]+", mark["models"]) if name]
        if missing := [name for name in names if name not in milliseconds]:
            raise DataError("a page needs the time of a model that was not timed", where=mark["start"], got=missing[0])
        if kind == "machine":
            machine = latency["environment"]
            return f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads"
        times = [milliseconds[name] for name in names]
        return in_words(times[0]) if kind == "time" else f"{times[0] / times[1]:.2g}"

    return MARK.sub(lambda mark: f"{mark['start']}{number(mark)}<!-- end -->", text)


def in_words(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.1f} s"


def with_lines(text: str) -> str:
    """The page with the current number of lines (``wc -l``) after every file name that has a number: `fpn.py` 74."""

    def count(found: re.Match[str]) -> str:
        files = [file for file in SOURCE.rglob(found[1]) if file.is_file()]
        if not files or (len(files) > 1 and "*" not in found[1]):
            got = ", ".join(str(file.relative_to(SOURCE)) for file in files) or "none"
            raise DataError("a page counts the lines of one file", where=found[0], got=got)
        return f"`{found[1]}` {sum(file.read_text().count(chr(10)) for file in files)}"

    return re.sub(r"`([\w*/]+\.py)` (\d+)", count, text)


def with_counts(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with the current counts in each line of a table that begins with a model's name and input."""
    for row in rows:
        name, *counts = _counts(row)
        text = re.sub(rf"^\| {name} \| \d+x\d+( \| [^|]+){{3}} \|", f"| {' | '.join([name, *counts])} |", text, flags=re.M)
    return text


@functools.cache
def zoo(*names: str) -> list[dict[str, Any]]:
    """The rows of ``onestage models NAMES --json``, one per model."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        models(names, json=True)
    rows: list[dict[str, Any]] = json.loads(text.getvalue())
    return rows


def current() -> str:
    """The current page of the zoo."""
    return page(zoo(), read_latency())


def refresh() -> None:
    """Write the other pages that hold such numbers, then the page of the zoo."""
    which, house, front = DOCS / "which-model.md", DOCS / "architecture.md", DOCS.parent / "README.md"
    front.write_text(with_counts(front.read_text(), zoo()))
    which.write_text(with_times(which.read_text(), read_latency()))
    house.write_text(with_lines(house.read_text()))
    (DOCS / "models.md").write_text(current())


if __name__ == "__main__":
    try:
        refresh()
    except OnestageError as error:
        sys.exit(f"error: {error}")
