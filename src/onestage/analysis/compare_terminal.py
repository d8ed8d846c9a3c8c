"""A comparison on the terminal: a table of figures and one of classes for each pairing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onestage.analysis.compare import Comparison, Difference, Pairing
from onestage.analysis.compare_wording import between, by_difference, signed, verdict
from onestage.console import words
from onestage.errors import counted, printable
from onestage.metrics.wording import figure

CLASSES, PICTURES = 20, 5
"""The most classes and pictures that are shown of two detectors: those on which they differ most."""


def comparison_table(comparison: Comparison, sources: Mapping[str, str]) -> RenderableType:
    """The tables. In them the detectors are called A, B and so on: their names would fill the columns. sources: where each
    comes from, by its name.
    """
    names = [system.name for system in comparison.systems]
    signs = [*ascii_uppercase, *map(str, range(len(ascii_uppercase) + 1, len(names) + 1))]
    letters = dict(zip(names, signs, strict=False))
    pictures, draws = counted(len(comparison.pictures), "picture"), counted(comparison.draws, "draw")
    parts: list[RenderableType] = [words((comparison.data, "bold"), f": {pictures}, {draws}")]
    parts += [words((letter, "bold"), f"  {sources.get(name, name)}") for name, letter in letters.items()]
    for number, named in enumerate(comparison.pairings, start=1):
        pairing = replace(named, first=letters[named.first], second=letters[named.second])
        parts += [Text(), *_pairing(comparison, number, pairing)]
    return Group(*parts)


def _pairing(comparison: Comparison, number: int, pairing: Pairing) -> Iterator[RenderableType]:
    yield _table(pairing.figures, pairing, "figure")
    yield words((f"{pairing.first} and {pairing.second}: {verdict(pairing.figures[0], pairing)}", "bold"))
    yield Text()
    classes = by_difference(pairing.per_class)
    yield _table(classes[:CLASSES], pairing, "class")
    if len(classes) > CLASSES:
        yield words((f"and {counted(len(classes) - CLASSES, 'class')} that differ less", "dim"))
    for picture in comparison.differing(number)[:PICTURES]:
        errors = f"{counted(picture.errors(0), 'error')} of {pairing.first}, {picture.errors(number):,} of {pairing.second}"
        yield words(f"picture {picture.image_id}: {errors}")


def _table(rows: Sequence[Difference], pairing: Pairing, title: str) -> Table:
    """Figures of two detectors, and what their difference says. All are 0..1."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, overflow="ellipsis", no_wrap=True)
    for heading in (pairing.first, pairing.second, "difference", "95 % of draws"):
        table.add_column(Text(printable(heading)), justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for row in rows:
        cells = [figure(row.first), figure(row.second), signed(row.difference.value), between(row)]
        table.add_row(Text(printable(row.name)), *cells, Text(printable(verdict(row, pairing))))
    return table
