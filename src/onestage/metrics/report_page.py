"""A report as one web page, with its curves and its example pictures inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from onestage.metrics import charts
from onestage.metrics.ap import RECALLS
from onestage.metrics.charts import Curve, line_chart
from onestage.metrics.coco import CocoMetrics
from onestage.metrics.page import Section, as_base64, fragment, sectioned, table
from onestage.metrics.results import Results
from onestage.metrics.wording import (
    CLASS_TITLES,
    FIGURE_TITLES,
    class_cells,
    figure,
    figure_rows,
    missing_line,
    subtitle,
    title,
)

NAMED = 10
"""The most classes with a curve: those with the most objects."""

FIGURES = """{{ table }}<p>AR, 10 each: recall with at most 10 detections of a class in a picture. Small: an area below 32 × 32
pixels, medium: below 96 × 96. Each size is a mean over the classes that have such objects, so all may lie outside of the three.
A dash: nothing to find.</p>
"""

BAR = """<div class="share"><div><i style="width: {{ part }}%"></i></div></div>"""

EXAMPLES = """<div class="examples">
{% for name, data in examples %}<figure><img src="data:image/jpeg;base64,{{ data }}" alt="{{ name }}">\
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}</div>
"""


def report_page(results: Results, *, examples: Mapping[str, bytes], sections: Sequence[Section] = (), style: str = "") -> str:
    """The page as HTML. examples: JPEGs by caption. sections: what comes before the figures, with the ``style`` it needs."""
    parts = [
        *sections,
        Section("COCO: average precision and recall", _figures(results)),
        Section("Precision and recall", _curves(results.coco)),
        Section("Classes", _classes(results)),
    ]
    if examples:
        pictures = [(caption, as_base64(data)) for caption, data in examples.items()]
        parts.append(Section("Pictures", fragment(EXAMPLES, examples=pictures)))
    return sectioned(
        title(results),
        subtitle(results),
        parts=parts,
        tiles=list(_tiles(results)),
        note=missing_line(results),
        style=charts.STYLE + style,
    )


def _figures(results: Results) -> Markup:
    figures = table("COCO's figures, by the size of the objects", FIGURE_TITLES, figure_rows(results), texts=2)
    return fragment(FIGURES, table=figures)


def _curves(coco: CocoMetrics) -> Markup:
    """Precision over recall: the mean over the classes at three IoUs, and each class at IoU .50."""
    recalls = RECALLS.tolist()
    levels = ((0.5, ".50", coco.AP50), (0.75, ".75", coco.AP75), (None, ".50:.95", coco.AP))
    means = [Curve(f"IoU {name}, AP {figure(ap)}", _points(recalls, coco.curve(iou).tolist())) for iou, name, ap in levels]
    known = sorted((k for k, row in enumerate(coco.per_class) if row.objects), key=lambda k: -coco.per_class[k].objects)
    classes = []
    for k in sorted(known[:NAMED], key=lambda k: -coco.per_class[k].AP50):
        points = _points(recalls, coco.curve(0.5, k).tolist())
        classes.append(Curve(f"{coco.per_class[k].name}, AP50 {figure(coco.per_class[k].AP50)}", points))
    which = "each class" if len(known) <= NAMED else f"the {NAMED} most frequent classes"
    drawn = (("Mean over the classes", means), (f"IoU .50, {which}", classes))
    body = """<div class="charts">
{% for name, chart in charts %}<figure><figcaption>{{ name }}</figcaption>{{ chart }}</figure>
{% endfor %}</div>
"""
    axes = {"x": "recall", "y": "precision"}
    return fragment(body, charts=[(name, line_chart(f"Precision over recall: {name}", c, **axes)) for name, c in drawn])


def _points(recalls: Sequence[float], precision: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(recalls, precision, strict=True))


def _classes(results: Results) -> Markup:
    rows = [
        (row.name, *class_cells(row), fragment(BAR, part=round(100 * row.AP, 1) if row.objects else 0)) for row in results.rows
    ]
    return table("Each class, the best first", (*CLASS_TITLES, "AP, 0 to 1"), rows)


def _tiles(results: Results) -> Iterator[tuple[str, str]]:
    """The figures at the top of the page: name and value."""
    yield "COCO AP, IoU .50:.95", figure(results.coco.AP)
    yield "AP50", figure(results.coco.AP50)
    yield "AP75", figure(results.coco.AP75)
    yield "VOC mAP, 2007", figure(results.voc07.mAP)
    yield "VOC mAP, 2010", figure(results.voc10.mAP)
    yield from ((f"loss, {name}", f"{value:.3f}") for name, value in (results.losses or {}).items())
    if results.book:
        yield "class error", f"{results.book.class_error:.2e}"
        yield "box MAE", f"{results.book.box_mae:.2e}"
