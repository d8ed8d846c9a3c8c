"""Labels that are probably wrong, drawn: what the label says and what the detection says differ in colour and style of line.

Shape letters: M boxes of one label: what it says, if there is one, and what a detection says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from onestage.analysis.analysis import Analysis
from onestage.analysis.labels import REASONS, Suspect
from onestage.analysis.worst import Drawn
from onestage.draw import Stroke, draw_strokes
from onestage.errors import DataError
from onestage.images import decode_image
from onestage.metrics.report_files import as_jpeg
from onestage.structures import Detections, Size, Truth

LABEL, DETECTION = Stroke((255, 196, 0), (5, 3)), Stroke((47, 155, 255))
"""The line around the box of a label (dashed), and around that of a detection (solid)."""
MOST = 6
"""So many labels of each reason are drawn at most."""
SIDE = 300
"""Pixels of the longer side of a drawing."""
BUDGET = 700_000
"""Bytes that the drawings may take together; on a page they take a third more."""
AROUND, LEAST = 1.5, 96
"""A drawing shows so many times the two boxes, and at least so many pixels of the picture, each way."""


def suspect_pictures(
    analysis: Analysis, pairs: Iterable[tuple[Detections, Truth]], *, most: int = MOST, budget: int = BUDGET
) -> Iterator[Drawn]:
    """Yield the labels to look at first, reason after reason, as long as their JPEGs fit into ``budget`` bytes.

    pairs: of the pictures that can be read; one that cannot is passed over.
    """
    paths, classes = {truth.image_id: truth.path for _, truth in pairs}, analysis.classes
    for reason in REASONS:
        suspects, left = analysis.labels.suspects if analysis.labels else (), most
        for suspect in (one for one in suspects if one.reason == reason and one.image_id in paths):
            if not left:
                break
            try:
                jpeg = as_jpeg(_drawn(suspect, paths[suspect.image_id], classes), side=SIDE)
            except DataError:
                continue
            budget, left = budget - len(jpeg), left - 1
            if budget < 0:
                return
            yield Drawn(Path(paths[suspect.image_id]).name or str(suspect.image_id), words_of(suspect, classes), jpeg)


def words_of(suspect: Suspect, classes: Sequence[str]) -> str:
    """What is doubted, and what the detection says."""
    name, suggested = classes[suspect.label], classes[suspect.suggested_label]
    says = {
        "overlooked": f"no label, detected as {suggested}",
        "badly placed": f"labelled as {name}, detected at another place",
        "swapped": f"labelled as {name}, {'and' if math.isnan(suspect.score) else 'detected'} as {suggested}",
    }
    return f"{suspect.reason}: {says[suspect.reason]}; quality {suspect.quality:.3f}"


def _drawn(suspect: Suspect, path: str, classes: Sequence[str]) -> Image.Image:
    """The part of the picture around a suspect, with the box of its label and the suggested one. DataError if unreadable."""
    image = decode_image(path)
    has_label = suspect.reason != "overlooked"
    boxes = torch.tensor([suspect.box] * has_label + [suspect.suggested_box])
    left, top, right, bottom = _window(boxes, (image.shape[1], image.shape[2]))
    scale = SIDE / max(right - left, bottom - top)
    part = Image.fromarray(image[:, top:bottom, left:right].permute(1, 2, 0).contiguous().numpy())
    part = part.resize((max(1, round(scale * part.width)), max(1, round(scale * part.height))), Image.Resampling.BILINEAR)
    second = classes[suspect.suggested_label] + ("" if math.isnan(suspect.score) else f" {suspect.score:.2f}")
    return draw_strokes(
        part,
        (boxes - boxes.new_tensor([left, top, left, top])) * scale,
        strokes=[LABEL] * has_label + [DETECTION],
        captions=[classes[suspect.label]] * has_label + [second],
        side=SIDE,
    )


def _window(boxes: Tensor, size: Size) -> list[int]:
    """Left, top, right and bottom, in whole pixels, of the part of a picture (height, width) that shows the boxes (M, 4)."""
    whole = boxes.new_tensor([size[1], size[0]])
    low, high = boxes[:, :2].amin(0), boxes[:, 2:].amax(0)
    middle = ((low + high) / 2).clamp(min=0).minimum(whole)
    reach = ((high - low) * AROUND).clamp(min=LEAST) / 2
    first = (middle - reach).floor().clamp(min=0).minimum(whole - 1)
    return torch.cat([first, (middle + reach).ceil().minimum(whole).maximum(first + 1)]).long().tolist()
