"""The progress of a run: the content of a checkpoint without the weights and the optimiser's momenta."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from onestage.errors import WeightsError
from onestage.metrics.report import Report
from onestage.model.detector import Detector
from onestage.training.checkpoint import Checkpoint
from onestage.weights.detector_file import metadata

LEARNING = "learning"
"""Where a checkpoint of a run with averages holds the weights that learn."""
RISE = 0.001
"""A smaller rise of the validation AP does not count for ``patience``."""
Record = dict[str, float]
"""One row of the history: an epoch's losses, rates and figures by name. NaN if a figure has no value."""

CLASS = "class/"
"""How the name of a figure begins that is the AP of one class; the name of the class follows."""
MOST_CLASSES = 100
"""With more classes, the history has no AP of each: every checkpoint holds the whole history."""


def figures_of(report: Report) -> Record:
    """The figures of a measurement for the record of an epoch."""
    parts = report.losses or {}
    losses = {"val/loss" if name == "total" else f"val/loss/{name}": value for name, value in parts.items()}
    rows = report.coco.per_class
    classes = {CLASS + row.name: row.AP for row in rows if row.objects} if len(rows) <= MOST_CLASSES else {}
    return {"val/AP": report.coco.AP, "val/AP50": report.coco.AP50, **losses, **classes}


@dataclass
class RunState:
    """Changes with every step. Each field is in every checkpoint; nothing else decides how a run goes on.

    data: fingerprint of the training pictures. step: optimiser steps done. epoch: epochs done. batch: batches done of the
    current epoch. taken: steps since the last record. sums: losses summed over these steps. history: one record per epoch or
    measurement. best_ap: the best validation AP so far, -1 before the first. seconds: how long the run has worked. overhead:
    seconds of the last measurement with its checkpoint. batch_size: pictures of the batches that ``batch`` counts; 0 in
    checkpoints of earlier versions, where it never changes.
    """

    data: str
    step: int = 0
    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)
    best_ap: float = -1.0
    seconds: float = 0.0
    taken: int = 0
    overhead: float = 0.0
    batch_size: int = 0

    @property
    def means(self) -> dict[str, float]:
        """The mean losses over the steps since the last record."""
        return {name: total / self.taken for name, total in self.sums.items()}

    def advance(self) -> None:
        """Count one more optimiser step."""
        self.step += 1
        self.batch += 1
        self.taken += 1

    def add(self, losses: dict[str, float]) -> None:
        """Add the losses of one step to the sums."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def record(self, record: Record, *, batches: int) -> None:
        """Add a record for the steps since the last one. batches: of an epoch."""
        self.history.append(record)
        self.taken, self.sums = 0, {}
        self.turn(batches)

    def turn(self, batches: int) -> None:
        """Go on to the next epoch, if all ``batches`` of this one are done."""
        if self.batch >= batches:
            self.epoch, self.batch = self.epoch + 1, 0

    @property
    def stale(self) -> int:
        """Measurements since the validation AP has last risen by more than RISE; 0 until it has done so for the first time."""
        best, since = 0.0, 0
        for ap in (record["val/AP"] for record in self.history if not math.isnan(record.get("val/AP", math.nan))):
            since = 0 if ap > best + RISE else since + (best > 0)
            best = ap if since == 0 else best
        return since

    def checkpoint(self, result: Detector, model: Detector, momenta: Mapping[str, object]) -> Checkpoint:
        """The run at this moment. result: the model that is measured. model: the one that learns, the same without averages.
        momenta: the state of the optimiser.
        """
        extra = asdict(self)
        if result is not model:
            extra[LEARNING] = model.state_dict()
        step, epoch = extra.pop("step"), extra.pop("epoch")
        return Checkpoint(step, epoch, result.state_dict(), metadata(result), momenta, extra)

    @staticmethod
    def of(checkpoint: Checkpoint) -> RunState:
        """The inverse of ``checkpoint``, except for the weights and the momenta. Ignores what a later version added.

        Raise WeightsError if the checkpoint lacks a field.
        """
        stored = {**checkpoint.extra, "step": checkpoint.step, "epoch": checkpoint.epoch}
        if "batch" in stored:
            stored.setdefault("taken", stored["batch"])  # an earlier version wrote one record per epoch
        stored = {"overhead": 0.0, "batch_size": 0, **stored}
        names = [field.name for field in fields(RunState)]
        missing = [name for name in names if name not in stored]
        if missing:
            what = "a checkpoint does not hold all that a run needs to go on"
            raise WeightsError(what, got=f"no {', '.join(missing)}", expected=", ".join(names))
        return RunState(**{name: stored[name] for name in names})
