"""Where results go: a file that this program did not write is never replaced.

A result is known by its name and by how it begins. So those of earlier runs and versions are replaced.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from onestage.errors import ConfigError, DataError, WriteError, check_folder_place
from onestage.files import make_folder, open_regular

if TYPE_CHECKING:
    from onestage.data import Dataset

BEGINNINGS = {
    "predictions.json": re.compile(rb'\[\n(\{"image_id": |\n\])'),
    "predictions.csv": re.compile(rb"image,label,xmin,ymin,xmax,ymax,score,category_id\r?\n"),
    "predictions.jsonl": re.compile(rb'\{"image_id": |\Z'),
    "failures.csv": re.compile(rb"image,what,got\n"),
    "counts.csv": re.compile(rb"image,zone,objects(,|\n)"),
    "metrics.json": re.compile(rb'\{\s+"model": .*"data": ', re.DOTALL),
    "per_class.csv": re.compile(rb"name,objects,found,AP,"),
    "analysis.json": re.compile(rb'\{"classes": \[("|\])'),
    "errors.csv": re.compile(rb"image,what,row,letter,"),
    "pictures.csv": re.compile(rb"image,objects,found,detections,"),
    "compare.json": re.compile(rb'\{"data": ".*", "classes": \['),
    "compare.csv": re.compile(rb'image,objects,.*: found"?,'),
    "benchmark.json": re.compile(rb'\{\s+"environment": '),
    "benchmark.csv": re.compile(rb"model,runtime,numbers,"),
    "batch.json": re.compile(rb'\{\s+"model": .*"parts": ', re.DOTALL),
    "figures.json": re.compile(rb'\{\s+"model": .*"picture": ', re.DOTALL),
    "index.html": re.compile(rb".*Content-Security-Policy\" content=\"default-src 'none'; img-src data:", re.DOTALL),
}
"""How the files of results begin."""
BENCHMARK = BEGINNINGS["benchmark.json"]
CHECKUP = re.compile(rb'\{\s+"path": .*"format": ', re.DOTALL)
"""How the files of ``--json`` begin: those of ``benchmark`` and of ``data check``."""
MODEL_CONFIG = re.compile(rb'\{\s+"name": .*"classes": ', re.DOTALL)
"""How the file of ``data anchors`` begins."""

HEAD = 4096
"""Bytes of a file that are looked at."""


def results_folder(folder: Path, names: Collection[str], dataset: Dataset | None = None) -> None:
    """Make the folder for results, if it is not there. names: of the files and folders to write into it. dataset: what the
    results are about.

    Raise DataError if nothing can be written into it, ConfigError if it belongs to the data set, or if files of these names are
    there that are no results. Those that do not show it, such as pictures, are results if another one beside them is.
    """
    check_folder_place(folder, "a folder for results", fix="choose another folder: --out")
    if dataset is not None:
        dataset.check_apart(folder)
    here = [name for name in names if (folder / name).exists()]
    known = [name for name in here if name in BEGINNINGS and _begins(folder / name, BEGINNINGS[name])]
    strange = [name for name in here if name not in known and (name in BEGINNINGS or not known or _is_odd(folder / name))]
    if strange:
        what, fix = "files are in the way that onestage did not write", "choose another folder with --out, or move them away"
        raise ConfigError(what, where=folder, got=", ".join(strange), fix=fix)
    try:
        with tempfile.TemporaryFile(dir=make_folder(folder)):
            pass
    except OSError as error:
        got = error.got if isinstance(error, WriteError) else error.strerror
        fix = "choose another folder: --out"
        raise DataError("results cannot be written here", where=folder, got=got, fix=fix) from error


def _is_odd(path: Path) -> bool:
    """Whether this is neither a file nor a folder, such as a pipe, which would wait for another program."""
    return not (path.is_file() or path.is_dir())


def check_replaceable(file: Path | None, beginning: re.Pattern[bytes]) -> None:
    """Raise ConfigError if there is a file of that name with another beginning, or a folder, or no folder for it. None is no
    file.
    """
    if file is not None and not file.parent.is_dir():
        raise ConfigError("no such folder to write into", where=file, fix="create it, or name another file")
    if file is not None and file.is_dir():
        raise ConfigError("this is a folder", where=file, expected="the name of a file", fix=f"such as {file / 'results.json'}")
    if file is not None and file.is_file() and not _begins(file, beginning):
        what, fix = "this file is in the way, and onestage did not write it", "choose another name, or move it away"
        raise ConfigError(what, where=file, fix=fix)


def _begins(file: Path, beginning: re.Pattern[bytes]) -> bool:
    try:
        with open_regular(file) as opened:
            return beginning.match(opened.read(HEAD)) is not None
    except OSError:
        return False
