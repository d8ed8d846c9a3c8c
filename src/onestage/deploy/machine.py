"""What the machine at hand can do at best: multiplications a second of plain products, its instructions, and the memory of a
process.

Shape letters: n the side of a square matrix; C channels, H and W of a map.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 1024
"""Of the matrices, on a CPU; a GPU gets larger ones (``GPU_SIDE``)."""
GPU_SIDE = 8192
CHANNELS, CELLS = 256, 64
"""Of the convolution, in and out, and of its map along either side: as in the middle of a large network."""
SECONDS, LEAST = 1.0, 5
"""How long each product is repeated, and how often at least. The best time counts: other work on the machine only adds."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""torch's types of numbers, by our names; int8 has products of different functions."""
INSTRUCTIONS = (
    *("avx2", "fma", "f16c", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""The instruction sets by which programs choose how to compute, as Linux names them: of x86 processors, then of ARM's."""


def instructions(about: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of INSTRUCTIONS that the system says the processor has; none where it does not tell."""
    try:
        lines = about.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    told = [line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))]
    words = {word for line in told for word in line}
    return tuple(name for name in INSTRUCTIONS if name in words)


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had at a time, None if the system does not tell.

    Linux tells it of the program that runs now. What ``getrusage`` gives counts the program that began this one, too.
    """
    if (found := _status("VmHWM")) is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def memory() -> int | None:
    """The bytes of memory that this process has now, None if the system does not tell."""
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
    except (OSError, ValueError, IndexError):
        return None


def measure_peaks(device: torch.device, *, seconds: float = SECONDS) -> dict[str, float]:
    """How many thousand million operations a second the device computes in plain products, by the type of its numbers: the best
    of a product of matrices (n, n) and of a 3x3 convolution (C, H, W). A multiplication and an addition are two operations.

    seconds: for each product. A type that torch cannot multiply here is left out.
    """
    found: dict[str, float] = {}
    for name, operations, product in _products(device):
        try:
            rate = operations / _least(product, device, seconds) / 1e9
        except (RuntimeError, NotImplementedError, AttributeError, TypeError):  # this torch or device lacks it
            continue
        found[name] = max(found.get(name, 0.0), round(rate, 1))
    return found


def _products(device: torch.device) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """The name of the numbers, the operations, and the product."""
    side = GPU_SIDE if device.type == "cuda" else SIDE
    square, conv = 2 * side**3, 2 * 9 * CHANNELS**2 * CELLS**2
    for name, kind in TYPES.items():
        one = torch.ones(side, side, device=device, dtype=kind)
        yield name, square, partial(torch.matmul, one, one)
        maps = torch.ones(1, CHANNELS, CELLS, CELLS, device=device, dtype=kind).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(CHANNELS, CHANNELS, 3, 3, device=device, dtype=kind).contiguous(memory_format=torch.channels_last)
        yield name, conv, partial(F.conv2d, maps, weight, padding=1)
    whole = torch.ones(side, side, device=device, dtype=torch.int8)
    yield "int8", square, partial(torch._int_mm, whole, whole)
    if device.type == "cpu":
        yield "int8", conv, _Int8Convolution()


class _Int8Convolution:
    """A 3x3 convolution of int8 weights with uint8 maps, as torch's quantised networks compute it. It is prepared when it is
    first called, because not every torch has it.
    """

    def __init__(self) -> None:
        self._packed: Tensor | None = None
        self._maps = torch.ones(1, CHANNELS, CELLS, CELLS, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        self._scales = torch.ones(CHANNELS)
        self._zeros = torch.zeros(CHANNELS, dtype=torch.int64)

    def __call__(self) -> object:
        """Compute it once."""
        operators, ones = torch.ops.onednn, [1, 1]
        if self._packed is None:
            weight = torch.ones(CHANNELS, CHANNELS, 3, 3, dtype=torch.int8)
            shape = list(self._maps.shape)
            self._packed = operators.qconv_prepack(weight, self._scales, 1.0, 0, ones, ones, ones, 1, shape)
        given = self._maps, 1.0, 0, self._packed, self._scales, self._zeros, None
        return operators.qconv2d_pointwise(*given, ones, ones, ones, 1, 1.0, 0, torch.float32, "none", [], "")


@torch.inference_mode()
def _least(product: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The least seconds of one product."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) <= LEAST or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        product()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
