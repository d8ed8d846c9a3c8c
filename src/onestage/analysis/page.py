"""An analysis as sections of a report's page: charts as inline SVG, tables, and the worst pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from onestage.analysis.advice import LOOSE
from onestage.analysis.analysis import Analysis
from onestage.analysis.bootstrap import Estimate, Sureness
from onestage.analysis.calibration import Calibrated
from onestage.analysis.confusion import Confusion
from onestage.analysis.errors import Errors
from onestage.analysis.labels import PLACED, Labels
from onestage.analysis.olrp import OlrpFigures
from onestage.analysis.reach import Reach, ReachedPart
from onestage.analysis.reliability import Reliability
from onestage.analysis.slices import Quality, Slice, Slices
from onestage.analysis.thresholds import Thresholds, without_use
from onestage.analysis.wording import MEANINGS, aim, by_cost, interval, olrp_line, sure, threshold_line, threshold_table
from onestage.analysis.worst import Drawn
from onestage.errors import counted
from onestage.metrics.charts import Bar, Curve, bar_chart, line_chart, matrix_chart
from onestage.metrics.page import Section, as_base64, fragment, table
from onestage.metrics.wording import figure

CONFUSED = 15
"""The most classes in the matrix: those that are mistaken most often."""
MISTAKEN, SUSPECTS = 20, 20
"""The most pairs of classes, and labels, in a table."""

MEASURED = {
    "size": "the area of the object in pixels of its picture",
    "shape": "the width of the box by its height",
    "crowding": "the highest IoU with another object of the class",
    "border": "whether the box ends within a pixel of the border of the picture",
    "brightness": "the mean luma (ITU-R BT.601) of the pixels in the box, 0 to 255; dark is below 64, bright from 192 on",
}
"""How each quality of objects is measured."""

REACH_HEAD = (
    "part",
    "objects",
    "reached",
    "share",
    "not reached",
    "smaller than every anchor",
    "missed",
    "of these not reached",
)

STYLE = """  .advice { padding: .8rem 1rem .8rem 2.4rem; border-left: .25rem solid #ffb000; background: var(--note); }
  .key span { display: inline-block; margin-right: 1.4rem; }
  .key i { display: inline-block; width: 1.6rem; height: .9rem; margin-right: .4rem; border: 3px solid; background: #3d434d; }
  summary { margin-top: .6rem; color: var(--blue); cursor: pointer; }
  .key .hit { border-color: #2f9bff; } .key .missed { border-color: #ffc400; border-style: dashed; }
  .key .false { border-color: #ff3c82; border-style: dotted; }
  .small { grid-template-columns: repeat(auto-fill, minmax(min(9rem, 100%), 1fr)); }
"""
"""What the sections add to the style of the page."""

KEY = """<p class="key"><span><i class="hit"></i>found: solid blue</span> \
<span><i class="missed"></i>missed object: dashed yellow</span> \
<span><i class="false"></i>false alarm: dotted pink</span></p>
"""
LABEL_KEY = """<p class="key"><span><i class="missed"></i>the label: dashed yellow</span> \
<span><i class="hit"></i>the detection: solid blue</span></p>
"""
PICTURES = """<div class="examples{{ size }}">
{% for picture in pictures %}<figure><img src="data:image/jpeg;base64,{{ data[loop.index0] }}" \
alt="{{ picture.words }}"><figcaption>{{ picture.caption }}: {{ picture.words }}</figcaption></figure>
{% endfor %}</div>
"""


def sections(
    analysis: Analysis, *, advice: Sequence[str] = (), pictures: Sequence[Drawn] = (), suspects: Sequence[Drawn] = ()
) -> list[Section]:
    """The sections, in the order in which a reader needs them; those of absent parts are left out.

    advice: what to do next, in sentences. pictures: the worst ones, as ``worst_pictures`` draws them. suspects: labels, as
    ``suspect_pictures`` draws them.
    """
    found = [Section("What to do next", _list(advice))] if advice else []
    if analysis.errors is not None:
        found.append(Section("What goes wrong", _errors(analysis.errors, analysis.olrp)))
    if analysis.thresholds is not None:
        found.append(Section("Which score to deploy with", _thresholds(analysis.thresholds)))
    if pictures:
        found.append(Section("The worst pictures", _pictures(pictures, analysis.slices)))
    if analysis.slices is not None:
        found.append(Section("Which objects are found", _slices(analysis.slices)))
    if analysis.reach is not None:
        found.append(Section("Which objects anchors reach", _reach(analysis.reach)))
    if analysis.confusion is not None:
        found.append(Section("Which class is taken for which", _confusion(analysis.confusion)))
    if analysis.AP is not None:
        found.append(Section("How sure these figures are", _sureness(analysis.AP)))
    if analysis.reliability is not None:
        found.append(Section("Can scores be believed", _reliability(analysis.reliability, analysis)))
    if analysis.labels is not None:
        found.append(Section("Labels that may be wrong", _labels(analysis.labels, analysis, suspects)))
    return found


def _text(text: str) -> Markup:
    return fragment("<p>{{ text }}</p>\n", text=text)


def _list(sentences: Sequence[str]) -> Markup:
    body = '<ol class="advice">\n{% for one in sentences %}<li>{{ one }}</li>\n{% endfor %}</ol>\n'
    return fragment(body, sentences=sentences)


def _errors(errors: Errors, olrp: OlrpFigures | None) -> Markup:
    """What each type of error costs, as a chart and a table."""
    kinds = by_cost(errors)
    most = max([kind.gain for kind in kinds if math.isfinite(kind.gain)], default=0.0)
    bars = [Bar(kind.name, kind.gain, figure(kind.gain)) for kind in kinds]
    rows = [(kind.name, MEANINGS[kind.name], f"{kind.count:,}", figure(kind.gain)) for kind in kinds]
    both = [
        (errors.false_positives, "all boxes that hit nothing, of any type"),
        (errors.false_negatives, "all objects that are not found"),
    ]
    rows += [(kind.name, meaning, f"{kind.count:,}", figure(kind.gain)) for kind, meaning in both]
    seen = errors.hits + errors.false_positives.count
    words = (
        f"AP50 is {figure(errors.AP)}, with {counted(errors.hits, 'hit')} among {counted(seen, 'detection')} of any score: of"
    )
    words += (
        " each class the best 100 in a picture count. What errors of one type cost is what AP50 gains without them while all"
        " others stay, so the figures do not add up to what is missing to 1."
    )
    head = ("error", "what it is", "count", "AP50 it costs")
    parts = [_text(words), bar_chart("AP50 that each type of error costs", bars, most=most)]
    parts.append(table("Errors by type; each figure is what AP50 gains if these errors alone were mended", head, rows, texts=2))
    if olrp is not None:
        parts.append(_text(f"oLRP, one error for all of it (0 is perfect): {olrp_line(olrp.mean)}."))
    return Markup("\n").join(parts)


def _thresholds(thresholds: Thresholds) -> Markup:
    """The score for all classes, and for each class."""
    words = f"Over all classes: {threshold_line(thresholds.overall, thresholds.want)}."
    words += " A lower score finds more objects and gives more false alarms; a higher one does the reverse. Over all classes is"
    words += (
        " for programs that take one score; with onestage evaluate --keep-thresholds the model holds the score of each class."
    )
    if useless := [row.name for row in without_use(thresholds)]:
        names = ", ".join(useless[:MISTAKEN]) + (" and others" if len(useless) > MISTAKEN else "")
        words += f" No score is of use for {names}: use that of all classes there, as --keep-thresholds does."
    head, *rows = threshold_table(thresholds)
    return _text(words) + table(f"The score for {aim(thresholds.want)}, with what it gives at IoU .5", head, rows)


def _pictures(pictures: Sequence[Drawn], slices: Slices | None) -> Markup:
    """The pictures with the key to their lines."""
    words = f"Detections of a score of at least {slices.score:.3f} are drawn. " if slices is not None else ""
    note = _text(f"{words}The picture that costs most AP comes first.")
    return note + Markup(KEY) + _drawn(pictures)


def _drawn(pictures: Sequence[Drawn], size: str = "") -> Markup:
    """Drawings side by side. size: a class of their columns, with a blank in front."""
    return fragment(PICTURES, pictures=pictures, data=[as_base64(picture.jpeg) for picture in pictures], size=size)


def _slices(slices: Slices) -> Markup:
    """The share of objects that are found, by each quality; the classes as a table, as there may be many."""
    words = f"Found: a detection of a score of at least {slices.score:.3f} hits the object. A thin line is the 95 % interval. "
    words += " ".join(f"{quality.name.capitalize()}: {MEASURED[quality.name]}." for quality in slices.qualities[1:])
    charts = [_quality(quality) for quality in slices.qualities if quality.name != "class"]
    parts = [_text(words), Markup('<div class="charts">\n{}\n</div>\n').format(Markup("\n").join(charts))]
    head = ("part", "objects", "found", "share", "95 % interval", "a wrong box instead")
    parts += [table(f"Objects by {one.name}", head, [_slice_row(part) for part in one.slices]) for one in slices.qualities]
    return Markup("\n").join(parts)


def _slice_row(part: Slice) -> tuple[str, ...]:
    share = Estimate(part.share, part.low, part.high)
    return part.name, f"{part.objects:,}", f"{part.found:,}", figure(share.value), interval(share), f"{part.mistaken:,}"


def _quality(quality: Quality) -> Markup:
    bars = [Bar(s.name, s.share, f"{s.found:,} of {s.objects:,}", s.low, s.high) for s in quality.slices]
    chart = bar_chart(f"Share of objects that are found, by {quality.name}", bars)
    return Markup("<figure><figcaption>by {}</figcaption>{}</figure>").format(quality.name, chart)


def _reach(reach: Reach) -> Markup:
    """How many objects an anchor reaches, by class, size and level, and whether the missed ones are among the others."""
    total = reach.total
    words = (
        f"Anchors reach {_share(total.reached, total.objects)} of {counted(total.objects, 'object')}: their IoU is at least "
        f"{reach.iou:g}. A detector learns little from objects that no anchor reaches. "
    )
    words += f"Missed: no detection of a score of at least {reach.score:.3f} finds the object. "
    words += (
        f"Of {counted(total.missed, 'missed object')}, {total.missed_unreached:,} are among those that no anchor reaches "
        f"({_share(total.missed_unreached, total.missed)}; of all objects {_share(total.unreached, total.objects)})."
        if total.missed
        else "No object is missed."
    )
    parts = [_text(words)]
    for kind, rows in (("class", reach.classes), ("size", reach.sizes)):
        cells = [(*_reached(row), row.unreached, row.small, row.missed, row.missed_unreached) for row in rows]
        parts.append(table(f"What anchors reach, by {kind} of the objects", REACH_HEAD, [_with_commas(row) for row in cells]))
    levels = [_with_commas(_reached(row)) for row in reach.levels]
    parts.append(
        table("What the anchors of each level reach alone, from the finest map to the coarsest", REACH_HEAD[:4], levels)
    )
    return Markup("\n").join(parts)


def _reached(row: ReachedPart) -> tuple[str, int, int, str]:
    return row.name, row.objects, row.reached, _share(row.reached, row.objects)


def _share(part: int, whole: int) -> str:
    """A share in per cent, rounded down to a tenth, so that 100 % means all; a dash for a share of nothing."""
    return f"{1000 * part // whole / 10:g}\N{NO-BREAK SPACE}%" if whole else "-"


def _with_commas(row: Sequence[str | int]) -> list[str]:
    return [f"{cell:,}" if isinstance(cell, int) else cell for cell in row]


def _confusion(confusion: Confusion) -> Markup:
    """The matrix of the classes that are mistaken most often, and the pairs."""
    background, mistaken = len(confusion.classes), confusion.mistaken
    names = [*confusion.classes, "(background)"]
    errors = [0] * background
    for cell in confusion.cells:
        for label in {cell.true, cell.predicted} - {background} if cell.true != cell.predicted else ():
            errors[label] += cell.count
    shown = [*sorted(sorted(range(background), key=lambda label: -errors[label])[:CONFUSED]), background]
    matrix = confusion.matrix[shown][:, shown].tolist()
    which = "all classes" if background <= CONFUSED else f"the {CONFUSED} classes with most mistakes"
    words = (
        "Rows: what an object is; columns: what it is detected as, by detections of a score of at least "
        f"{confusion.score:.3f} with an IoU above {confusion.iou:g}. In the column of the background are missed objects, in "
        f"its row false alarms. Shown: {which}."
    )
    rows = [(names[cell.true], names[cell.predicted], f"{cell.count:,}") for cell in mistaken[:MISTAKEN]]
    pairs = table("Classes taken for each other most often", ("class", "detected as", "objects"), rows, texts=2)
    shown_names = [names[label] for label in shown]
    chart = matrix_chart(f"Confusion matrix of {which}; its counts stand in the table below", shown_names, matrix)
    cells = [(name, *(f"{count:,}" for count in row)) for name, row in zip(shown_names, matrix, strict=True)]
    counts = table(f"The confusion matrix of {which}", ("object", *shown_names), cells)
    folded = Markup("<details><summary>The matrix as a table</summary>\n{}</details>\n").format(counts)
    return _text(words) + chart + folded + (pairs if rows else _text("No class is taken for another."))


def _sureness(ap: Sureness) -> Markup:
    """AP and AP50 of all classes and of each, with their intervals."""
    words = f"AP {sure(ap.AP)}, AP50 {sure(ap.AP50)}, from {counted(ap.pictures, 'picture')}. "
    words += "Other pictures of the same kind would give figures in the interval, in 95 of 100 cases." if ap.draws else ""
    rows = [
        (name, figure(a.value), interval(a, pictures), figure(b.value), interval(b, pictures))
        for name, a, b, pictures in (
            ("all classes", ap.AP, ap.AP50, ap.pictures),
            *((row.name, row.AP, row.AP50, row.pictures) for row in ap.per_class),
        )
    ]
    head = ("class", "AP", "95 % of draws", "AP50", "95 % of draws")
    return _text(words) + table("AP of each class with its interval", head, rows)


def _reliability(measured: Reliability, analysis: Analysis) -> Markup:
    """The reliability diagram, with its bins as a table."""
    words = "Detections of a score of .8 should be hits in 80 of 100 cases. "
    words += f"The mean distance from that, D-ECE, is {figure(measured.error)}."
    if analysis.localisation is not None:
        words += f" Of scores and the IoU of boxes: LaECE {figure(analysis.localisation.LaECE)}."
    words += " Most detections have scores near 0, and these decide the mean: the diagram shows what holds from your score on."
    chart = _diagram("Reliability diagram: share of hits over score", {"these detections": measured})
    bins = [b for b in measured.bins if b.count]
    rows = [(f"{b.low:.1f} to {b.high:.1f}", f"{b.count:,}", figure(b.score), figure(b.hits)) for b in bins]
    found = _text(words) + chart + table("Detections by score", ("score", "detections", "mean score", "share of hits"), rows)
    return found if analysis.calibrated is None else found + _calibrated(analysis.calibrated)


def _calibrated(fitted: Calibrated) -> Markup:
    """What a calibration does to the pictures that it was not fitted on."""
    words = (
        f"Calibration moves the scores of a class nearer to the share of hits. It was fitted on "
        f"{counted(fitted.fitted_pictures, 'picture')}; the others, {fitted.pictures:,}, say what it does. "
        "Shown: the detections of at least the score of the best F1. "
    )
    words += (
        "With --calibrate, onestage evaluate keeps it in the model."
        if fitted.helps
        else "It does not help here: leave the scores."
    )
    rows = [
        (name, figure(hits.error), figure(shown.error), figure(place.LaECE), figure(place.LaACE), figure(ap))
        for name, hits, shown, place, ap in (
            ("before", fitted.before, fitted.shown_before, fitted.localisation_before, fitted.AP_before),
            ("after", fitted.after, fitted.shown_after, fitted.localisation_after, fitted.AP_after),
        )
    ]
    caption = "Before and after calibration, on pictures that it was not fitted on"
    figures = table(caption, ("scores", "D-ECE", "D-ECE, shown", "LaECE", "LaACE", "AP"), rows)
    chart = _diagram("Reliability diagram before and after calibration", {"before": fitted.before, "after": fitted.after})
    return _text(words) + figures + chart


def _diagram(label: str, measured: Mapping[str, Reliability]) -> Markup:
    """Reliability diagrams in one, by name."""
    curves = [Curve(name, [(b.score, b.hits) for b in one.bins if b.count]) for name, one in measured.items()]
    iou = next(iter(measured.values())).iou
    return line_chart(label, curves, x="score", y=f"share of hits, IoU {iou:g}", diagonal="scores that can be believed")


def _labels(labels: Labels, analysis: Analysis, pictures: Sequence[Drawn]) -> Markup:
    """How many labels are in doubt, and the worst of them, drawn and as a table."""
    classes, olrp = analysis.classes, analysis.olrp
    counts = ", ".join(f"{count:,} {reason}" for reason, count in labels.counts.items())
    rows = [
        (_name(one.image_id), one.reason, classes[one.label], classes[one.suggested_label], f"{one.quality:.3f}")
        for one in labels.suspects[:SUSPECTS]
    ]
    words = f"By {counted(labels.confident, 'detection')} of a score of at least {labels.sure:g}: {counts}. "
    words += "The lower the quality, the more likely a label is wrong." if rows else ""
    if labels.counts.get(PLACED) and olrp is not None and olrp.mean.loc >= LOOSE:
        words += (
            f" But badly placed ones may be right: the detector places its hits loosely (mean of 1 - IoU {olrp.mean.loc:.3f})."
        )
    words += "" if labels.confident else " Try a lower score: --sure 0.5."
    if rows:
        words += " For a label tool, add --suspects coco or --suspects labelme to onestage evaluate."
    head = ("picture", "reason", "class", "the detection says", "quality")
    drawn = Markup(LABEL_KEY) + _drawn(pictures, " small") if pictures else Markup()
    return _text(words) + drawn + (table("The labels to look at first", head, rows, texts=4) if rows else Markup())


def _name(image_id: int | str) -> str:
    return Path(image_id).name if isinstance(image_id, str) else str(image_id)
