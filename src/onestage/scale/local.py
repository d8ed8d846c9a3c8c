"""The engine of this machine: a process for each processor, or for each GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from onestage.scale.attempts import Hand, forget_attempts
from onestage.scale.batch import Batch, sized
from onestage.scale.team import Team
from onestage.scale.work import Advance, Conditions, Done

GRACE = 60.0
"""Seconds that a process may be silent beyond the timeout of a picture, which it notices itself."""


def run_local(batch: Batch, *, workers: int | None, conditions: Conditions) -> Iterator[Advance | Done]:
    """Do the shards that are left. Yield how it advances, and each shard that is done.

    workers: processes; by default one for each processor, or for each GPU. Each has a model. Raise LostError if a shard ends
    several processes, and no picture of it alone is to blame.
    """
    on_gpu = batch.manifest.options.device == "cuda"
    usual = torch.cuda.device_count() if on_gpu else processors()
    forget_attempts(batch.folder)
    begin = partial(_begin, Hand(batch.folder, batch.manifest.digest, batch.manifest.options.device, conditions))
    with Team(begin, sized(workers, usual, batch.left), timeout=conditions.timeout + GRACE) as team:
        yield from team.run(batch.left)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(hand: Hand, number: int) -> Hand:
    """What the process of that number does with shards."""
    return replace(hand, device=f"cuda:{number % torch.cuda.device_count()}") if hand.device == "cuda" else hand
