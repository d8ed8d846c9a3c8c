"""Put the tables of ``benchmarks/time_to_accuracy.py --json FILE`` into training.md.

python docs/make_minutes.py bccd=bccd.json

The table NAME replaces what stands between ``<!-- minutes: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "training.md"
sys.path.insert(0, str(PAGE.parents[1] / "benchmarks"))

from time_to_accuracy import table  # noqa: E402  # the benchmarks are no package


def with_table(page: str, name: str, table: str) -> str:
    """The page with a table in the place of that name. Raise SystemExit if there is no such place."""
    place = re.compile(rf"(<!-- minutes: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if place.search(page) is None:
        raise SystemExit(f"{PAGE.name} has no place for the table {name!r}")
    return place.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", page, count=1)


def main(arguments: list[str]) -> None:
    """Put all tables into the page. arguments: NAME=FILE each."""
    page = PAGE.read_text()
    for argument in arguments:
        name, _, file = argument.partition("=")
        page = with_table(page, name, table(json.loads(Path(file).read_text())))
    PAGE.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])
