"""Drawings of what FPN and BiFPN connect. The models give the sizes of the maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from onestage import create
from onestage.metrics.plots import COLOURS, INK, panels, save

SIDE = 512
"""Pixels of the input's sides, for the sizes of the maps."""
Point = tuple[float, float]
BLUE, ORANGE, GREEN, GREY = COLOURS[0], COLOURS[1], COLOURS[2], "#8a919c"


def draw_pyramid(path: Path) -> None:
    """RetinaNet's FPN: C3..C5 of the backbone become P3..P7."""
    sizes = create("retinanet_r50_fpn", 1).level_sizes((SIDE, SIDE))
    drawing = Drawing(("backbone", "coarse to fine", "levels"))
    for level in (3, 4, 5):
        drawing.node((0, level), f"C{level}", BLUE)
        drawing.node((2, level), "+" if level < 5 else "1×1", ORANGE)
    drawing.levels(sizes)
    for level in (3, 4, 5):
        drawing.arrow((0, level), (2, level), "1×1" if level < 5 else "")
        drawing.arrow((2, level), (4, level), "3×3")
        if level < 5:
            drawing.arrow((0, level), (0, level + 1))
            drawing.arrow((2, level + 1), (2, level), "2× larger")
    drawing.arrow((0, 5), (4, 6), "3×3, stride 2")
    drawing.arrow((4, 6), (4, 7), "3×3, stride 2")
    drawing.save(path)


def draw_bifpn(path: Path) -> None:
    """One layer of BiFPN (EfficientDet, figure 2 d): down, then up, with a shortcut at each level between the ends."""
    sizes = create("efficientdet_d0", 1).level_sizes((SIDE, SIDE))
    drawing = Drawing(("in", "coarse to fine", "fine to coarse"))
    for level in (3, 4, 5, 6, 7):
        drawing.node((0, level), f"P{level}", BLUE)
    for level in (4, 5, 6):
        drawing.node((2, level), "+", ORANGE)
    drawing.levels(sizes)
    for level in (4, 5, 6):
        drawing.arrow((0, level), (2, level))
        drawing.arrow((2, level), (4, level))
        drawing.arrow((0, level), (4, level), bend=-0.28, colour=GREY)
        drawing.arrow((2, level + 1) if level < 6 else (0, 7), (2, level))
    drawing.arrow((2, 4), (4, 3))
    for level in (3, 7):
        drawing.arrow((0, level), (4, level))
    for level in (4, 5, 6, 7):
        drawing.arrow((4, level - 1), (4, level))
    drawing.save(path)


class Drawing:
    """Nodes at (column, level) and arrows between them; columns 0, 2 and 4 have titles."""

    def __init__(self, titles: tuple[str, ...]) -> None:
        self.figure, (self.axes,) = panels([""])
        self.figure.set_size_inches(7.4, 5.2)
        self.axes.set(xlim=(-0.9, 5.1), ylim=(2.4, 7.6), xticks=[], yticks=[])
        self.axes.grid(visible=False)
        self.axes.spines[:].set_visible(False)
        self.nodes: dict[Point, FancyBboxPatch] = {}
        for x, title in zip((0, 2, 4), titles, strict=True):
            self.axes.text(x, 2.5, title, ha="center", fontsize=10.5, color=INK, fontweight="bold")

    def node(self, at: Point, text: str, colour: str) -> None:
        box = FancyBboxPatch((at[0] - 0.3, at[1] - 0.2), 0.6, 0.4, boxstyle="round,pad=0.03,rounding_size=0.1", zorder=3)
        box.set(facecolor=colour, edgecolor="white", linewidth=1.5)
        self.nodes[at] = self.axes.add_patch(box)
        self.axes.text(*at, text, ha="center", va="center", color="white", fontsize=11, fontweight="bold", zorder=4)

    def levels(self, sizes: Sequence[tuple[int, int]]) -> None:
        """The last column: P3, P4, ... with their cells."""
        for level, (height, width) in enumerate(sizes, start=3):
            self.node((4, level), f"P{level}", GREEN)
            self.axes.text(4.42, level, f"{height} × {width}", va="center", fontsize=10, color=INK)

    def arrow(self, start: Point, end: Point, text: str = "", *, bend: float = 0.0, colour: str = INK) -> None:
        style = {"arrowstyle": "-|>", "mutation_scale": 13, "linewidth": 1.5, "color": colour, "zorder": 2}
        ends = {"patchA": self.nodes[start], "patchB": self.nodes[end], "shrinkA": 2, "shrinkB": 3}
        self.axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **ends, **style))
        if text:
            upright, level = start[0] == end[0], start[1] == end[1]
            x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            across, up = (0.1, 0.0) if upright else (0.0, 0.07 if level else 0.24)
            self.axes.text(x + across, y + up, text, fontsize=9, color=INK, ha="left" if upright else "center")

    def save(self, path: Path) -> None:
        save(self.figure, path)
