"""From a detector to a file that other programs run, checked when it is made.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from onestage.deploy.check import TOLERANCES, Agreement, check_file, drawn_pictures
from onestage.deploy.example import check_example, write_example
from onestage.deploy.onnx import export_onnx
from onestage.deploy.openvino import export_openvino
from onestage.deploy.plan import ExportConfig, Plan, plan_export
from onestage.deploy.pt2 import export_pt2
from onestage.deploy.vectors import write_vectors
from onestage.errors import ConfigError, WeightsError, nearest
from onestage.model.detector import Detector
from onestage.predict.contract import Contract
from onestage.predict.exported import open_exported
from onestage.predict.predictor import Predictor


@dataclass(frozen=True)
class Format:
    """A kind of file: how its name ends, and the function that writes it."""

    suffix: str
    write: Callable[[Plan, Path], None]


FORMATS = {
    "onnx": Format(".onnx", export_onnx),
    "openvino": Format(".xml", export_openvino),
    "torch": Format(".pt2", export_pt2),
}
"""By the names that ``export`` takes."""


@dataclass(frozen=True)
class Exported:
    """What was written. agreement: with the source, None if it was not checked. seconds: for one picture, source and file."""

    path: Path
    contract: Contract
    agreement: Agreement | None
    seconds: tuple[float, float] | None
    vectors: Path | None
    example: Path | None


def export(
    detector: Detector,
    path: str | Path,
    *,
    to: str = "onnx",
    config: ExportConfig | None = None,
    pictures: Sequence[Tensor] | None = None,
    check: bool = True,
    example: bool = False,
) -> Exported:
    """Write the detector to a file of the format ``to``. The file appears only after it found what the detector finds.

    pictures: (3, H, W) uint8 each, to check it with; by default drawn ones. Three test vectors are written beside the file, and
    with ``example`` a stand-alone program that uses it.

    Raise ConfigError if the format cannot hold this detector, WeightsError if the file finds other objects than the detector.
    """
    if to not in FORMATS:
        raise ConfigError(f"no such format{nearest(to, FORMATS)}", got=to, expected=", ".join(FORMATS))
    path, form = Path(path), FORMATS[to]
    if path.suffix != form.suffix:
        raise ConfigError(f"the name of the file ends with {form.suffix}", got=path, fix=f"{path.with_suffix(form.suffix)}")
    plan = plan_export(detector, config or ExportConfig())
    plan = Plan(plan.detector, replace(plan.contract, checked=check))
    if example:
        check_example(plan.contract, form.suffix)
    agreement = seconds = vectors = None
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=_folder(path)) as folder:
        draft = Path(folder) / path.name
        form.write(plan, draft)
        if check:
            file, images = open_exported(draft, trusted=True), list(pictures or drawn_pictures())
            agreement = check_file(plan.detector, file, images, TOLERANCES[plan.contract.precision])
            seconds = _time(Predictor.of(plan.detector), images[0]), _time(file, images[0])
            vectors = write_vectors(path, file, images[:3])
        for part in sorted(Path(folder).iterdir(), key=lambda part: part == draft):  # weights first, the file itself last
            part.replace(path.with_name(part.name))
    program = write_example(path) if example else None
    return Exported(path, plan.contract, agreement, seconds, vectors, program)


def _folder(path: Path) -> Path:
    """The folder of the file. Raise WeightsError if it does not exist, or takes no files."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise WeightsError("the file cannot be written here", where=path.parent, fix="name a folder that exists")
    return path.parent


def _time(predictor: Predictor, picture: Tensor, turns: int = 3) -> float:
    """The least seconds of some turns on one picture (3, H, W)."""
    taken = []
    for _ in range(turns):
        began = time.perf_counter()
        predictor.detect([picture])
        taken.append(time.perf_counter() - began)
    return min(taken)
