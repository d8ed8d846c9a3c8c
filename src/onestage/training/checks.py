"""Whether the losses of every step are numbers.

Shape letters: V values of a step.

To look at a number on a GPU, the program waits until the GPU has computed it. So there the losses of several steps are looked
at together. A checkpoint or a measurement never comes before that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onestage.errors import OnestageError
from onestage.processes import Distributed
from onestage.training.state import RunState

EVERY = {"cpu": 1, "cuda": 10}
"""After so many steps their losses are looked at, on such a device."""


class DivergedError(OnestageError):
    """The loss is not a number any more."""


@dataclass(frozen=True, eq=False)
class Taken:
    """A step whose losses are not looked at yet. step and epoch: counted from 1. pictures: what this process gave to the step.

    values: (V,) on the device, over all processes: the losses by ``names``, the norm of the gradient, how many processes were
    asked to stop, and how many pictures they could not read until then, each by itself.
    """

    step: int
    epoch: int
    lr: float
    pictures: Sequence[str]
    names: Sequence[str]
    values: Tensor


class Checks:
    """Looks at the losses of every ``every`` steps, and adds them to the state. asked: some process was asked to stop. lost:
    the pictures that processes could not read, each by itself. doctor: the command that looks at the pictures, for messages.

    All processes look together after the same steps, so ``asked`` and ``lost`` change after the same steps too.
    """

    def __init__(self, state: RunState, group: Distributed, *, doctor: str, every: int | None = None) -> None:
        """every: by default what suits the device."""
        self.state, self.group, self.doctor = state, group, doctor
        self.every = every or EVERY.get(group.device.type, 1)
        self.asked, self.lost = False, 0
        self._told = (False, 0)
        self._waiting: list[Taken] = []
        self._means: dict[str, float] = {}

    @property
    def done(self) -> bool:
        """Whether all steps have been looked at."""
        return not self._waiting

    @property
    def means(self) -> dict[str, float]:
        """The mean losses since the last record, up to the last step after which all had been looked at."""
        if self.done:
            self._means = self.state.means
        return self._means

    def add(self, taken: Taken) -> None:
        """A step has been taken. Look at its losses if it is time, and always if there are none yet that could be shown.

        Raise DivergedError as ``settle`` does.
        """
        self._waiting.append(taken)
        if taken.step % self.every == 0 or not self.state.sums:
            self.settle()

    def settle(self, *, together: bool = True) -> None:
        """Look at the losses of all steps until now. together: all processes do.

        Raise DivergedError for the first step with a loss that is not a number. It names the pictures of that step: those of
        all processes if they are ``together``.
        """
        waiting, self._waiting = self._waiting, []
        rows = torch.stack([taken.values for taken in waiting]).tolist() if waiting else []
        for taken, row in zip(waiting, rows, strict=True):
            if not all(math.isfinite(value) for value in row):
                raise self._diverged(taken, row, together=together)
            self.state.add(dict(zip(taken.names, row, strict=False)))
            asked, lost = row[len(taken.names) + 1 :]
            self._told = self._told[0] or asked > 0, int(lost)
        if together:
            self.asked, self.lost = self._told

    def _diverged(self, taken: Taken, row: Sequence[float], *, together: bool) -> DivergedError:
        parts = self.group.gather_objects(taken.pictures) if together else [taken.pictures]
        values = zip((*taken.names, "gradient norm"), row, strict=False)
        return DivergedError(
            "the loss is not a number any more; the checkpoints before this step are sound",
            where=f"step {taken.step}, epoch {taken.epoch}, pictures {', '.join(path for part in parts for path in part)}",
            got=", ".join(f"{name} {value:g}" for name, value in values) + f" at learning rate {taken.lr:g}",
            fix=f"lower lr=, or raise warmup=; and look at these pictures: {self.doctor}",
        )
