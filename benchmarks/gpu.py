"""predict() on a GPU: ours in float32, in bfloat16, and in bfloat16 compiled, against torchvision or effdet in the same type.

    python benchmarks/gpu.py --batches 1 32 --repeats 30 --json gpu.json
    python benchmarks/gpu.py --batches 32 --forms fp32 bf16 --stages

From decoded 640x480 pictures in the memory of the computer to detections, with resizing and NMS, as ``inference.py`` on a CPU.
A turn ends when the GPU has done all its work. The compiled form is ``torch.compile`` of the network with CUDA graphs (mode
"reduce-overhead"); what stands before and behind it is not compiled. The peers compute in bfloat16 by autocast, because their
NMS takes no other way, and are not compiled. TF32 is as torch has it by default, the same for both.

``--stages`` has no peer: it times each stage of ours by itself, among them resizing on the CPU and on the GPU.

``--device cpu`` tries the program where there is no GPU.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

import onestage
from common import Comparison, Turn, compare, pair, pictures, report
from inference import effdet_predictor, predict_torchvision
from onestage.predict.predictor import Predictor, TorchEngine

Form = Literal["fp32", "bf16", "bf16-compiled"]
MODELS = ("ssd300_vgg16", "retinanet_resnet50_fpn", "tf_efficientdet_d0")
WARMUP = 5
"""Turns before the timed ones: the first compiles, the next ones record a CUDA graph."""


def predictor(model: onestage.Detector, *, bf16: bool, compiled: bool) -> Predictor:
    """A predictor over a copy of the model, on the same device. compiled: the network alone, for each input size once."""
    model = copy.deepcopy(model)
    found = Predictor.folded(model, bf16=True) if bf16 else Predictor.of(model)
    assert isinstance(found.engine, TorchEngine)
    if compiled:
        found.engine.detector.compile(mode="reduce-overhead", dynamic=False)
    return found


def finished(predict: Callable[[], object], device: torch.device, *, autocast: bool = False) -> Turn:
    """The function, which then waits for the GPU. autocast: compute in bfloat16 where torch finds that it is safe."""

    def turn() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            predict()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return turn


def rows(
    name: str, forms: Sequence[Form], batches: Sequence[int], device: torch.device, repeats: int
) -> Iterator[Comparison | str]:
    """The comparison of each form and batch, or the reason why there is none."""
    ours, theirs = (model.to(device) for model in pair(name))
    peer = effdet_predictor(theirs) if name.startswith("tf_") else partial(predict_torchvision, theirs)
    for form in forms:
        for batch in batches:
            what, images = f"{name}, {form}, {batch} at once", pictures(batch)
            torch.compiler.reset()
            try:
                mine = predictor(ours, bf16=form != "fp32", compiled=form == "bf16-compiled")
                turns = (
                    finished(partial(mine.predict, images, batch_size=batch), device),
                    finished(partial(peer, images), device, autocast=form != "fp32"),
                )
                yield compare(what, *turns, repeats=repeats, warmup=WARMUP)
            except torch.OutOfMemoryError:
                yield f"{what}: the memory of the GPU is too small"


def stages(name: str, forms: Sequence[Form], batches: Sequence[int], device: torch.device, repeats: int) -> Iterator[str]:
    """A line for each form and batch: the median milliseconds of each stage of ours."""
    ours = pair(name)[0].to(device)
    for form in forms:
        for batch in batches:
            mine, images = predictor(ours, bf16=form != "fp32", compiled=form == "bf16-compiled"), pictures(batch)
            prepare, moved = mine.decoder.config.preprocess.batch, [image.to(device) for image in images]
            resized, metas = prepare(images)
            output = mine.run(resized.to(device), metas)
            todo: dict[str, Callable[[], object]] = {
                "resize on the CPU": partial(prepare, images),
                "copy the resized": partial(resized.to, device),
                "copy pictures": partial(_copies, images, device),
                "resize there": partial(prepare, moved),
                "network": partial(mine.run, resized.to(device), metas),
                "decode and NMS": partial(mine.decode, output, metas),
            }
            times = {stage: _milliseconds(finished(work, device), repeats) for stage, work in todo.items()}
            yield f"{name}, {form}, {batch} at once: " + ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in times.items())


def _copies(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The pictures on the device."""
    return [image.to(device) for image in images]


def _milliseconds(turn: Turn, repeats: int) -> float:
    """The median of some turns."""
    taken = []
    for _ in range(WARMUP + repeats):
        begun = time.perf_counter()
        turn()
        taken.append(time.perf_counter() - begun)
    return 1000 * statistics.median(taken[WARMUP:])


def main(
    *,
    models: tuple[str, ...] = MODELS,
    forms: tuple[Form, ...] = ("fp32", "bf16", "bf16-compiled"),
    batches: tuple[int, ...] = (1, 32),
    device: str = "cuda",
    repeats: int = 30,
    stages_alone: Annotated[bool, tyro.conf.arg(name="stages")] = False,
    json: Path | None = None,
) -> list[Comparison]:
    """Compare predict() on a GPU.

    Args:
        models: the detectors, by their names in torchvision or effdet (tf_*).
        forms: fp32, bf16, bf16-compiled.
        batches: pictures at once.
        device: cuda, or cuda:1 and so on.
        repeats: timed turns of each.
        stages_alone: time each stage of ours, and no peer.
        json: a file for all that was measured.
    """
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU, so nothing was measured; --device cpu tries the program without one")
    if stages_alone:
        for name in models:
            for line in stages(name, forms, batches, place, repeats):
                print(line, flush=True)
        return []
    results = []
    for name in models:
        for row in rows(name, forms, batches, place, repeats):
            print(f"not measured: {row}" if isinstance(row, str) else " | ".join(row.row), flush=True)
            results += [] if isinstance(row, str) else [row]
    where = torch.cuda.get_device_name(place) if place.type == "cuda" else device
    report(f"predict() on {where}, wall time", results, path=json)
    return results


if __name__ == "__main__":
    tyro.cli(main)
