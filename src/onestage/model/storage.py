"""A detector as one file: safetensors, with the config (class names and ids included) in its header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from onestage.errors import ConfigError, WeightsError, explain, first_ten
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.files import FORMAT, FORMAT_KEY, load_tensors, read_header, save_tensors

CONFIG_KEY = "onestage_config"


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
        raise WeightsError(explain("the config in the weights file cannot be used", where=path, got=str(e))) from e


def load_detector(path: str | Path) -> Detector:
    """The detector that ``save_detector`` wrote, on the CPU, in evaluation mode.

    WeightsError where the file is damaged, foreign, of a later version, or its tensors are not those of its own config; that is
    checked on the header alone, before anything is allocated.
    """
    config = read_config(path)
    if config is None:
        raise WeightsError(
            explain(
                "the weights file holds no detector of this project",
                where=path,
                fix='use onestage.create(NAME, weights="FILE")',
            )
        )
    _compare(_shapes(config, path), read_header(path).shapes, path)
    detector = Detector(config)
    detector.load_state_dict(load_tensors(path)[0])
    return detector.eval()


def load_fitting(detector: Detector, tensors: Mapping[str, Tensor], *, where: object) -> tuple[str, ...]:
    """Load every tensor that has the name and shape of one of the detector's; the names of those that keep their fresh values.

    A checkpoint for other classes fits all but the class outputs. WeightsError where less than half of the names fit: then it
    is a checkpoint of something else.
    """
    own = detector.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    known = [k for k in tensors if k in own]
    if len(known) < len(own) / 2 or not fitting:
        raise WeightsError(
            explain(
                f"these weights are not those of {detector.config.name}",
                where=where,
                got=f"{len(known)} of its {len(own)} tensors; such as\n" + first_ten([k for k in tensors if k not in own]),
                fix="name the model the weights were made for",
            )
        )
    detector.load_state_dict(fitting, strict=False)
    return tuple(k for k in own if k not in fitting and not k.endswith("num_batches_tracked"))


def _shapes(config: DetectorConfig, path: str | Path) -> dict[str, tuple[int, ...]]:
    """The tensors that a detector of this config has; nothing is allocated (torch's meta device)."""
    try:
        with torch.device("meta"):
            return {k: tuple(v.shape) for k, v in Detector(config).state_dict().items()}
    except Exception as e:  # a damaged config can ask torch or timm for anything
        raise WeightsError(explain("no detector can be built from the config in the file", where=path, got=e)) from e


def _compare(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]], path: str | Path) -> None:
    wrong = [f"{k}: missing, expected {s}" for k, s in expected.items() if k not in got]
    wrong += [f"{k}: {got[k]}, expected {s}" for k, s in expected.items() if k in got and got[k] != s]
    wrong += [f"{k}: not part of this detector" for k in got if k not in expected]
    if wrong:
        raise WeightsError(
            explain(f"{len(wrong)} tensors do not fit the config in the file", where=path, got="\n" + first_ten(wrong))
        )
