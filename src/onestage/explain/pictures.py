"""The pictures of an explanation as JPEGs: the objects, each feature map, and NMS.

Shape letters: H, W height and width of the network's input; Y, X rows and columns of a map's cells; D boxes. Boxes are xyxy
pixels of the input.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from onestage import boxes as box_ops
from onestage.draw import colour_of, draw_boxes, draw_detections
from onestage.explain.explanation import Explanation, Level
from onestage.metrics.plots import COLOURS, FAINT, INK
from onestage.model.anchors.max_iou import IGNORED
from onestage.structures import Detections

Colour: TypeAlias = str | tuple[float, ...]
"""A colour as matplotlib takes it: a name or code, or (red, green, blue) or (red, green, blue, alpha) in 0..1."""

PANEL = 540
"""Pixels of a panel's longer side."""
DOTS = 120
"""Pixels per inch: matplotlib counts in inches."""
CELLS_WITH_LINES = 40
"""Up to so many cells a side, the grid has lines. Lines of a finer grid would hide the picture, so it has dots alone."""
MATCHES_DRAWN = 6
"""The anchors of one object to draw as boxes: those that fit it best. The centres of all are marked."""
HARD_DRAWN = 6
"""The hard negatives to draw as boxes: the worst ones."""
CROSSES = 200
"""Up to so many crosses have their full size. More of them are smaller and fainter, so that the loss under them shows."""
BOXES_DRAWN = 100
"""The boxes to draw from before NMS: the best ones."""
NAMED_DRAWN = 30
"""The boxes with names to draw: the best detections, or the first objects. A model that has not learnt finds hundreds."""

CYAN = "#4fd8ff"
AMBER = "#ffb000"


def objects_picture(seen: Explanation) -> bytes:
    """The input with the objects that the anchors learn. Each object has a number and a colour."""
    picture, scale = _enlarged(seen.picture)
    labels, boxes = seen.targets.labels[:NAMED_DRAWN].tolist(), seen.targets.boxes[:NAMED_DRAWN]
    names = [f"{number} {seen.classes[label]}" for number, label in enumerate(labels, start=1)]
    return _encoded(draw_boxes(picture, boxes * scale, labels=torch.arange(len(names)), names=names))


def level_picture(seen: Explanation, level: Level, *, side: int = PANEL) -> bytes:
    """Three panels: the grid and the shapes of one cell, the anchors that learn an object, and the class loss.

    side: the longer side of a panel in pixels.
    """
    titles = ["Cells, and the shapes of one", "Who learns what", "Class loss"]
    figure, (shapes, matches, loss) = panels(seen.picture, titles, side=side)
    draw_shapes(shapes, seen, level)
    draw_matches(matches, seen, level)
    draw_loss(loss, seen, level)
    return rendered(figure)


def nms_picture(seen: Explanation, *, side: int = PANEL) -> bytes:
    """The boxes before NMS and after it, side by side. side: the longer side of a panel in pixels."""
    counts = {"Before NMS": (len(seen.before), BOXES_DRAWN), "After": (len(seen.after), NAMED_DRAWN)}
    titles = [f"{name}: {_boxes_in_words(count, most)}" for name, (count, most) in counts.items()]
    figure, (before, after) = panels(seen.picture, titles, side=side)
    show(before, seen.picture, dim=0.35)
    shown = seen.before.select(torch.arange(min(len(seen.before), BOXES_DRAWN)))
    colours = [(*_rgb(label), 0.3 + 0.6 * score) for label, score in zip(*_labels_and_scores(shown), strict=True)]
    _outline(before, shown.boxes, colours, linewidth=1.1)
    picture, scale = _enlarged(seen.picture)
    best = seen.after.select(torch.arange(min(len(seen.after), NAMED_DRAWN)))
    large = replace(best, boxes=best.boxes * scale, size=(picture.shape[1], picture.shape[2]))
    show(after, seen.picture, drawn=draw_detections(picture, large))
    return rendered(figure)


def draw_shapes(axes: Axes, seen: Explanation, level: Level) -> None:
    """Draw the grid of the level, and all shapes of its middle cell."""
    centres = _centres(seen, level)
    show(axes, seen.picture, dim=0.15)
    if max(level.size) <= CELLS_WITH_LINES:
        (step_y, step_x), (height, width) = level.stride, seen.picture.shape[1:]
        rows = centres[:, 0, 1] - step_y / 2, centres[-1:, 0, 1] + step_y / 2
        columns = centres[0, :, 0] - step_x / 2, centres[0, -1:, 0] + step_x / 2
        lines = [((0, y), (width, y)) for y in torch.cat(rows).tolist()]
        lines += [((x, 0), (x, height)) for x in torch.cat(columns).tolist()]
        axes.add_collection(LineCollection(lines, colors="white", alpha=0.45, linewidths=0.7))
    points = centres.flatten(0, 1)
    axes.scatter(points[:, 0], points[:, 1], s=min(9, 9000 / len(points)), color="white", alpha=0.7, linewidths=0)
    middle = centres[level.size[0] // 2, level.size[1] // 2]
    boxes = box_ops.from_cxcywh(torch.cat([middle.expand(len(level.shapes), 2), torch.tensor(level.shapes)], dim=1))
    _outline(axes, boxes, [COLOURS[i % len(COLOURS)] for i in range(len(boxes))], linewidth=2.2)
    axes.scatter(middle[:1], middle[1:], s=26, color="white", edgecolors="black", linewidths=0.8, zorder=5)


def draw_matches(axes: Axes, seen: Explanation, level: Level) -> None:
    """Draw every object with its number, in its colour, and the anchors that learn it. Ignored anchors are amber dots."""
    show(axes, seen.picture, dim=0.45)
    matches, anchors = seen.matches[level.rows], seen.anchors[level.rows]
    points = _centres(seen, level)[:, :, None].expand(-1, -1, len(level.shapes), -1).reshape(-1, 2)
    ignored = points[matches == IGNORED]
    axes.scatter(ignored[:, 0], ignored[:, 1], s=7, color=AMBER, alpha=0.7, linewidths=0)
    objects = seen.targets.boxes[:NAMED_DRAWN]
    _outline(axes, objects, [_rgb(number) for number in range(len(objects))], linewidth=1.8, dashed=True)
    for number, box in enumerate(objects):
        _number(axes, number, box)
        learning = (matches == number).nonzero().flatten()
        if len(learning):
            fit = box_ops.iou(box[None], anchors[learning])[0]
            best = learning[fit.argsort(descending=True)[:MATCHES_DRAWN]]
            _outline(axes, anchors[best], [(*_rgb(number), 0.9)] * len(best), linewidth=1.3)
            x, y = points[learning].T
            axes.scatter(x, y, s=22, color=[_rgb(number)], edgecolors="white", linewidths=0.7, zorder=5)
    if not seen.matched(level):
        _note(axes, "no anchor of this map learns an object")


def draw_loss(axes: Axes, seen: Explanation, level: Level) -> None:
    """Draw the class loss of each cell, on one scale for all maps, a cross for each hard negative, and the worst as boxes."""
    show(axes, seen.picture, dim=0.6, grey=True)
    most = max(float(seen.cell_loss(each).max()) for each in seen.levels)
    part = (seen.cell_loss(level) / most).sqrt() if most else seen.cell_loss(level)
    colours = matplotlib.colormaps["inferno"](part.numpy())
    colours[..., 3] = (part * 1.6).clamp(max=0.9).numpy()
    centres, (step_y, step_x) = _centres(seen, level), level.stride
    left, top = (centres[0, 0] - torch.tensor([step_x, step_y]) / 2).tolist()
    right, bottom = (centres[-1, -1] + torch.tensor([step_x, step_y]) / 2).tolist()
    axes.imshow(colours, extent=(left, right, bottom, top), interpolation="nearest", zorder=2)
    _frame(axes, seen.picture)
    hard = seen.hard[level.rows].nonzero().flatten()
    worst = hard[seen.class_loss[level.rows][hard].argsort(descending=True)[:HARD_DRAWN]]
    anchors = seen.anchors[level.rows]
    _outline(axes, anchors[worst], [CYAN] * len(worst), linewidth=1.1)
    x, y = box_ops.to_cxcywh(anchors[hard])[:, :2].T
    full = min(1.0, CROSSES / max(len(hard), 1))
    width, alpha = 0.4 + 0.6 * full, full ** (1 / 3)
    axes.scatter(x, y, s=max(4.0, 20 * full), marker="x", color=CYAN, linewidths=width, alpha=alpha, zorder=5)
    if not seen.share(level.rows):
        _note(axes, "no loss on this map")


def _centres(seen: Explanation, level: Level) -> Tensor:
    """x and y of the centres of the level's cells, (Y, X, 2)."""
    first_shape = seen.anchors[level.rows].view(*level.size, len(level.shapes), 4)[:, :, 0]
    return box_ops.to_cxcywh(first_shape)[..., :2]


def panels(picture: Tensor, titles: Sequence[str], *, side: int = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels side by side, and the panels. Each has the shape of the picture, (3, H, W).

    side: the longer side of a panel in pixels.
    """
    height, width = picture.shape[1:]
    scale = side / max(height, width) / DOTS
    head, gap = 0.34, 0.1
    total = len(titles) * width * scale + (len(titles) - 1) * gap
    figure = Figure(figsize=(total, height * scale + head), dpi=DOTS, facecolor="white")
    FigureCanvasAgg(figure)
    share = width * scale / total, height * scale / (height * scale + head)
    row = [figure.add_axes((i * (width * scale + gap) / total, 0, *share)) for i in range(len(titles))]
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=6)
    return figure, row


def show(axes: Axes, picture: Tensor, *, dim: float = 0.0, grey: bool = False, drawn: Image.Image | None = None) -> None:
    """Fill the panel with the picture (3, H, W), or with ``drawn``, a drawing of it in any resolution.

    dim: how much darker the picture becomes, 0..1. grey: without its colours.
    """
    pixels = picture.float().mean(0, keepdim=True).expand(3, -1, -1) if grey else picture.float()
    shown = (pixels * (1 - dim)).byte().permute(1, 2, 0).numpy()
    height, width = picture.shape[1:]
    axes.imshow(shown if drawn is None else drawn, extent=(0, width, height, 0), interpolation="lanczos", zorder=0)
    _frame(axes, picture)


def _frame(axes: Axes, picture: Tensor) -> None:
    """Cut the panel to the picture: anchors reach over its border."""
    height, width = picture.shape[1:]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _outline(axes: Axes, boxes: Tensor, colours: Sequence[Colour], *, linewidth: float, dashed: bool = False) -> None:
    """Draw the boxes (D, 4), a colour for each."""
    patches = [Rectangle((x, y), w, h) for x, y, w, h in box_ops.to_xywh(boxes).tolist()]
    line = (0, (4, 3)) if dashed else "solid"
    drawn = PatchCollection(patches, facecolor="none", edgecolor=list(colours), zorder=4, linewidth=linewidth, linestyle=line)
    axes.add_collection(drawn)


def _number(axes: Axes, number: int, box: Tensor) -> None:
    """Write the object's number, from 1 on, into the corner of its box. A corner outside the picture moves to the border."""
    x, y = box[:2].tolist()
    plate = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": _rgb(number)}
    text = axes.text(max(x, 0), max(y, 0), f"{number + 1}", fontsize=7.5, fontweight="bold", bbox=plate, zorder=6)
    text.set(color="black", ha="left", va="top", clip_on=True)


def _note(axes: Axes, text: str) -> None:
    style = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": FAINT, "alpha": 0.92}
    axes.text(0.5, 0.06, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=10, color=INK, bbox=style, zorder=6)


def _enlarged(picture: Tensor) -> tuple[Tensor, float]:
    """The picture, (3, H, W), grown to the size of a panel at least, so that labels drawn in are sharp; and its growth."""
    factor = max(1.0, PANEL / max(picture.shape[1:]))
    size = [round(side * factor) for side in picture.shape[1:]]
    grown = F.interpolate(picture[None].float(), size, mode="bicubic", align_corners=False)[0]
    return grown.round().clamp(0, 255).byte(), factor


def _rgb(label: int) -> tuple[float, float, float]:
    red, green, blue = colour_of(label)
    return red / 255, green / 255, blue / 255


def _labels_and_scores(found: Detections) -> tuple[list[int], list[float]]:
    return found.labels.tolist(), found.scores.tolist()


def _boxes_in_words(count: int, most: int) -> str:
    """The number of boxes, and that only the best are drawn if there are more than ``most``."""
    return f"{count:,} box" + ("es" if count != 1 else "") + (f", the best {most} drawn" if count > most else "")


def rendered(figure: Figure) -> bytes:
    """The figure as a JPEG."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3]
    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=88, subsampling=0)
    return file.getvalue()
