"""How long a detector takes on this machine.

Shape letters: B pictures at once.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from onestage.model.detector import Detector
from onestage.model.features import in_evaluation_mode
from onestage.structures import Size

Progress = Callable[[int], None]
"""Called after every turn with the number of its pictures."""

WARM_UP = 2
"""Turns that are not counted: the first ones allocate memory and choose kernels."""


@dataclass(frozen=True)
class Timing:
    """Seconds of every turn on ``batch`` pictures at once: whole predict() from decoded pictures to boxes in their own pixels,
    and the network alone. input: (height, width) of the network's input.
    """

    model: str
    batch: int
    input: Size
    predict: tuple[float, ...]
    network: tuple[float, ...]

    def median(self, what: str) -> float:
        """Milliseconds per picture of "predict" or "network"."""
        return 1000 * statistics.median(getattr(self, what)) / self.batch


def pictures(count: int, size: Size = (480, 640)) -> list[Tensor]:
    """``count`` smooth, colourful pictures (3, *size) uint8; the same every time."""
    generator = torch.Generator().manual_seed(1)
    clouds = torch.rand(count, 3, 9, 9, generator=generator)
    return list(F.interpolate(clouds, size, mode="bicubic").clamp(0, 1).mul(255).byte())


def time_detector(model: Detector, images: Sequence[Tensor], *, repeats: int, advance: Progress = lambda _: None) -> Timing:
    """Time predict() on B decoded pictures (3, H, W), and the network on the same input, in turns."""
    inputs, _ = model.prepare(images)
    net = in_evaluation_mode(model)

    def network() -> None:
        with torch.inference_mode():
            net(inputs)

    def predict() -> None:
        model.predict(list(images), batch_size=len(images))

    times: dict[str, list[float]] = {"predict": [], "network": []}
    for turn in range(WARM_UP + repeats):
        for name, run in (("predict", predict), ("network", network)):
            seconds = _seconds(run, model.device)
            if turn >= WARM_UP:
                times[name].append(seconds)
        advance(len(images))
    size = (inputs.shape[2], inputs.shape[3])
    return Timing(model.config.name, len(images), size, tuple(times["predict"]), tuple(times["network"]))


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """A GPU works on after its commands were given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(device: torch.device) -> dict[str, str | int]:
    """What a number means nothing without: versions, processor, threads."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's vector instructions, which decide its speed more than its name."""
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
