"""A detector as one file: safetensors. Its header has the config, class names and ids included, and what was measured about
scores.
"""

from __future__ import annotations

import json
from pathlib import Path

from onestage.errors import ConfigError, WeightsError, first_ten, known_keywords
from onestage.files import BEST, LAST, given_path
from onestage.model.codec import decode, encode
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.model.output.scores import Scores
from onestage.weights.safetensors_file import DAMAGED, FORMAT, FORMAT_KEY, save_tensors
from onestage.weights.tensor_file import OpenFile, check_types, differing, import_first, open_file, shapes_of, without_memory
from onestage.zoo.table import ZOO

CONFIG_KEY = "onestage_config"
SCORES_KEY = "onestage_scores"
"""Files of detectors whose scores were not measured lack it."""


def metadata(detector: Detector) -> dict[str, str]:
    """The metadata in the header of this detector's file, without what was measured about its scores."""
    return {FORMAT_KEY: str(FORMAT), CONFIG_KEY: detector.config.to_json()}


def save_detector(detector: Detector, path: str | Path) -> None:
    """Write the detector to one file, atomically.

    Raise WeightsError if the place cannot be written, ConfigError if what it holds about scores is about other classes.
    """
    save_tensors(given_path(path, "path"), detector.state_dict(), metadata(detector) | _about_scores(detector))


def keep_scores(path: str | Path, detector: Detector) -> Path:
    """Write ``detector.scores`` into the file that the detector was loaded from, a file or a run folder; all else in it stays.
    Return the path of the file.

    Raise WeightsError if the file holds another detector by now, as that of a run that goes on may.
    """
    with open_file(model_file(path)) as file:
        same, tensors, noted = stored_config(file) == detector.config, file.tensors(), dict(file.header.metadata)
    measured = {name: tensor.cpu() for name, tensor in detector.state_dict().items()}
    same = same and tensors.keys() == measured.keys()
    if not same or not all(tensor.to(measured[name].dtype).equal(measured[name]) for name, tensor in tensors.items()):
        what, fix = "the model has changed since it was measured, so its file is left as it is", "measure it again"
        raise WeightsError(what, where=file.path, fix=fix)
    noted.pop(SCORES_KEY, None)
    save_tensors(file.path, tensors, noted | _about_scores(detector))
    return file.path


def _about_scores(detector: Detector) -> dict[str, str]:
    """The entry of the header for the scores of this detector; none if they were not measured."""
    if detector.scores is None:
        return {}
    detector.scores.check(len(detector.classes))
    return {SCORES_KEY: json.dumps(encode(detector.scores))}


def _stored_scores(file: OpenFile, config: DetectorConfig) -> Scores | None:
    """What the header of a file says about the scores of a detector with that config; None if it says nothing."""
    text = file.header.metadata.get(SCORES_KEY)
    if text is None:
        return None
    try:
        scores = decode(json.loads(text), Scores, "scores")
        scores.check(len(config.classes))
    except ConfigError as e:
        raise WeightsError.because("what the weights file says about scores cannot be used", e, where=file.path) from e
    except (ValueError, RecursionError) as e:
        what = "what the weights file says about scores is damaged"
        raise WeightsError(what, where=file.path, got=f"{type(e).__name__}: {e}", fix=DAMAGED) from e
    return scores


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
        scores = _stored_scores(file, config)
        with without_memory(file.path):
            expected = shapes_of(Detector(config).state_dict())
        if wrong := differing(expected, file.header.shapes):
            what = f"{len(wrong)} tensors do not fit the config in the file"
            raise WeightsError(what, where=file.path, got="\n" + first_ten(wrong), fix="take another copy of the file")
        tensors = file.tensors()
    detector = Detector.on("cpu", config)
    check_types(detector.state_dict(), tensors, path)
    detector.load_state_dict(tensors)
    detector.scores = scores
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
        fix = "give the folder of a run, or the file itself, of a model or of detections"
        raise WeightsError(what, where=path, expected=expected, fix=fix)
    return found
