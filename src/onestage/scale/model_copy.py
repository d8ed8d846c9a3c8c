"""The model of a batch: its digest, and the copy of it in the folder of the results, which every process opens.

Others may be able to write into that folder. So each process compares the copy with the digest in the manifest, and has the
digest of the manifest from the command: files that could run code are not opened before.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from onestage.data.batch_folder import HIDDEN
from onestage.deploy.export import FORMATS
from onestage.deploy.plan import fingerprint
from onestage.errors import ConfigError, WeightsError
from onestage.files import atomic_file
from onestage.model.codec import encode
from onestage.model.detector import Detector
from onestage.predict.exported import is_exported, open_exported
from onestage.predict.predictor import Looker, Predictor
from onestage.processes import choose_device
from onestage.scale.manifest import Manifest, ModelNote
from onestage.weights.detector_file import load_detector


def digest_of(model: Detector | Path) -> str:
    """A SHA-256 of all that a model computes: weights, config, and what was measured about scores; or of an exported file, and
    those that belong to it. Raise WeightsError if one of them cannot be read.
    """
    total = hashlib.sha256()
    if isinstance(model, Detector):
        about = json.dumps(None if model.scores is None else encode(model.scores), sort_keys=True)
        total.update(f"{fingerprint(model)} {about}".encode())
        return total.hexdigest()
    for path in files_of(model):
        try:
            content = path.read_bytes()
        except OSError as error:
            what, fix = "a file of this model cannot be read", "copy it again, with all files that belong to it"
            raise WeightsError(what, where=path, got=error.strerror, fix=fix) from error
        total.update(f"{path.suffix} {len(content)} ".encode())
        total.update(content)
    return total.hexdigest()


def files_of(exported: Path) -> list[Path]:
    """An exported file and those that belong to it, such as the weights of OpenVINO and ncnn."""
    ends = [form.parts for form in FORMATS.values() if form.suffix.endswith(exported.suffix.lower())]
    return [exported, *(exported.with_suffix(end) for end in ends[0])]


def note_model(name: str, model: Detector | Path, runtime: str) -> ModelNote:
    """What the manifest says of a model. name: as the user wrote it."""
    if isinstance(model, Detector):
        return ModelNote(name, "model.safetensors", digest_of(model), tuple(model.classes))
    classes = open_exported(model, runtime, trusted=True).classes  # the caller has opened it before
    return ModelNote(name, "model." + model.name.partition(".")[2], digest_of(model), classes)


def copy_model(model: Detector | Path, place: Path) -> None:
    """Put a copy of the model into the folder, durably."""
    if isinstance(model, Detector):
        model.save(place)
        return
    for path in files_of(model):
        with atomic_file(place if path == model else place.with_suffix(path.suffix), durable=True) as file:
            file.write(path.read_bytes())


def is_same(copy: Path, note: ModelNote) -> bool:
    """Whether a copy is there and computes what the model does. No file that could run code is opened."""
    try:
        return note.digest == digest_of(copy if is_exported(copy) else load_detector(copy))
    except (WeightsError, ConfigError):
        return False


def open_copy(folder: Path, manifest: Manifest, device: str) -> Looker:
    """The model of a batch. Raise WeightsError if its copy is damaged or another one."""
    options, path = manifest.options, folder / HIDDEN / manifest.model.file
    if is_exported(path):
        _check(path, digest_of(path), manifest.model)
        return open_exported(path, options.runtime, trusted=True)  # the user said so of a file with this digest
    detector = load_detector(path)
    _check(path, digest_of(detector), manifest.model)
    if torch.device(device).type != options.device:
        what, expected = "this batch computes on another kind of device", options.device
        raise ConfigError(what, got=device, expected=expected, fix="begin again in another folder: -o OTHER")
    return Predictor.folded(detector.to(choose_device(device)), bf16=options.precision == "bf16")


def _check(path: Path, digest: str, note: ModelNote) -> None:
    if digest != note.digest:
        what, fix = "the copy of the model in this batch has changed", "run the same command again: it makes the copy again"
        raise WeightsError(what, where=path, got=digest[:12], expected=note.digest[:12], fix=fix)
