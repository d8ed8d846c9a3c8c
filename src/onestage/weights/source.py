"""Whose weights a file holds: it is recognised by its keys, never by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from onestage.errors import OnestageError, WeightsError, nearest
from onestage.model.config import DetectorConfig
from onestage.weights.class_names import Classes
from onestage.weights.detector_file import read_config
from onestage.weights.foreign_file import load_foreign
from onestage.weights.projects import amdegroot as adapt_amdegroot
from onestage.weights.projects import d2l as adapt_d2l
from onestage.weights.projects import effdet as adapt_effdet
from onestage.weights.projects import lufficc as adapt_lufficc
from onestage.weights.projects import qfgaohao as adapt_qfgaohao
from onestage.weights.projects import torchvision as adapt_torchvision
from onestage.weights.projects.tflite import ssd as adapt_tflite
from onestage.weights.tensor_file import is_safetensors, is_tflite, load_tensors


class Adapter(Protocol):
    """What a module ``adapt_*.py`` offers for the checkpoints of a foreign project."""

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

    def classes(self, tensors: Mapping[str, Tensor]) -> Classes:
        """What its class outputs stand for; classes by number where nobody knows."""

    def convert(self, tensors: Mapping[str, Tensor], config: DetectorConfig, /) -> tuple[dict[str, Tensor], DetectorConfig]:
        """The tensors under our names, and the zoo's config for these classes as the weights need it: with their pixels,
        default boxes, postprocessing.
        """


ADAPTERS: Mapping[str, Adapter] = {
    "torchvision": adapt_torchvision,
    "qfgaohao": adapt_qfgaohao,
    "amdegroot": adapt_amdegroot,
    "lufficc": adapt_lufficc,
    "effdet": adapt_effdet,
    "d2l": adapt_d2l,
}
"""Foreign projects whose files are state_dicts, in the order they are asked."""


DOUBTS: Mapping[str, Callable[[Mapping[str, Tensor]], str]] = {"effdet": adapt_effdet.doubt}
"""Of those whose files do not say which pixels they want: what to tell who imports them, or nothing."""


OWN, TFLITE = "onestage", "tflite"


Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]


PROJECTS = {name: adapter.PROJECT for name, adapter in ADAPTERS.items()} | {TFLITE: "the TF object-detection API, as TFLite"}
"""All foreign projects by the short names that ``onestage import --from`` takes, and what they are called in messages."""


@dataclass(frozen=True)
class Source:
    """Weights of a whole detector, read and recognised. origin: a key of PROJECTS, or OWN. model: the zoo's name of it.

    own: the config that the file itself holds, as ours and TensorFlow Lite's do. pixels: mean and std that the input needs,
    from somebody who knows; doubt: where the tensors leave that open, what to tell.
    """

    path: Path
    origin: str
    model: str
    classes: Classes
    tensors: Mapping[str, Tensor]
    own: DetectorConfig | None = None
    pixels: Pixels | None = None
    doubt: str = ""

    def renamed(self, classes: Classes) -> Source:
        """The same weights with their K classes named by somebody who knows."""
        own = self.own and replace(self.own, classes=classes.names, category_ids=classes.ids)
        return replace(self, classes=classes, own=own)


def read_source(path: Path, origin: str | None = None) -> Source:
    """The weights in a file, our own or of a known project; ``origin`` insists on one.

    WeightsError where the file is damaged, unknown, or of another project than that.
    """
    if origin not in (None, *PROJECTS):
        what = f"no project '{origin}' is known{nearest(str(origin), PROJECTS)}"
        raise WeightsError(what, expected=", ".join(PROJECTS), fix="leave it out: the file tells by itself")
    if is_tflite(path):
        _insist(TFLITE, origin, path)
        return _with_config(path, TFLITE, *adapt_tflite.read(path))
    own = read_config(path) if is_safetensors(path) else None
    if own is not None:
        _insist(OWN, origin, path)
        return _with_config(path, OWN, own, load_tensors(path)[0])
    tensors = load_foreign(path)
    found = next((name for name in ADAPTERS if _recognises(name, tensors, path)), None)
    if found is None:
        raise _unknown(tensors, path)
    _insist(found, origin, path)
    adapter = ADAPTERS[found]
    with _adapting(found, path):
        doubt = DOUBTS[found](tensors) if found in DOUBTS else ""
        return Source(path, found, adapter.model(tensors), adapter.classes(tensors), tensors, doubt=doubt)


def _recognises(origin: str, tensors: Mapping[str, Tensor], path: Path) -> bool:
    with _adapting(origin, path):
        return ADAPTERS[origin].recognises(tensors)


@contextmanager
def _adapting(origin: str, path: Path) -> Iterator[None]:
    """Turns what tensors that are missing or misshapen lead to into a WeightsError that names the file."""
    try:
        yield
    except KeyError as e:
        raise _incomplete(origin, path, e) from e
    except OnestageError as e:
        raise WeightsError.of(e, path) from e
    except (TypeError, IndexError, ValueError, RuntimeError, ArithmeticError) as e:
        what = f"this looks like a detector of {PROJECTS.get(origin, OWN)}, but its tensors have other shapes"
        fix = "take the whole state_dict of the detector, as its own project saves it"
        raise WeightsError(what, where=path, got=f"{type(e).__name__}: {e}", fix=fix) from e


def _with_config(path: Path, origin: str, own: DetectorConfig, tensors: Mapping[str, Tensor]) -> Source:
    return Source(path, origin, own.name, Classes(own.classes, own.category_ids), tensors, own)


def _insist(found: str, origin: str | None, path: Path) -> None:
    if origin not in (None, found):
        what = f"this file is not of {PROJECTS[str(origin)]}"
        whose = PROJECTS.get(found, "this project itself")
        raise WeightsError(what, where=path, got=f"a detector of {whose}", fix="leave the project out")


def _unknown(tensors: Mapping[str, Tensor], path: Path) -> WeightsError:
    got = ", ".join(list(tensors)[:5]) + ", ..."
    kin = next((adapter for adapter in ADAPTERS.values() if any(re.match(adapter.MARK, name) for name in tensors)), None)
    if kin is not None:
        what = f"this looks like a detector of {kin.PROJECT}, but of a kind that is not supported"
        return WeightsError(
            what,
            where=path,
            got=got,
            expected=kin.TAKEN,
            fix="train a model of the zoo instead: onestage train DATA --model NAME",
        )
    return WeightsError(
        "no known project's detector has such keys",
        where=path,
        got=got,
        expected="a file of this project, or a detector of " + ", ".join(PROJECTS.values()),
        fix="a classifier's weights go to --backbone-weights (backbone_weights=)",
    )


def _incomplete(origin: str, path: Path, missing: KeyError) -> WeightsError:
    what = f"this looks like a detector of {PROJECTS.get(origin, OWN)}, but tensors are missing"
    return WeightsError(what, where=path, got=f"no {missing}", fix="take the whole state_dict of the detector")
