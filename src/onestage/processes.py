"""Several processes, one training: plain ``torch.distributed``, started by torchrun.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 2 --max-restarts 3 --no-python onestage train DATA --model NAME --out runs/NAME

After a crash torchrun starts the same command again, and the command line goes on with the run in its --out folder.

torchrun starts every process with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; other launchers that set the
same variables serve as well. Without them, or with one process, everything here does nothing and costs nothing.

TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 belongs in torchrun's own environment, where it makes --max-restarts reliable: without it
5 of 8 restarts failed, with it none of 6 (torch 2.15, gloo).
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from onestage.errors import ConfigError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Distributed:
    """This process among all of the training: number ``rank`` of ``world``, number ``local_rank`` on its machine.

    A context manager: leaving it says goodbye to the others.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and talks."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors (same shape and dtype), the same in each; no gradient flows through it."""
        total = tensor.detach().clone()
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def gather_objects(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks, in each process."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite every process's tensors by those of the first."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def parallel(self, model: nn.Module, *, spare_parts: bool) -> nn.Module:
        """The model, with its gradients averaged over the processes.

        spare_parts: some parameters may take no part in the output, as the last fusion of timm's HRNets where not all their
        maps are used. Each step then looks for them; torch refuses them otherwise.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=spare_parts)

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.world > 1:
            dist.barrier(device_ids=[self.local_rank] if self.device.type == "cuda" else None)

    def close(self) -> None:
        """Leave the group. Only after it may another one be joined."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def init(device: str | None = None) -> Distributed:
    """Join the other processes of this training, if there are any.

    device: "cpu" or "cuda"; by default cuda where there is one. Each process takes the GPU of its local rank. Raises
    ConfigError if the device cannot be used, the launcher's variables are incomplete or ask for more GPUs than the machine has.
    """
    wanted = choose_device(device)
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return Distributed(rank=0, world=1, local_rank=0, device=wanted)
    rank, world, local_rank = _launched()
    on_gpu = wanted.type == "cuda"
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            "more processes on this machine than it has GPUs",
            got=f"LOCAL_RANK={local_rank} with {torch.cuda.device_count()} GPUs",
            fix="lower --nproc-per-node, or train on the CPU with device=cpu",
        )
    if on_gpu:
        wanted = torch.device("cuda", local_rank)
        torch.cuda.set_device(wanted)
    if world > 1:
        # gloo beside nccl: objects and plain numbers are gathered without a detour over the GPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    return Distributed(rank=rank, world=world, local_rank=local_rank, device=wanted)


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is. ConfigError where it cannot be used."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        reason = f"{name} ({str(error).splitlines()[0]})"
        raise ConfigError("this device cannot be used", got=reason, expected="cpu, cuda or cuda:1") from error
    return device


def _launched() -> tuple[int, int, int]:
    """Rank, world and local rank as the launcher set them. Raises ConfigError if they are incomplete or impossible."""
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            "the launcher of this distributed training did not set all its variables",
            got=f"no {', '.join(missing)}",
            expected=", ".join(VARIABLES),
            fix="start it with torchrun, or unset RANK and WORLD_SIZE to train in one process",
        )
    texts = [os.environ[name] for name in VARIABLES[:3]]
    if not all(text.isdecimal() for text in texts) or not int(texts[0]) < int(texts[1]) or not int(texts[2]) < int(texts[1]):
        raise ConfigError(
            "the launcher's variables are impossible",
            got=", ".join(f"{name}={text}" for name, text in zip(VARIABLES, texts, strict=False)),
            expected="whole numbers, RANK and LOCAL_RANK below WORLD_SIZE",
        )
    rank, world, local_rank = map(int, texts)
    return rank, world, local_rank
