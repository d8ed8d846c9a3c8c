"""All figures of one evaluation, and the forms they are shown in: a terminal's table, JSON, CSV, curves and a web page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onestage.errors import counted
from onestage.metrics.book import BookMetrics
from onestage.metrics.coco import CocoClass, CocoMetrics, coco_metrics
from onestage.metrics.page import render
from onestage.metrics.plots import plot_pr_curves
from onestage.metrics.voc import VocMetrics, voc_metrics
from onestage.structures import Detections, Truth

EXAMPLE_SIDE = 640
"""Pixels of the longer side of a picture inside the web page."""


@dataclass(frozen=True)
class ClassRow(CocoClass):
    """One line of the table of classes: COCO's figures and VOC's AP."""

    voc07: float
    voc10: float


CLASS_TITLES = ("class", "objects", "found", "AP", "AP50", "AR", "VOC07", "VOC10")
FIGURE_TITLES = ("COCO", "IoU", "all", "small", "medium", "large")


@dataclass(frozen=True, eq=False)
class Report:
    """One evaluation of one model on one set of pictures.

    model, data: their names, for the reader. losses: the validation loss and its parts, by name. book: the d2l book's class
    error and box MAE. Both need the model itself, so they may be missing.
    """

    coco: CocoMetrics
    voc07: VocMetrics
    voc10: VocMetrics
    model: str = ""
    data: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)
    book: BookMetrics | None = None

    @property
    def rows(self) -> list[ClassRow]:
        """The classes, best AP first, those without objects last."""
        three = zip(self.coco.per_class, self.voc07.per_class, self.voc10.per_class, strict=True)
        rows = [ClassRow(**vars(coco), voc07=old.AP, voc10=new.AP) for coco, old, new in three]
        return sorted(rows, key=lambda row: (-row.AP if row.objects else 1, row.name))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: None stands for a figure that has nothing to measure."""
        content: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "pictures": self.coco.pictures,
            "objects": self.coco.objects,
            "coco": self.coco.figures,
            "voc2007": self.voc07.mAP,
            "voc2010": self.voc10.mAP,
            "losses": dict(self.losses),
            "class_error": self.book.class_error if self.book else None,
            "box_mae": self.book.box_mae if self.book else None,
            "classes": [asdict(row) for row in self.rows],
        }
        return {key: _nan_as_none(value) for key, value in content.items()}

    def save(self, folder: str | Path, *, examples: Mapping[str, Image.Image] | None = None) -> Path:
        """Write metrics.json, per_class.csv, pr_curves.png and index.html into ``folder``; gives the path of the last.

        examples: pictures with their detections drawn in, by caption, shown small at the end of the page.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        with (folder / "per_class.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(ClassRow))
            writer.writerows(_nan_as_none(list(astuple(row))) for row in self.rows)
        plot_pr_curves(self.coco, folder / "pr_curves.png")
        small = {name: _jpeg(picture) for name, picture in (examples or {}).items()}
        page = folder / "index.html"
        curves = (folder / "pr_curves.png").read_bytes()
        page.write_text(render(self._page_content(), curves=curves, examples=small), encoding="utf-8", errors="replace")
        return page

    def table(self, rows: int = 20) -> RenderableType:
        """What the terminal shows: a heading, the twelve figures, the others in a line each, and the classes.

        rows: of a longer list of classes the best half and the worst half are shown, those with objects.
        """
        title = Text(_printable(self._title), style="bold", overflow="ellipsis", no_wrap=True)
        others = [Text.assemble((f"{name:<14}", "bold"), value) for name, value in self._other_figures()]
        figures = _terminal_table(FIGURE_TITLES, self._figure_rows(), texts=2)
        known = [row for row in self.rows if row.objects] if len(self.rows) > rows else self.rows
        cut = max(0, len(known) - rows)
        shown = known[: rows - rows // 2] + known[len(known) - rows // 2 :] if cut else known
        cells = [(row.name, *_class_cells(row)) for row in shown]
        if cut:
            cells.insert(rows - rows // 2, (f"... {cut} more",))
        absent = len(self.rows) - len(known)
        note = [Text(f"and {counted(absent, 'class')} without objects", style="dim")] if absent else []
        classes = _terminal_table(CLASS_TITLES, cells, texts=1)
        return Group(title, Text(self._subtitle, style="dim"), Text(), figures, Text(), *others, Text(), classes, *note)

    @property
    def _title(self) -> str:
        return " on ".join(name for name in (self.model, self.data) if name) or "Evaluation"

    @property
    def _subtitle(self) -> str:
        found = sum(row.found for row in self.coco.per_class)
        counts = (self.coco.pictures, self.coco.objects, found, len(self.coco.per_class))
        return " · ".join(map(counted, counts, ("picture", "object", "detection", "class")))

    def _figure_rows(self) -> list[tuple[str, ...]]:
        """The twelve figures by what they measure (down) and the size of the objects (across), in FIGURE_TITLES' columns."""
        coco = {name: _figure(value) for name, value in self.coco.figures.items()}
        return [
            ("AP", ".50:.95", *(coco[name] for name in ("AP", "APs", "APm", "APl"))),
            ("AP50", ".50", coco["AP50"], "", "", ""),
            ("AP75", ".75", coco["AP75"], "", "", ""),
            ("AR, 1 each", ".50:.95", coco["AR1"], "", "", ""),
            ("AR, 10 each", ".50:.95", coco["AR10"], "", "", ""),
            ("AR, 100 each", ".50:.95", *(coco[name] for name in ("AR100", "ARs", "ARm", "ARl"))),
        ]

    def _other_figures(self) -> list[tuple[str, str]]:
        iou = f"at IoU {self.voc10.iou:.2f}"
        voc = f"{_figure(self.voc07.mAP)} (2007, 11 points) · {_figure(self.voc10.mAP)} (2010, area)   {iou}"
        lines = [("VOC mAP", voc)]
        if self.losses:
            lines.append(("Loss", " · ".join(f"{name} {value:.4f}" for name, value in self.losses.items())))
        if self.book:
            lines.append(("Anchors", f"class error {self.book.class_error:.2e} · box MAE {self.book.box_mae:.2e}"))
        return lines

    def _page_content(self) -> dict[str, Any]:
        """The texts and rows of the web page."""
        tiles = [
            ("COCO AP, IoU .50:.95", _figure(self.coco.AP)),
            ("AP50", _figure(self.coco.AP50)),
            ("AP75", _figure(self.coco.AP75)),
            ("VOC mAP, 2007", _figure(self.voc07.mAP)),
            ("VOC mAP, 2010", _figure(self.voc10.mAP)),
            *((f"loss, {name}", f"{value:.3f}") for name, value in self.losses.items()),
        ]
        if self.book:
            tiles += [("class error", f"{self.book.class_error:.2e}"), ("box MAE", f"{self.book.box_mae:.2e}")]
        return {
            "title": self._title,
            "subtitle": self._subtitle,
            "tiles": tiles,
            "figures_head": FIGURE_TITLES,
            "figures": self._figure_rows(),
            "classes_head": CLASS_TITLES,
            "classes": [([row.name, *_class_cells(row)], round(100 * row.AP, 1) if row.objects else 0) for row in self.rows],
        }


def measure(
    detections: Sequence[Detections],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    model: str = "",
    data: str = "",
    losses: Mapping[str, float] | None = None,
    book: BookMetrics | None = None,
) -> Report:
    """Every figure for detections against truths of the same pictures; ``classes`` are the K names, by label.

    Raises DataError when the pictures are not the same or a label is none of the classes.
    """
    return Report(
        coco=coco_metrics(detections, truths, classes),
        voc07=voc_metrics(detections, truths, classes, style="2007"),
        voc10=voc_metrics(detections, truths, classes, style="2010"),
        model=model,
        data=data,
        losses=losses or {},
        book=book,
    )


def _class_cells(row: ClassRow) -> list[str]:
    """Everything but the name."""
    return [f"{row.objects:,}", f"{row.found:,}", *(_figure(value) for value in astuple(row)[3:])]


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _terminal_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> Table:
    """A plain table whose first ``texts`` columns hold words, the others numbers. The first gives way in a narrow terminal."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number < texts else "right", no_wrap=number > 0)
    for first, *others in rows:
        table.add_row(Text(_printable(first), overflow="ellipsis", no_wrap=True), *others)
    return table


def _printable(text: str) -> str:
    """Foreign text for the terminal: without control characters, which could drive it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _nan_as_none(value: Any) -> Any:
    """The same content with None for every number that is not finite: JSON has no word for those."""
    if isinstance(value, dict):
        return {key: _nan_as_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_as_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _jpeg(picture: Image.Image) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=88)
    return file.getvalue()
