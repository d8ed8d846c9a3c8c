"""A measurement as a folder: figures, curves, predictions, and pictures that show the labels and the detections."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from onestage.analysis import Analysis
from onestage.analysis.files import NAMES as ANALYSIS_FILES
from onestage.analysis.files import save_analysis
from onestage.analysis.page import STYLE, sections
from onestage.analysis.suspects import suspect_pictures
from onestage.analysis.worst import worst_pictures
from onestage.cli.judge import with_truths
from onestage.cli.results import results_folder
from onestage.data import Dataset
from onestage.data.files import is_picture_there
from onestage.data.predictions import FORMATS, PredictionWriter
from onestage.draw import draw_boxes
from onestage.errors import shortened
from onestage.files import make_folder, write_file
from onestage.images import decode_image
from onestage.metrics.report import Report
from onestage.structures import Detections

FILES = ("index.html", "metrics.json", "per_class.csv", "pr_curves.png", "predictions.json", "pictures", *ANALYSIS_FILES)
"""What is in the folder."""
PICTURES = 12
"""How many pictures to show, spread evenly over the data set."""
SCORE = 0.3
"""The least score of a detection to draw."""
STEM = 60
"""The most characters of a picture's name in the name of its copy: systems take 255 bytes, and a character has up to 4."""
GAP = 8
"""Pixels between the labels' side and the detections' side."""


def report_folder(folder: Path, dataset: Dataset) -> None:
    """Make the folder for a report. Raise DataError or ConfigError if that is not possible, or other files are in the way."""
    results_folder(folder, FILES, dataset)


def save_report(
    report: Report,
    found: Sequence[Detections],
    dataset: Dataset,
    folder: Path,
    *,
    analysis: Analysis | None = None,
    advice: Sequence[str] = (),
) -> Path:
    """Write index.html, metrics.json, per_class.csv, pr_curves.png, predictions.json and pictures/. Return index.html's path.

    found: the detections of the data set's pictures, in its order, without the pictures that could not be read. Pictures that
    are not there, as for labels alone, are not drawn. analysis: it is written too, and begins the page, after ``advice``.
    Without one, the files of an earlier analysis are removed.
    """
    make_folder(folder / "pictures")
    with PredictionWriter(folder / FORMATS["coco"].file_name, "coco") as writer:
        for detections in found:
            writer.add(detections)
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    there = [detections for detections in found if not dataset.is_on_disk or is_picture_there(detections.path)]
    chosen = there[:: max(1, len(there) // PICTURES)][:PICTURES]
    examples: dict[str, Image.Image] = {}
    for number, detections in enumerate(chosen, start=1):
        name = f"{number:02d}-{shortened(Path(detections.path).stem, STEM)}.jpg"
        picture = side_by_side(dataset, row_of[detections.image_id], detections)
        drawn = io.BytesIO()  # Pillow does not notice when a file on a full disk takes only a part of its bytes
        picture.save(drawn, "JPEG", quality=90)
        write_file(folder / "pictures" / name, drawn.getvalue())
        examples[caption(detections)] = picture
    if analysis is None:
        for name in ANALYSIS_FILES:
            (folder / name).unlink(missing_ok=True)
        return report.save(folder, examples=examples)
    pairs, readable = with_truths(found, dataset), {detections.image_id for detections in there}
    save_analysis(analysis, pairs, folder)
    shown = [pair for pair in pairs if pair[0].image_id in readable]
    worst, suspects = [*worst_pictures(analysis, shown)], [*suspect_pictures(analysis, shown)]
    parts = sections(analysis, advice=advice, pictures=worst, suspects=suspects)
    return report.save(folder, examples=examples, sections=parts, style=STYLE)


def caption(detections: Detections) -> str:
    """The text under a picture on the web page: which detections are drawn, or why there are none."""
    name, scores = Path(detections.path).name, detections.scores
    if (scores >= SCORE).any():
        return f"{name}: the labels, and what was found with a score of {SCORE:.2f} or more"
    weak = f"nothing reached a score of {SCORE:.2f}, the best has {scores.max():.3f}" if len(scores) else "nothing was found"
    return f"{name}: the labels; {weak}"


def side_by_side(dataset: Dataset, row: int, detections: Detections) -> Image.Image:
    """The picture of that row twice: left with its labels drawn in, right with its detections."""
    truth = dataset.truth(row)
    image = decode_image(truth.path)
    left = draw_boxes(image, truth.boxes, labels=truth.labels, names=dataset.classes)
    right = detections.draw(image, score=SCORE)
    both = Image.new("RGB", (left.width + GAP + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both
