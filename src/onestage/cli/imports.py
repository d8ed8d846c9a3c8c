"""``onestage import``: a checkpoint of another project becomes a file of this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from onestage.cli.output import say, tell
from onestage.errors import ConfigError, OnestageError, WeightsError, absent, command

if TYPE_CHECKING:
    from onestage.model.config import DetectorConfig
    from onestage.model.detector import Detector
    from onestage.weights.source import Source

BACKGROUND_NAMES = {"background", "__background__", "???"}
"""The names of the class before the first one in label files, in lower case."""
PLACEHOLDERS = {"???", "n/a"}
"""The names that they give to unused classes, in lower case. Such names get a number, as in COCO_90, because names
are unique.
"""
SHOWN = 8
"""Class names in the summary."""


def import_weights(
    file: tyro.conf.Positional[Path],
    /,
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    origin: Annotated[str | None, tyro.conf.arg(name="from", metavar="PROJECT")] = None,
    model: str | None = None,
    classes: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME [NAME ...]|FILE")] = None,
    pixels: Literal["half", "imagenet"] | None = None,
    background: Literal["first", "none"] | None = None,
    overwrite: bool = False,
) -> int:
    """Turn another project's checkpoint into a detector that every verb takes.

    onestage import mb1-ssd-Epoch-99.pth -o mine.safetensors --classes labels.txt

    onestage import tf_efficientdet_d0_34-f153e0cf.pth --from effdet --model efficientdet_d0 -o d0.safetensors

    The file is read without running anything in it.

    Args:
        file: a state_dict (.pth, .pt, .safetensors) or a TensorFlow Lite file of an SSD
        out: the file to write, .safetensors
        origin: the project it is from, if you want to be sure: torchvision, effdet, qfgaohao (jetson-inference), ...
        model: its name in the zoo, if you want to be sure: see onestage models
        classes: the names of its classes in its order, or a file with one name per line; by default those of COCO or VOC
            if the number fits, otherwise numbers
        pixels: mean and standard deviation of the input's pixels: half (0.5 each) or imagenet; by default what the model's
            usual files need. EfficientDets trained with AdvProp (tf_efficientdet_*_ap) need half, but their files do not say so
        background: whether the first output of a RetinaNet of torchvision stands for background (first) or for a class (none);
            the number of names in --classes says it too
        overwrite: replace a detector of onestage in the file to write; other files are never replaced
    """
    if out.suffix != ".safetensors":
        raise WeightsError("the file to write is a .safetensors file", got=out, fix=f"-o {out.with_suffix('.safetensors')}")
    _check_free(out, overwrite=overwrite)
    _check_file(file)
    source = _read(file, origin, None if classes is None else _class_names(classes), pixels, background)
    detector = create(model or _only_model(source), weights=source)
    detector.save(out)
    _show(source, detector, out)
    return 0


def _check_file(file: Path) -> None:
    """Raise WeightsError unless there is a file of that name."""
    from onestage.weights.tensor_file import MODEL_FILES

    if file.exists() and not file.is_file():
        raise WeightsError.no_file(file, "a checkpoint of another project", ends=(*MODEL_FILES, ".tflite"))
    if not file.exists():
        raise WeightsError(absent(file, "there is no such file"), where=file, fix="check the path")


def _check_free(out: Path, *, overwrite: bool) -> None:
    """Raise WeightsError if there is something in the place of the file to write that may not be replaced."""
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        fix = "name another one, move it away, or replace a detector of onestage: --overwrite"
        raise WeightsError("the file to write exists already", where=out, fix=fix)
    from onestage.weights.source import OURS

    try:
        ours = read_source(out, None).origin == OURS
    except OnestageError:
        ours = False
    if not ours:
        what, fix = "this is in the way, and onestage did not write it", "name another file, or move it away"
        raise WeightsError(what, where=out, fix=fix)


def _read(
    file: Path,
    origin: str | None,
    classes: tuple[str, ...] | None,
    pixels: Literal["half", "imagenet"] | None,
    background: Literal["first", "none"] | None,
) -> Source:
    """The weights in a file of another project, with the class names and the pixels that the user gives."""
    from onestage.weights.source import OURS
    from onestage.zoo.efficientdet import HALF, IMAGENET

    source = read_source(file, origin)
    if source.origin == OURS:
        raise WeightsError("this is a detector of onestage already", where=file, fix="use it as it is")
    source = source.settled(None if classes is None else len(classes), background)
    if classes is not None:
        source = _named(source, classes)
    if pixels is not None:
        source = replace(source, pixels={"half": HALF, "imagenet": IMAGENET}[pixels])
    return source


def read_source(file: Path, origin: str | None) -> Source:
    """As in weights.source, which is imported when it is needed."""
    from onestage.weights import source

    return source.read_source(file, origin)


def create(name: str, *, weights: Source) -> Detector:
    """As in creation, which is imported when it is needed."""
    from onestage import creation

    return creation.create(name, weights=weights)


def _only_model(source: Source) -> str:
    """The model that the tensors belong to. Raise WeightsError if they also fit another model."""
    from onestage.zoo.efficientdet import TWINS

    if source.model in TWINS:
        what = f"this is {source.model} or {TWINS[source.model]}: say --model"
        fix = f"--model {source.model} or --model {TWINS[source.model]}: they differ in anchors and input"
        raise WeightsError(what, where=source.path, fix=fix)
    return source.model


def _class_names(given: Sequence[str]) -> tuple[str, ...]:
    """The given names, or those in the given file. Background, which comes first in label files, is left out.

    Raise ConfigError for a file that is not text, and for a name that occurs twice.
    """
    from_file = len(given) == 1 and Path(given[0]).is_file()
    lines = _lines(Path(given[0])) if from_file else list(given)
    names = list(filter(None, lines)) if from_file else lines
    names = names[1:] if names and names[0].lower() in BACKGROUND_NAMES else names
    names = [f"{name} {i}" if name.lower() in PLACEHOLDERS else name for i, name in enumerate(names, start=1)]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        at = " and ".join(str(number) for number, line in enumerate(lines, start=1) if line == twice)
        where = f"{given[0]}, lines {at}" if from_file else f"--classes, names {at}"
        raise ConfigError("every class name stands only once", where=where, got=twice, fix="rename one of them")
    return tuple(names)


def _lines(file: Path) -> list[str]:
    """The lines of a text file, without the spaces around them."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as e:
        raise ConfigError("the file of class names is not text", where=file, expected="a name per line") from e


def _named(source: Source, names: tuple[str, ...]) -> Source:
    """The same weights with the class names that the user gave."""
    from onestage.structures import ClassSet
    from onestage.weights.class_names import ids_of

    count = len(source.classes.names)
    if len(names) != count:
        what = "one name for every class of the file"
        raise ConfigError(what, where=source.path, got=_listed(names), expected=f"{count} names")
    return source.renamed(ClassSet(names, ids_of(names)))


def _show(source: Source, detector: Detector, out: Path) -> None:
    from onestage.cli.common import other_settings
    from onestage.weights.source import PROJECTS
    from onestage.zoo.table import recipe

    config, size = detector.config, detector.config.preprocess.size
    differing = other_settings(config, recipe(config.name, config.classes))
    rows = {
        "recognised": f"{config.name}, of {PROJECTS[source.origin]}",
        "classes": _listed(config.classes),
        "parameters": f"{sum(p.numel() for p in detector.parameters()):,}",
        "input": f"{size[0]}x{size[1]} (height x width)",
        "differs": f"from the recipe in {', '.join(differing)}" if differing else "in nothing from the recipe",
        "file": str(out),
        "use it": command("predict", out, "PICTURES"),
        "tune it": command("train", "DATA", "--model", config.name, "--weights", out),
    }
    for what, text in rows.items():
        tell((f"{what:<11}", "bold"), f" {text}")
    for note in _notes(source, config, out):
        say(("note:", "bold yellow"), f" {note}")


def _notes(source: Source, config: DetectorConfig, out: Path) -> Iterator[str]:
    """Notes on what the file does not define or limits, and how to change it."""
    from onestage.zoo.table import recipe

    if config.classes[0] == "class 0":
        yield "the file does not say what its classes are called; --classes does"
    if source.doubt and source.pixels is None:
        yield source.doubt
    count = config.postprocess.detections
    if count < min(100, recipe(config.name, config.classes).postprocess.detections):
        yield (
            f"it reports at most {count} detections a picture, as the file does; for more, in Python: from onestage "
            f"import build, load; config = load({str(out)!r}).config.replace({{'postprocess.detections': 100}}); "
            f"build(config, weights={str(out)!r}).save('more.safetensors')"
        )


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(names[:SHOWN])}" + (", ..." if len(names) > SHOWN else "")
