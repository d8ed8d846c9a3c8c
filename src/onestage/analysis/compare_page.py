"""A comparison as one web page: which detector is better, by which figures, and the pictures on which they differ most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from onestage.analysis.compare import FEWEST, Comparison, Difference, Pairing
from onestage.analysis.compare_pictures import DrawnPair
from onestage.analysis.compare_wording import (
    between,
    by_difference,
    first_sentence,
    more_sentences,
    seen_counts,
    side,
    signed,
    verdict,
)
from onestage.analysis.page import KEY, STYLE
from onestage.analysis.wording import MEANINGS
from onestage.errors import counted, shortened
from onestage.metrics import charts
from onestage.metrics.charts import Bar, Change, bar_chart, difference_chart
from onestage.metrics.page import Section, as_base64, fragment, sectioned, table
from onestage.metrics.wording import figure

CHARTED = 20
"""The most classes in a chart: those that differ most. The table has all."""
SHORT = 22
"""The most characters of a detector's name inside a chart."""

PAGE_STYLE = """  .pairs figure.pair { margin: 0 0 1.6rem; }
  .pairs figure.pair > figcaption { margin-bottom: .3rem; color: var(--ink); font-size: 1rem; }
  .pair .two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: .6rem 1rem; }
  .pair img { display: block; width: 100%; }
  figure > svg + figcaption { margin: .2rem 0 .8rem; }
  .facts { padding-left: 1.2rem; } .facts li { margin: .3rem 0; }
"""
"""What the page adds to the style of charts and of an analysis's page."""

PAIRS = """<div class="pairs">
{% for caption, sides in pairs %}<figure class="pair"><figcaption>{{ caption }}</figcaption><div class="two">
{% for side, data in sides %}<figure><img src="data:image/jpeg;base64,{{ data }}" alt="{{ side.caption }}: {{ side.words }}">\
<figcaption>{{ side.caption }}: {{ side.words }}</figcaption></figure>
{% endfor %}</div></figure>
{% endfor %}</div>
"""
FACTS = """<ul class="facts">
{% for one in sentences %}<li>{{ one }}</li>
{% endfor %}</ul>
"""
"""Sentences, one below the other."""


def comparison_page(comparison: Comparison, drawn: Sequence[Sequence[DrawnPair]] = (), *, remarks: Sequence[str] = ()) -> str:
    """The page as HTML. drawn: for each pairing the pictures, as ``draw_differing`` draws them. remarks: what a reader should
    know of the detectors and of the pictures, in sentences.
    """
    names = [system.name for system in comparison.systems]
    counts = counted(len(comparison.pictures), "picture"), counted(sum(row.objects for row in comparison.pictures), "object")
    subtitle = " · ".join([*counts, counted(len(comparison.classes), "class"), counted(comparison.draws, "draw")])
    parts = [Section("In short", _facts(comparison, remarks))]
    for number in range(1, len(names)):
        parts += _pairing_sections(comparison, number, drawn[number - 1] if drawn else ())
    parts.append(Section("What each gets wrong", _errors(comparison)))
    parts.append(Section("At the score of the best F1", _at_best(comparison)))
    parts.append(Section("How to read this page", fragment("<p>{{ text }}</p>\n", text=READING)))
    return sectioned(
        " and ".join([", ".join(names[:-1]), names[-1]]) + (f" on {comparison.data}" if comparison.data else ""),
        subtitle,
        lead=[first_sentence(pairing) for pairing in comparison.pairings],
        parts=parts,
        tiles=list(_tiles(comparison)),
        style=charts.STYLE + STYLE + PAGE_STYLE,
    )


READING = f"""AP is COCO's, 0 to 1: the mean over IoU .50 to .95 and over the classes; AP50 and AP75 are at one IoU. A \
difference is the second detector less the first. Its interval: as many pictures as there are were drawn from them again and \
again, with repeats, the same for all detectors; in 95 of 100 drawn sets the difference lies inside. If 0 lies inside too, \
these pictures cannot tell the two apart; nor can they if fewer than {FEWEST} of them have objects for a figure. By chance \
alone about one figure in 20 looks different that is not: a single class counts for little if AP does not differ. Another \
training of the same detector, with another seed, would differ too, and no interval here knows by how much. \
Figures are rounded one by one."""
"""What a newcomer needs to know."""


def _tiles(comparison: Comparison) -> list[tuple[str, str]]:
    """The AP of each detector, and the differences."""
    pairings = comparison.pairings
    tiles = [(f"AP, {pairings[0].first}", figure(pairings[0].figures[0].first))]
    for pairing in pairings:
        row = pairing.figures[0]
        tiles.append((f"AP, {pairing.second}", figure(row.second)))
        tiles.append((f"difference: {verdict(row, pairing)}", signed(row.difference.value)))
    return tiles


def _facts(comparison: Comparison, remarks: Sequence[str]) -> Markup:
    """What else follows, for each pairing, and the remarks."""
    body = Markup()
    for number, pairing in enumerate(comparison.pairings, start=1):
        if len(comparison.pairings) > 1:
            body += fragment("<h3>{{ title }}</h3>\n", title=_versus(pairing))
        body += fragment(FACTS, sentences=more_sentences(comparison, number))
    return body + fragment("{% for remark in remarks %}<p>{{ remark }}</p>\n{% endfor %}", remarks=remarks)


def _versus(pairing: Pairing) -> str:
    return f"{pairing.second} against {pairing.first}"


def _pairing_sections(comparison: Comparison, number: int, drawn: Sequence[DrawnPair]) -> list[Section]:
    """The figures, the classes and the pictures of one pairing."""
    pairing = comparison.pairings[number - 1]
    of = f": {_versus(pairing)}" if len(comparison.pairings) > 1 else ""
    sections = [Section(f"The difference{of}", _differences(pairing)), Section(f"Each class{of}", _classes(pairing))]
    if comparison.differing(number):
        sections.append(Section(f"Where they differ most{of}", _pictures(comparison, number, drawn)))
    return sections


def _differences(pairing: Pairing) -> Markup:
    title = "AP over all classes, and by the size of the objects"
    return _chart(title, pairing, pairing.figures) + _table(title, "figure", pairing, pairing.figures)


def _classes(pairing: Pairing) -> Markup:
    rows = by_difference(pairing.per_class)
    which = "AP of each class" if len(rows) <= CHARTED else f"AP of the {CHARTED} classes that differ most"
    every = "AP of each class, the largest difference first"
    return _chart(which, pairing, rows[:CHARTED]) + _table(every, "class", pairing, rows)


def _chart(title: str, pairing: Pairing, rows: Sequence[Difference]) -> Markup:
    known = [row for row in rows if not math.isnan(row.difference.value)]
    changes = [
        Change(row.name, row.difference.value, f"{signed(row.difference.value)} ({between(row)})", *_limits(row), side(row))
        for row in known
    ]
    left, right = (f"{shortened(name, SHORT)} is better" for name in (pairing.first, pairing.second))
    label = f"{title}: {pairing.second} less {pairing.first}, with 95 % intervals"
    chart = difference_chart(label, changes, left=left, right=right)
    note = "Full point, solid line: the whole interval lies on one side of 0. Hollow point, dashed line: cannot be told apart."
    return fragment("<figure>{{ chart }}<figcaption>{{ note }}</figcaption></figure>\n", chart=chart, note=note)


def _limits(row: Difference) -> tuple[float, float]:
    return row.difference.low, row.difference.high


def _table(caption: str, first: str, pairing: Pairing, rows: Sequence[Difference]) -> Markup:
    head = (first, pairing.first, pairing.second, "difference", "95 % interval", "verdict", "pictures")
    cells = [(row.name, *_cells(row), verdict(row, pairing), f"{row.pictures:,}") for row in rows]
    return table(caption, head, cells)


def _cells(row: Difference) -> tuple[str, ...]:
    return figure(row.first), figure(row.second), signed(row.difference.value), between(row)


def _pictures(comparison: Comparison, number: int, drawn: Sequence[DrawnPair]) -> Markup:
    """How many pictures each does better, and the ones on which they differ most."""
    pairing, rows = comparison.pairings[number - 1], comparison.differing(number)
    fewer = sum(row.errors(number) < row.errors(0) for row in rows)
    words = (
        f"An error is an object that is not found, or a false alarm, at IoU .5 and the score of each detector's best F1. "
        f"{pairing.second} makes fewer errors in {counted(fewer, 'picture')}, {pairing.first} in {len(rows) - fewer:,}, "
        f"and both make the same number in {len(comparison.pictures) - len(rows):,}."
    )
    body = fragment("<p>{{ words }}</p>\n", words=words) + Markup(KEY if drawn else "")
    for better in dict.fromkeys(pair.better for pair in drawn):
        pairs = [
            (pair.caption, [(one, as_base64(one.jpeg)) for one in (pair.first, pair.second)])
            for pair in drawn
            if pair.better == better
        ]
        body += fragment("<h3>{{ better }} makes fewer errors</h3>\n", better=better) + fragment(PAIRS, pairs=pairs)
    return body


def _errors(comparison: Comparison) -> Markup:
    """What the errors of each type cost each detector."""
    systems = comparison.systems
    kinds = list(zip(*(system.errors.types for system in systems), strict=True))
    kinds.sort(key=lambda row: -max((kind.gain for kind in row if math.isfinite(kind.gain)), default=0.0))
    most = max((kind.gain for row in kinds for kind in row if math.isfinite(kind.gain)), default=0.0)
    bars = [
        Bar(
            f"{kind.name}, {shortened(system.name, SHORT)}",
            kind.gain,
            f"{figure(kind.gain)} ({kind.count:,})",
            side="second" if number else "first",
        )
        for row in kinds
        for number, (kind, system) in enumerate(zip(row, systems, strict=True))
    ]
    words = "What AP50 gains without the errors of one type, and in brackets how many there are, of any score."
    head = ["error", "what it is"]
    for system in systems:
        head += [f"{system.name}: count", "AP50 it costs"]
    rows = [
        (row[0].name, MEANINGS[row[0].name], *(cell for kind in row for cell in (f"{kind.count:,}", figure(kind.gain))))
        for row in kinds
    ]
    chart = bar_chart("AP50 that each type of error costs each detector", bars, most=most)
    return fragment("<p>{{ words }}</p>\n", words=words) + chart + table("Errors by type", head, rows, texts=2)


def _at_best(comparison: Comparison) -> Markup:
    """What a user of each detector sees, if it reports detections from the score of its best F1 on."""
    rows = []
    for number, system in enumerate(comparison.systems):
        found, missed, false = seen_counts(comparison, number)
        best = system.threshold
        figures = [figure(part.value) for part in (best.score, best.precision, best.recall, best.f1)]
        rows.append((system.name, *figures, f"{found:,}", f"{missed:,}", f"{false:,}"))
    head = ("detector", "score", "precision", "recall", "F1", "found", "missed", "false alarms")
    caption = "Each detector at the score of its best F1 over all classes, IoU .5"
    return table(caption, head, rows)
