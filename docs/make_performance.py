"""Write the part of performance.md that ``onestage benchmark`` measured.

onestage benchmark MODELS ... --json FILE   # on a quiet machine
python docs/make_performance.py FILE        # keeps its figures in benchmark.json, and writes the page
python docs/make_performance.py             # writes the page again from benchmark.json

The part is between ``<!-- benchmark -->`` and ``<!-- end of benchmark -->``. Single times are not kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from onestage.deploy import benchmark_wording as wording
from onestage.deploy.cells import BUSY, turns_for

DOCS = Path(__file__).resolve().parent
PAGE, FIGURES = DOCS / "performance.md", DOCS / "benchmark.json"
MARKS = "<!-- benchmark -->\n", "<!-- end of benchmark -->"
STAGES = ("predict", "decode", "resize", "network", "boxes")
"""The lists of single times in a file of ``onestage benchmark``."""
HEAD = (
    "| model | runs on | at once | median ms | 90 % ms | 99 % ms | pictures/s | memory MB | of the peak | AP | against fp32 |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """The same figures without the single times, which take a megabyte."""
    rows = [{key: value for key, value in row.items() if key not in STAGES} for row in content["timings"]]
    return content | {"timings": rows}


def part(content: dict[str, Any]) -> str:
    """The part of the page, from the figures."""
    about = ", ".join(f"{key} {value}" for key, value in content["environment"].items())
    peaks = ", ".join(f"{kind} {value:,.0f}" for kind, value in content["peaks"].items())
    rows = content["timings"]
    lines = ["", f"{about}. Pictures: {content['data']}.", ""]
    busy = max((row["other_work"] or 0 for row in rows), default=0)
    if busy > BUSY:
        lines += [f"**Other programs used up to {wording.percent(busy)} of the processors: these times are too long.**", ""]
    lines += [f"A plain product reaches, in thousand million operations a second: {peaks}.", "", HEAD, *map(_line, rows), ""]
    lines += [
        f"- not measured: {one['model']} by {one['runtime']} {one['numbers']}: {one['reason']}"
        for one in content["not_measured"]
    ]
    lines += [""] if content["not_measured"] else []
    lines += [f"`{content['command']}`", "", *(f"> {sentence}" for sentence in content["conclusion"]), ""]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    """A row of the table."""
    computed = "" if row["numbers"] in (row["computed_in"], "int8") else f" (in {row['computed_in']})"
    times = [wording.milliseconds(None if row[key] is None else row[key] / 1000) for key in ("p50_ms", "p90_ms", "p99_ms")]
    lost = row["ap_lost"]
    cells = [
        row["given"],
        f"{row['runtime']} {row['numbers']}{computed}",
        str(row["batch"]),
        *times,
        wording.rate(row["pictures_per_second"]),
        wording.megabytes(row["memory_bytes"]),
        wording.percent(row["share_of_peak"]),
        wording.accuracy(row["ap"]),
        wording.cost(lost),
    ]
    return "| " + " | ".join(cells) + " |"


def with_part(page: str, content: dict[str, Any] | None) -> str:
    """The page with the current part between its marks. Raise SystemExit if the marks are not there."""
    before, start, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise SystemExit(f"{PAGE.name} has no {MARKS[0].strip()} with {MARKS[1]} behind it")
    return f"{before}{start}{NOTHING if content is None else part(content)}{end}{after}"


NOTHING = f"\nNothing was measured yet. Percentiles need {turns_for(90)} and {turns_for(99)} turns.\n\n"
"""What stands there until there are figures."""


def figures() -> dict[str, Any] | None:
    """The figures that are kept; None if there are none."""
    return json.loads(FIGURES.read_text()) if FIGURES.is_file() else None


def main(arguments: list[str]) -> None:
    """Keep the figures of a file, if one is named, and write the page."""
    if arguments:
        FIGURES.write_text(json.dumps(without_times(json.loads(Path(arguments[0]).read_text())), indent=1) + "\n")
    PAGE.write_text(with_part(PAGE.read_text(), figures()))


if __name__ == "__main__":
    main(sys.argv[1:])
