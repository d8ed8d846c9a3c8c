"""Gradient checkpointing (Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174).

Of every block of the network only the inputs and outputs stay in memory. The maps inside are computed again when the backward
pass comes to the block, with the same random numbers and in the same arithmetic, so the result has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from onestage.model.blocks import blocks_of

Around = Callable[[], AbstractContextManager[None]]
"""What makes the block of code inside which the network computes."""


@contextmanager
def recomputed(model: nn.Module, around: Around) -> Iterator[None]:
    """Inside, a forward pass of the model keeps no maps inside blocks. around: of the forward pass, for computing again."""
    blocks = blocks_of(model)
    for block in blocks:
        forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, block, around))
        block.__dict__["forward"] = forward  # for this pass alone: a copy of the model knows nothing of it
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _contexts(block: nn.Module, around: Around) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first time and of the second time."""
    return nullcontext(), _second_time(block, around)


@contextmanager
def _second_time(block: nn.Module, around: Around) -> Iterator[None]:
    """Inside, running averages of batch norm are copies: those of the block have seen these pictures already."""
    kept = [(module, dict(module._buffers)) for module in block.modules() if module._buffers]
    for module, buffers in kept:
        module._buffers.update({name: None if tensor is None else tensor.clone() for name, tensor in buffers.items()})
    try:
        with around():
            yield
    finally:
        for module, buffers in kept:
            module._buffers.update(buffers)
