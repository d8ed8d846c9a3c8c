"""The curves are drawn for any history and any names, and are not blank."""

import math
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from metric_cases import found, known
from onestage.metrics.coco import coco_metrics
from onestage.metrics.plots import COLOURS, plot_pr_curves, plot_training_curves

FULL = [
    {"epoch": e, "step": 10 * e, "loss": 3 / e, "loss/cls": 2 / e, "loss/box": 1 / e, "lr": 0.1 / e, "val/AP": 1 - 1 / e}
    | ({"val/loss": 4 / e, "val/AP50": 0.9} if e % 2 else {})
    for e in range(1, 9)
]


def colours_in(path: Path) -> set[str]:
    """Which of the plots' hues are in the picture."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int) @ [1 << 16, 1 << 8, 1]
    return {f"#{value:06x}" for value in set(pixels.ravel().tolist())} & set(COLOURS)


def test_a_training_is_drawn(tmp_path: Path) -> None:
    plot_training_curves(FULL, tmp_path / "curves.png")
    assert colours_in(tmp_path / "curves.png") == set(COLOURS[:2])
    width, height = Image.open(tmp_path / "curves.png").size
    assert width > 2 * height > 600


@pytest.mark.parametrize(
    ("history", "drawn"),
    [
        ([], 0),
        ([{"epoch": 1, "loss": 2.0}], 1),
        ([{"epoch": 1, "loss": math.nan, "val/AP": None, "lr": math.inf}], 0),
        ([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": math.nan}, {"epoch": 3}, {"epoch": 4, "loss": 1.0}], 1),
        ([{"epoch": 0, "val/loss": 2.0, "val/loss/box": 1.0}], 1),
        ([{"epoch": 1, "loss": 2.0, "val/loss": 2.5}], 2),  # training and validation are told apart by their colours
    ],
    ids=["nothing", "one point", "no number", "gaps", "validation alone", "training and validation"],
)
def test_short_and_broken_histories_are_drawn(history: list[dict[str, Any]], drawn: int, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_training_curves(history, tmp_path / "curves.png")
    assert len(colours_in(tmp_path / "curves.png")) == drawn


def test_precision_and_recall_are_drawn_whatever_the_classes_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["$\\frac{$", "_hidden", "猫", "x" * 200]
    boxes = [(k, 10, 10 + 60 * k, 50, 60 + 60 * k) for k in range(4)]
    metrics = coco_metrics([found(1, [(k, 0.9, *b) for k, *b in boxes])], [known(1, boxes)], names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_pr_curves(metrics, tmp_path / "pr.png")
    assert colours_in(tmp_path / "pr.png") == set(COLOURS[:4])

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    plot_pr_curves(metrics, tmp_path / "pr.png")
    legend = figures[0].axes[1].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [f"{name}   1.000" for name in (*names[:3], "x" * 27 + "…")]


@pytest.mark.parametrize("classes", [1, 2, 12])
def test_the_names_cover_no_curve_and_lie_in_the_picture(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    boxes = [(k, 10, 10, 50, 60) for k in range(classes)]
    metrics = coco_metrics([found(1, [(k, 0.9, *b) for k, *b in boxes])], [known(1, boxes)], ["n" * 40] * classes)
    plot_pr_curves(metrics, tmp_path / "pr.png")
    (figure,) = figures
    figure.canvas.draw()
    left, right = figure.axes
    for axes in (left, right):
        legend = axes.get_legend()
        assert legend is not None
        names = legend.get_window_extent()
        assert names.y1 < axes.xaxis.label.get_window_extent().y0
        assert names.x0 >= 0 and names.y0 >= 0 and names.x1 <= figure.bbox.x1
        assert axes.bbox.height > 0.4 * axes.bbox.width
    assert left.get_legend().get_window_extent().x1 < right.get_legend().get_window_extent().x0  # type: ignore[union-attr]


def test_many_classes_and_none(tmp_path: Path) -> None:
    boxes = [(k, 10, 10, 50, 60) for k in range(25)]
    many = coco_metrics([found(1, [(k, 0.9, *b) for k, *b in boxes])], [known(1, boxes)], [str(k) for k in range(25)])
    plot_pr_curves(many, tmp_path / "many.png")
    assert colours_in(tmp_path / "many.png") == set(COLOURS)
    plot_pr_curves(coco_metrics([], [], []), tmp_path / "none.png")
    assert not colours_in(tmp_path / "none.png")


def test_plots_need_no_global_state(tmp_path: Path) -> None:
    """Drawn in a thread, and pyplot never hears of the figure."""
    import matplotlib.pyplot as plt

    thread = threading.Thread(target=plot_training_curves, args=(FULL, tmp_path / "curves.png"))
    thread.start()
    thread.join()
    assert (tmp_path / "curves.png").stat().st_size > 5000 and not plt.get_fignums()
