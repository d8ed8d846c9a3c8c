"""One step of a training: a batch is matched, the network runs, the losses are computed, the weights change.

Shape letters: B images of a batch; H, W the input.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from onestage.data.order import seed_of
from onestage.errors import ConfigError
from onestage.model.anchors.max_iou import Assignment
from onestage.structures import Batch, HeadOutput
from onestage.training.checks import Checks, Taken
from onestage.training.network import arithmetic, memory_order
from onestage.training.optim import learning_rate
from onestage.training.recompute import recomputed
from onestage.training.run import Run
from onestage.training.shards import exchange_gradients, whole
from onestage.training.signals import StopSignal
from onestage.training.state import RunState


def take_step(run: Run, state: RunState, batch: Batch, stop: StopSignal, checks: Checks) -> None:
    """One optimiser step on B images of this process. Its losses over all processes go to ``checks``.

    Raise DivergedError if the checks find a loss that is not a number.

    All losses are divided by the positives of the whole step, over all processes. So one process with 8 pictures,
    two with 4 and two accumulated parts of 4 take the same step. Two things differ: batch norm averages over what it sees
    at once (``shared_batch_norm``: all processes at once), and drop_path leaves out other pictures.
    """
    config, group = run.config, run.group
    torch.manual_seed(seed_of(config.seed, state.step, group.rank))  # dropout too is the same after a resume
    lr = learning_rate(state.step, run.steps, config, run.changes)
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = lr * parameters.get("lr_scale", 1.0)
    batch = batch.to(group.device)
    parts = _cut(batch, min(config.accumulate, config.batch_size // group.world if group.world > 1 else len(batch.metas)))

    run.optimizer.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    for i, part in enumerate(parts):
        with _synchronised(run.network, last=i == len(parts) - 1, divided=run.is_divided):
            output = _forward(run, part.batch)
            if i == 0:  # the sizes of the maps, and with them the anchors of all parts, are known from here on
                assignments, divisor = _assign(run, parts, output)
            losses = run.model.loss(output, assignments[i], normalizer=divisor)
            losses = {name: part.counts * loss for name, loss in losses.items()}
            total_loss = torch.stack([*losses.values()]).sum()
            (total_loss * group.world).backward()  # DDP takes the mean over the processes
        total = {name: value.detach() + total.get(name, 0.0) for name, value in losses.items()}
    norm = nn.utils.clip_grad_norm_(run.learner.parameters(), config.clip_norm or math.inf)
    norm = whole(norm) if run.is_divided else norm
    said = norm.new_tensor([float(stop.asked), float(len(run.loader.skipped))])
    values = group.all_reduce_sum(torch.cat([torch.stack([*total.values(), norm / group.world]), said]))
    pictures = [meta.path or str(meta.image_id) for meta in batch.metas]
    checks.add(Taken(state.step + 1, state.epoch + 1, lr, pictures, tuple(total), values))
    run.optimizer.step()
    if run.averages is not None:
        run.gather()
        run.averages.update(run.model, step=state.step + 1)


def _forward(run: Run, part: Batch) -> HeadOutput:
    images = run.model.config.preprocess.normalize(part.images).contiguous(memory_format=memory_order(run.config))
    try:
        with run.autocast, arithmetic(run.config, run.group), _sparing(run):
            output: HeadOutput = run.network(images)
    except ValueError as e:
        if not _starves_batch_norm(run.model, images):
            raise
        what = "batch norm has no average over one picture alone, where a map has shrunk to one cell"
        fix = "raise batch_size=, lower accumulate=, or train on more pictures"
        raise ConfigError(what, where=run.model.config.name, fix=fix) from e
    return output


def _sparing(run: Run) -> contextlib.AbstractContextManager[None]:
    """Inside, the forward pass keeps as much for the backward pass as the settings say."""
    around = partial(arithmetic, run.config, run.group)
    return recomputed(run.learner, around) if run.config.recompute else contextlib.nullcontext()


def _assign(run: Run, parts: Sequence[Part], output: HeadOutput) -> tuple[list[Assignment], Tensor]:
    """Which anchor learns which object in each part, and the divisor () of the whole step, over all processes.

    output: of one of the parts. All parts have images of one size.
    """
    model, group = run.model, run.group
    sizes, input_size = output.level_sizes, output.input_size
    assignments = [model.criterion.assign(part.batch.targets, sizes, input_size, device=group.device) for part in parts]
    counted = [part.counts * model.config.loss.normalizer(a.matches) for part, a in zip(parts, assignments, strict=True)]
    positives = torch.stack(counted).sum()
    return assignments, group.all_reduce_sum(positives).clamp(min=1.0)


def _synchronised(network: nn.Module, *, last: bool, divided: bool) -> contextlib.AbstractContextManager[None]:
    """Gradients travel between the processes once per step, with its last part."""
    if isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    if divided:
        exchange_gradients(network, now=last)
    return contextlib.nullcontext()


class Part(NamedTuple):
    """A part of a batch, for accumulated gradients. counts: whether the step learns from it."""

    batch: Batch
    counts: bool


def _cut(batch: Batch, parts: int) -> list[Part]:
    """The batch in ``parts`` of nearly equal size.

    If it has fewer pictures, some parts have a picture of another one, which does not count: processes that share batch norm or
    weights exchange something with every part, so each has to have as many.
    """
    count = len(batch.metas)
    cuts = [(i * count // parts, (i + 1) * count // parts) for i in range(parts)]
    pieces = [(slice(a, b) if a < b else slice(first := min(a, count - 1), first + 1), a < b) for a, b in cuts]
    return [Part(Batch(batch.images[c], batch.targets[c], batch.metas[c]), counts) for c, counts in pieces]


def _starves_batch_norm(model: nn.Module, images: Tensor) -> bool:
    """Whether a batch norm in training gets one value per channel, which has no variance. images: (B, 3, H, W), normalised.

    The network runs once more, up to that layer. Call this only after the network has failed.
    """
    starved: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        starved.append(layer.training and inputs[0].numel() == inputs[0].shape[1])

    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad(), contextlib.suppress(ValueError):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return any(starved)
