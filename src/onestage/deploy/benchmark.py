"""How long a detector takes on this machine, from a picture's file to boxes.

Shape letters: B pictures at once, H and W their height and width.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from onestage.images import decode_image
from onestage.predict.engines.exported import FileEngine
from onestage.predict.predictor import Predictor, TorchEngine
from onestage.structures import Size

WARM_UP = 2
"""Turns that do not count, at least: the first ones allocate memory and choose kernels."""
STAGES = ("decode", "resize", "network", "boxes")
"""What a turn consists of: reading the files, resizing the pictures into one input, the engine, and boxes in pixels of the
pictures. The engine of a file with NMS inside does that too.
"""
DIGITS = 6
"""Decimals of seconds that are kept: of a microsecond nothing is sure."""

Pictures = Sequence[Path] | Sequence[Tensor]
"""Files, or decoded pictures (3, H, W) uint8."""


@dataclass(frozen=True)
class Repeats:
    """How often a turn is timed: ``least`` times; then up to ``most`` times, as long as all take less than ``seconds``."""

    least: int = 10
    most: int = 300
    seconds: float = 10.0


USUAL_REPEATS = Repeats()


@dataclass(frozen=True)
class Timing:
    """The seconds of each stage of every turn on ``batch`` pictures at once.

    model: the name of its config. input: (height, width) of the network's input. runtime: the program that ran it. numbers:
    what it computed in, as far as the program tells: "fp32", "fp16" or "bf16" (an int8 file has float layers too). decode,
    resize, network, boxes: the stages (``STAGES``), in the order of the turns.
    """

    model: str
    batch: int
    input: Size
    runtime: str
    numbers: str
    decode: tuple[float, ...]
    resize: tuple[float, ...]
    network: tuple[float, ...]
    boxes: tuple[float, ...]

    @property
    def whole(self) -> tuple[float, ...]:
        """Seconds of every turn, from files to boxes."""
        return tuple(map(sum, zip(self.decode, self.resize, self.network, self.boxes, strict=True)))

    @property
    def predict(self) -> tuple[float, ...]:
        """Seconds of every turn, from decoded pictures to boxes."""
        return tuple(map(sum, zip(self.resize, self.network, self.boxes, strict=True)))


def pictures(count: int, size: Size = (480, 640)) -> list[Tensor]:
    """``count`` smooth, colourful pictures, each (3, H, W) uint8; the same pictures at every call. size: (H, W)."""
    generator = torch.Generator().manual_seed(1)
    clouds = torch.rand(count, 3, 9, 9, generator=generator)
    return list(F.interpolate(clouds, size, mode="bicubic").clamp(0, 1).mul(255).byte())


def time_predictor(
    predictor: Predictor, pictures: Pictures, *, batch: int = 1, repeats: Repeats = USUAL_REPEATS, warm_up: int = WARM_UP
) -> Timing:
    """Time what ``predict`` does with B pictures, stage by stage. Each turn takes the next ones, over and over.

    pictures: files; or (3, H, W) uint8, whose decoding takes no time.
    """
    turns: list[list[float]] = []
    began, size = time.perf_counter(), (0, 0)
    for number in range(-max(1, warm_up), repeats.most):
        if number == 0:
            began = time.perf_counter()
        if number >= repeats.least and time.perf_counter() - began >= repeats.seconds:
            break
        first = number * batch
        given = [pictures[(first + row) % len(pictures)] for row in range(batch)]
        seconds, size = _turn(predictor, given)
        if number >= 0:
            turns.append(seconds)
    stages = [tuple(round(value, DIGITS) for value in stage) for stage in zip(*turns, strict=True)]
    return Timing(predictor.config.name, batch, size, runtime_of(predictor), numbers_of(predictor), *stages)


def _turn(predictor: Predictor, given: Sequence[Path | Tensor]) -> tuple[list[float], Size]:
    """The seconds of each stage for these pictures, and the (height, width) of the network's input."""
    device = predictor.device
    ticks = [_now(device)]
    decoded = [picture if isinstance(picture, Tensor) else decode_image(picture) for picture in given]
    ticks.append(_now(device))
    images, metas = predictor.config.preprocess.batch([picture.to(device, non_blocking=True) for picture in decoded])
    ticks.append(_now(device))
    output = predictor.run(images, metas)
    ticks.append(_now(device))
    found = predictor.decode(output, metas)
    if predictor.scores is not None:
        found = [predictor.scores.reported(one, None) for one in found]
    ticks.append(_now(device))
    return [after - before for before, after in pairwise(ticks)], (images.shape[2], images.shape[3])


def runtime_of(predictor: Predictor) -> str:
    """The program that runs a model, by name."""
    return getattr(predictor.engine, "runtime", "torch")


def numbers_of(predictor: Predictor) -> str:
    """What a model is computed in, as far as the program that runs it tells."""
    if isinstance(predictor.engine, FileEngine):
        half = predictor.engine.contract.precision == "fp16"
        return predictor.engine.numbers or ("fp16" if half else "fp32")
    if not isinstance(predictor.engine, TorchEngine):
        return "fp32"
    kind = next(predictor.engine.detector.parameters()).dtype
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(kind, str(kind).removeprefix("torch."))


def least_seconds(predictors: Sequence[Predictor], pictures: Sequence[Tensor], *, turns: int = 5) -> list[float]:
    """The least seconds of each predictor for pictures (3, H, W) at once, over some turns of all of them."""
    took = [[_seconds(partial(p.detect, pictures), p.device) for p in predictors] for _ in range(turns)]
    return [min(times) for times in zip(*took, strict=True)]


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    start = _now(device)
    run()
    return _now(device) - start


def _now(device: torch.device) -> float:
    """The time in seconds, after a GPU has done its work: it works on after it got its commands."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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
