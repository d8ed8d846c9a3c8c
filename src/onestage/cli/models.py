"""``onestage models``: the zoo as a table."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import tyro
from rich import box
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from onestage.cli.output import progress, stdout, tell
from onestage.console import Terminal, words
from onestage.errors import ConfigError, counted, nearest
from onestage.model.codec import Range

if TYPE_CHECKING:
    from onestage.structures import Size


@dataclass(frozen=True)
class Weights:
    """Published weights: their tag, AP on COCO val2017 (percent), licence, and the address of their training recipe."""

    tag: str
    ap: float
    licence: str
    recipe: str


@dataclass(frozen=True)
class Row:
    """One model of the zoo. size: of the input, (height, width)."""

    name: str
    parameters: int
    multiply_adds: int
    size: Size
    anchors: int
    published: str
    weights: tuple[Weights, ...]


def models(names: tyro.conf.Positional[tuple[str, ...]] = (), /, *, classes: int = 80, json: bool = False) -> int:
    """List the zoo: what each model costs, and the accuracy that its authors measured.

    onestage models

    onestage models retinanet efficientdet_lite --classes 3

    Args:
        names: only models whose names begin so, with the licence and recipe of their weights; all if left out
        classes: how many classes to count parameters and multiply-adds for; COCO has 80
        json: as JSON, for programs
    """
    from onestage.zoo.table import ANY_BACKBONE

    Range(least=1, most=100_000).check(classes, "classes")
    rows = []
    chosen = _chosen(names)
    with progress("counting", len(chosen), unit="models") as bar:
        for name in chosen:
            rows.append(_row(name, classes))
            bar.advance(1)
    if json:
        stdout().out(json_format.dumps([asdict(row) for row in rows], indent=2), highlight=False)
        return 0
    out = stdout()
    if names:
        _print_weights(rows)
    else:
        _print_tags(rows)
    out.print()
    out.print(_accuracies(rows))
    out.print()
    out.print(_costs(rows, out.width))
    out.print(
        "\n[dim]Parameters and multiply-adds (a multiplication and its addition count as one) for"
        f" {counted(classes, 'class')} at that input size (height x width); retinanet brings a"
        " picture's shorter side to the first number. Any of them takes another"
        f" --size. {', '.join(ANY_BACKBONE)} take --backbone timm/NAME; listed is resnet34.\n"
        "Weights are used by name: onestage predict ssd300_vgg16.coco PICTURES\n"
        "How fast one is here: onestage benchmark MODEL; docs/models.md has the times of all on one machine[/]",
        highlight=False,
    )
    return 0


def _chosen(names: Sequence[str]) -> list[str]:
    """The zoo's models whose names start with one of these, in the zoo's order."""
    from onestage.zoo.table import ZOO

    for name in names:
        if not any(model.startswith(name) for model in ZOO):
            what = f"no model of the zoo begins with '{name}'{nearest(name, ZOO)}"
            raise ConfigError(what, expected=", ".join(ZOO), fix="onestage models")
    return [model for model in ZOO if not names or model.startswith(tuple(names))]


def _row(name: str, classes: int) -> Row:
    from onestage.model.cost import cost_of
    from onestage.weights.source import WEIGHTS, tags
    from onestage.weights.tensor_file import numbered_classes
    from onestage.zoo.table import ZOO, recipe

    config = recipe(name, numbered_classes(classes))
    cost = cost_of(config)
    weights = tuple(Weights(tag, w.ap, w.licence, w.recipe) for tag in tags(name) for w in [WEIGHTS[f"{name}.{tag}"]])
    size, published = config.preprocess.size, ZOO[name].published
    return Row(name, cost.parameters, cost.multiply_adds, size, cost.anchors, published, weights)


def _table(*columns: str, numbers: int) -> Table:
    """A plain table whose cells stay in one line each; the last ``numbers`` of its columns are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, title in enumerate(columns):
        table.add_column(title, justify="right" if place >= len(columns) - numbers else "left", no_wrap=True)
    return table


def _costs(rows: list[Row], width: int) -> Table:
    """The costs in ``width`` characters. If the terminal is narrow, the least important columns are left out."""
    columns = {
        "model": [f"[bold]{row.name}[/]" for row in rows],
        "weights": [", ".join(weights.tag for weights in row.weights) or "-" for row in rows],
        "input": [f"{row.size[0]}x{row.size[1]}" for row in rows],
        "parameters": [f"{row.parameters / 1e6:.2f} M" for row in rows],
        "multiply-adds": [f"{row.multiply_adds / 1e9:.2f} G" for row in rows],
        "anchors": [f"{row.anchors:,}" for row in rows],
    }
    for least in ("weights", "anchors", "input"):
        table = _cost_table(columns)
        if Terminal(width=2 * width).measure(table).maximum <= width:
            return table
        del columns[least]
    return _cost_table(columns)


def _cost_table(columns: dict[str, list[str]]) -> Table:
    table = _table(*columns, numbers=len(columns.keys() & {"parameters", "multiply-adds", "anchors"}))
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _accuracies(rows: list[Row]) -> Table:
    table = _table("published accuracy", numbers=0)
    table.add_column("by its authors, and where", overflow="fold")
    for row in rows:
        if row.published:
            table.add_row(row.name, row.published)
    return table


def _print_tags(rows: list[Row]) -> None:
    """Print the names of the weights side by side, in the width of the terminal."""
    out = stdout()
    out.print("[bold]published weights[/], COCO val2017 AP; licence and recipe: onestage models NAME", highlight=False)
    every = [Text(f"{row.name}.{w.tag} {w.ap}", no_wrap=True) for row in rows for w in row.weights]
    out.print(Columns(every, padding=(0, 3), column_first=True))


def _print_weights(rows: list[Row]) -> None:
    """Print the weights as lines. A table would break the addresses at the end of a line."""
    out = stdout()
    out.print("[bold]published weights[/]: COCO val2017 AP, licence, recipe", highlight=False)
    for row in rows:
        for weights in row.weights:
            out.print(words(f"  {row.name}.{weights.tag}: {weights.ap} AP, {weights.licence}"))
            tell(f"    {weights.recipe}")
