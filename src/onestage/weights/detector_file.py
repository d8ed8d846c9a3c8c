"""A detector as one file: safetensors, with the config (class names and ids included) in its header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from onestage.errors import ConfigError, WeightsError, counted, first_ten, known_keywords
from onestage.files import BEST, LAST, given_path
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.weights.tensor_file import DAMAGED, FORMAT, FORMAT_KEY, OpenFile, import_first, open_file, save_tensors
from onestage.zoo.table import ZOO

CONFIG_KEY = "onestage_config"
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The types in which files hold real numbers."""
COUNTER = "num_batches_tracked"
"""How the names of batch norm's counters end. Nothing is computed from them, so a file may lack them or have more."""


def metadata(detector: Detector) -> dict[str, str]:
    """The metadata in the header of this detector's file."""
    return {FORMAT_KEY: str(FORMAT), CONFIG_KEY: detector.config.to_json()}


def save_detector(detector: Detector, path: str | Path) -> None:
    """Write the detector to one file, atomically. Raise WeightsError if the place cannot be written."""
    save_tensors(given_path(path, "path"), detector.state_dict(), metadata(detector))


def stored_config(file: OpenFile) -> DetectorConfig | None:
    """The config in the header of a safetensors file, or None if the file is a foreign one. The tensors are not read."""
    text = file.header.metadata.get(CONFIG_KEY)
    try:
        return None if text is None else DetectorConfig.from_json(text)
    except ConfigError as e:
        raise WeightsError.because("the config in the weights file cannot be used", e, where=file.path) from e
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as e:
        what = "the config in the weights file is damaged"
        raise WeightsError(what, where=file.path, got=f"{type(e).__name__}: {e}", fix=DAMAGED) from e


@known_keywords
def load_detector(path: str | Path) -> Detector:
    """The detector in a file that ``save_detector`` wrote, or the best one in a run folder, on the CPU, in evaluation mode.

    Raise WeightsError if the folder holds no model, or the file is damaged, foreign, of a later version, or its tensors are
    not those of its config. Only the header is needed to find this out, and no memory is allocated before.
    """
    with open_file(model_file(path)) as file:
        config = stored_config(file)
        if config is None:
            what = "the weights file holds no detector of this project"
            raise WeightsError(what, where=file.path, fix=import_first(file.path))
        with without_memory(file.path):
            expected = shapes_of(Detector(config).state_dict())
        if wrong := differing(expected, file.header.shapes):
            what = f"{len(wrong)} tensors do not fit the config in the file"
            raise WeightsError(what, where=file.path, got="\n" + first_ten(wrong))
        tensors = file.tensors()
    detector = Detector.on("cpu", config)
    check_types(detector.state_dict(), tensors, path)
    detector.load_state_dict(tensors)
    return detector.eval()


def model_file(path: str | Path) -> Path:
    """The path of a model: the path itself if it is no folder. In a run folder it is the best model, or else the last one.

    Raise WeightsError if the folder holds neither.
    """
    path = given_path(path, "path")
    model, _, tag = str(path).partition(".")
    if model in ZOO and not path.exists():
        what, fix = "there is no such file", f'for published weights: onestage.create("{model}", weights="{tag or "coco"}")'
        raise WeightsError(what, where=path, fix=fix)
    if not path.is_dir():
        return path
    found = next((path / name for name in (BEST, LAST) if (path / name).is_file()), None)
    if found is None:
        what, expected = "this folder holds no trained model", f"{BEST} or {LAST}, which train writes"
        raise WeightsError(what, where=path, expected=expected)
    return found


def load_fitting(detector: Detector, tensors: Mapping[str, Tensor], *, where: object) -> tuple[str, ...]:
    """Load every tensor that has the name and shape of one of the detector's. Return the names of those that start fresh.

    A checkpoint for other classes fits in all tensors except the class outputs. Raise WeightsError if less than half of the
    tensors fit: it is then a checkpoint of another network. The counters of batch norm, which any file has, do not count.
    """
    wanted = detector.state_dict()
    needed = [k for k in wanted if not k.endswith(COUNTER)]
    fitting = {k: v for k, v in tensors.items() if k in wanted and wanted[k].shape == v.shape}
    check_types(wanted, fitting, where)
    fresh = tuple(k for k in needed if k not in fitting)
    if len(fresh) > len(needed) / 2:
        wrong = differing(shapes_of(wanted), shapes_of(tensors))
        raise WeightsError(
            f"these weights are not those of {detector.config.name}",
            where=where,
            got=f"{len(needed) - len(fresh)} of its {len(needed)} tensors; but\n" + first_ten(wrong),
            fix="name the model the weights were made for",
        )
    detector.load_state_dict(fitting, strict=False)
    return fresh


def check_types(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise WeightsError if a tensor holds whole, true-or-false or complex numbers where the detector has real ones."""
    wrong = [f"{k}: {v.dtype}" for k, v in tensors.items() if wanted[k].is_floating_point() and v.dtype not in FLOATS]
    if wrong:
        what = f"{counted(len(wrong), 'tensor')} of another kind of number than the detector has"
        fix = "take the weights in floating-point numbers, before they were quantised or cast"
        raise WeightsError(what, where=where, got="\n" + first_ten(wrong), expected="float32, or 16 or 64 bits", fix=fix)


@contextmanager
def without_memory(path: str | Path) -> Iterator[None]:
    """Build detectors inside this block with names and shapes, but without numbers (torch's meta device).

    Raise WeightsError for the file at ``path`` if a detector cannot be built.
    """
    try:
        with torch.device("meta"):
            yield
    except Exception as e:  # a damaged config can ask torch or timm for anything
        raise WeightsError("no detector can be built from the config in the file", where=path, got=e) from e


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differing(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A line for every tensor that is missing, has another shape or is not part of the detector."""
    wrong = [f"{k}: missing, expected {s}" for k, s in expected.items() if k not in got]
    wrong += [f"{k}: {got[k]}, expected {s}" for k, s in expected.items() if k in got and got[k] != s]
    return wrong + [f"{k}: not part of this detector" for k in got if k not in expected]
