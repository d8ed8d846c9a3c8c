"""The network as it trains: its numbers in an order that suits the machine, compiled or not, in one process or several.

Shape letters: B images of a batch; H, W the input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from onestage.errors import ConfigError
from onestage.model.backbones.any_timm import TimmBackbone
from onestage.model.detector import Detector
from onestage.processes import Distributed
from onestage.training.config import TrainConfig


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
    """Leave torch's global random numbers as they were. On a GPU, cuDNN uses only its deterministic kernels."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
