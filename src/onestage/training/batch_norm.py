"""Batch norm over the pictures of all processes, on any device: torch's SyncBatchNorm takes tensors on a GPU alone.

Shape letters: B images of this process; C channels, H and W of a map; P processes; N values of a channel over all processes.

Statistics are exchanged once in the forward and once in the backward pass of a layer, and combined exactly (Chan, Golub and
LeVeque 1979, eq. 2.1), so P processes with B pictures compute what one with P x B computes, except for rounding. No layer and
no name changes: inside ``BatchNormOverAll`` the function that all layers of this kind call does this instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from onestage.processes import Distributed

T = TypeVar("T")

_BATCH_NORM: object = F.batch_norm
_ARGUMENTS = signature(F.batch_norm)


def learns_batch_norm(model: nn.Module) -> bool:
    """Whether some batch norm of a model takes its statistics from the pictures that it learns from."""
    layers = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return any(layer.weight is None or layer.weight.requires_grad for layer in layers)


class BatchNormOverAll(TorchFunctionMode):
    """Inside this block each batch norm that trains takes the mean and the variance over all processes of a group. All of them
    must run the same layers in the same order.
    """

    def __init__(self, group: Distributed) -> None:
        super().__init__()
        self._group = group

    def __torch_function__(
        self, func: Callable[..., T], types: Sequence[type], args: Sequence[T] = (), kwargs: Mapping[str, T] | None = None
    ) -> T:
        """What ``func`` of torch returns."""
        options = kwargs or {}
        if func is not _BATCH_NORM:
            return func(*args, **options)
        bound = _ARGUMENTS.bind(*args, **options)
        bound.apply_defaults()
        given = bound.arguments
        if not given["training"]:
            return func(*args, **options)
        averages = _Averages(given["running_mean"], given["running_var"], given["momentum"])
        result = _OverAll.apply(given["input"], given["weight"], given["bias"], averages, given["eps"], self._group)
        return cast(T, result)


class _Averages(NamedTuple):
    """The running averages of a layer, (C,) each, or None without any; and the part of the new values that they take over."""

    mean: Tensor | None
    var: Tensor | None
    momentum: float


class _OverAll(Function):
    """Batch norm of maps (B, C, H, W), or of any tensor (B, C, ...), with the statistics of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        averages: _Averages,
        eps: float,
        group: Distributed,
    ) -> Tensor:
        """(B, C, ...) -> (B, C, ...). weight, bias: (C,). The averages are updated.

        Raise ValueError, as torch does, if a channel has one value alone over all processes.
        """
        mean, var, count = _statistics(maps, group)
        if maps.numel() == maps.shape[1] and count <= 1:  # a GPU is not waited for unless this process has one value
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(maps.shape)}")
        if averages.mean is not None and averages.var is not None:
            averages.mean.lerp_(mean.to(averages.mean.dtype), averages.momentum)
            averages.var.lerp_((var * (count / (count - 1))).to(averages.var.dtype), averages.momentum)
        ctx.save_for_backward(maps, weight, mean, (var + eps).rsqrt())
        ctx.count, ctx.group, ctx.has_bias = count, group, bias is not None
        return F.batch_norm(maps, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the maps, (B, C, ...), of the weight and of the bias, (C,).

        That of the maps counts what this process's pictures change in the outputs of all processes. Those of weight and bias
        are of this process: the processes add them up as those of all parameters.
        """
        maps, weight, mean, scale = ctx.saved_tensors
        upstream = _wide(gradients[0])
        centred = _wide(maps) - _per_channel(mean, maps)
        axes = _all_but_channels(maps)
        sums = torch.stack([upstream.sum(axes), (upstream * centred).sum(axes) * scale])
        grad_maps = None
        if ctx.needs_input_grad[0]:
            mean_gradient, slope = ctx.group.all_reduce_sum(sums) / ctx.count
            grad_maps = upstream - _per_channel(mean_gradient, maps)
            grad_maps.addcmul_(centred, _per_channel(slope * scale, maps), value=-1)
            grad_maps.mul_(_per_channel(scale if weight is None else scale * weight, maps))
            grad_maps = grad_maps.to(maps.dtype)
        grad_weight = None if weight is None else sums[1].to(weight.dtype)
        grad_bias = sums[0].to(weight.dtype) if ctx.has_bias and weight is not None else None
        return grad_maps, grad_weight, grad_bias, None, None, None


def _statistics(maps: Tensor, group: Distributed) -> tuple[Tensor, Tensor, Tensor]:
    """The mean (C,), the variance (C,) without correction, and N (), over the maps (B, C, ...) of all processes."""
    var, mean = torch.var_mean(_wide(maps), _all_but_channels(maps), correction=0)
    channels = maps.shape[1]
    rows = mean.new_zeros(group.world, 2 * channels + 1)  # (P, 2 C + 1): each process fills its row, the sum gathers them
    rows[group.rank] = torch.cat([mean, var, mean.new_tensor([maps.numel() // channels])])
    means, variances, counts = group.all_reduce_sum(rows).split([channels, channels, 1], dim=1)
    count = counts.sum()
    shares = counts / count
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), count


def _wide(tensor: Tensor) -> Tensor:
    """A tensor of any shape in fp32, or in fp64 if it is so."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _all_but_channels(maps: Tensor) -> list[int]:
    """The dimensions of (B, C, ...) over which batch norm takes its statistics."""
    return [axis for axis in range(maps.ndim) if axis != 1]


def _per_channel(values: Tensor, maps: Tensor) -> Tensor:
    """(C,) in the shape that broadcasts over maps (B, C, ...)."""
    return values.view(1, -1, *[1] * (maps.ndim - 2))
