"""What the verbs share about models: how to find one, and its device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from onestage.cli.output import say
from onestage.creation import create
from onestage.errors import ConfigError, WeightsError, absent, nearest, three_nearest
from onestage.files import given_path
from onestage.model.codec import differences
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.predict.exported import is_exported, open_exported
from onestage.predict.predictor import Predictor
from onestage.processes import choose_device
from onestage.weights.detector_file import load_detector
from onestage.weights.source import WEIGHTS
from onestage.zoo.table import ZOO

Numbers = Literal["exact", "fp32", "bf16"]
"""How torch computes: as in training, to the bit; in float32, faster, with other rounding; in bfloat16. OpenVINO knows the last
two.
"""
TRIED_WITH = 5
"""Pictures with which runtimes are measured and compared."""


def find_model(name: str, *, device: str | None = None) -> Detector:
    """The detector that a user names, on its device, ready to predict: a file, a run folder (its best model), or published
    weights of the zoo, such as "ssdlite320_mobilenet_v3_large.coco".

    Raise WeightsError if there is none.
    """
    check_model_name(name, recipes=False)
    path = given_path(name, "model")
    if path.exists():
        detector = load_detector(path)
    else:
        model, tag = name.split(".", 1)
        detector = create(model, weights=tag).eval()
    return detector.to(choose_device(device))


def check_model_name(name: str, *, recipes: bool = True) -> None:
    """Raise WeightsError unless a file, a folder or published weights have that name. recipes: or a recipe of the zoo."""
    if not (given_path(name, "model").exists() or name in WEIGHTS or (recipes and name in ZOO)):
        raise _no_model(name)


def find_any_model(
    name: str, *, device: str | None = None, runtime: str | None = None, trusted: bool = False
) -> Detector | Predictor:
    """As ``find_model``, for what only predicts: an exported file too, which the ``runtime`` runs.

    trusted: whether a file may be opened that could run code. Raise ConfigError for a device that the runtime does not use.
    """
    if not is_exported(name):
        return find_model(name, device=device)
    if device not in (None, "cpu"):
        what, fix = "exported files run on the CPU", "leave --device out, or name the model that it was made from"
        raise ConfigError(what, where=name, got=f"--device {device}", fix=fix)
    return open_exported(name, runtime, trusted=trusted)


def run_model(
    model: Detector | Predictor,
    runtime: str | None,
    *,
    pictures: Callable[[], Sequence[Tensor]],
    total: int,
    score: float | None = None,
    numbers: Numbers = "exact",
) -> Predictor:
    """What runs a detector: the ``runtime``. An exported file is run already. It may take a minute, so check arguments before.

    pictures: gives some, (3, H, W) uint8 each, by which "auto" chooses, and which a new file is checked with. total: how many
    there are to do. A choice is said in a line. score: the least to report; below the threshold of a detector, torch alone
    finds anything. numbers: how torch computes, and with bfloat16 OpenVINO too. Raise ConfigError for bfloat16 if the model is
    an exported file, or if the runtime or the processor does not compute in it.
    """
    bf16 = numbers == "bf16"
    if isinstance(model, Predictor):
        if bf16:
            what = "an exported file has its precision"
            fix = "leave --precision bf16 out, or name the model that it was made from"
            raise ConfigError(what, where=model.config.name, got="--precision bf16", fix=fix)
        return model
    below = score is not None and _is_below_threshold(model, score)
    if runtime in (None, "torch") or (runtime == "auto" and (below or bf16)):
        return Predictor.of(model) if numbers == "exact" else Predictor.folded(model, bf16=bf16)
    from onestage.deploy.runtimes import AUTO, choose, run_by  # it takes a while to import

    if runtime != AUTO:
        return run_by(model, runtime, pictures=pictures, bf16=bf16)
    predictor, choice = choose(model, pictures, total=total, exact=numbers == "exact")
    if choice.milliseconds:
        other = "torch" if choice.runtime != "torch" else "onnxruntime"
        say((f"{choice.runtime}: {choice.reason}; --runtime {other} to force", "dim"))
    return predictor


def _is_below_threshold(model: Detector, score: float) -> bool:
    """Whether what has this score, perhaps after calibration, may have less than the threshold of the detector before."""
    least = score if model.scores is None else model.scores.before(score)
    return least < model.config.postprocess.score_threshold


def is_recipe(name: str) -> bool:
    """Whether the name is a recipe of the zoo, and not a file or folder."""
    return name in ZOO and not Path(name).exists()


def find_or_create(name: str, classes: Sequence[str], *, device: str | None = None) -> Detector:
    """The detector that a user names, as in ``find_model``, or a recipe of the zoo for these classes. Its random weights are
    the same at every call.
    """
    if not is_recipe(name):
        return find_model(name, device=device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create(name, classes=classes).eval().to(choose_device(device))


def _no_model(name: str) -> WeightsError:
    if name in ZOO:
        fix = f"onestage train DATA --model {name}, then name its run folder"
        return WeightsError(f"{name} is a recipe without weights", expected="a trained model", fix=fix)
    published = three_nearest(name, WEIGHTS) or ", ".join([*WEIGHTS][:3])
    expected = f"a .safetensors file, a run folder, or published weights such as {published}"
    fix = "correct the path, or see the names of all published weights: onestage models"
    what, meant = "there is no such model", nearest(name, [*ZOO, *WEIGHTS])
    return WeightsError(what + meant if meant else absent(name, what), got=name, expected=expected, fix=fix)


def other_settings(config: DetectorConfig, usual: DetectorConfig) -> list[str]:
    """The settings in which a config differs from the usual one, as paths such as "loss.gamma". The classes are left out,
    because they are those of the data.
    """
    return [path for path in differences(config, usual) if path not in ("classes", "category_ids")]


def labels_of(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of classes by name. Raise ConfigError for an unknown one."""
    for name in names:
        if name not in classes:
            what, fix = f"the model knows no class '{name}'{nearest(name, classes)}", "take one of the model's names"
            raise ConfigError(what, expected=_some(classes), fix=fix)
    return [classes.index(name) for name in names]


def _some(names: Iterable[str], most: int = 20) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
