"""Whole predict(): from decoded 640x480 pictures to detections in their pixels, ours against torchvision's or effdet's.

python benchmarks/inference.py --repeats 30 --json inference.json
python benchmarks/inference.py --models retinanet_resnet50_fpn --mixed 20 --repeats 2

``--runtimes torch onnxruntime openvino ncnn`` measures from JPEG files instead, one picture at a time, with each of these
engines (``runtimes.py``); ``--precision int8`` with their files in int8.

``--mixed 20`` gives two rows alone, for models whose input follows the picture: 20 pictures of 20 sizes, one at a time, against
the peer; and the same pictures when each size is new to the model, against a second time. Their times are of one picture. Each
row takes 4 passes of the network for each picture and repeat: with 2 repeats and 2 s a pass, 5 minutes in all.

effdet resizes with Pillow in its data loader, not in its predictor. Here torchvision resizes its pictures, as it does ours.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
import tyro
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

import onestage
import runtimes as by_runtime
from common import PEERS, Clock, Comparison, Turn, compare, pair, pictures, report
from runtimes import Engine

Predict = Callable[[Sequence[Tensor]], object]
"""Detect objects in pictures (3, H, W)."""

WARMUP_SIZE = (400, 640)
"""(height, width) of a picture that gives a RetinaNet an input of a size that ``mixed_pictures`` does not."""


@torch.inference_mode()
def predict_torchvision(model: nn.Module, images: Sequence[Tensor]) -> object:
    """torchvision wants floats in 0..1, on its device."""
    device = next(model.parameters()).device
    return model([image.to(device) / 255 for image in images])


def effdet_predictor(model: nn.Module) -> Callable[[Sequence[Tensor]], object]:
    """effdet's DetBenchPredict, with the letterbox and the normalisation that its data loader would do before it."""
    from effdet import DetBenchPredict

    device = next(model.parameters()).device
    bench = DetBenchPredict(model).eval().to(device)
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
        info = {"img_scale": torch.tensor(scales), "img_size": sizes}
        return bench(torch.stack(inputs).to(device), {key: value.to(device) for key, value in info.items()})

    return predict


def mixed_pictures(count: int) -> list[Tensor]:
    """Up to 20 pictures (3, H, W), each of a shape that gives a RetinaNet an input of another size."""
    wide = [(480, 480 + 26 * i) for i in range(1, count // 2 + 1)]
    return [pictures(1, size)[0] for size in [*wide, *((w, h) for h, w in wide), (480, 480)][:count]]


def one_by_one(what: str, predicts: Sequence[Predict], images: Sequence[Tensor], *, repeats: int, clock: Clock) -> Comparison:
    """Seconds of our function and the peer's for each picture (3, H, W) alone. They take turns at every picture.

    A picture of another size goes through both before that.
    """
    times: tuple[list[float], list[float]] = [], []
    for predict in predicts:
        predict(pictures(1, WARMUP_SIZE))
    for number, image in enumerate(repeats * list(images)):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            times[side].append(seconds(partial(predicts[side], [image]), clock))
    return Comparison(what, *times)


def first_and_second(model: onestage.Detector, images: Sequence[Tensor], *, repeats: int, clock: Clock) -> Comparison:
    """Seconds for each picture (3, H, W) of a size that is new to the model, and for the same picture a second time.

    For each repeat there is a copy of the model, which has only seen one picture of another size. Each picture goes through
    twice in a row, so both times see the same machine.
    """
    first, second = [], []
    for _ in range(repeats):
        fresh = copy.deepcopy(model)
        fresh.predict(pictures(1, WARMUP_SIZE))
        for image in images:
            turn = partial(fresh.predict, image)
            first.append(seconds(turn, clock))
            second.append(seconds(turn, clock))
    return Comparison(f"{len(images)} sizes, first time against second", first, second)


def seconds(turn: Turn, clock: Clock) -> float:
    """The time that a function takes."""
    now = time.perf_counter if clock == "wall" else time.process_time
    start = now()
    turn()
    return now() - start


def rows(name: str, batches: Sequence[int], mixed: int, repeats: int, clock: Clock) -> Iterator[Comparison]:
    """The comparisons for one model, each as soon as it is measured."""
    ours, theirs = pair(name)
    predict = effdet_predictor(theirs) if name.startswith("tf_") else partial(predict_torchvision, theirs)
    for batch in batches:
        images = pictures(batch)
        turns = partial(ours.predict, images), partial(predict, images)
        yield compare(f"{name}, {batch} at once", *turns, repeats=repeats, clock=clock)
    if mixed and ours.config.preprocess.mode == "shortest_edge":
        images = mixed_pictures(mixed)
        yield one_by_one(f"{name}, {mixed} sizes", (ours.predict, predict), images, repeats=repeats, clock=clock)
        yield first_and_second(ours, images, repeats=repeats, clock=clock)


def with_runtimes(
    engines: Sequence[Engine], jpegs: Path | None, files: Path | None, repeats: int, clock: Clock, json: Path | None
) -> list[Comparison]:
    """The comparisons of all engines, from JPEG files."""
    results, missing = [], []
    for row in by_runtime.rows(engines, jpegs, files, repeats, clock):
        print(row if isinstance(row, str) else " | ".join(row.row), flush=True)
        (missing if isinstance(row, str) else results).append(row)
    report(f"from a JPEG file to boxes, {clock} time", results, path=json)
    for reason in missing:
        print(f"not measured: {reason}")
    return results


def main(
    *,
    models: tuple[str, ...] = tuple(PEERS),
    batches: tuple[int, ...] | None = None,
    mixed: int = 0,
    repeats: int = 20,
    clock: Clock = "wall",
    runtimes: tuple[str, ...] = (),
    precision: tuple[str, ...] = ("fp32",),
    pictures: Path | None = None,
    files: Path | None = None,
    json: Path | None = None,
) -> list[Comparison]:
    """Compare predict() in eager fp32, or with the given runtimes.

    Args:
        models: the detectors, by their names in torchvision or effdet (tf_*).
        batches: pictures at once; by default 1 and 8, or none with --mixed.
        mixed: the number of pictures of different sizes to measure, one at a time, for RetinaNets.
        repeats: timed turns of each.
        clock: wall time, or processor time on a busy machine.
        runtimes: torch, onnxruntime, openvino, ncnn: measure these, from JPEG files.
        precision: fp32, int8, of the files that the runtimes run.
        pictures: a folder of JPEG files for the runtimes; by default some are drawn.
        files: a folder in which exported files are kept; by default they are exported for this run.
        json: a file for all that was measured.
    """
    if runtimes:
        return with_runtimes(
            [Engine(*row) for row in product(models, runtimes, precision)], pictures, files, repeats, clock, json
        )
    results = []
    for name in models:
        for row in rows(name, batches if batches is not None else () if mixed else (1, 8), mixed, repeats, clock):
            print(" | ".join(row.row), flush=True)
            results.append(row)
    report(f"predict(), {clock} time", results, path=json)
    return results


if __name__ == "__main__":
    tyro.cli(main)
