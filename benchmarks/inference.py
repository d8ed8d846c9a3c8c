"""Whole predict(): from decoded 640x480 pictures to detections in their own pixels, ours against torchvision's or effdet's.

python benchmarks/inference.py --repeats 30 --json inference.json

effdet resizes with Pillow in its data loader, not in its predictor; here it gets its resize from torchvision, as we do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import tyro
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from common import PEERS, Clock, Comparison, compare, pair, pictures, report


@torch.inference_mode()
def predict_torchvision(model: nn.Module, images: Sequence[Tensor]) -> object:
    """torchvision wants floats in 0..1."""
    return model([image / 255 for image in images])


def effdet_predictor(model: nn.Module) -> Callable[[Sequence[Tensor]], object]:
    """effdet's DetBenchPredict, with the letterbox and the normalisation that its data loader would do before it."""
    from effdet import DetBenchPredict

    bench = DetBenchPredict(model).eval()
    height, width = model.config.image_size
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))

    @torch.inference_mode()
    def predict(images: Sequence[Tensor]) -> object:
        inputs, scales = [], []
        for image in images:
            factor = min(height / image.shape[1], width / image.shape[2])
            resized = tv.resize(image, [int(image.shape[1] * factor), int(image.shape[2] * factor)], antialias=True)
            canvas = torch.zeros(3, height, width)
            canvas[:, : resized.shape[1], : resized.shape[2]] = (resized / 255 - mean) / std
            inputs.append(canvas)
            scales.append(1 / factor)
        sizes = torch.tensor([[image.shape[2], image.shape[1]] for image in images])
        return bench(torch.stack(inputs), {"img_scale": torch.tensor(scales), "img_size": sizes})

    return predict


def main(
    *,
    models: tuple[str, ...] = tuple(PEERS),
    batches: tuple[int, ...] = (1, 8),
    repeats: int = 20,
    clock: Clock = "wall",
    json: Path | None = None,
) -> list[Comparison]:
    """Compare predict() in eager fp32.

    Args:
        models: the peers' detectors, by their own names.
        batches: pictures at once.
        repeats: timed turns of each.
        clock: wall time, or processor time for a machine that does other things too.
        json: a file for all that was measured.
    """
    results = []
    for name in models:
        ours, theirs = pair(name)
        predict = effdet_predictor(theirs) if name.startswith("tf_") else partial(predict_torchvision, theirs)
        for batch in batches:
            images = pictures(batch)
            turns = partial(ours.predict, images), partial(predict, images)
            results.append(compare(f"{name}, {batch} at once", *turns, repeats=repeats, clock=clock))
    report(f"predict(), {clock} time", results, path=json)
    return results


if __name__ == "__main__":
    tyro.cli(main)
