"""A detector as one file: safetensors, with the config (class names and ids included) in its header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from onestage.errors import ConfigError, WeightsError, first_ten, known_keywords
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.weights.tensor_file import DAMAGED, FORMAT, FORMAT_KEY, import_first, load_tensors, read_header, save_tensors

CONFIG_KEY = "onestage_config"
COUNTER = "num_batches_tracked"
"""How the names of batch norm's counters end. Nothing is computed from them, so a file may lack them or have more."""


def metadata(detector: Detector) -> dict[str, str]:
    """What a file of this detector says in its header."""
    return {FORMAT_KEY: str(FORMAT), CONFIG_KEY: detector.config.to_json()}


def save_detector(detector: Detector, path: str | Path) -> None:
    """Write the detector to one file, atomically. WeightsError where the place cannot be written."""
    save_tensors(path, detector.state_dict(), metadata(detector))


def read_config(path: str | Path) -> DetectorConfig | None:
    """The config in a file's header, or None where the file is a foreign one. The tensors are not read."""
    text = read_header(path).metadata.get(CONFIG_KEY)
    try:
        return None if text is None else DetectorConfig.from_json(text)
    except ConfigError as e:
        raise WeightsError("the config in the weights file cannot be used", where=path, got=str(e)) from e
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as e:
        what = "the config in the weights file is damaged"
        raise WeightsError(what, where=path, got=f"{type(e).__name__}: {e}", fix=DAMAGED) from e


@known_keywords
def load_detector(path: str | Path) -> Detector:
    """The detector that ``save_detector`` wrote, on the CPU, in evaluation mode.

    WeightsError where the file is damaged, foreign, of a later version, or its tensors are not those of its own config; that is
    checked on the header alone, before anything is allocated.
    """
    config = read_config(path)
    if config is None:
        raise WeightsError("the weights file holds no detector of this project", where=path, fix=import_first(path))
    wrong = differing(shapes_of(config, path), read_header(path).shapes)
    if wrong:
        what = f"{len(wrong)} tensors do not fit the config in the file"
        raise WeightsError(what, where=path, got="\n" + first_ten(wrong))
    detector = Detector(config)
    detector.load_state_dict(load_tensors(path)[0])
    return detector.eval()


def load_fitting(detector: Detector, tensors: Mapping[str, Tensor], *, where: object) -> tuple[str, ...]:
    """Load every tensor that has the name and shape of one of the detector's; the names of those that keep their fresh values.

    A checkpoint for other classes fits all but the class outputs. WeightsError where less than half of the tensors fit: then it
    is a checkpoint of something else. Batch norm's counters, which any file has, do not count.
    """
    own = detector.state_dict()
    needed = [k for k in own if not k.endswith(COUNTER)]
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    fresh = tuple(k for k in needed if k not in fitting)
    if len(fresh) > len(needed) / 2:
        shapes = ({k: tuple(v.shape) for k, v in side.items()} for side in (own, tensors))
        raise WeightsError(
            f"these weights are not those of {detector.config.name}",
            where=where,
            got=f"{len(needed) - len(fresh)} of its {len(needed)} tensors; but\n" + first_ten(differing(*shapes)),
            fix="name the model the weights were made for",
        )
    detector.load_state_dict(fitting, strict=False)
    return fresh


def shapes_of(config: DetectorConfig, path: str | Path) -> dict[str, tuple[int, ...]]:
    """The tensors that a detector of this config has; nothing is allocated (torch's meta device)."""
    try:
        with torch.device("meta"):
            return {k: tuple(v.shape) for k, v in Detector(config).state_dict().items()}
    except Exception as e:  # a damaged config can ask torch or timm for anything
        raise WeightsError("no detector can be built from the config in the file", where=path, got=e) from e


def differing(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A line for every tensor that is missing, has another shape or is one too many."""
    wrong = [f"{k}: missing, expected {s}" for k, s in expected.items() if k not in got]
    wrong += [f"{k}: {got[k]}, expected {s}" for k, s in expected.items() if k in got and got[k] != s]
    return wrong + [f"{k}: not part of this detector" for k in got if k not in expected]
