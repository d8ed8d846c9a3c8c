"""Whose weights a file holds: it is recognised by its keys, never by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from onestage.errors import OnestageError, WeightsError, nearest
from onestage.model.config import DetectorConfig
from onestage.structures import ClassSet
from onestage.weights.detector_file import stored_config
from onestage.weights.foreign_file import load_foreign
from onestage.weights.projects import amdegroot, d2l, effdet, lufficc, qfgaohao, tflite, torchvision
from onestage.weights.tensor_file import SAFETENSORS, OpenFile, open_file
from onestage.weights.tensor_file import TFLITE as TFLITE_FILE


class Adapter(Protocol):
    """What a module of ``projects`` offers for the checkpoints of a foreign project."""

    PROJECT: str
    """Its name, for messages."""
    MARK: str
    """How keys begin in files of its detectors, also of those that are not understood; a regular expression."""
    TAKEN: str
    """Which of them are understood, for messages."""

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the keys of one of its detectors."""

    def model(self, tensors: Mapping[str, Tensor]) -> str:
        """The zoo's name of this detector."""

    def classes(self, tensors: Mapping[str, Tensor]) -> ClassSet:
        """The classes of its outputs; by number where nothing tells them."""

    def doubt(self, tensors: Mapping[str, Tensor]) -> str:
        """What to tell a user who imports a file that does not say which pixels it wants; an empty text where it does."""

    def note(self, tensors: Mapping[str, Tensor]) -> str:
        """What to tell every user of a file whose tensors leave something else open; an empty text where they do not."""

    def convert(self, tensors: Mapping[str, Tensor], config: DetectorConfig, /) -> tuple[dict[str, Tensor], DetectorConfig]:
        """The tensors under our names, and the zoo's config for these classes as the weights need it: with their pixels,
        default boxes and postprocessing.
        """


ADAPTERS: Mapping[str, Adapter] = {
    "torchvision": torchvision,
    "qfgaohao": qfgaohao,
    "amdegroot": amdegroot,
    "lufficc": lufficc,
    "effdet": effdet,
    "d2l": d2l,
}
"""Foreign projects whose files are state_dicts, in the order they are asked."""


OURS, TFLITE = "onestage", "tflite"
PROJECTS = {name: adapter.PROJECT for name, adapter in ADAPTERS.items()} | {TFLITE: "the TF object-detection API, as TFLite"}
"""All foreign projects by the short names that ``onestage import --from`` takes, and what they are called in messages."""


Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of the channels of 0..1, red, green and blue."""


@dataclass(frozen=True)
class Source:
    """Weights of a whole detector, read and recognised. origin: a key of PROJECTS, or OURS. model: the zoo's name of it.

    config: what the file itself holds, as ours and TensorFlow Lite's do. pixels: mean and std that the input needs, from
    somebody who knows. doubt: where the tensors leave the pixels open, what to tell. note: what to tell in any case.
    """

    path: Path
    origin: str
    model: str
    classes: ClassSet
    tensors: Mapping[str, Tensor]
    config: DetectorConfig | None = None
    pixels: Normalization | None = None
    doubt: str = ""
    note: str = ""

    def renamed(self, classes: ClassSet) -> Source:
        """The same weights with their K classes named by somebody who knows."""
        config = self.config and replace(self.config, classes=classes.names, category_ids=classes.ids)
        return replace(self, classes=classes, config=config)


def read_source(path: Path, origin: str | None = None) -> Source:
    """The weights in a file, ours or of a known project; ``origin`` insists on one. The file is opened once.

    Raise WeightsError where the file is damaged, unknown, or of another project than that.
    """
    if origin not in (None, *PROJECTS):
        what = f"no project '{origin}' is known{nearest(str(origin), PROJECTS)}"
        raise WeightsError(what, expected=", ".join(PROJECTS), fix="leave it out: the file tells by itself")
    with open_file(path) as file:
        source = _read(file)
    if origin not in (None, source.origin):
        what, whose = f"this file is not of {PROJECTS[str(origin)]}", PROJECTS.get(source.origin, "this project itself")
        raise WeightsError(what, where=path, got=f"a detector of {whose}", fix="leave the project out")
    return source


def _read(file: OpenFile) -> Source:
    if file.kind is TFLITE_FILE:
        return _with_config(file.path, TFLITE, *tflite.ssd.read(file))
    config = stored_config(file) if file.kind is SAFETENSORS else None
    if config is not None:
        return _with_config(file.path, OURS, config, file.tensors())
    return _recognised(load_foreign(file), file.path)


def _with_config(path: Path, origin: str, config: DetectorConfig, tensors: Mapping[str, Tensor]) -> Source:
    return Source(path, origin, config.name, ClassSet(config.classes, config.category_ids), tensors, config)


def _recognised(tensors: Mapping[str, Tensor], path: Path) -> Source:
    for name, adapter in ADAPTERS.items():
        with adapting(name, path):
            if adapter.recognises(tensors):
                doubt, note = adapter.doubt(tensors), adapter.note(tensors)
                return Source(path, name, adapter.model(tensors), adapter.classes(tensors), tensors, doubt=doubt, note=note)
    raise _unknown(tensors, path)


@contextmanager
def adapting(origin: str, path: Path) -> Iterator[None]:
    """Turn what tensors that are missing or misshapen lead to into a WeightsError that names the file."""
    project = PROJECTS.get(origin, OURS)
    try:
        yield
    except KeyError as e:
        what = f"this looks like a detector of {project}, but tensors are missing"
        raise WeightsError(what, where=path, got=f"no {e}", fix="take the whole state_dict of the detector") from e
    except OnestageError as e:
        raise WeightsError.of(e, path) from e
    except (TypeError, IndexError, ValueError, RuntimeError, ArithmeticError) as e:
        what = f"this looks like a detector of {project}, but its tensors have other shapes"
        fix = "take the whole state_dict of the detector, as its project saves it"
        raise WeightsError(what, where=path, got=f"{type(e).__name__}: {e}", fix=fix) from e


def _unknown(tensors: Mapping[str, Tensor], path: Path) -> WeightsError:
    got = ", ".join(list(tensors)[:5]) + ", ..."
    kin = next((adapter for adapter in ADAPTERS.values() if any(re.match(adapter.MARK, name) for name in tensors)), None)
    if kin is not None:
        what = f"this looks like a detector of {kin.PROJECT}, but of a kind that is not supported"
        fix = "train a model of the zoo instead: onestage train DATA --model NAME"
        return WeightsError(what, where=path, got=got, expected=kin.TAKEN, fix=fix)
    expected = "a file of this project, or a detector of " + ", ".join(PROJECTS.values())
    fix = "a classifier's weights go to --backbone-weights (backbone_weights=)"
    return WeightsError("no known project's detector has such keys", where=path, got=got, expected=expected, fix=fix)
