"""The report of one evaluation: the results, with their views on the terminal and in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from rich.console import RenderableType

from onestage.files import given_path
from onestage.metrics.book import BookMetrics
from onestage.metrics.coco import coco_metrics
from onestage.metrics.page import Section
from onestage.metrics.report_files import save_report_files
from onestage.metrics.results import Results
from onestage.metrics.terminal import report_table
from onestage.metrics.voc import voc_metrics
from onestage.structures import Detections, Truth


class Report(Results):
    """The results of one evaluation, and how to look at them."""

    def table(self, rows: int = 20) -> RenderableType:
        """What the terminal shows: a heading, all figures, and the classes; of many classes the best and the worst ``rows``."""
        return report_table(self, rows)

    def save(
        self,
        folder: str | Path,
        *,
        examples: Mapping[str, Image.Image] | None = None,
        sections: Sequence[Section] = (),
        style: str = "",
    ) -> Path:
        """Write metrics.json, per_class.csv, pr_curves.png and index.html into ``folder``. Return the path of index.html.

        examples: pictures with their detections drawn in, by caption. The page shows them small, at its end. sections: what it
        shows before the figures, such as those of an analysis; style: CSS rules that they need.
        """
        path = given_path(folder, "folder")
        return save_report_files(self, path, examples or {}, sections=sections, style=style)


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
    """Compute every figure for detections against truths of the same pictures; ``classes`` are the K names, by label.

    losses and book come from the network's logits. Without them the report says that they were not measured.
    Raise DataError if the pictures are not the same, or if a label is none of the classes.
    """
    return Report(
        coco=coco_metrics(detections, truths, classes),
        voc07=voc_metrics(detections, truths, classes, style="2007"),
        voc10=voc_metrics(detections, truths, classes, style="2010"),
        model=model,
        data=data,
        losses=losses,
        book=book,
    )
