"""An explanation as a folder: index.html, which holds everything, and beside it the pictures and figures.json."""

from __future__ import annotations

import json
from pathlib import Path

from onestage.draw import colour_of
from onestage.explain.explanation import Explanation, Group, Level, ObjectRow
from onestage.explain.pictures import NAMED_DRAWN, level_picture, nms_picture, objects_picture
from onestage.files import Json, given_path, make_folder, write_file
from onestage.metrics.page import as_base64, fill
from onestage.metrics.results import nan_as_none
from onestage.model.output.suppress import DIoUNMS, HardNMS, LinearSoftNMS, SoftNMS

GROUP_COLOURS = {"positives": "#2a9d6f", "hard negatives": "#e0662f", "easy negatives": "#2f6fde", "ignored": "#c9ced6"}

LEVEL_TITLES = ("map", "cells", "stride", "shapes", "anchors", "learn an object", "class loss")
OBJECT_TITLES = ("", "object", "width × height", "anchors that learn it", "best IoU")

STYLE = """  .bar { display: flex; height: 1.6rem; margin: .8rem 0 .4rem; border-radius: .4rem; overflow: hidden;
         background: var(--line); }
  .bar i { display: block; min-width: 0; }
  .key { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; margin: 0 0 .6rem; }
  .key i, .objects td i { display: inline-block; width: .75rem; height: .75rem; border-radius: .2rem; margin-right: .45rem; }
  .objects { display: grid; grid-template-columns: minmax(16rem, 24rem) 1fr; gap: 1.5rem; align-items: start; }
  .objects :is(th, td):nth-child(2) { text-align: left; }
  figure { margin: .6rem 0 0; }
  figcaption { margin-top: .35rem; }
  h3 { margin: 2rem 0 .2rem; font-size: 1rem; }
  .note { padding: .6rem .9rem; border-left: .25rem solid #ffb000; background: var(--note); color: var(--ink); }
  @media (max-width: 44rem) { .objects { grid-template-columns: 1fr; } }
"""

BODY = """<h1>{{ title }}</h1>
<p>{{ subtitle }}</p>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}<div class="tiles">
{% for name, value in tiles %}  <div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}</div>

<h2>1. The objects, and how many anchors learn them</h2>
<p>This is what the network sees. Every anchor of every map is compared with every object. An anchor that overlaps an object
well enough learns it. An anchor that overlaps all of them little learns background. An object that few anchors learn is hard to
find. If no anchor learns an object, other objects overlap its best anchors more, or took them. Sizes are in pixels of the
input.</p>
<div class="objects">
<figure><img src="data:image/jpeg;base64,{{ objects_picture }}" alt="The network's input with its objects"></figure>
<div class="wide"><table>
<thead><tr>{% for name in object_titles %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for colour, number, cells in objects %}<tr><td><i style="background: {{ colour }}"></i>{{ number }}</td>
{%- for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% else %}<tr><td colspan="5">no objects: every anchor learns background</td></tr>
{% endfor %}</tbody></table></div></div>

<h2>2. Who makes the class loss</h2>
<p>{{ loss_words }}</p>
<div class="bar">
{% for name, _, percent, colour in groups %}<i style="width: {{ percent }}%; background: {{ colour }}"></i>
{% endfor %}</div>
<div class="key">
{% for name, text, _, colour in groups %}<span><i style="background: {{ colour }}"></i>{{ name }}: {{ text }}</span>
{% endfor %}</div>

<h2>3. Map by map, fine to coarse</h2>
<div class="wide"><table>
<thead><tr>{% for name in level_titles %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in level_rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p>Left: the cells of the map, and all anchor shapes of the middle cell in colours. Middle: every object (dashed) with its
number and colour, the centres of the anchors that learn it, and the best of these anchors. Amber dots are ignored anchors.
Right: the brighter a cell, the more class loss its anchors make (one scale for all maps). Blue crosses are hard negatives: many
of them are drawn smaller. The worst have their boxes.</p>
{% for name, text, data in levels %}<h3>{{ name }}</h3>
<p>{{ text }}</p>
<figure><img src="data:image/jpeg;base64,{{ data }}" alt="{{ name }}: its cells and shapes, its matches, its loss"></figure>
{% endfor %}
<h2>4. Non-maximum suppression</h2>
<p>{{ nms_words }}</p>
<figure><img src="data:image/jpeg;base64,{{ nms }}" alt="Boxes before and after non-maximum suppression"></figure>
</body>
</html>
"""


def save_explanation(seen: Explanation, folder: str | Path) -> Path:
    """Write index.html, figures.json and the pictures into ``folder``. Return the path of index.html.

    The folder is made if it is missing.
    """
    folder = make_folder(given_path(folder, "folder"))
    pictures = {"objects": objects_picture(seen), "nms": nms_picture(seen)}
    pictures |= {f"map-{level.number}": level_picture(seen, level) for level in seen.levels}
    for name, data in pictures.items():
        write_file(folder / f"{name}.jpg", data)
    figures = json.dumps(figures_of(seen), indent=2, allow_nan=False)
    write_file(folder / "figures.json", figures + "\n")
    page = folder / "index.html"
    write_file(page, fill(BODY, style=STYLE, **_content(seen, pictures)).encode("utf-8", "replace"))
    return page


def files_of(seen: Explanation) -> list[str]:
    """The names of the files that ``save_explanation`` writes."""
    maps = [f"map-{level.number}.jpg" for level in seen.levels]
    return ["index.html", "figures.json", "objects.jpg", "nms.jpg", *maps]


def figures_of(seen: Explanation) -> dict[str, Json]:
    """The figures as plain data for JSON; None stands for a number that is not finite."""
    figures: dict[str, Json] = {
        "model": seen.name,
        "picture": seen.source,
        "guessed_labels": seen.guessed,
        "input": list(seen.picture.shape[1:]),
        "loss": {"kind": seen.loss_name, **seen.losses},
        "objects": [row._asdict() for row in seen.objects()],
        "groups": [group._asdict() for group in seen.groups],
        "maps": [
            {
                "map": level.number,
                "cells": list(level.size),
                "stride": list(level.stride),
                "shapes": [list(shape) for shape in level.shapes],
                "anchors": level.anchors,
                "matched": seen.matched(level),
                "class_loss_share": seen.share(level.rows),
            }
            for level in seen.levels
        ],
        "detections": {"score": seen.score, "before_nms": len(seen.before), "after_nms": len(seen.after)},
    }
    return {name: nan_as_none(value) for name, value in figures.items()}


def level_rows(seen: Explanation) -> list[tuple[str, ...]]:
    """The table of maps in the columns of LEVEL_TITLES. The last row is the sum."""
    rows = [
        (
            f"{level.number}",
            f"{level.size[0]} × {level.size[1]}",
            stride_of(level),
            f"{len(level.shapes)}",
            f"{level.anchors:,}",
            f"{seen.matched(level):,}",
            percent(seen.share(level.rows)),
        )
        for level in seen.levels
    ]
    everything = percent(seen.share(slice(None)))
    total = ("all", "", "", "", f"{len(seen.anchors):,}", f"{int(seen.positive.sum()):,}", everything)
    return [*rows, total]


def percent(share: float) -> str:
    """A share, 0..1, in percent. A share above 0 never shows as "0 %"."""
    return "0 %" if share == 0 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def stride_of(level: Level) -> str:
    """The map's stride in pixels: one number if it is the same in both directions."""
    y, x = level.stride
    return f"{y:.4g}" if y == x else f"{y:.4g} × {x:.4g}"


def labels_in_words(seen: Explanation) -> str:
    """Say where the objects come from."""
    if seen.guessed:
        return f"No labels were given. The model's detections of score {seen.score:g} or more stand in for them."
    return "The objects are those of the labels."


def crowded(seen: Explanation) -> list[str]:
    """A note if there are too many objects or detections to draw; none if all are drawn."""
    notes = []
    if (count := len(seen.targets.boxes)) > NAMED_DRAWN:
        notes.append(f"Only the first {NAMED_DRAWN} of {count:,} objects are drawn; the figures count all.")
    if (count := len(seen.after)) > NAMED_DRAWN:
        hint = "If the model is trained, show fewer with a higher --score; if it is not, they mean nothing."
        notes.append(f"Only the best {NAMED_DRAWN} of {count:,} detections are drawn. {hint}")
    return notes


def _content(seen: Explanation, pictures: dict[str, bytes]) -> dict[str, object]:
    """The values for BODY, by name. pictures: the JPEGs, by name."""
    height, width = seen.picture.shape[1:]
    tiles = [
        ("maps", f"{len(seen.levels)}"),
        ("anchors", f"{len(seen.anchors):,}"),
        ("objects", f"{len(seen.targets.boxes):,}"),
        ("anchors that learn an object", f"{int(seen.positive.sum()):,}"),
        *((f"loss, {name}", f"{value:.3f}") for name, value in seen.losses.items()),
    ]
    groups = [(g.name, _group_words(g), 100 * g.share, GROUP_COLOURS[g.name]) for g in seen.groups]
    levels = []
    for level in seen.levels:
        name = f"Map {level.number}: {level.size[0]} × {level.size[1]} cells"
        levels.append((name, _level_words(seen, level), as_base64(pictures[f"map-{level.number}"])))
    objects = [(_css(colour_of(o.number - 1)), o.number, _object_cells(o)) for o in seen.objects()]
    return {
        "title": f"How {seen.name} sees {Path(seen.source).name}",
        "subtitle": f"{seen.original[1]} × {seen.original[0]} pixels, as an input of {width} × {height} (width × height)",
        "notes": [*([labels_in_words(seen)] if seen.guessed else []), *crowded(seen)],
        "tiles": tiles,
        "objects_picture": as_base64(pictures["objects"]),
        "object_titles": OBJECT_TITLES,
        "objects": objects,
        "loss_words": _loss_words(seen),
        "groups": groups,
        "level_titles": LEVEL_TITLES,
        "level_rows": level_rows(seen),
        "levels": levels,
        "nms_words": nms_words(seen),
        "nms": as_base64(pictures["nms"]),
    }


def _group_words(group: Group) -> str:
    return f"{group.anchors:,} anchors, {percent(group.share)} of the loss"


def _level_words(seen: Explanation, level: Level) -> str:
    sides = [(w * h) ** 0.5 for w, h in level.shapes]
    span = f"{min(sides):.0f}" if round(min(sides)) == round(max(sides)) else f"{min(sides):.0f} to {max(sides):.0f}"
    return (
        f"{level.anchors:,} anchors of {span} pixels (the square root of the area), {len(level.shapes)} in each cell, "
        f"{stride_of(level)} pixels apart; {seen.matched(level):,} learn an object; "
        f"{percent(seen.share(level.rows))} of the class loss."
    )


def _loss_words(seen: Explanation) -> str:
    hard = (
        f"Hard negatives are the background anchors of the largest loss: {seen.mining.negative_ratio:g} for each positive, "
        f"or {seen.mining.min_negatives} if there is no positive."
    )
    if seen.mined:
        return f"{seen.loss_name} mines: it counts only the positives and the hard negatives, and leaves the rest out. {hard}"
    return f"{seen.loss_name} counts every anchor that is not ignored, but easy anchors count little. {hard}"


def nms_words(seen: Explanation) -> str:
    """Say what the pictures before and after NMS show."""
    return (
        f"Many anchors find the same object. Left: all boxes with a score of {seen.score:g} or more ({len(seen.before):,}). "
        f"Right: what is left when {_suppression_words(seen)} ({len(seen.after):,})."
    )


def _suppression_words(seen: Explanation) -> str:
    """What the detector's NMS does."""
    of = "of any class" if seen.postprocess.class_agnostic else "of its class"
    best = f"the best box of each object has put aside those {of}"
    lost = f"every box has lost score to the better ones {of}, and those below {seen.score:g} are gone: it is multiplied by"
    match seen.postprocess.nms:
        case HardNMS(threshold):
            return f"{best} whose IoU with it is above {threshold:g}"
        case DIoUNMS(threshold):
            return f"{best} whose DIoU with it is above {threshold:g}"
        case LinearSoftNMS(threshold):
            return f"{lost} 1 − IoU for each of them with an IoU above {threshold:g}"
        case SoftNMS(sigma):
            return f"{lost} exp(−IoU² / {sigma:g}) for each of them"


def _object_cells(row: ObjectRow) -> tuple[str, ...]:
    """A row of the table of objects, in the columns of OBJECT_TITLES after the number."""
    return row.name, f"{row.width:.0f} × {row.height:.0f}", f"{row.anchors:,}", f"{row.best_iou:.2f}"


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
