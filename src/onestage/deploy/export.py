"""From a detector to a file that other programs run, checked when it is made.

Shape letters: H and W of a picture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onestage.data import Dataset
from onestage.deploy.accuracy import accuracy
from onestage.deploy.benchmark import least_seconds
from onestage.deploy.check import IN_HALF, TOLERANCE, Agreement, check_file, drawn_pictures
from onestage.deploy.example import EXAMPLES, check_example, example_place, write_example
from onestage.deploy.int8 import Int8Data, Save, write_int8
from onestage.deploy.litert import export_litert, litert_config
from onestage.deploy.ncnn import export_ncnn, ncnn_config
from onestage.deploy.onnx import export_onnx, onnx_model, save_onnx
from onestage.deploy.openvino import export_openvino, save_openvino
from onestage.deploy.plan import ExportConfig, Plan, plan_export
from onestage.deploy.pt2 import export_pt2
from onestage.deploy.targets import check_targets, is_exported, put_in_place
from onestage.deploy.vectors import vectors_place, write_vectors
from onestage.errors import ConfigError, OnestageError, UnfitError, WeightsError, known_keywords, nearest
from onestage.files import UNWRITABLE, given_path, temporary_folder, writing
from onestage.images import decode_image
from onestage.model.detector import Detector
from onestage.predict.contract import PRECISIONS, Contract, Precision
from onestage.predict.exported import open_exported
from onestage.predict.predictor import Predictor, not_a_detector
from onestage.predict.seal import write_seal

if TYPE_CHECKING:
    import onnx


USUAL = ExportConfig()

CHECKED_WITH = 5
"""Labelled pictures that the float32 file behind an int8 file is checked with."""


@dataclass(frozen=True)
class Format:
    """A kind of file: how its name ends, and the function that writes it. parts: the ends of the names of further files.
    config: for formats that hold only one kind of graph, it changes the user's config to that kind. save: for formats that hold
    fewer bits than float32, it writes an ONNX model in this format.
    """

    suffix: str
    write: Callable[[Plan, Path], None]
    parts: tuple[str, ...] = ()
    config: Callable[[ExportConfig], ExportConfig] | None = None
    save: Save | None = None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that files of this kind hold."""
        return ("fp32",) if self.save is None else PRECISIONS

    def bytes_of(self, path: Path) -> int:
        """The bytes of the file at ``path`` and of its further files."""
        return sum(path.with_suffix(end).stat().st_size for end in (path.suffix, *self.parts))


FORMATS = {
    "onnx": Format(".onnx", export_onnx, save=save_onnx),
    "openvino": Format(".xml", export_openvino, parts=(".bin",), save=save_openvino),
    "torch": Format(".pt2", export_pt2),
    "ncnn": Format(".ncnn.param", export_ncnn, parts=(".bin", ".json"), config=ncnn_config),
    "litert": Format(".tflite", export_litert, config=litert_config),
}
"""By the names that ``export`` takes."""


@dataclass(frozen=True)
class Exported:
    """What was written. agreement: with the source, None for int8 files and if it was not checked. seconds: for one picture,
    source and file. int8: what an int8 file gains. AP: on labelled pictures, source and file, None without them.
    """

    path: Path
    contract: Contract
    agreement: Agreement | None
    seconds: tuple[float, float] | None
    vectors: Path | None
    example: Path | None
    AP: tuple[float, float] | None = None
    int8: Int8Gain | None = None

    @property
    def size(self) -> int:
        """The bytes of the file and of its further files."""
        return next(form for form in FORMATS.values() if self.path.name.endswith(form.suffix)).bytes_of(self.path)


@dataclass(frozen=True)
class Int8Gain:
    """The bytes, and the seconds for one picture, of a file in float32 and in int8."""

    bytes: tuple[int, int]
    seconds: tuple[float, float]


@known_keywords
def export(
    detector: Detector,
    path: str | Path,
    *,
    to: str = "onnx",
    config: ExportConfig = USUAL,
    pictures: Sequence[Tensor] | None = None,
    check: bool = True,
    example: bool = False,
    labelled: Dataset | Int8Data | None = None,
) -> Exported:
    """Write the detector to a file of the format ``to``. The file appears only after it found what the detector finds.

    pictures: (3, H, W) uint8 each, to check it with; by default drawn ones, or for int8 some of the labelled ones. Three test
    vectors are written beside the file, and with ``example`` a program that uses it. labelled: pictures on which the AP of both
    is measured, with the detector's classes; for an int8 file, what it is made and measured with. No file is replaced,
    unless the config says ``overwrite`` and an earlier export wrote it.

    Raise ConfigError if the format cannot hold this detector or something of these names exists, WeightsError if the file finds
    other objects than the detector, or if int8 costs too much AP.
    """
    if not isinstance(detector, Detector):
        raise not_a_detector(detector)
    path = given_path(path, "path")
    check_request(path, to, config, check=check, example=example)
    form = FORMATS[to]
    plan = plan_export(detector, form.config(config) if form.config else config)
    plan = replace(plan, contract=replace(plan.contract, checked=check))
    if example:
        check_example(plan.contract, path, form.suffix)
    _check_labelled(config.precision, labelled, check=check)
    images = _usual_pictures(labelled) if pictures is None else _given_pictures(pictures)
    with temporary_folder(path) as folder:
        draft = folder / path.name
        with _exporting(plan, to, path):
            plan, gain = _written(plan, form, draft, labelled, images)
        agreement, seconds = _checked(plan, draft, images) if check else (None, None)
        found = _accuracies(plan.detector, draft, labelled) if check and isinstance(labelled, Dataset) else None
        if example:
            write_example(draft, plan.contract, form.suffix)
        targets = _targets(path, form, check=check, example=example, overwrite=config.overwrite)  # again: this took long
        with writing(path):
            put_in_place(folder, targets)
    vectors, program = vectors_place(path) if check else None, example_place(path, form.suffix) if example else None
    return Exported(path, plan.contract, agreement, seconds, vectors, program, found, gain)


def _usual_pictures(labelled: Dataset | Int8Data | None) -> Sequence[Tensor]:
    """Pictures (3, H, W) uint8 to check a file with: some that an int8 file is measured with, otherwise drawn ones."""
    if isinstance(labelled, Int8Data):
        return [decode_image(path) for path in labelled.measure.paths[:CHECKED_WITH]]
    return drawn_pictures()


def _given_pictures(pictures: Sequence[Tensor]) -> Sequence[Tensor]:
    """The pictures of a user, once. Raise ConfigError unless they are one or more, each (3, H, W) uint8."""
    if not isinstance(pictures, Iterable):
        what, expected = "a file is checked with tensors", "a list of tensors (3, H, W) uint8, RGB"
        raise ConfigError(what, where="pictures", got=f"a {type(pictures).__name__}", expected=expected)
    pictures = list(pictures)
    for number, picture in enumerate(pictures):
        if not isinstance(picture, Tensor) or picture.dtype != torch.uint8 or picture.shape[:-2] != (3,) or not picture.numel():
            shape = f"{picture.dtype} {tuple(picture.shape)}" if isinstance(picture, Tensor) else f"a {type(picture).__name__}"
            what, fix = "a file is checked with tensors", "read files with onestage.images.decode_image(path)"
            raise ConfigError(what, where=f"pictures[{number}]", got=shape, expected="(3, H, W) uint8, RGB", fix=fix)
    if not len(pictures):
        raise ConfigError(
            "there is no picture to check the file with", got="pictures=[]", fix="leave pictures out, or check=False"
        )
    return pictures


def _targets(path: Path, form: Format, *, check: bool, example: bool, overwrite: bool) -> list[Path]:
    """The files and folders that an export writes: vectors, example, further files, and last the file itself. overwrite: also
    the vectors of an earlier export, which say nothing of the new file.

    Raise ConfigError if the name has another end, or if one of them exists that may not be replaced, WriteError if the system
    does not take a name.
    """
    if not path.name.endswith(form.suffix) or path.name == form.suffix:
        fix = f"such as {path.with_name('model' if path.name.startswith('.') else path.stem)}{form.suffix}"
        raise ConfigError(f"the name of the file must end with {form.suffix}", got=path, fix=fix)
    vectors = [vectors_place(path)] if check or (overwrite and is_exported(vectors_place(path))) else []
    examples = [example_place(path, form.suffix)] if example and form.suffix in EXAMPLES else []
    parts = [*(path.with_name(f"{path.stem}{part}") for part in form.parts), path]
    targets = [*vectors, *examples, *parts]
    check_targets(targets, parts, overwrite=overwrite)
    if not path.parent.is_dir():
        raise ConfigError("there is no such folder to write into", where=path.parent, fix="create it, or name another one")
    return targets


def checked_config(config: object) -> ExportConfig:
    """The same config. Raise ConfigError if it is something else."""
    if not isinstance(config, ExportConfig):
        raise ConfigError("config is an ExportConfig", got=repr(config), fix='config=onestage.ExportConfig(precision="fp16")')
    return config


def check_request(path: Path, to: str, config: ExportConfig, *, check: bool, example: bool) -> None:
    """Raise ConfigError if an export to this place would fail whatever the detector is: before the work begins.

    to, check, example: as for ``export``.
    """
    if to not in FORMATS:
        what, fix = f"no such format{nearest(str(to), FORMATS)}", 'such as to="onnx"'
        raise ConfigError(what, where="to", got=to, expected=", ".join(FORMATS), fix=fix)
    checked_config(config)
    form, precision = FORMATS[to], config.precision
    if form.config is not None:
        form.config(config)  # raises for what this format does not hold
    if precision not in form.precisions:
        able = " or ".join(name for name, other in FORMATS.items() if precision in other.precisions)
        what, expected = f"files of the format {to} cannot be in {precision}", ", ".join(form.precisions)
        fix = f"leave precision= out, or choose another format: to={able}"
        raise ConfigError(what, got=precision, expected=expected, fix=fix)
    if precision == "int8" and not check:
        what = "an int8 file is always measured, because its boxes are others than those of the model"
        raise ConfigError(what, got="no check", fix="leave check=False out")
    if example and form.suffix not in EXAMPLES:
        what, expected = f"there is no example for files of the format {to}", "an ONNX file with NMS, or one for ncnn"
        raise ConfigError(what, got=form.suffix, expected=expected, fix="leave example=True out, or choose to=onnx")
    _targets(path, form, check=check, example=example, overwrite=config.overwrite)


def _check_labelled(precision: Precision, labelled: Dataset | Int8Data | None, *, check: bool) -> None:
    """Raise ConfigError if int8 lacks what it is made with, or if pictures are given that nothing is measured on."""
    if (precision == "int8") != isinstance(labelled, Int8Data):
        what = "int8 is made with labelled pictures, and no other precision is"
        fix = 'export(..., config=ExportConfig(precision="int8"), labelled=Int8Data(...))'
        raise ConfigError(what, got=precision, fix=fix)
    if labelled is not None and not check:
        raise ConfigError("labelled pictures are what the file is measured on", got="check=False", fix="leave one of both out")


@contextlib.contextmanager
def _exporting(plan: Plan, to: str, path: Path) -> Iterator[None]:
    """What the exporters of torch and others raise becomes a WeightsError that names detector and format. It is an UnfitError,
    unless the system refused something: a WriteError if it could not write, for which another format is no remedy. A
    MemoryError stays as it is.
    """
    try:
        yield
    except (OnestageError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            named = error.filename if isinstance(error.filename, str | os.PathLike) else path  # it may be a number
            with writing(Path(named), "the system could not write a file for this export"):
                raise
        got = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        what = f"this detector cannot be exported to {to}"
        kind = WeightsError if isinstance(error, OSError) else UnfitError
        raise kind(what, where=plan.contract.config.name, got=got, fix="try another format: to=") from error


def _written(
    plan: Plan, form: Format, draft: Path, labelled: Dataset | Int8Data | None, pictures: Sequence[Tensor]
) -> tuple[Plan, Int8Gain | None]:
    """Write the file in its precision. The plan with the contract that the file has, and what int8 gains."""
    if isinstance(labelled, Int8Data):
        contract, gain = _in_int8(plan, form, draft, labelled, pictures)
        return replace(plan, contract=contract), gain
    form.write(plan, draft)
    write_seal(draft)
    return plan, None


def _in_int8(plan: Plan, form: Format, draft: Path, data: Int8Data, pictures: Sequence[Tensor]) -> tuple[Contract, Int8Gain]:
    """Write the file in float32, check it with pictures (3, H, W), and make the int8 file of it."""
    save = form.save
    assert save is not None

    def sealed(model: onnx.ModelProto, path: Path) -> None:
        save(model, path)
        write_seal(path)

    contract = replace(plan.contract, precision="fp32")
    model = onnx_model(Plan(plan.detector, contract))
    with temporary_folder(draft) as folder:
        path = folder / draft.name
        sealed(model, path)
        file = open_exported(path)
        if data.compared:
            check_file(plan.detector, file, pictures, TOLERANCE)
        quantised = write_int8(model, file, draft, sealed, data)
        before, after = least_seconds([file, open_exported(draft)], pictures[:1])
        gain = Int8Gain((form.bytes_of(path), form.bytes_of(draft)), (before, after))
    return replace(contract, precision="int8", quantised=quantised), gain


def _checked(plan: Plan, draft: Path, pictures: Sequence[Tensor]) -> tuple[Agreement | None, tuple[float, float]]:
    """How the file agrees with its source on pictures (3, H, W), and the seconds of both. Write the test vectors beside it.

    An int8 file finds other boxes; its AP was measured instead.
    """
    file, precision, agreement = open_exported(draft, trusted=True), plan.contract.precision, None
    if precision != "int8":
        agreement = check_file(plan.detector, file, pictures, IN_HALF if precision == "fp16" else TOLERANCE)
    write_vectors(draft, file, pictures[:3])
    source, after = least_seconds([Predictor.of(plan.detector), file], pictures[:1])
    return agreement, (source, after)


def _accuracies(source: Detector, draft: Path, labelled: Dataset) -> tuple[float, float]:
    """The AP of both on labelled pictures."""
    return accuracy(source, labelled).AP, accuracy(open_exported(draft, trusted=True), labelled).AP
