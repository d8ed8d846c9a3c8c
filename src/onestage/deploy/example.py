"""A stand-alone program that uses an exported file, without this package and without torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from onestage.errors import ConfigError
from onestage.files import write_file
from onestage.model.config import DetectorConfig
from onestage.model.output.scores import Scores
from onestage.model.output.suppress import HardNMS
from onestage.predict.contract import Contract, Ending

LEAST_SCORE = 0.5
"""The programs show detections of at least that score, if the model holds no thresholds."""
PLAIN_NAME = re.compile(r"[\w.() -]+")
"""Names of files that a program may contain: no quote, backslash or new line, which would become a part of the program."""
BLANK = "DIGEST"
"""Stands in the first line of a program until its text is known."""
SIGNED = re.compile(r'.*\(onestage ([0-9a-f]{16})\)(?:""")?\n')
"""The first line of a written program."""
FAR = 1e9
"""A border in pixels that no anchor reaches."""


@dataclass(frozen=True)
class Example:
    """A kind of program. ending: of the files that it uses. end: of its name. write: its text, from contract and file."""

    ending: Ending
    end: str
    write: Callable[[Contract, Path], str]


def check_example(contract: Contract, path: Path, suffix: str) -> None:
    """Raise ConfigError unless there is an example for such a file, and the name of the file can stand in a program."""
    if not PLAIN_NAME.fullmatch(path.name):
        what, expected = "a program cannot name this file", "letters, digits, spaces and . _ - ( ) alone"
        raise ConfigError(what, got=path.name, expected=expected, fix="choose another name")
    example = EXAMPLES.get(suffix)
    if example is None or contract.ending != example.ending or not isinstance(contract.config.postprocess.nms, HardNMS):
        what, got = "there is no example for such a file", f"{suffix}, {contract.ending}"
        expected = "an ONNX file with NMS, or one for ncnn, of a detector with hard NMS"
        raise ConfigError(what, got=got, expected=expected, fix="leave example=True out")


def example_place(path: Path, suffix: str) -> Path:
    """Where the program of an exported file lies, whose name ends with ``suffix``."""
    return path.with_name(path.stem + (EXAMPLES[suffix].end if suffix in EXAMPLES else "_example.py"))


def write_example(path: Path, contract: Contract, suffix: str) -> Path:
    """Write the program beside the exported file ``path``, and return its path."""
    place = example_place(path, suffix)
    text = EXAMPLES[suffix].write(contract, path)
    write_file(place, text.replace(BLANK, _digest(text), 1))
    return place


def is_example(data: bytes) -> bool:
    """Whether these are the bytes of an example as it was written. Other ends of lines are no change."""
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return False
    given = SIGNED.match(text)
    return given is not None and given[1] == _digest(text[: given.start(1)] + BLANK + text[given.end(1) :])


def _digest(text: str) -> str:
    """The digits that stand in an example instead of BLANK."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(name: str) -> str:
    return files("onestage.deploy").joinpath(name).read_text(encoding="utf-8")


def _python(contract: Contract, path: Path) -> str:
    """A program for onnxruntime."""
    text = _text("example.txt").replace('"MODEL.onnx"', repr(path.name))
    return text.replace("THIS_FILE", example_place(path, ".onnx").name)


def _cpp(contract: Contract, path: Path) -> str:
    """A program for ncnn in C++. All that it must know about the detector is in its constants."""
    config = contract.config
    resize, post, coder = config.preprocess, config.postprocess, config.coder
    assert contract.size is not None and isinstance(post.nms, HardNMS)
    classes, scores = len(config.classes), contract.scores or Scores()
    least = scores.thresholds or (LEAST_SCORE,) * classes
    scopes = {
        "class": ("box.label", classes),
        "level": ("box.level", len(config.levels)),
        "image": ("0", 1),
    }
    constants = {
        "NAME": path.stem,
        "FILE": example_place(path, ".ncnn.param").name,
        "HEIGHT": contract.size[0],
        "WIDTH": contract.size[1],
        "LETTERBOX": _flag(resize.mode == "letterbox"),
        "ANTIALIAS": _flag(resize.antialias),
        "SOFTMAX": _flag(config.loss.activation == "softmax"),
        "CLASS_AGNOSTIC": _flag(post.class_agnostic),
        "PADDING": _list(contract.padding),
        "VARIANCES": _list(coder.variances),
        "MAX_LOG_SCALE": coder.max_log_scale,
        "LEAST_SCORE": max(min(_before(scores, label, score) for label, score in enumerate(least)), post.score_threshold),
        "NMS_IOU": post.nms.iou_threshold,
        "TOP_K": post.top_k,
        "DETECTIONS": post.detections,
        "CLASSES": _classes(config.classes, scores, least),
        "LEVELS": _levels(config, contract),
        "SCOPE": scopes[post.scope][0],
        "SCOPES": scopes[post.scope][1],
    }
    return Template(_text("example_ncnn.txt")).substitute(constants)


def _before(scores: Scores, label: int, score: float) -> float:
    """A score that every detection of the class has before calibration, if it has ``score`` afterwards."""
    return Scores(temperatures=scores.temperatures[label : label + 1], lines=scores.lines[label : label + 1]).before(score)


def _points(points: Iterable[Iterable[float]]) -> str:
    """Points, or shapes, as a C++ list of lists."""
    return f"{{{_list(f'{{{_list(point)}}}' for point in points)}}}"


def _classes(names: Sequence[str], scores: Scores, least: Sequence[float]) -> str:
    """The classes as C++ values: name, least score to show, temperature, points of the line of calibration."""
    heats, lines = scores.temperatures or [1] * len(names), scores.lines or [()] * len(names)
    return _list(
        f"{{{json.dumps(name, ensure_ascii=False)}, {score}, {heat}, {_points([(0, 0), *line, (1, 1)])}}}"
        for name, score, heat, line in zip(names, least, heats, lines, strict=True)
    )


def _levels(config: DetectorConfig, contract: Contract) -> str:
    """The anchor levels as C++ values: number, the centres of the cells down and across, shapes."""
    assert contract.size is not None
    rows = []
    for number, (level, size) in enumerate(zip(config.levels, contract.level_sizes, strict=True)):
        last = contract.size if level.inside else (FAR, FAR)
        centres = [
            f"{{{_list(min((cell + level.offset) * step, end) for cell in range(count))}}}"
            for count, step, end in zip(size, level.steps(size, contract.size), last, strict=True)
        ]
        rows.append(f"{{{_list((number, *centres, _points(level.shapes)))}}}")
    return _list(rows)


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _flag(value: bool) -> str:
    return "true" if value else "false"


EXAMPLES = {
    ".onnx": Example("detections", "_example.py", _python),
    ".ncnn.param": Example("outputs", "_example.cpp", _cpp),
}
"""By the ends of the names of exported files."""
