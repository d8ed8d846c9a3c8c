"""A run folder: the plan of the run, its results, and the data to resume it.

config.json                 the plan: model, training and data
metrics.jsonl, metrics.csv  one row per epoch
per_class.csv               the AP of each class, a row per measurement
left_out.csv                bad pictures and annotations that it left out, if any (training/left_out.py)
curves.png, index.html      the same as a picture, and the page of the run (training/page.py)
last.safetensors, best.safetensors, checkpoints/     (training/checkpoint.py)

A plan of an earlier version may lack newer settings. Each of these has the default that gives the behaviour of that version.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onestage.data import Dataset
from onestage.errors import ConfigError, OnestageError, absent, check_folder_place, command
from onestage.files import BEST, LAST, write_atomically
from onestage.metrics.plots import plot_training_curves
from onestage.model.codec import decode, differences, encode
from onestage.model.config import DetectorConfig
from onestage.training.config import FITTED, TrainConfig
from onestage.training.history import Change
from onestage.training.machine import Machine
from onestage.training.rules import Chosen, Decision
from onestage.training.state import CLASS

CONFIG = "config.json"
LEFT_OUT = "left_out.csv"
HISTORY = "metrics.jsonl"
FREE = ("workers", "worker_timeout", "picture_memory", "device", "checkpoint_minutes", "on_bad", "bad_limit", "log")
"""Settings that may change when a run goes on. on_bad lets the run pass a bad picture. The other settings do not change the
result, but the device changes its rounding.
"""

KEYS = ("epoch", "step")
"""What says which row of the history this is."""


@dataclass(frozen=True)
class Plan:
    """The settings of a run.

    data: the path of the data set; None if it was handed over in Python. format: its format, if the user named it. history:
    what was changed since the run began; ``train`` has the settings as they are now. decisions: what the rules decided when the
    run began, with the reasons, and the machine by which.
    """

    model: DetectorConfig
    train: TrainConfig
    data: str | None
    format: str | None = None
    history: tuple[Change, ...] = ()
    decisions: tuple[Decision, ...] = ()
    machine: Machine | None = None

    @property
    def chosen(self) -> Chosen:
        """The settings of the training, and how they were decided."""
        return Chosen(self.train, self.decisions, self.machine)

    def save(self, folder: Path) -> None:
        """Write the plan into the folder. Raise WeightsError if that is not possible."""
        write_atomically(folder / CONFIG, (json.dumps(encode(self), indent=2) + "\n").encode())

    @staticmethod
    def load(folder: str | Path) -> Plan:
        """Read the plan of a run. Raise ConfigError if the folder holds no run, or one that this version cannot read."""
        path = Path(folder) / CONFIG
        check_folder_place(Path(folder), "the folder of a run", fix="name a folder that train made")
        try:
            return decode(json.loads(path.read_text(encoding="utf-8")), Plan, CONFIG)
        except OSError as e:
            fix = "name a folder that train made"
            what = absent(folder, "this folder holds no run")
            raise ConfigError(what, where=folder, got=e.strerror, fix=fix) from e
        except ConfigError as e:
            raise ConfigError.because("the run's config cannot be read", e, where=path) from e
        except (ValueError, RecursionError) as e:
            raise ConfigError(
                "the run's config cannot be read", where=path, got=e, fix="put the file back, or begin another run"
            ) from e

    @property
    def named(self) -> tuple[str, ...]:
        """The words that name the data on the command line; DATA stands for pictures that Python handed over."""
        return (self.data or "DATA", *(() if self.format is None else ("--format", self.format)))

    @property
    def is_unfitted(self) -> bool:
        """Whether the steps that fit into the minutes of the run are not known yet."""
        return self.train.minutes is not None and self.train.steps is None

    def fitted(self, config: TrainConfig) -> TrainConfig:
        """The config of a run of the same minutes, with the length that this run has found for them."""
        if config.minutes is None or config.steps is not None or config.minutes != self.train.minutes:
            return config
        return replace(config, **{name: getattr(self.train, name) for name in FITTED})

    def check_same(self, other: Plan, folder: Path) -> None:
        """Raise ConfigError if ``other`` would give another result than this plan, which is that of the run in ``folder``."""
        mine, theirs = vars(self.train), vars(other.train)
        changes = [f"{name} {mine[name]} -> {theirs[name]}" for name in mine if name not in FREE and mine[name] != theirs[name]]
        if self.model != other.model:
            changes.insert(0, f"a model of other {', '.join(differences(self.model, other.model))}")
        if changes:
            raise ConfigError(
                "a run goes on as it began; other settings make another run",
                where=folder,
                got=", ".join(changes),
                fix=f"train into another folder{from_model(folder)}",
            )


def saved_model(run: Path) -> Path | None:
    """The newest model file in a run folder, or the best one; None if there is none, so that no advice names a missing file."""
    return next((path for name in (LAST, BEST) if (path := run / name).is_file()), None)


def from_model(run: Path) -> str:
    """The end of advice to begin another run: ``, from this model: runs/x/last.safetensors``; empty if no model is saved."""
    model = saved_model(run)
    return "" if model is None else f", from this model: {model}"


def weights_option(run: Path) -> str:
    """The option that begins another run from the model of this one; empty if no model is saved."""
    model = saved_model(run)
    return "" if model is None else f" --weights {shlex.quote(str(model))}"


def next_commands(run: Path, plan: Plan) -> dict[str, str]:
    """What to do with what a run has learned: what for, and the command."""
    bad = ("--on-bad", "skip") if (run / LEFT_OUT).exists() else ()
    return {"measure it": command("evaluate", run, *plan.named, *bad), "use it": command("predict", run, "PICTURES")}


def again(run: Path, *options: str) -> str:
    """The command that begins another run: with the data of this one, if its plan names it, and its model, if one is saved."""
    try:
        named = Plan.load(run).named
    except OnestageError:
        named = ("DATA",)
    return command("train", *named, *options) + weights_option(run)


def fingerprint(dataset: Dataset) -> str:
    """A checksum of the picture ids, the classes and the objects. The folder of the data set does not count."""
    digest = hashlib.sha256()
    for piece in _written((dataset.image_ids, dataset.classes)):
        digest.update(piece.encode())
    for column in (dataset.offsets, dataset.boxes, dataset.labels, dataset.ignore | dataset.crowd):
        digest.update(column.contiguous().numpy().data)
    return digest.hexdigest()


def _written(value: Sequence[object]) -> Iterator[str]:
    """The repr of a tuple, whose sequences count as tuples, in pieces: that of a million ids at once takes much memory."""
    yield "("
    for number, item in enumerate(value):
        yield ", " if number else ""
        if isinstance(item, Sequence) and not isinstance(item, str):
            yield from _written(item)
        else:
            yield repr(item)
    yield ",)" if len(value) == 1 else ")"


def write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write all epochs so far as JSON lines and CSV. NaN becomes null in JSON and an empty cell in CSV."""
    rows = [{name: None if math.isnan(value) else value for name, value in record.items()} for record in history]
    whole = [{name: value for name, value in row.items() if not name.startswith(CLASS)} for row in rows]
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in whole)
    write_atomically(folder / HISTORY, lines.encode())
    write_atomically(folder / "metrics.csv", _table(whole))
    classes = [{name.removeprefix(CLASS): row[name] for name in row if name in KEYS or name.startswith(CLASS)} for row in rows]
    if measured := [row for row in classes if len(row) > len(KEYS)]:
        write_atomically(folder / "per_class.csv", _table(measured))


def _table(rows: Sequence[Mapping[str, float | None]]) -> bytes:
    """Rows as CSV, with a column for every name."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def draw_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draw all epochs so far as curves.png. It takes a quarter of a second, so not every epoch does it."""
    plot_training_curves(history, folder / "curves.png")
