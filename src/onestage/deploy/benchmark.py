"""How long a detector takes on this machine.

Shape letters: B pictures at once, H and W their height and width.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from onestage.model.detector import Detector
from onestage.predict.predictor import Predictor, in_evaluation_mode
from onestage.structures import Size

Progress = Callable[[int], None]
"""A function that takes the number of pictures of each turn, after the turn."""

WARM_UP = 2
"""Turns that do not count: the first ones allocate memory and choose kernels."""


@dataclass(frozen=True)
class Timing:
    """The seconds of every turn on ``batch`` pictures at once.

    predict: whole predict(), from decoded pictures to boxes in their pixels. network: the network alone; of an exported file,
    all that is in it. input: (height, width) of the network's input. runtime: the program that ran it.
    """

    model: str
    batch: int
    input: Size
    predict: tuple[float, ...]
    network: tuple[float, ...]
    runtime: str = "torch"

    def median(self, what: Literal["predict", "network"]) -> float:
        """The median in milliseconds per picture."""
        seconds = self.predict if what == "predict" else self.network
        return 1000 * statistics.median(seconds) / self.batch


def pictures(count: int, size: Size = (480, 640)) -> list[Tensor]:
    """``count`` smooth, colourful pictures, each (3, H, W) uint8; the same pictures at every call. size: (H, W)."""
    generator = torch.Generator().manual_seed(1)
    clouds = torch.rand(count, 3, 9, 9, generator=generator)
    return list(F.interpolate(clouds, size, mode="bicubic").clamp(0, 1).mul(255).byte())


def time_detector(
    model: Detector | Predictor, images: Sequence[Tensor], *, repeats: int, advance: Progress = lambda _: None
) -> Timing:
    """Times predict() on B decoded pictures, each (3, H, W), and the network on the same input, in turns."""
    network, size = _network(model, images)

    def predict() -> None:
        model.predict(list(images), batch_size=len(images))

    times: dict[str, list[float]] = {"predict": [], "network": []}
    for turn in range(WARM_UP + repeats):
        for name, run in (("predict", predict), ("network", network)):
            seconds = _seconds(run, model.device)
            if turn >= WARM_UP:
                times[name].append(seconds)
        advance(len(images))
    return Timing(model.config.name, len(images), size, tuple(times["predict"]), tuple(times["network"]), _runtime(model))


def _runtime(model: Detector | Predictor) -> str:
    """The program that runs a model; with torch also the type of its numbers, if it is not float32."""
    detector = model if isinstance(model, Detector) else getattr(model.engine, "detector", None)
    if not isinstance(detector, Detector):
        return getattr(model.engine, "runtime", "torch") if isinstance(model, Predictor) else "torch"
    kind = next(detector.parameters()).dtype
    return "torch" if kind == torch.float32 else f"torch, {str(kind).removeprefix('torch.')}"


def _network(model: Detector | Predictor, images: Sequence[Tensor]) -> tuple[Callable[[], object], Size]:
    """A function that runs the network alone on B pictures, each (3, H, W), and the (height, width) of its input."""
    if isinstance(model, Predictor):
        pixels, metas = model.config.preprocess.batch(images)
        return partial(model.run, pixels, metas), (pixels.shape[2], pixels.shape[3])
    inputs, _ = model.prepare(images)
    net = torch.inference_mode()(in_evaluation_mode(model).__call__)
    return partial(net, inputs), (inputs.shape[2], inputs.shape[3])


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def least_seconds(predictors: Sequence[Predictor], pictures: Sequence[Tensor], *, turns: int = 5) -> list[float]:
    """The least seconds of each predictor for pictures (3, H, W) at once, over some turns of all of them."""
    took = [[_seconds(partial(p.detect, pictures), p.device) for p in predictors] for _ in range(turns)]
    return [min(times) for times in zip(*took, strict=True)]


def _wait(device: torch.device) -> None:
    """Wait until a GPU has done its work: it works on after it got its commands."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(device: torch.device) -> dict[str, str | int]:
    """What a time depends on: processor, threads, versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


@cache
def processor() -> str:
    """The processor's name, as far as the system tells it, its architecture and its vector instructions."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(errors="replace").splitlines() if about.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name or 'CPU'}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
