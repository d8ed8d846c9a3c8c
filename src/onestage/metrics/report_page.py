"""A report as one web page, with its curves and its example pictures inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onestage.metrics.page import as_base64, fill
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

PAGE = """<h1>{{ title }}</h1>
<p>{{ subtitle }}</p>
<div class="tiles">
{% for name, value in tiles %}  <div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}</div>
{% if missing %}<p>{{ missing }}</p>
{% endif %}<h2>COCO: average precision and recall</h2>
<div class="wide"><table>
<thead><tr>{% for name in figures_head %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in figures %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p>AR, 10 each: recall with at most 10 detections of a class in a picture. Small: an area below 32 × 32 pixels, medium: below
96 × 96. A dash: nothing to find.</p>
<h2>Precision and recall</h2>
<figure><img src="data:image/png;base64,{{ curves }}" alt="Precision over recall, the mean and by class"></figure>
<h2>Classes</h2>
<div class="wide"><table>
<thead><tr>{% for name in classes_head %}<th>{{ name }}</th>{% endfor %}<th>AP, 0 to 1</th></tr></thead>
<tbody>
{% for cells, part in classes %}<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}\
<td class="bar"><div><i style="width: {{ part }}%"></i></div></td></tr>
{% endfor %}</tbody></table></div>
{% if examples %}<h2>Pictures</h2>
<div class="examples">
{% for name, data in examples %}<figure><img src="data:image/jpeg;base64,{{ data }}" alt="{{ name }}">\
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}</div>
{% endif %}</body>
</html>
"""


def report_page(results: Results, *, curves: bytes, examples: Mapping[str, bytes]) -> str:
    """The page as HTML. curves: a PNG of precision over recall. examples: JPEGs by caption."""
    return fill(
        PAGE,
        title=title(results),
        subtitle=subtitle(results),
        tiles=list(_tiles(results)),
        missing=missing_line(results),
        figures_head=FIGURE_TITLES,
        figures=figure_rows(results),
        curves=as_base64(curves),
        classes_head=CLASS_TITLES,
        classes=[([row.name, *class_cells(row)], round(100 * row.AP, 1) if row.objects else 0) for row in results.rows],
        examples=[(caption, as_base64(data)) for caption, data in examples.items()],
    )


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
