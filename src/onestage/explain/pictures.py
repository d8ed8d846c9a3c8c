"""The pictures of an explanation: the objects, one picture for each feature map, and NMS; all as JPEG bytes.

Shape letters: h, w the network's input; D boxes. Boxes are xyxy pixels of the input.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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

PANEL = 540
"""Pixels of a panel's longer side."""
DOTS = 120
"""Pixels per inch: matplotlib counts in inches."""
CELLS_WITH_LINES = 40
"""Up to so many cells a side the grid is drawn as lines; a finer one would hide the picture and is drawn as dots."""
MATCHES_DRAWN = 6
"""Anchors of one object that are drawn as boxes, those that fit it best; of all the centres are marked."""
HARD_DRAWN = 6
"""Hard negatives that are drawn as boxes."""
CROSSES = 200
"""Up to so many crosses have their full size; more are drawn smaller and fainter, so that the loss beneath can be seen."""
BOXES_DRAWN = 300
"""Boxes drawn from before NMS, the best ones."""

CYAN = "#4fd8ff"
AMBER = "#ffb000"


def objects_picture(seen: Explanation) -> bytes:
    """The input with the objects that the anchors are to learn, each with its number and in a colour of its own."""
    picture, scale = _enlarged(seen.picture)
    names = [f"{number} {seen.classes[label]}" for number, label in enumerate(seen.targets.labels.tolist(), start=1)]
    return _encoded(draw_boxes(picture, seen.targets.boxes * scale, labels=torch.arange(len(names)), names=names))


def level_picture(seen: Explanation, level: Level, *, side: int = PANEL) -> bytes:
    """The grid and the shapes of one cell; the anchors that learn an object; where the class loss lies. side: of a panel."""
    titles = ["Cells, and the shapes of one", "Who learns what", "Class loss"]
    figure, (shapes, matches, loss) = panels(seen.picture, titles, side=side)
    draw_shapes(shapes, seen, level)
    draw_matches(matches, seen, level)
    draw_loss(loss, seen, level)
    return rendered(figure)


def nms_picture(seen: Explanation, *, side: int = PANEL) -> bytes:
    """The boxes before NMS and after it, side by side. side: of a panel."""
    titles = [f"Before NMS: {_boxes_in_words(len(seen.before))}", f"After: {_boxes_in_words(len(seen.after))}"]
    figure, (before, after) = panels(seen.picture, titles, side=side)
    show(before, seen.picture, dim=0.35)
    shown = seen.before.select(torch.arange(min(len(seen.before), BOXES_DRAWN)))
    colours = [(*_rgb(label), 0.3 + 0.6 * score) for label, score in zip(*_labels_and_scores(shown), strict=True)]
    _outline(before, shown.boxes, colours, linewidth=1.1)
    picture, scale = _enlarged(seen.picture)
    large = replace(seen.after, boxes=seen.after.boxes * scale, size=(picture.shape[1], picture.shape[2]))
    show(after, seen.picture, drawn=draw_detections(picture, large))
    return rendered(figure)


def draw_shapes(axes: Axes, seen: Explanation, level: Level) -> None:
    """The grid of the level, and all shapes of its middle cell."""
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
    """Every object with its number, in a colour of its own, and the anchors that learn it; ignored anchors as amber dots."""
    show(axes, seen.picture, dim=0.45)
    matches, anchors = seen.matches[level.rows], seen.anchors[level.rows]
    points = _centres(seen, level)[:, :, None].expand(-1, -1, len(level.shapes), -1).reshape(-1, 2)
    ignored = points[matches == IGNORED]
    axes.scatter(ignored[:, 0], ignored[:, 1], s=7, color=AMBER, alpha=0.7, linewidths=0)
    objects = seen.targets.boxes
    _outline(axes, objects, [_rgb(number) for number in range(len(objects))], linewidth=1.8, linestyle=(0, (4, 3)))
    for number, box in enumerate(objects):
        _number(axes, number, box)
        own = (matches == number).nonzero().flatten()
        if len(own):
            fit = box_ops.iou(box[None], anchors[own])[0]
            best = own[fit.argsort(descending=True)[:MATCHES_DRAWN]]
            _outline(axes, anchors[best], [(*_rgb(number), 0.9)] * len(best), linewidth=1.3)
            axes.scatter(
                points[own, 0], points[own, 1], s=22, color=[_rgb(number)], edgecolors="white", linewidths=0.7, zorder=5
            )
    if not seen.matched(level):
        _note(axes, "no anchor of this map learns an object")


def draw_loss(axes: Axes, seen: Explanation, level: Level) -> None:
    """The class loss of every cell, on one scale for all maps; a cross for every hard negative, the worst as boxes."""
    show(axes, seen.picture, dim=0.6, grey=True)
    most = max(float(seen.cell_loss(own).max()) for own in seen.levels)
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
    """(rows, columns, 2): x and y of the centres of the level's cells."""
    first_shape = seen.anchors[level.rows].view(*level.size, len(level.shapes), 4)[:, :, 0]
    return box_ops.to_cxcywh(first_shape)[..., :2]


def panels(picture: Tensor, titles: Sequence[str], *, side: int = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels next to each other, each of the picture's shape, its longer side of so many pixels."""
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
    """Fill the panel with the picture (3, h, w), darkened by ``dim``, or with a drawing of it, whatever its resolution."""
    shown: Any = drawn
    if drawn is None:
        pixels = picture.float().mean(0, keepdim=True).expand(3, -1, -1) if grey else picture.float()
        shown = (pixels * (1 - dim)).byte().permute(1, 2, 0).numpy()
    height, width = picture.shape[1:]
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="lanczos", zorder=0)
    _frame(axes, picture)


def _frame(axes: Axes, picture: Tensor) -> None:
    """Show the picture and nothing beyond it: anchors reach over its border."""
    height, width = picture.shape[1:]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _outline(axes: Axes, boxes: Tensor, colours: Sequence[Any], **style: Any) -> None:
    patches = [Rectangle((x, y), w, h) for x, y, w, h in box_ops.to_xywh(boxes).tolist()]
    axes.add_collection(PatchCollection(patches, facecolor="none", edgecolor=list(colours), zorder=4, **style))


def _number(axes: Axes, number: int, box: Tensor) -> None:
    """The object's number, from 1 on, in the corner of its box, or where that enters the picture."""
    x, y = box[:2].tolist()
    plate = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": _rgb(number)}
    text = axes.text(max(x, 0), max(y, 0), f"{number + 1}", fontsize=7.5, fontweight="bold", bbox=plate, zorder=6)
    text.set(color="black", ha="left", va="top", clip_on=True)


def _note(axes: Axes, text: str) -> None:
    style = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": FAINT, "alpha": 0.92}
    axes.text(0.5, 0.06, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=10, color=INK, bbox=style, zorder=6)


def _enlarged(picture: Tensor) -> tuple[Tensor, float]:
    """The picture at least as large as a panel, so that labels drawn in are sharp, and by how much it grew."""
    factor = max(1.0, PANEL / max(picture.shape[1:]))
    size = [round(side * factor) for side in picture.shape[1:]]
    grown = F.interpolate(picture[None].float(), size, mode="bicubic", align_corners=False)[0]
    return grown.round().clamp(0, 255).byte(), factor


def _rgb(label: int) -> tuple[float, float, float]:
    red, green, blue = colour_of(label)
    return red / 255, green / 255, blue / 255


def _labels_and_scores(found: Detections) -> tuple[list[int], list[float]]:
    return found.labels.tolist(), found.scores.tolist()


def _boxes_in_words(count: int) -> str:
    return f"{count:,} box" + ("es" if count != 1 else "")


def rendered(figure: Figure) -> bytes:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3]
    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=88, subsampling=0)
    return file.getvalue()
