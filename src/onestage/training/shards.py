"""Weights, gradients and momenta divided among the processes of a training: FSDP2, ``torch.distributed.fsdp.fully_shard``.

Each process holds a part of every tensor. A block of the network is put together when it computes, and taken apart again.
What is measured and saved is whole: the files do not show how many processes have trained.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from onestage.model.blocks import blocks_of
from onestage.processes import Distributed

T = TypeVar("T")


def divided(model: nn.Module, group: Distributed) -> nn.Module:
    """A copy of the model that learns, of which each process of the group has a part. It runs as the model does."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    learner = deepcopy(model).to(memory_format=torch.contiguous_format)  # parts of tensors in another order are not supported
    mesh = init_device_mesh(group.device.type, (group.world,))
    for block in blocks_of(learner):
        fully_shard(block, mesh=mesh)
    return cast(nn.Module, fully_shard(learner, mesh=mesh))


def exchange_gradients(network: nn.Module, *, now: bool) -> None:
    """Whether the next backward pass of a divided network adds up the gradients of all processes, or keeps them apart."""
    from torch.distributed.fsdp import FSDPModule

    assert isinstance(network, FSDPModule)
    network.set_requires_gradient_sync(now)


def whole(value: T) -> T:
    """A value without divided tensors: a tensor, or a nest of dicts and lists of them. All processes have to call this."""
    from torch.distributed.tensor import DTensor

    made: object = value
    match value:
        case DTensor():
            made = value.full_tensor().detach()
        case dict():
            made = {name: whole(inner) for name, inner in value.items()}
        case list():
            made = [whole(inner) for inner in value]
    return cast(T, made)


def gather(learner: nn.Module, model: nn.Module) -> None:
    """Put the weights of a divided network, and what batch norm has gathered here, into the whole model."""
    model.load_state_dict({name: whole(value) for name, value in learner.state_dict().items()})


def spread(model: nn.Module, learner: nn.Module) -> None:
    """The inverse of ``gather``: each process takes its parts out of the whole model."""
    values = model.state_dict()
    with torch.no_grad():
        for name, theirs in learner.state_dict().items():
            theirs.copy_(part_of(values[name], theirs))


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor (...), what this process has of it, if ``like`` is divided, of the same shape; else the tensor."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device).contiguous()
    return cast(Tensor, distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None))
