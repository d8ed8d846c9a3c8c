"""From a detector to a file that other programs run, checked when it is made.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from onestage.data import Dataset
from onestage.deploy.accuracy import accuracy
from onestage.deploy.check import TOLERANCE, Agreement, check_file, drawn_pictures
from onestage.deploy.example import check_example, example_place, write_example
from onestage.deploy.litert import export_litert, litert_config
from onestage.deploy.ncnn import export_ncnn, ncnn_config
from onestage.deploy.onnx import export_onnx
from onestage.deploy.openvino import export_openvino
from onestage.deploy.plan import ExportConfig, Plan, plan_export
from onestage.deploy.pt2 import export_pt2
from onestage.deploy.vectors import write_vectors
from onestage.errors import ConfigError, OnestageError, WeightsError, known_keywords, nearest
from onestage.files import TEMPORARY, given_path, remove_leftovers, writing
from onestage.model.detector import Detector
from onestage.predict.contract import Contract
from onestage.predict.exported import open_exported
from onestage.predict.predictor import Predictor
from onestage.predict.seal import write_seal


@dataclass(frozen=True)
class Format:
    """A kind of file: how its name ends, and the function that writes it. parts: the ends of the names of further files.
    config: what becomes of a user's config, for files that can hold but one kind of graph.
    """

    suffix: str
    write: Callable[[Plan, Path], None]
    parts: tuple[str, ...] = ()
    config: Callable[[ExportConfig], ExportConfig] | None = None


FORMATS = {
    "onnx": Format(".onnx", export_onnx),
    "openvino": Format(".xml", export_openvino, parts=(".bin",)),
    "torch": Format(".pt2", export_pt2),
    "ncnn": Format(".ncnn.param", export_ncnn, parts=(".bin", ".json"), config=ncnn_config),
    "litert": Format(".tflite", export_litert, config=litert_config),
}
"""By the names that ``export`` takes."""


@dataclass(frozen=True)
class Exported:
    """What was written. agreement: with the source, None if it was not checked. seconds: for one picture, source and file.
    AP: on labelled pictures, source and file, None without them.
    """

    path: Path
    contract: Contract
    agreement: Agreement | None
    seconds: tuple[float, float] | None
    vectors: Path | None
    example: Path | None
    AP: tuple[float, float] | None = None

    @property
    def size(self) -> int:
        """The bytes of the file and of its further files."""
        form = next(form for form in FORMATS.values() if self.path.name.endswith(form.suffix))
        return sum(self.path.with_suffix(end).stat().st_size for end in (self.path.suffix, *form.parts))


@known_keywords
def export(
    detector: Detector,
    path: str | Path,
    *,
    to: str = "onnx",
    config: ExportConfig | None = None,
    pictures: Sequence[Tensor] | None = None,
    check: bool = True,
    example: bool = False,
    labelled: Dataset | None = None,
) -> Exported:
    """Write the detector to a file of the format ``to``. The file appears only after it found what the detector finds.

    pictures: (3, H, W) uint8 each, to check it with; by default drawn ones. Three test vectors are written beside the file, and
    with ``example`` a stand-alone program that uses it. labelled: pictures on which the AP of both is measured, with the
    detector's classes. No file is replaced.

    Raise ConfigError if the format cannot hold this detector or something of these names exists, WeightsError if the file finds
    other objects than the detector.
    """
    if to not in FORMATS:
        raise ConfigError(f"no such format{nearest(str(to), FORMATS)}", got=to, expected=", ".join(FORMATS))
    path, form = given_path(path, "path"), FORMATS[to]
    targets = _targets(path, form)
    config = config or ExportConfig()
    plan = plan_export(detector, form.config(config) if form.config else config)
    plan = replace(plan, contract=replace(plan.contract, checked=check))
    if example:
        check_example(plan.contract, form.suffix)
    images = drawn_pictures() if pictures is None else list(pictures)
    remove_leftovers(path.parent)
    with writing(path), tempfile.TemporaryDirectory(prefix=f".{path.stem[:50]}-", suffix=TEMPORARY, dir=path.parent) as folder:
        draft = Path(folder) / path.name
        _write(plan, form, draft, to)
        agreement, seconds = _checked(plan.detector, draft, images) if check else (None, None)
        found = _accuracies(plan.detector, draft, labelled) if check and labelled is not None else None
        if example:
            write_example(draft, plan.contract, form.suffix)
        for target in targets:  # the file itself is the last
            if (made := draft.with_name(target.name)).exists():
                made.replace(target)
    vectors, program = targets[0] if check else None, targets[1] if example else None
    return Exported(path, plan.contract, agreement, seconds, vectors, program, found)


def _targets(path: Path, form: Format) -> list[Path]:
    """All files and folders that an export may write: vectors, example, further files, and last the file itself.

    Raise ConfigError if the name has another end, or if one of them exists.
    """
    if not path.name.endswith(form.suffix):
        raise ConfigError(f"the name of the file ends with {form.suffix}", got=path, fix=f"{path.name}{form.suffix}")
    beside = (f"{path.stem}_vectors", example_place(path, form.suffix).name, *(f"{path.stem}{part}" for part in form.parts))
    targets = [*(path.with_name(name) for name in beside), path]
    for target in targets:
        if target.exists():
            raise ConfigError("the file to write exists already", where=target, fix="name another one, or move it away")
    if not path.parent.is_dir():
        raise ConfigError("there is no such folder to write into", where=path.parent, fix="create it, or name another one")
    return targets


def check_targets(path: Path, to: str) -> None:
    """Raise ConfigError if an export to this place would fail: before the work begins."""
    _targets(path, FORMATS[to])


def _write(plan: Plan, form: Format, draft: Path, to: str) -> None:
    """Write the file. What the exporters of torch and others raise becomes a WeightsError that names detector and format."""
    try:
        form.write(plan, draft)
        write_seal(draft)
    except (OnestageError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        what = f"this detector cannot be exported to {to}"
        raise WeightsError(what, where=plan.contract.config.name, got=got, fix="try another format: --to") from error


def _checked(source: Detector, draft: Path, pictures: Sequence[Tensor]) -> tuple[Agreement, tuple[float, float]]:
    """How the file agrees with its source on pictures (3, H, W), and the seconds of both. Write the test vectors beside it."""
    file = open_exported(draft, trusted=True)
    agreement = check_file(source, file, pictures, TOLERANCE)
    write_vectors(draft, file, pictures[:3])
    return agreement, (_time(Predictor.of(source), pictures[0]), _time(file, pictures[0]))


def _accuracies(source: Detector, draft: Path, labelled: Dataset) -> tuple[float, float]:
    """The AP of both on labelled pictures."""
    return accuracy(source, labelled).AP, accuracy(open_exported(draft, trusted=True), labelled).AP


def _time(predictor: Predictor, picture: Tensor, turns: int = 3) -> float:
    """The least seconds of some turns on one picture (3, H, W)."""
    taken = []
    for _ in range(turns):
        began = time.perf_counter()
        predictor.detect([picture])
        taken.append(time.perf_counter() - began)
    return min(taken)
