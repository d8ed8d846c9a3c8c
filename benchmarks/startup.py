"""How long onestage takes to answer a question or to find a mistake on the command line, against ``import torch`` alone.

Each command runs in a new process. The commands take turns, so that other load on the machine slows all of them.
A ratio is the median of a command's times, divided by the median of torch's.

    python benchmarks/startup.py --repeats 15 --json startup.json
"""

from __future__ import annotations

import json as json_format
import statistics
import subprocess
import sys
import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from common import environment

PYTHON = "python -c 'import torch'"
COMMANDS = {
    PYTHON: ["-c", "import torch"],
    **{
        f"onestage {arguments}": ["-m", "onestage", *arguments.split()]
        for arguments in ("--help", "trian", "train data --epohs 3", "predict model photo.jpg --scor 0.3", "demo --fats")
    },
}
"""What a user types -> the arguments of the interpreter."""
LIMITS = {"onestage --help": 0.25}
WRONG = 1.2
"""The largest allowed ratio to the time of ``import torch``: LIMITS for single commands, and WRONG for every mistake."""


def seconds(arguments: list[str]) -> float:
    """The time of one process. Raise RuntimeError unless its exit code is 0, or 2 for a mistake."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode not in (0, 2) or "Traceback" in done.stderr:
        raise RuntimeError(done.stderr)
    return taken


def measure(repeats: int) -> dict[str, list[float]]:
    """The seconds of every command, ``repeats`` of each, measured in turns after one run that does not count."""
    times: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for turn in range(repeats + 1):
        for command, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if turn:
                times[command].append(taken)
    return times


def main(*, repeats: int = 11, json: Path | None = None) -> None:
    """Compare the commands and print a table.

    Args:
        repeats: how often each command is timed
        json: a file for all single times
    """
    times, where = measure(repeats), environment()
    torch = statistics.median(times[PYTHON])
    table = Table(title="start of the command line", caption=", ".join(f"{key} {value}" for key, value in where.items()))
    table.add_column()
    for column in ("median ms", "of import torch", "goal"):
        table.add_column(column, justify="right")
    for command, taken in times.items():
        median = statistics.median(taken)
        goal = "" if command == PYTHON else f"{LIMITS.get(command, WRONG)}"
        table.add_row(command, f"{1000 * median:.0f}", f"{median / torch:.2f}", goal)
    Console(width=None if sys.stdout.isatty() else 128).print(table)
    if json is not None:
        json.write_text(json_format.dumps({"environment": where, "seconds": times}, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
