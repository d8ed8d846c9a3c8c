"""What the machine at hand is fast at, measured in about a second.

Shape letters: B images, C channels, H and W of a map. A training reads these numbers once, when its settings are chosen, and
writes them down with its settings. A choice follows from these numbers alone, so the same numbers give the same choice again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from onestage.processes import Distributed
from onestage.training.network import DepthwiseInFp32

Precision = Literal["fp32", "bf16"]
Kernels = Literal["dense", "grouped", "depthwise"]
"""What most of the larger kernels of a network are."""

WORTHWHILE = 1.1
"""Another way to compute is chosen if it is this many times as fast. Less may be chance."""
_TURNS, _SECONDS = 4, 0.4
"""So often each way is timed, but no longer than that many seconds for each network; the first turn does not count."""
_SPIN = 0.15
"""Seconds for which every core is kept busy, to see how much of its time this process gets."""
DENSE_WORK, DEPTHWISE_WORK = 0.354, 0.0415
"""Thousands of millions of multiply-adds in one step of the small networks, all pictures together."""
SPEEDS: dict[Kernels, float] = {"dense": 1.0, "grouped": 0.55, "depthwise": 1.2}
"""The speed of whole networks in training, in parts of that of the small network that resembles them: of ResNet-18, RegNetX-002
and SSDLite320.
"""
_CHANNELS, _CELLS, _PICTURES = 64, 40, 2
"""Of the small networks: they resemble the middle of a backbone at 320 pixels."""
_TIMES_AS_MANY = {"cuda": 32}
"""A step of so many times the pictures is timed on a device, and the time divided by this: fewer leave a GPU mostly idle."""


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of forward and backward pass of a small network.

    fp32 and bf16: with channels last in memory. contiguous: fp32 with channels first. mixed: bf16 with depthwise convolutions
    in fp32. bf16 is None where the device lacks it, mixed where it was not measured.
    """

    fp32: float
    bf16: float | None
    contiguous: float
    mixed: float | None = None

    @property
    def full(self) -> float:
        """Of the faster order in memory, in fp32."""
        return min(self.fp32, self.contiguous)

    @property
    def half(self) -> float | None:
        """Of the faster way to compute in bf16; None where the device lacks it."""
        return min((time for time in (self.bf16, self.mixed) if time is not None), default=None)

    @property
    def best(self) -> float:
        """Of the way that is chosen."""
        return self.full if self.half is None or self.precision == "fp32" else self.half

    @property
    def precision(self) -> Precision:
        """The faster arithmetic."""
        return "bf16" if self.half is not None and self.half * WORTHWHILE < self.full else "fp32"

    @property
    def gain(self) -> float:
        """How many times as fast bf16 is as fp32; 0 where the device lacks it."""
        return 0.0 if self.half is None else self.full / self.half

    @property
    def fp32_depthwise(self) -> bool:
        """Whether bf16 is faster if depthwise convolutions stay in fp32."""
        return self.bf16 is not None and self.mixed is not None and self.mixed * WORTHWHILE < self.bf16

    @property
    def channels_last(self) -> bool:
        """Whether channels last is the better order in memory: it is, unless channels first are clearly faster in fp32, and
        fp32 is chosen.
        """
        return self.precision == "bf16" or self.contiguous * WORTHWHILE >= self.fp32


@dataclass(frozen=True)
class Machine:
    """What was measured on a machine.

    device: "cpu" or "cuda". cores: those that this process may use. share: the part of their time that it gets, 0..1. dense:
    the step of 3x3 convolutions, as in VGG and ResNet. depthwise: the step of convolutions that treat each channel alone, as in
    MobileNet and EfficientDet. memory: gigabytes that are free for this process, None if unknown. gpu: its name; gpu_memory:
    gigabytes that are free on it. Both are None without a GPU. processes: that train together, each as fast as was measured.
    """

    device: str
    cores: int
    share: float
    dense: StepTimes
    depthwise: StepTimes
    memory: float | None = None
    gpu: str | None = None
    gpu_memory: float | None = None
    processes: int = 1

    def times(self, network: nn.Module) -> StepTimes:
        """The times of the small network that resembles this one."""
        return self.depthwise if _is_depthwise(network) else self.dense

    def rate(self, kernels: Kernels, multiply_adds: float) -> float:
        """Pictures per second to expect in training, of all processes together, of a network with so many multiply-adds for a
        picture.
        """
        times, work = (self.depthwise, DEPTHWISE_WORK) if kernels == "depthwise" else (self.dense, DENSE_WORK)
        return self.processes * 1e12 * SPEEDS[kernels] * work / times.best / multiply_adds

    def precision(self, network: nn.Module) -> Precision:
        """The arithmetic in which such a network trains faster here."""
        return self.times(network).precision

    def fp32_depthwise(self, network: nn.Module) -> bool:
        """Whether such a network trains faster here in bf16 if its depthwise convolutions stay in fp32."""
        times = self.times(network)
        return times.precision == "bf16" and times.fp32_depthwise

    def channels_last(self, network: nn.Module) -> bool:
        """Whether such a network trains faster here with channels last in memory."""
        return self.times(network).channels_last


def measure_machine(device: torch.device | str = "cpu") -> Machine:
    """Measure the machine, and how fast the device trains small networks. torch's random numbers stay as they were.

    It takes about a second. The numbers differ a little from call to call: measure once, and write them down.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with torch.random.fork_rng([device] if on_gpu else []), torch.enable_grad():
        return Machine(
            device=device.type,
            cores=cores,
            share=round(_share(cores), 3),
            dense=_step_times(_dense(), device),
            depthwise=_step_times(_depthwise(), device),
            memory=_free_memory(),
            gpu=torch.cuda.get_device_name(device) if on_gpu else None,
            gpu_memory=round(torch.cuda.mem_get_info(device)[0] / 1e9, 2) if on_gpu else None,
        )


def measure_together(group: Distributed) -> Machine:
    """What the first process measures while all others do the same, as they will train: so all decide the same by it."""
    machines = group.gather_objects(measure_machine(group.device))
    return replace(machines[0], processes=group.world)


def kernels_of(network: nn.Module) -> Kernels:
    """What most of the larger kernels are: of the whole network if they are depthwise, else of its backbone, if it has one."""
    if _is_depthwise(network):
        return "depthwise"
    body: nn.Module = getattr(network, "backbone", network)
    kernels = _larger_kernels(body)
    return "grouped" if 2 * sum(kernel.groups > 1 for kernel in kernels) > len(kernels) else "dense"


def _is_depthwise(network: nn.Module) -> bool:
    """Whether most of its larger kernels are depthwise."""
    kernels = _larger_kernels(network)
    return 2 * sum(kernel.groups > 1 and kernel.groups == kernel.in_channels for kernel in kernels) > len(kernels)


def _larger_kernels(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that see more than one cell."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1]


def _share(cores: int) -> float:
    """The part of the cores' time that this process gets if it asks for all of it, 0..1: the mean over the cores."""
    data = bytes(1 << 18)  # Python lets other threads run while it hashes as much
    shares: list[float] = []

    def spin() -> None:
        began, worked = time.perf_counter(), time.thread_time()
        while time.perf_counter() - began < _SPIN:
            hashlib.sha256(data)
        shares.append((time.thread_time() - worked) / (time.perf_counter() - began))

    threads = [threading.Thread(target=spin) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return min(1.0, statistics.mean(shares))


def _free_memory() -> float | None:
    """Gigabytes that are free for this process: on the machine, and within the limit of its container. None if unknown."""
    free = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free.append(1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))))
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limit, used = (int((group / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        free.append(max(0, limit - used))
    return round(min(free) / 1e9, 2) if free else None


def _dense() -> nn.Sequential:
    """Three 3x3 convolutions, each with a batch norm."""
    return nn.Sequential(*(layer for _ in range(3) for layer in _normed(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1))))


def _depthwise() -> nn.Sequential:
    """Four blocks of a depthwise and a 1x1 convolution, each with a batch norm. Kernels and strides are those of MobileNetV3,
    since a library may be fast at some of them only.
    """
    layers: list[nn.Module] = []
    for side, stride in ((3, 1), (5, 1), (3, 2), (5, 1)):
        layers += _normed(nn.Conv2d(_CHANNELS, _CHANNELS, side, stride, side // 2, groups=_CHANNELS))
        layers += _normed(nn.Conv2d(_CHANNELS, _CHANNELS, 1))
    return nn.Sequential(*layers)


def _normed(conv: nn.Conv2d) -> tuple[nn.Module, ...]:
    return conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)


def _step_times(network: nn.Sequential, device: torch.device) -> StepTimes:
    """The least times of each way to compute, measured in turns, so that other work on the machine slows all of them."""
    network = network.to(device)
    more = _TIMES_AS_MANY.get(device.type, 1)
    images = torch.rand(more * _PICTURES, _CHANNELS, _CELLS, _CELLS, device=device)
    ways: dict[str, Callable[[], float]] = {
        "fp32": lambda: _step_ms(network, images, torch.channels_last),
        "contiguous": lambda: _step_ms(network, images, torch.contiguous_format),
    }
    if _has_bf16(device):
        ways["bf16"] = lambda: _step_ms(network, images, torch.channels_last, torch.bfloat16)
    if device.type == "cpu" and any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in network):
        ways["mixed"] = lambda: _step_ms(network, images, torch.channels_last, torch.bfloat16, DepthwiseInFp32())
    times: dict[str, list[float]] = {name: [] for name in ways}
    began = time.perf_counter()
    for turn in range(1 + _TURNS):
        if turn > 1 and time.perf_counter() - began > _SECONDS:
            break
        for name, way in ways.items():
            times[name].append(way())
    least = {name: round(min(values[1:]) / more, 4) for name, values in times.items()}
    return StepTimes(least["fp32"], least.get("bf16"), least["contiguous"], least.get("mixed"))


def _has_bf16(device: torch.device) -> bool:
    """Whether the device can compute in bf16. A CPU always can, if slowly."""
    return device.type == "cpu" or torch.cuda.is_bf16_supported()


def _step_ms(
    network: nn.Module,
    images: torch.Tensor,
    order: torch.memory_format,
    dtype: torch.dtype = torch.float32,
    within: AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008 (it has no state)
) -> float:
    """Milliseconds of one forward and backward pass on images (B, C, H, W)."""
    network.to(memory_format=order)
    images = images.contiguous(memory_format=order)
    network.zero_grad(set_to_none=True)
    _wait(images.device)
    began = time.perf_counter()
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32), within:
        output = network(images)
    output.float().square().mean().backward()
    _wait(images.device)
    return 1000 * (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    """Wait until a GPU has computed all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
