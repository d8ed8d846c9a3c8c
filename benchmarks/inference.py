"""Whole predict(): from decoded 640x480 pictures to detections in their own pixels, ours against torchvision's.

python benchmarks/inference.py --repeats 30 --json inference.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from common import MODELS, Clock, Comparison, compare, pair, pictures, report


@torch.inference_mode()
def predict_theirs(model: nn.Module, images: list[Tensor]) -> object:
    """torchvision wants floats in 0..1."""
    return model([image / 255 for image in images])


def main(
    *,
    models: tuple[str, ...] = MODELS,
    batches: tuple[int, ...] = (1, 8),
    repeats: int = 20,
    clock: Clock = "wall",
    json: Path | None = None,
) -> list[Comparison]:
    """Compare predict() in eager fp32.

    Args:
        models: torchvision's detectors, by name.
        batches: pictures at once.
        repeats: timed turns of each.
        clock: wall time, or processor time for a machine that does other things too.
        json: a file for all that was measured.
    """
    results = []
    for name in models:
        ours, theirs = pair(name)
        for batch in batches:
            images = pictures(batch)
            turns = partial(ours.predict, images), partial(predict_theirs, theirs, images)
            results.append(compare(f"{name}, {batch} at once", *turns, repeats=repeats, clock=clock))
    report(f"predict(), {clock} time", results, path=json)
    return results


if __name__ == "__main__":
    tyro.cli(main)
