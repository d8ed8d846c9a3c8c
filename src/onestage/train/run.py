"""A run folder: what was asked for, what came out, and enough to go on.

config.json                 model, training and data, as they were asked for
metrics.jsonl, metrics.csv  one row per epoch
curves.png                  the same as a picture
last.safetensors, best.safetensors, checkpoints/     (train/checkpoint.py)
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onestage.errors import ConfigError, explain
from onestage.evaluate import plot_training_curves
from onestage.model.config import DetectorConfig, encode
from onestage.model.files import write_atomically
from onestage.train.config import TrainConfig

CONFIG = "config.json"


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
        content = {
            "model": encode(self.model),
            "train": dataclasses.asdict(self.train),
            "data": self.data,
            "format": self.format,
        }
        write_atomically(folder / CONFIG, (json.dumps(content, indent=2) + "\n").encode())

    @staticmethod
    def load(folder: str | Path) -> Plan:
        """ConfigError where the folder holds no run, or one that this version cannot read."""
        path = Path(folder) / CONFIG
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            train: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["train"].items()}
            model = DetectorConfig.from_json(json.dumps(content["model"]))
            return Plan(model, TrainConfig(**train), content["data"], content["format"])
        except OSError as e:
            raise ConfigError(
                explain("this folder holds no run", where=folder, got=e.strerror, fix="name a folder that train made")
            ) from e
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ConfigError(explain("the run's config cannot be read", where=path, got=e)) from e


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
