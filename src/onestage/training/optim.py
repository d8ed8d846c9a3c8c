"""The optimiser, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from onestage.errors import ConfigError
from onestage.model.detector import Detector
from onestage.model.stages import stages_of
from onestage.training.config import TrainConfig
from onestage.training.history import Change, place_on_curve
from onestage.training.shards import part_of

FLOOR = 0.01
"""The cosine ends at this part of the peak, so the last epoch still learns a little."""


def make_optimizer(model: Detector, config: TrainConfig, *, learner: nn.Module | None = None) -> torch.optim.Optimizer:
    """SGD or AdamW over two groups: weights of two or more dimensions decay; biases, norms and scales do not.

    learner: a copy of the model that learns in its place; by default, the model does.

    Layers that learn more slowly come in further pairs of groups; "lr_scale" is their part of the learning rate, as in timm.
    Raise ConfigError if a fused one is wanted and torch has none for the device.
    """
    slower = lr_scales(model, config)
    groups: list[dict[str, object]] = []
    for scale in sorted({1.0, *slower.values()}, reverse=True):
        trained = [p for name, p in (learner or model).named_parameters() if p.requires_grad and slower.get(name, 1.0) == scale]
        scaled: dict[str, object] = {} if scale == 1 else {"lr_scale": scale}
        groups.append({"params": [p for p in trained if p.ndim > 1], "weight_decay": config.decay} | scaled)
        groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0} | scaled)
    fused = (config.fused and learner in (None, model)) or None  # None: what torch takes by default
    try:
        if config.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, fused=fused)
        return torch.optim.AdamW(groups, lr=config.peak_lr, betas=(config.momentum, 0.999), fused=fused)
    except RuntimeError as error:
        what, device = f"torch has no fused {config.optimizer} for this device", model.device
        raise ConfigError(what, where="fused", got=device, expected="cpu or cuda", fix="leave fused= out") from error


def load_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping[str, object]) -> None:
    """Load the momenta of a checkpoint. Each gets the order in memory of its weights: a fused optimiser passes over both as
    they lie there, and would mix them up if the orders differed.
    """
    optimizer.load_state_dict(dict(stored))
    for parameter, state in optimizer.state.items():
        is_divided = type(parameter.data) is not Tensor
        for name, value in state.items():
            if is_divided:
                state[name] = part_of(value, parameter.data) if isinstance(value, Tensor) else value
            elif isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def lr_scales(model: Detector, config: TrainConfig) -> dict[str, float]:
    """The part of the learning rate that each parameter of the backbone has, by name; empty if all have the whole.

    The last of the backbone's stages has ``layer_decay``, the one before it the square, and so on (BEiT, arXiv 2106.08254; by
    stages as in mmdetection's "stage_wise"). ``backbone_lr`` scales them all. Neck and head have the whole rate.
    """
    if config.backbone_lr == config.layer_decay == 1:
        return {}
    scales = {f"backbone.{name}": config.backbone_lr for name, _ in model.backbone.named_parameters()}
    for depth, stage in enumerate(reversed(stages_of(model) if config.layer_decay != 1 else []), 1):
        scales |= {f"backbone.{name}": config.backbone_lr * config.layer_decay**depth for name in stage}
    return scales


def learning_rate(step: int, steps: int, config: TrainConfig, changes: Sequence[Change] = ()) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``. changes: of the plan since the run began."""
    place, length = place_on_curve(step, steps, changes)
    warmup = min(config.warmup, length // 10)
    if place < warmup:
        return config.peak_lr * (place + 1) / (warmup + 1)
    done = (place - warmup) / max(1, length - warmup)
    if config.schedule == "steps":
        return config.peak_lr * 0.1 ** sum(place >= m * length for m in config.milestones)
    return config.peak_lr * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)
