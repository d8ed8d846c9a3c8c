"""A run folder: what was asked for, what came out, and enough to go on.

config.json                 model, training and data, as they were asked for
metrics.jsonl, metrics.csv  one row per epoch
curves.png                  the same as a picture
last.safetensors, best.safetensors, checkpoints/     (train/checkpoint.py)
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onestage.data import Dataset
from onestage.errors import ConfigError
from onestage.files import write_atomically
from onestage.metrics.plots import plot_training_curves
from onestage.model.codec import decode, differences, encode
from onestage.model.config import DetectorConfig
from onestage.training.config import TrainConfig
from onestage.weights.detector_file import LAST

CONFIG = "config.json"
FREE = ("workers", "device", "checkpoint_minutes", "on_bad")
"""What may change when a run goes on: it does not change the result (a device: beyond rounding), or lets it pass a bad
picture."""


@dataclass(frozen=True)
class Plan:
    """What a run was asked to do. data: a path, or None where the data set was handed over in Python; format: its, if it was
    named.
    """

    model: DetectorConfig
    train: TrainConfig
    data: str | None
    format: str | None = None

    def save(self, folder: Path) -> None:
        """WeightsError where it cannot be written."""
        write_atomically(folder / CONFIG, (json.dumps(encode(self), indent=2) + "\n").encode())

    @staticmethod
    def load(folder: str | Path) -> Plan:
        """ConfigError where the folder holds no run, or one that this version cannot read."""
        path = Path(folder) / CONFIG
        try:
            plan = decode(json.loads(path.read_text(encoding="utf-8")), Plan, CONFIG)
        except OSError as e:
            raise ConfigError(
                "this folder holds no run", where=folder, got=e.strerror, fix="name a folder that train made"
            ) from e
        except (ValueError, RecursionError) as e:
            raise ConfigError("the run's config cannot be read", where=path, got=e) from e
        return plan

    def check_same(self, other: Plan, folder: Path) -> None:
        """ConfigError where ``other`` would not go on with this run, found in ``folder``, to the end it was meant to have."""
        own, others = vars(self.train), vars(other.train)
        differ = [f"{k} {own[k]} -> {others[k]}" for k in own if k not in FREE and own[k] != others[k]]
        if self.model != other.model:
            differ.insert(0, f"a model of other {', '.join(differences(self.model, other.model))}")
        if differ:
            raise ConfigError(
                "a run goes on as it began; other settings make another run",
                where=folder,
                got=", ".join(differ),
                fix=f"train into another folder, from this model: {LAST}",
            )


def fingerprint(dataset: Dataset) -> str:
    """The same for two data sets that give the same pictures, by id, with the same objects, wherever they lie."""
    digest = hashlib.sha256(repr((dataset.image_ids, dataset.classes)).encode())
    for column in (dataset.offsets, dataset.boxes, dataset.labels, dataset.ignore | dataset.crowd):
        digest.update(column.contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write all epochs so far as JSON lines, CSV and curves. NaN stands as null, and as an empty cell."""
    rows = [{k: None if isinstance(v, float) and v != v else v for k, v in record.items()} for record in history]
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    write_atomically(folder / "metrics.jsonl", lines.encode())
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "metrics.csv", text.getvalue().encode())
    if history:
        plot_training_curves(history, folder / "curves.png")
