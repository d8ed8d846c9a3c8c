"""Whether all processes of a training do the same: they compare what each has read and decided before they train together.

Otherwise they would train in silence on a mix of several data sets, or with the settings of one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from onestage.data import Dataset
from onestage.data.checksums import checksum_of_names, checksum_of_objects
from onestage.errors import ConfigError, counted, first_ten, shortened
from onestage.files import Json
from onestage.model.codec import encode
from onestage.model.config import DetectorConfig
from onestage.processes import Distributed

if TYPE_CHECKING:
    from onestage.training.config import Setting, TrainConfig
    from onestage.training.inputs import TrainData
    from onestage.training.run import Beginning, Run
    from onestage.training.state import RunState

Facts = Mapping[str, object]
"""What should be the same in all processes, by names for people."""
OWN = ("workers", "worker_timeout", "picture_memory", "cache", "log", "device")
"""Settings that each machine may have for itself: they change neither the result nor what the processes exchange."""
LONGEST = 80
"""Characters of a value in a message."""


def check_alike(group: Distributed, facts: Callable[[], Facts]) -> None:
    """Raise the same ConfigError in all processes if their facts differ: it says in which processes, and in what."""
    if group.world == 1:
        return
    mine = {name: value if isinstance(value, str) else repr(value) for name, value in facts().items()}
    if len({*group.gather_objects(_checksum(repr(sorted(mine.items()))))}) == 1:
        return
    rows = group.gather_objects(mine)
    lines: list[str] = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name, "left out") for row in rows]
        usual = Counter(values).most_common(1)[0][0]
        first = values.index(usual)
        lines += [
            f"{name}: {_shown(value)} in rank {rank}, {_shown(usual)} in rank {first}"
            for rank, value in enumerate(values)
            if value != usual
        ]
    raise ConfigError(
        "the processes of this training do not have the same pictures and settings",
        where=counted(group.world, "process"),
        got="\n" + first_ten(lines),
        fix="give every process the same command, the same data and the same version of onestage",
    )


def _shown(value: str) -> str:
    """A value for people. What is left out of a long one is in its checksum."""
    return value if len(value) <= LONGEST else f"{shortened(value, LONGEST)} (checksum {_checksum(value)})"


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def of_command(folder: Path | None, *, goes_on: bool) -> Facts:
    """The facts without which the processes would not even compare the others at the same time. folder: of the run."""
    return {"run folder": str(folder), "goes on with the run": goes_on}


def of_data(data: TrainData, given: Mapping[str, Setting], folder: Path) -> Facts:
    """The facts of the pictures that were read, of the settings that a user gave, and of the run folder."""
    return {
        "run folder": str(folder),
        **of_settings(given),
        **_of_set(data.train, "learn from"),
        **_of_set(data.val, "measure"),
    }


def _of_set(data: Dataset, use: str) -> Facts:
    return {
        f"pictures to {use}": f"{len(data):,}, checksum of their names {checksum_of_names(data)}",
        f"objects to {use}": f"{len(data.boxes):,}, checksum {checksum_of_objects(data)}",
    }


def of_settings(given: Mapping[str, object]) -> Facts:
    """The facts of settings of a training. Each machine may have some for itself."""
    return {name: value for name, value in given.items() if name not in OWN}


def of_decisions(model: DetectorConfig, config: TrainConfig, begin: Beginning) -> Facts:
    """The facts of what was decided: of a new run, or of one that goes on."""
    planned = None if begin.planned is None else _checksum(json.dumps(encode(begin.planned)))
    settings = of_settings({field.name: getattr(config, field.name) for field in fields(config)})
    goes_on = {
        "plan of the run": planned,
        "changes": of_settings(begin.settings.given),
        "accepts changes": begin.accept_changes,
    }
    return {**_flat("model", encode(model)), **settings, **goes_on}


def _flat(path: str, value: Json) -> Facts:
    """The parts of plain data by their paths; a list is one part."""
    if not isinstance(value, dict):
        return {path: json.dumps(value)}
    return {name: inner for key in value for name, inner in _flat(f"{path}.{key}", value[key]).items()}


def of_start(run: Run, state: RunState) -> Facts:
    """The facts of a run that is about to take its first step: where it begins, and what computes it."""
    with run.autocast:
        bf16 = torch.is_autocast_enabled(run.group.device.type)
    return {
        "begins at step": state.step,
        "at batch": (state.epoch, state.batch, state.batch_size),
        "steps in all": run.steps,
        "device": run.group.device.type,
        "in bf16": bf16,
        **{f"version of {name}": version(name) for name in ("onestage", "torch")},
    }
