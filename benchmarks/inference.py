"""Whole predict(): from decoded 640x480 pictures to detections in their pixels, ours against torchvision's or effdet's.

python benchmarks/inference.py --repeats 30 --json inference.json
python benchmarks/inference.py --models retinanet_resnet50_fpn --batches --mixed 20 --repeats 5

``--mixed 20`` adds two rows for models whose input follows the picture: 20 pictures of 20 sizes, one at a time, against the
peer; and the same pictures when each size is new to the model, against a second time.

effdet resizes with Pillow in its data loader, not in its predictor. Here torchvision resizes its pictures, as it does ours.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import tyro
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

import onestage
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


def mixed_pictures(count: int) -> list[Tensor]:
    """Up to 20 pictures (3, H, W), each of a shape that gives a RetinaNet an input of another size."""
    wide = [(480, 480 + 26 * i) for i in range(1, count // 2 + 1)]
    return [pictures(1, size)[0] for size in [*wide, *((w, h) for h, w in wide), (480, 480)][:count]]


def one_by_one(predict: Callable[[Sequence[Tensor]], object], images: Sequence[Tensor]) -> None:
    """Put each picture (3, H, W) through the function alone."""
    for image in images:
        predict([image])


def first_and_second(model: onestage.Detector, images: Sequence[Tensor], *, repeats: int, clock: Clock) -> Comparison:
    """Seconds per turn for pictures (3, H, W) of sizes that are new to the model, and for the same pictures a second time.

    A copy that has seen no picture takes every turn. Each picture goes through twice in a row, so both times see the same
    machine. The first turn is not counted.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    first, second = [], []
    for turn in range(repeats + 1):
        fresh = copy.deepcopy(model)
        times = [[now(), fresh.predict(image), now(), fresh.predict(image), now()] for image in images]
        if turn:
            first.append(sum(b - a for a, _, b, _, _ in times))
            second.append(sum(c - b for _, _, b, _, c in times))
    return Comparison(f"{len(images)} sizes, first time against second", first, second)


def main(
    *,
    models: tuple[str, ...] = tuple(PEERS),
    batches: tuple[int, ...] = (1, 8),
    mixed: int = 0,
    repeats: int = 20,
    clock: Clock = "wall",
    json: Path | None = None,
) -> list[Comparison]:
    """Compare predict() in eager fp32.

    Args:
        models: the detectors, by their names in torchvision or effdet (tf_*).
        batches: pictures at once.
        mixed: the number of pictures of different sizes to measure too, one at a time, for RetinaNets.
        repeats: timed turns of each.
        clock: wall time, or processor time on a busy machine.
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
        if mixed and ours.config.preprocess.mode == "shortest_edge":
            images = mixed_pictures(mixed)
            turns = partial(one_by_one, ours.predict, images), partial(one_by_one, predict, images)
            results.append(compare(f"{name}, {mixed} sizes", *turns, repeats=repeats, warmup=1, clock=clock))
            results.append(first_and_second(ours, images, repeats=repeats, clock=clock))
    report(f"predict(), {clock} time", results, path=json)
    return results


if __name__ == "__main__":
    tyro.cli(main)
