"""Write models.md: the zoo as a table, from ``onestage models`` and the times in latency.json.

onestage benchmark --json docs/latency.json   # on a quiet machine
python docs/make_models.py
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
from pathlib import Path
from typing import Any

from onestage.cli.models import models

DOCS = Path(__file__).resolve().parent

INTRODUCTION = """# The zoo

Made by `python docs/make_models.py` from `onestage models` and `onestage benchmark`; do not edit.

Parameters and multiply-adds (a multiplication and its addition count as one) are for 80 classes at the model's own input size
(height x width). Any model takes another `--size`. Times are milliseconds for one 640x480 picture, decoded, in eager fp32 with
random weights: `predict()` as a whole, with resizing and postprocessing, and the network alone, the median of {repeats} turns,
on this machine: {environment}.

Which of them to take: [which-model.md](which-model.md).
"""


def page(rows: list[dict[str, Any]], latency: dict[str, Any]) -> str:
    """The whole page, from the rows of ``onestage models --json`` and what ``onestage benchmark --json`` wrote."""
    timings = {timing["model"]: timing for timing in latency["timings"]}
    environment = ", ".join(f"{key} {value}" for key, value in latency["environment"].items())
    repeats = len(latency["timings"][0]["predict"])
    parts = [INTRODUCTION.format(environment=environment, repeats=repeats)]
    lines = [
        "| model | input | parameters | multiply-adds | anchors | predict() ms | network ms |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(row, timings.get(row["name"])) for row in rows]
    parts.append("\n".join(lines) + "\n")
    lines = ["## What their authors measured", "", "| model | accuracy, and where it says so |", "|---|---|"]
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


def _row(row: dict[str, Any], timing: dict[str, Any] | None) -> str:
    times = [1000 * statistics.median(timing[what]) / timing["batch"] for what in ("predict", "network")] if timing else []
    cells = [
        row["name"],
        "x".join(map(str, row["size"])),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['multiply_adds'] / 1e9:.2f} G",
        f"{row['anchors']:,}",
        *(f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" for ms in times),
        *["-"] * (2 - len(times)),
    ]
    return "| " + " | ".join(cells) + " |"


def current() -> str:
    """The page as it should be now."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        models(json=True)
    return page(json.loads(text.getvalue()), json.loads((DOCS / "latency.json").read_text()))


if __name__ == "__main__":
    (DOCS / "models.md").write_text(current())
