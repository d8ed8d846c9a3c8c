"""A stand-alone program that uses an exported file, without this package and without torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from onestage.errors import ConfigError
from onestage.files import write_file
from onestage.predict.contract import Contract


def check_example(contract: Contract, suffix: str) -> None:
    """Raise ConfigError unless there is an example for such a file."""
    if contract.ending != "detections" or suffix != ".onnx":
        what, got = "there is an example for ONNX files that end with detections only", f"{suffix}, {contract.ending}"
        raise ConfigError(what, got=got, fix="leave --example out")


def write_example(path: Path) -> Path:
    """Write the program beside the exported ONNX file ``path``, and return its path."""
    text = files("onestage.deploy").joinpath("example.txt").read_text(encoding="utf-8")
    example = path.with_name(f"{path.stem}_example.py")
    write_file(example, text.replace('"MODEL.onnx"', repr(path.name)).replace("THIS_FILE", example.name))
    return example
