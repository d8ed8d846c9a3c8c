"""Checkpoints on disk. They survive a SIGKILL at any moment, a full disk and a damaged file.

A run folder holds

    last.safetensors, best.safetensors    whole models: onestage.load() takes them
    checkpoints/step-00001234/            all that is needed to resume after optimiser step 1234 with the same bits:
        model.safetensors                     last.safetensors of that step, with config, class names and ids in its metadata
        training.safetensors                  every other tensor: momenta, and with averages the weights that learn
        state.json                            the numbers, and the SHA-256 of all files; written last, it makes them valid

The order of the writes makes this safe: first both tensor files, then last and best, then state.json. Only then are older
checkpoints deleted. A folder without state.json is left over from a crash. Of several processes, only the first one saves.
"""

import contextlib
import hashlib
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from onestage.errors import WeightsError
from onestage.files import BEST, LAST, Json, remove_leftovers, sync_folder, write_atomically
from onestage.weights.safetensors_file import pack_tensors
from onestage.weights.tensor_file import read_bytes, unpack_tensors

FORMAT = 1
EARLIER = "take an earlier checkpoint"
MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
CHECKPOINTS = "checkpoints"
"""The folder of checkpoints in a run folder."""
STEP_FOLDER = re.compile(r"step-(\d{8,})(?:-(\d+))?")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a training needs to go on with the same bits.

    step: optimiser steps done. epoch: epochs done. model and metadata: as ``model.save()`` would write them. optimizer: its
    ``state_dict()``. extra: the rest, any nesting of dicts, lists, tuples, numbers, text, None and tensors. Tensors that were
    read from a file are on the CPU.
    """

    step: int
    epoch: int
    model: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    optimizer: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one run folder: the ``keep`` newest ones, and the best and the last model."""

    def __init__(self, folder: Path | str, *, keep: int = 2) -> None:
        assert keep >= 1
        self.folder = Path(folder)
        self.checkpoints = self.folder / CHECKPOINTS
        self.keep = keep
        self._damaged: set[Path] = set()

    def probe(self) -> None:
        """Make the folders and write a trial file, so that a run fails at its start and not at its first checkpoint.

        Delete the temporary files of a killed run. Raise WeightsError if nothing can be written.
        """
        with _write_errors(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            trial = self.checkpoints / "trial"
            write_atomically(trial, b"can this be written?")
            trial.unlink()
        for folder in (self.folder, self.checkpoints):
            remove_leftovers(folder, older_than=0)

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> Path:
        """Write a checkpoint, the last model, and the best model if this one is the ``best``. Then delete older checkpoints.

        Return the checkpoint's folder. Raise WeightsError if it cannot be written; earlier checkpoints then stay untouched.
        """
        tensors: dict[str, Tensor] = {}
        content: dict[str, Json] = {
            "format": FORMAT,
            "step": checkpoint.step,
            "epoch": checkpoint.epoch,
            "optimizer": _to_json(checkpoint.optimizer, tensors, "optimizer"),
            "extra": _to_json(checkpoint.extra, tensors, "extra"),
        }
        packed = {MODEL: pack_tensors(checkpoint.model, checkpoint.metadata), TRAINING: pack_tensors(tensors, {})}
        content["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in packed.items()}
        folder = self._new_folder(checkpoint.step)
        try:
            for name, data in packed.items():
                write_atomically(folder / name, data)
            # Before the commit: a crash in between leaves a model that the resumed run writes again, never one that is missing.
            for name in (LAST, BEST) if best else (LAST,):
                write_atomically(self.folder / name, packed[MODEL])
            with _write_errors(folder):
                sync_folder(self.checkpoints)
            write_atomically(folder / STATE, _sealed(content))
        except BaseException:  # a full disk, Ctrl-C: half a checkpoint is useless
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._prune(folder)
        return folder

    def latest(self) -> tuple[Checkpoint | None, tuple[str, ...]]:
        """The newest whole checkpoint, and a line for each newer one that had to be skipped: its name and the reason.

        The checkpoint is None if none is whole.
        """
        skipped: list[str] = []
        for folder in reversed(self._folders()):
            try:
                return _read(folder), tuple(skipped)
            except WeightsError as error:
                self._damaged.add(folder)
                skipped.append(f"{folder.name}: {error.what}")
        return None, tuple(skipped)

    @property
    def is_unfinished(self) -> bool:
        """Whether the first checkpoint was begun and is not whole: its process was killed while it wrote it."""
        folders = self._folders()
        return bool(folders) and not any((folder / STATE).exists() for folder in folders)

    def noted(self, name: str) -> Json:
        """Text or a number that the newest whole state.json has in ``extra``; None if there is none."""
        for folder in reversed(self._folders()):
            with contextlib.suppress(WeightsError):
                return _unsealed(read_bytes(folder / STATE), folder)["extra"].get(name)
        return None

    def _folders(self) -> list[Path]:
        """All checkpoints, finished or not, oldest first."""
        return sorted((path for path in self.checkpoints.glob("step-*") if STEP_FOLDER.fullmatch(path.name)), key=_age)

    def _new_folder(self, step: int) -> Path:
        """Make a new folder for each save. A whole checkpoint is never written into again, not even at the same step."""
        folder = self.checkpoints / f"step-{step:08d}"
        again = itertools.count(1)
        while folder.exists():
            folder = folder.with_name(f"step-{step:08d}-{next(again)}")
        with _write_errors(folder):
            folder.mkdir(parents=True)
        return folder

    def _prune(self, newest: Path) -> None:
        """Keep ``newest`` and the whole checkpoints just before it. Later ones are damaged: the run resumed from ``newest``."""
        folders = self._folders()
        earlier = folders[: folders.index(newest)]
        whole = [path for path in earlier if (path / STATE).is_file() and path not in self._damaged]
        kept = {newest, *whole[max(0, len(whole) - self.keep + 1) :]}
        for path in folders:
            if path not in kept:
                with contextlib.suppress(OSError):  # what cannot be deleted now can be deleted next time
                    (path / STATE).unlink(
                        missing_ok=True
                    )  # first, so that a half-deleted checkpoint does not look like a whole one
                    shutil.rmtree(path)


def newest_step(run: Path) -> int:
    """The step of the newest whole checkpoint of a run, by the names of its folders; 0 without any."""
    found = (STEP_FOLDER.fullmatch(path.parent.name) for path in run.glob(f"{CHECKPOINTS}/*/{STATE}"))
    return max((int(match[1]) for match in found if match), default=0)


def _age(folder: Path) -> tuple[int, int]:
    """Sort checkpoints: by step, then by the number of the save at that step."""
    found = STEP_FOLDER.fullmatch(folder.name)
    assert found is not None
    return int(found[1]), int(found[2] or 0)


def _sealed(content: Mapping[str, Json]) -> bytes:
    return json.dumps({"sha256": _digest(content), "state": content}, indent=1, allow_nan=False).encode()


def _digest(content: Mapping[str, Json]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unsealed(data: bytes, where: Path) -> dict[str, Any]:
    try:
        sealed = json.loads(data)
        content = sealed["state"]
        if sealed["sha256"] != _digest(content):
            raise ValueError("the checksum is wrong")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{STATE} is damaged", where=where, got=error, fix=EARLIER) from error
    if content["format"] != FORMAT:
        raise WeightsError("written by a later onestage", where=where, got=f"format {content['format']}", fix="update onestage")
    return dict(content)


def _read(folder: Path) -> Checkpoint:
    """One checkpoint, every byte of it verified. Raise WeightsError if it is damaged."""
    if not (folder / STATE).is_file():
        raise WeightsError("it was never finished", where=folder, fix=EARLIER)
    for name in (MODEL, TRAINING):
        if not (folder / name).is_file():
            raise WeightsError(f"{name} is missing", where=folder, fix=EARLIER)
    content = _unsealed(read_bytes(folder / STATE), folder)
    packed = {name: read_bytes(folder / name) for name in (MODEL, TRAINING)}
    for name, data in packed.items():
        if hashlib.sha256(data).hexdigest() != content["files"][name]:
            raise WeightsError(f"{name} is damaged: its checksum is wrong", where=folder, fix=EARLIER)
    model, metadata = unpack_tensors(packed[MODEL], folder / MODEL)
    tensors, _ = unpack_tensors(packed[TRAINING], folder / TRAINING, finite=False)
    return Checkpoint(
        step=content["step"],
        epoch=content["epoch"],
        model=model,
        metadata=metadata,
        optimizer=_from_json(content["optimizer"], tensors),
        extra=_from_json(content["extra"], tensors),
    )


@contextlib.contextmanager
def _write_errors(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "choose another folder with out=, or make room on that disk"
        raise WeightsError("checkpoints cannot be written here", where=where, got=error.strerror or error, fix=fix) from error


# --- Python values as JSON and tensors, exactly ----------------------------------------------------------------------------
# JSON has no tuples, no keys but text and no NaN; each is written as an object with one key that begins with a dollar sign.
# Finite floats need no care: Python writes the shortest text that reads back as the same float.


def _to_json(value: object, tensors: dict[str, Tensor], name: str) -> Json:
    """``value`` for JSON. Its tensors go into ``tensors``, under a name that states their place."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case Tensor():
            while name in tensors:  # {"a.b": {"c": ..}, "a": {"b.c": ..}}
                name += "'"
            tensors[name] = value
            return {"$tensor": name}
        case Mapping():
            return _mapping_to_json(value, tensors, name)
        case list():
            return [_to_json(inner, tensors, f"{name}.{index}") for index, inner in enumerate(value)]
        case tuple():
            return {"$tuple": _to_json(list(value), tensors, name)}
    raise TypeError(f"a checkpoint holds tensors, numbers and text; {name} is a {type(value).__name__}")


def _mapping_to_json(mapping: Mapping[object, object], tensors: dict[str, Tensor], name: str) -> Json:
    """A JSON object if all keys are text without a leading dollar sign; otherwise a list of pairs."""
    inner = {key: _to_json(value, tensors, f"{name}.{key}") for key, value in mapping.items()}
    plain = {key: value for key, value in inner.items() if isinstance(key, str) and not key.startswith("$")}
    if len(plain) == len(inner):
        return dict(plain)
    return {"$dict": [[_to_json(key, tensors, name), value] for key, value in inner.items()]}


def _from_json(value: Json, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of ``_to_json``."""
    match value:
        case list():
            return [_from_json(inner, tensors) for inner in value]
        case {"$tensor": str(name)}:
            return tensors[name]
        case {"$tuple": row}:
            return tuple(_from_json(row, tensors))
        case {"$float": str(text)}:
            return float(text)
        case {"$dict": pairs}:
            return dict(_from_json(pairs, tensors))
        case dict():
            return {key: _from_json(inner, tensors) for key, inner in value.items()}
    return value
