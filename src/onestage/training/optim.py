"""The optimiser, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from onestage.training.config import TrainConfig

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


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``."""
    warmup = min(config.warmup, steps // 10)
    if step < warmup:
        return config.peak_lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "steps":
        return config.peak_lr * 0.1 ** sum(step >= m * steps for m in config.milestones)
    return config.peak_lr * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)
