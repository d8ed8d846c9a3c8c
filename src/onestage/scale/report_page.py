"""The figures of a batch as a page, with a contact sheet of a sample of its pictures."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from onestage.errors import counted, shortened
from onestage.files import Json, make_folder, write_file
from onestage.metrics.charts import STYLE, Bar, bar_chart
from onestage.metrics.page import Section, as_base64, fragment, sectioned, table
from onestage.metrics.report_files import as_jpeg
from onestage.scale.report import BINS, SIDE, Drawn, Figures

PAGE, SHEET, FIGURES = "index.html", "contact-sheet.jpg", "batch.json"
MOST_CLASSES, MOST_BARS = 100, 30
"""Rows of the table of classes, and bars of its chart, the most frequent ones."""
COLUMNS, GAP = 6, 8
"""Of the contact sheet: pictures side by side, and pixels between them."""
PICTURES = """<div class="examples">
{% for id, words, data in pictures %}<figure><img src="data:image/jpeg;base64,{{ data }}" alt="{{ id }}: {{ words }}">
<figcaption>{{ id }}: {{ words }}</figcaption></figure>
{% else %}<p>None of the sampled pictures can be read now.</p>
{% endfor %}</div>
"""


def save_report(figures: Figures, pictures: Sequence[Drawn], folder: Path) -> Path:
    """Write the page, the contact sheet and the figures into a folder, which is made. Return the path of the page."""
    make_folder(folder)
    if pictures:
        write_file(folder / SHEET, contact_sheet([drawn.picture for drawn in pictures]))
    else:
        (folder / SHEET).unlink(missing_ok=True)  # of an earlier report
    write_file(folder / FIGURES, json.dumps(plain(figures), indent=1) + "\n")
    page = _page(figures, pictures)
    write_file(folder / PAGE, page.encode("utf-8", "replace"))
    return folder / PAGE


def contact_sheet(pictures: Sequence[Image.Image]) -> bytes:
    """The pictures in rows as high as their highest picture, as one JPEG."""
    columns, width = min(COLUMNS, len(pictures)), max(picture.width for picture in pictures)
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + (len(rows) + 1) * GAP), (255, 255, 255))
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (width + GAP) + (width - picture.width) // 2
            sheet.paste(picture, (left, top + (height - picture.height) // 2))
        top += height + GAP
    file = io.BytesIO()
    sheet.save(file, format="JPEG", quality=88)
    return file.getvalue()


def plain(figures: Figures) -> dict[str, Json]:
    """The figures for JSON."""
    return {
        "model": figures.manifest.model.name,
        "parts": figures.parts,
        "parts_in_all": figures.manifest.pictures.shards,
        "pictures": figures.pictures,
        "pictures_in_all": figures.manifest.pictures.pictures,
        "pictures_without_objects": figures.empty,
        "objects": dict(figures.objects.most_common()),
        "failures": dict(figures.failures.most_common()),
        "scores": {name: found.tolist() for name, found in sorted(figures.scores.items())},
        "seconds": round(figures.seconds, 3),
    }


def lead(figures: Figures) -> list[str]:
    """What the figures say, in sentences."""
    found = f"{counted(figures.objects.total(), 'object')} of {counted(len(figures.objects), 'class')}"
    sentences = [f"{counted(figures.pictures, 'picture')}: {found if figures.objects else 'no object'}."]
    if figures.never:
        sentences.append(f"Never found: {shortened(', '.join(figures.never), 200)}.")
    missing = figures.manifest.pictures.shards - figures.parts
    if missing:
        left = figures.manifest.pictures.pictures - figures.pictures
        sentences.append(f"The batch is not finished: {counted(left, 'picture')} in {counted(missing, 'shard')} are left.")
    if figures.failed:
        share = 100 * figures.failed / figures.pictures
        sentences.append(f"{counted(figures.failed, 'picture')} could not be read ({share:.1f} %).")
    return sentences


def _page(figures: Figures, pictures: Sequence[Drawn]) -> str:
    manifest = figures.manifest
    tiles = [
        ("pictures", f"{figures.pictures:,}"),
        ("objects", f"{figures.objects.total():,}"),
        ("without objects", f"{figures.empty:,}"),
        ("could not be read", f"{figures.failed:,}"),
    ]
    parts = [
        *([Section("Pictures", _pictures(pictures))] if figures.sample else []),
        *([Section("Classes", _classes(figures)), Section("Scores", _scores(figures))] if figures.objects else []),
        *([Section("Failures", _failures(figures))] if figures.failed else []),
        Section("The batch", _about(figures)),
    ]
    subtitle = f"{manifest.model.name} on {shortened(' '.join(manifest.given), 120)}"
    return sectioned("What the batch has found", subtitle, parts=parts, lead=lead(figures), tiles=tiles, style=STYLE)


def _pictures(pictures: Sequence[Drawn]) -> Markup:
    shown = [(shortened(drawn.id, 60), drawn.words, as_base64(as_jpeg(drawn.picture, side=SIDE))) for drawn in pictures]
    return fragment(PICTURES, pictures=shown)


def _classes(figures: Figures) -> Markup:
    total = figures.objects.total()
    common = figures.objects.most_common(MOST_CLASSES)
    most = max(figures.objects.values(), default=1)
    bars = [Bar(name, count, f"{count:,}", math.nan, math.nan) for name, count in common[:MOST_BARS]]
    rows = [(name, f"{count:,}", f"{100 * count / total:.1f} %", f"{_mean(figures, name):.2f}") for name, count in common]
    caption = "Objects of each class" + (f", the {MOST_CLASSES} most frequent" if len(figures.objects) > MOST_CLASSES else "")
    note = "<p>Never found: {{ names }}</p>" if figures.never else ""
    chart = bar_chart("Objects of each class", bars, most=most)
    listed = table(caption, ("class", "objects", "share", "mean score"), rows)
    return chart + listed + fragment(note, names=shortened(", ".join(figures.never), 600))


def _mean(figures: Figures, name: str) -> float:
    """The mean score of a class, from its histogram: to a fortieth."""
    found = figures.scores[name]
    return float(sum((number + 0.5) / BINS * count for number, count in enumerate(found)) / max(1, found.sum()))


def _scores(figures: Figures) -> Markup:
    found = figures.all_scores.tolist()
    held = [number for number, count in enumerate(found) if count]
    named = [(f"{number / BINS:.2f} to {(number + 1) / BINS:.2f}", found[number]) for number in range(held[0], held[-1] + 1)]
    bars = [Bar(name, count, f"{count:,}", math.nan, math.nan) for name, count in reversed(named)]
    score = figures.manifest.options.score
    least = "the threshold of its class" if score is None else f"a score of {score:g}"
    note = fragment("<p>{{ text }}</p>\n", text=f"How many objects have a score in each range. None has less than {least}.")
    return note + bar_chart("How many objects have a score in each range", bars, most=max(found, default=1) or 1)


def _failures(figures: Figures) -> Markup:
    rows = []
    for code, count in figures.failures.most_common():
        path, message = figures.examples[code]
        rows.append((code, shortened(path, 200), shortened(message.replace("\n", "; "), 300), f"{count:,}"))
    return table(
        "Pictures that could not be read, by the kind of failure", ("code", "such as", "why", "pictures"), rows, texts=3
    )


def _about(figures: Figures) -> Markup:
    manifest, options = figures.manifest, figures.manifest.options
    rows = [
        ("model", f"{manifest.model.name}, {manifest.model.digest[:12]}"),
        ("input", shortened(" ".join(manifest.given), 300)),
        ("parts", f"{figures.parts:,} of {manifest.pictures.shards:,}, of {options.shard_size:,} pictures"),
        ("computed by", f"{options.runtime} on {options.device}, {options.precision}, {options.batch_size} pictures at once"),
        ("classes", ", ".join(options.classes) or "all"),
        ("at most in a picture", "no limit" if options.top is None else str(options.top)),
    ]
    if figures.seconds and figures.pictures:
        rows.append(("time of a picture in its process", f"{1000 * figures.seconds / figures.pictures:.1f} ms"))
    return table("How it was made", ("", ""), rows, texts=2)
