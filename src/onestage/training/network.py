"""The network as it trains: its numbers in an order that suits the machine, compiled or not, in one process or several.

Shape letters: B images of a batch; C channels, H and W of an image or a map.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from onestage.errors import ConfigError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.detector import Detector
from onestage.processes import Distributed
from onestage.training.batch_norm import BatchNormOverAll
from onestage.training.config import TrainConfig

T = TypeVar("T")

_CONVOLUTION: object = F.conv2d
_GROUPS = 6
"""The place of the number of groups among its arguments."""


def memory_order(config: TrainConfig) -> torch.memory_format:
    """The order of channels and pixels in memory, of weights and of images (B, 3, H, W)."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def make_network(model: Detector, config: TrainConfig, group: Distributed) -> nn.Module:
    """The model for training, with its gradients averaged over the processes. Its weights remain those of ``model``.

    Raise ConfigError if it is to be compiled where that is not possible.
    """
    model.to(memory_format=memory_order(config))
    network: nn.Module = model
    if config.compile:
        check_compiler(group.device)
        network = cast(nn.Module, torch.compile(model))  # with a module, it returns a module
    return group.parallel(network, spare_parts=isinstance(model.config.backbone, TimmBackbone))


@contextlib.contextmanager
def arithmetic(config: TrainConfig, group: Distributed) -> Iterator[None]:
    """Inside, the network's arithmetic is as the config says, autocast aside."""
    with contextlib.ExitStack() as stack:
        if config.fp32_depthwise:
            stack.enter_context(DepthwiseInFp32())
        if config.shared_batch_norm:  # of one process too: torch's rounds more coarsely, and losses would not compare
            stack.enter_context(BatchNormOverAll(group))
        yield


class DepthwiseInFp32(TorchFunctionMode):
    """Inside this block autocast leaves convolutions alone that treat each channel by itself: they are computed in fp32."""

    def __torch_function__(
        self, func: Callable[..., T], types: Sequence[type], args: Sequence[T] = (), kwargs: Mapping[str, T] | None = None
    ) -> T:
        """What ``func`` of torch returns."""
        options = kwargs or {}
        if func is not _CONVOLUTION or not _is_depthwise(args, options):
            return func(*args, **options)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return func(*map(_in_fp32, args), **{name: _in_fp32(value) for name, value in options.items()})


def _is_depthwise(args: Sequence[object], options: Mapping[str, object]) -> bool:
    """Whether ``F.conv2d``, called so, has as many groups as its image (B, C, H, W) has channels, and more than one."""
    image = args[0] if args else options.get("input")
    groups = args[_GROUPS] if len(args) > _GROUPS else options.get("groups", 1)
    return isinstance(image, Tensor) and groups == image.shape[1] != 1


def _in_fp32(value: T) -> T:
    """A tensor of any shape in fp32; anything else as it is."""
    return cast(T, value.float()) if isinstance(value, Tensor) else value


def check_compiler(device: torch.device) -> None:
    """Compile a function of one number. Raise ConfigError if torch cannot: it needs a C++ compiler, and on a GPU Triton."""

    def double(number: Tensor) -> Tensor:
        """(1,) -> (1,)."""
        return 2 * number

    try:
        torch.compile(double)(torch.ones(1, device=device))
    except Exception as error:
        what, needs = (
            "torch cannot compile on this machine",
            "Triton" if device.type == "cuda" else "a C++ compiler, such as g++",
        )
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(what, where="compile", got=reason, fix=f"install {needs}; or leave compile= out") from error


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Leave torch's global random numbers as they were. On a GPU, take deterministic kernels alone: of cuDNN, of cuBLAS, and
    where torch would add up numbers in any order.

    cuBLAS reads its setting when it is first used. A program that has used the GPU before has to set it by itself
    (docs/training.md).
    """
    if device.type != "cuda":
        with torch.random.fork_rng([]):
            yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng([device]), warnings.catch_warnings():
            # Into one cell, as in TinySSD, nothing is added up: each map has one maximum.
            warnings.filterwarnings("ignore", "adaptive_max_pool2d_backward_cuda")
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
