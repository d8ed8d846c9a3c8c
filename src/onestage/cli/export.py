"""``onestage export``: a detector becomes a file that other programs run."""

from __future__ import annotations

import shlex
from collections.abc import Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from onestage.cli.output import say, tell
from onestage.errors import ConfigError, DataError, absent, command, counted, require

if TYPE_CHECKING:
    from torch import Tensor

    from onestage.data import Dataset
    from onestage.data.table import OnBad
    from onestage.deploy.export import Exported
    from onestage.deploy.int8 import Int8Data
    from onestage.deploy.plan import ExportConfig
    from onestage.model.detector import Detector

CHECKED_WITH = 20
"""Pictures of --data that the file is checked with."""


@dataclass(frozen=True)
class File:
    """What the file takes and gives."""

    HEADING: ClassVar[str] = "file"
    nms: Literal["graph", "none"] = "graph"
    """"none": the outputs of the network alone, with fixed shapes, for compilers that take nothing more."""
    batch: str = "any"
    """Pictures at once: a number, or any."""
    size: str | None = None
    """Height x width of the input, such as 320x480; "model" is the size it was trained with. By default that, and "any" for a
    RetinaNet, whose input follows the picture."""
    input: Literal["uint8", "float32"] | None = None
    """The type of the pixels, 0..255. By default uint8, and float32 for detectors that resize in float."""
    winograd: bool = True
    """Compute wide 3x3 convolutions with fewer multiplications: faster on a CPU. For a GPU, leave it out: --no-winograd"""
    overwrite: bool = False
    """Replace the files of an earlier export. Files that onestage did not export are never replaced."""


@dataclass(frozen=True)
class Numbers:
    """The numbers that the network computes with."""

    HEADING: ClassVar[str] = "precision"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """fp16: half the size. int8: a quarter of it and most often faster; needs labelled pictures in --data, and is written only
    if the AP stays good enough. For onnx and openvino."""
    calibrate: Path | None = None
    """int8: a folder of pictures that give the ranges of the numbers; by default the train split of --data, or its first
    half."""
    max_drop: float | None = None
    """int8: the most AP, 0..1, that it may cost, by default 0.005. Layers go back into float until it costs no more."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What to do about a bad annotation in --data: stop, or leave it out."""

    def __post_init__(self) -> None:
        for option, value in (("--calibrate", self.calibrate), ("--max-drop", self.max_drop)):
            what = f"{option} is for int8 alone"
            require(self.precision == "int8" or value is None, what, got=value, fix="leave it out, or add --precision int8")


def export(
    model: tyro.conf.Positional[str],
    /,
    *,
    to: Literal["onnx", "openvino", "torch", "ncnn", "litert"] = "onnx",
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    file: File = File(),
    numbers: Numbers = Numbers(),
    data: Path | None = None,
    check: bool = True,
    example: bool = False,
) -> int:
    """Write a detector to a file for other programs: pictures in, boxes out, by default with NMS inside.

    onestage export runs/first

    onestage export runs/first -o phone.onnx --batch 1

    onestage export runs/first --to openvino --precision int8 --data labelled/

    The file and the model run on the same pictures. If they do not find the same objects, no file is left. What goes in and
    comes out is in docs/deploy.md. Three test vectors are written beside the file.

    Args:
        model: a run folder, a .safetensors file, or published weights (see onestage models)
        to: the format of the file
        out: the file to write; by default the name of the model, in this folder
        data: a folder of pictures to check the file with, by default the package draws some; if they are labelled, the AP of
            the model and of the file is measured on them; int8 needs them
        example: also write a short program that uses the file: for onnx in Python, for ncnn in C++; no other format has one
        check: compare what the file finds with what the model finds
    """
    from onestage.cli.common import find_model
    from onestage.deploy.export import FORMATS, check_request
    from onestage.deploy.export import export as write

    config = replace(_config(file), precision=numbers.precision)
    path = out or Path((Path(model).name or "model").removesuffix(".safetensors") + FORMATS[to].suffix)
    check_request(path, to, config, check=check, example=example)
    _check_data(numbers, data, check=check)
    detector = find_model(model, device="cpu")
    given, pictures = _given(numbers, detector, data, Path(model))
    say((f"writing {path}: this takes {'minutes' if numbers.precision == 'int8' else 'up to a minute'}", "dim"))
    _show(write(detector, path, to=to, config=config, pictures=pictures, check=check, example=example, labelled=given), given)
    return 0


def _config(file: File) -> ExportConfig:
    """The options as a config. Raise ConfigError if a number or a size is none."""
    from onestage.cli.generate import parse_size
    from onestage.deploy.plan import ExportConfig

    if file.batch != "any" and not file.batch.isdecimal():
        raise ConfigError("--batch is a number, or any", got=file.batch, expected="any, or 1 or more", fix="--batch 8")
    size = None if file.size is None or file.size in ("any", "model") else parse_size(file.size, option="--size")
    return ExportConfig(
        nms=file.nms,
        batch=None if file.batch == "any" else int(file.batch),
        size="any" if file.size == "any" else "model" if file.size == "model" else size,
        pixels=file.input,
        winograd=file.winograd,
        overwrite=file.overwrite,
    )


def _check_data(numbers: Numbers, data: Path | None, *, check: bool) -> None:
    """Raise ConfigError or DataError if --data or --calibrate is missing, useless, or not there."""
    if data is None and numbers.precision == "int8":
        what = "int8 needs labelled pictures: its AP is measured on them"
        raise ConfigError(what, got="no --data", fix="--data FOLDER, a data set that onestage evaluate takes")
    if data is not None:
        require(check, "--data is what the file is checked with", got="--no-check", fix="leave one of both out")
    for option, path in (("--data", data), ("--calibrate", numbers.calibrate)):
        if path is not None and not path.exists():
            raise DataError(absent(path), where=f"{option} {path}", fix="correct the path")


def _given(
    numbers: Numbers, detector: Detector, data: Path | None, model: Path
) -> tuple[Dataset | Int8Data | None, list[Tensor] | None]:
    """The labelled pictures of --data, and some pictures of it, (3, H, W) uint8 each, to check the file with."""
    if (int8 := _int8(numbers, detector, data)) is not None:
        return int8, _pictures(Path(), int8.measure)
    if data is None:
        return None, None
    labelled = _labelled(detector, data, model, numbers.on_bad)
    return labelled, _pictures(data, labelled)


def _int8(numbers: Numbers, detector: Detector, data: Path | None) -> Int8Data | None:
    """The pictures for int8; None for other precisions."""
    from onestage.data.reader import open_data
    from onestage.deploy.int8 import MAX_DROP, Int8Data, divided
    from onestage.deploy.quantise import check_nncf
    from onestage.evaluation import read_for
    from onestage.predict.pictures import find_pictures

    if numbers.precision != "int8" or data is None:
        return None
    check_nncf()
    if numbers.calibrate is not None:
        measure = read_for(detector, data, split=None, on_bad=numbers.on_bad)
        calibrate: list[Path] = [Path(path) for path in find_pictures([str(numbers.calibrate)], results=Path("predictions"))]
    else:
        first, measure = divided(open_data(data), detector.classes, on_bad=numbers.on_bad)
        calibrate = [Path(path) for path in first.paths]
    return Int8Data(calibrate, measure, MAX_DROP if numbers.max_drop is None else numbers.max_drop)


def _labelled(detector: Detector, data: Path, model: Path, on_bad: OnBad = "stop") -> Dataset | None:
    """The data set that ``onestage evaluate`` measures the model on; None, and a word about it, without such labels."""
    from onestage.evaluation import data_to_measure

    try:
        return data_to_measure(detector, data, run=model, on_bad=on_bad)[0]
    except (DataError, ConfigError) as error:
        say(("no AP is measured:", "bold yellow"), f" {error.what}")
        return None


def _pictures(data: Path, labelled: Dataset | None) -> list[Tensor]:
    """The first pictures of a data set or of a folder, (3, H, W) uint8 each."""
    from onestage.images import decode_image
    from onestage.predict.pictures import find_pictures

    paths = find_pictures([str(data)], results=Path("predictions")) if labelled is None else labelled.paths
    return [decode_image(path) for path in paths[:CHECKED_WITH]]


def _show(made: Exported, labelled: Dataset | Int8Data | None) -> None:
    """What was written, and how well it agrees with the model."""
    contract = made.contract
    size = "any size" if contract.size is None else f"{contract.size[0]}x{contract.size[1]}"
    batch = "any number of pictures" if contract.batch is None else f"{contract.batch} at once"
    tell((str(made.path), "bold"), f": {made.size / 1e6:.1f} MB, {size}, {batch}")
    if made.path.suffix == ".pt2":
        opened = command("predict", made.path, "PICTURE", "--trusted")
        tell(f"a .pt2 file could run code, so it is opened with --trusted: {opened}")
    if contract.ending == "candidates":
        nms = type(contract.config.postprocess.nms).__name__
        tell(f"NMS is not in the file: ONNX has no {nms}. onestage applies it after the file")
    if made.example is not None:
        typed = shlex.join(["python", str(made.example), "PICTURE"])
        use = "its first lines say how to build it" if made.example.suffix == ".cpp" else typed
        tell(f"example: {made.example}, {use}")
    if made.seconds is None:
        say(("not checked:", "bold yellow"), " whether the file finds what the model finds")
        return
    if made.agreement is not None:
        pairs = f"{made.agreement.paired:,} of {made.agreement.compared:,} detections agree"
        tell(f"checked: {pairs}, with IoU of at least {made.agreement.iou:.4f} and scores within {made.agreement.score:.1e}")
        if made.agreement.slivers:
            tell(f"{made.agreement.slivers:,} of them are small boxes, whose sides agree; their IoU is less")
        if alone := made.agreement.compared - made.agreement.paired:
            tell(f"the other {alone:,} have no partner: if two boxes overlap almost as much as NMS allows, rounding decides")
    _show_int8(made)
    before, after = (1000 * seconds for seconds in made.seconds)
    tell(f"a picture takes {after:.0f} ms with the file, {before:.0f} ms with the model in torch")
    if made.AP is not None and isinstance(labelled, Sized):
        source, file = made.AP
        tell(f"AP on {counted(len(labelled), 'labelled picture')}: {file:.4f}; {source:.4f} in torch")
    tell(f"test vectors: {made.vectors}")


def _show_int8(made: Exported) -> None:
    """What int8 costs and what it gains."""
    found, gain = made.contract.quantised, made.int8
    if found is None or gain is None:
        return
    tell(f"AP {found.AP:.4f} in int8, {found.AP_fp32:.4f} in float32, on {counted(found.measured, 'picture')}")
    tell(f"difference {found.AP - found.AP_fp32:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}")
    tell(f"calibrated on {counted(found.calibrated, 'other picture')}")
    if found.in_float:
        tell(f"{counted(found.in_float, 'layer')} of {found.layers} stayed in float")
    (before, after), (slow, fast) = gain.bytes, gain.seconds
    sizes = f"{after / 1e6:.1f} MB in int8, {before / 1e6:.1f} MB in float32"
    tell(f"{sizes}; a picture takes {1000 * fast:.0f} ms in int8, {1000 * slow:.0f} ms in float32")
    if fast > slow:
        say(("slower:", "bold yellow"), " on this machine int8 is slower than float32 for this model")
