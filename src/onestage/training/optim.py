"""The optimiser, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from onestage.training.config import TrainConfig
from onestage.training.history import Change, place_on_curve

FLOOR = 0.01
"""The cosine ends at this part of the peak, so the last epoch still learns a little."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over two groups: weights of two or more dimensions decay; biases, norms and scales do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=(config.momentum, 0.999))


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
