"""Where a training is logged beside its folder: TensorBoard, MLflow or Weights & Biases. Each is an extra, off by default.

A logger gets every row of the history, and the validation pictures that the page of the run shows. A run that goes on continues
the same logger run.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from onestage.errors import ConfigError
from onestage.files import Json, write_atomically
from onestage.training.state import Record

IDENTITY = "log.json"
"""The file in the run folder with the names of its logger runs, by kind."""
PROJECT = "onestage"
"""The name of the experiment, or the project, that has the runs."""


class Logger(Protocol):
    """What a training tells a logger. To make one imports its package and does nothing else.

    The caller catches any exception of these methods, says it once, and goes on without the logger.
    """

    def start(self, settings: Mapping[str, str]) -> None:
        """Begin, or go on. settings: of the run, as text."""

    def record(self, row: Record, pictures: Mapping[str, Image.Image]) -> None:
        """Log a row of the history, and pictures by name; there may be none."""

    def close(self) -> None:
        """Write what is still to be written."""


class TensorBoard:
    """Event files in the folder ``tensorboard`` of the run."""

    def __init__(self, folder: Path, step: int) -> None:
        with _needed("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

        self._make = SummaryWriter
        self._folder, self._step = folder / "tensorboard", step

    def start(self, settings: Mapping[str, str]) -> None:
        """Begin a file, which hides what an earlier one has after the newest checkpoint. Log the settings as a table."""
        self._writer = self._make(str(self._folder), purge_step=self._step + 1 if self._step else None)
        rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)

    def record(self, row: Record, pictures: Mapping[str, Image.Image]) -> None:
        """Log numbers and pictures at the step of the row."""
        for name, value in _figures(row).items():
            self._writer.add_scalar(name, value, int(row["step"]))
        for name, picture in pictures.items():
            self._writer.add_image(name, np.asarray(picture), int(row["step"]), dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run of MLflow, at the server or in the folder that MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path, step: int) -> None:
        with _needed("mlflow"):
            import mlflow

        self._mlflow, self._folder = mlflow, folder

    def start(self, settings: Mapping[str, str]) -> None:
        """Make the run, or take up the earlier one."""
        self._client = self._mlflow.MlflowClient()
        known = _identity(self._folder, "mlflow")
        self._run = self._begin() if known is None else known
        if known is None:
            _keep(self._folder, "mlflow", self._run)
            for key, value in settings.items():
                self._client.log_param(self._run, key, value[:500])
        else:
            self._client.set_terminated(self._run, status="RUNNING")

    def _begin(self) -> str:
        """A new run of the experiment, which is made if it is missing. Return its id."""
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        return self._client.create_run(experiment, run_name=self._folder.name).info.run_id

    def record(self, row: Record, pictures: Mapping[str, Image.Image]) -> None:
        """Log numbers and pictures at the step of the row."""
        for name, value in _figures(row).items():
            self._client.log_metric(self._run, _plain(name), value, step=int(row["step"]))
        for name, picture in pictures.items():
            self._client.log_image(self._run, picture, artifact_file=f"step-{int(row['step']):08d}/{_plain(name)}.png")

    def close(self) -> None:
        """Say that the run is over."""
        self._client.set_terminated(self._run)


class Wandb:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the folder of the run."""

    def __init__(self, folder: Path, step: int) -> None:
        with _needed("wandb"):
            import wandb

        self._wandb, self._folder = wandb, folder

    def start(self, settings: Mapping[str, str]) -> None:
        """Make the run, or take up the earlier one."""
        known = _identity(self._folder, "wandb")
        self._run = self._wandb.init(
            project=PROJECT,
            name=self._folder.name,
            dir=str(self._folder),
            config=dict(settings),
            id=known,
            resume="allow",
            settings=self._wandb.Settings(console="off", silent=True),
        )
        if known is None:
            _keep(self._folder, "wandb", self._run.id)

    def record(self, row: Record, pictures: Mapping[str, Image.Image]) -> None:
        """Log numbers and pictures at the step of the row."""
        shown = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log({**_figures(row), **shown}, step=int(row["step"]))

    def close(self) -> None:
        """Send the rest."""
        self._run.finish()


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": Wandb}
"""The loggers by the name that ``log`` takes. Each takes the folder of the run and the steps done."""


def check_installed(kind: str | None, *, run: Path | None = None) -> None:
    """Raise ConfigError if the package of a logger is not installed. run: the folder of the run that goes on, if any does."""
    if (make := LOGGERS.get(kind or "none")) is None:
        return
    try:
        make(Path(), 0)  # which imports the package and does nothing else
    except ConfigError as error:
        if run is not None:
            error.fix = f"{error.fix}, or go on without it: onestage train --resume {shlex.quote(str(run))} --log none"
        raise


def _figures(row: Record) -> dict[str, float]:
    """The numbers of a row that have a value, without the step."""
    return {name: value for name, value in row.items() if name != "step" and math.isfinite(value)}


def _plain(name: str) -> str:
    """The name with the characters that MLflow allows."""
    return "".join(letter if letter.isalnum() or letter in "/_-. " else "_" for letter in name)


@contextlib.contextmanager
def _needed(package: str) -> Iterator[None]:
    """Turn a failed import inside into a ConfigError that names the extra."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{package} is not installed", where="log", got=error, fix=f"pip install 'onestage[{package}]'"
        ) from error


def _identities(folder: Path) -> dict[str, Json]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _identity(folder: Path, kind: str) -> str | None:
    """The name of the run's earlier logger run; None if there is none."""
    found = _identities(folder).get(kind)
    return found if isinstance(found, str) else None


def _keep(folder: Path, kind: str, name: str) -> None:
    write_atomically(folder / IDENTITY, json.dumps({**_identities(folder), kind: name}).encode())
