"""Annotations in other formats: how a file of each begins, so that messages can name those that are not read.

One key proves nothing: tools add keys to files of formats that are read. So a reader asks first for what its format has.

Sources: the documents of LabelMe, VGG Image Annotator, Label Studio, Supervisely, Labelbox, CreateML, CVAT, KITTI and DOTA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from onestage.data.files import head


class _Form(NamedTuple):
    """How files of a format begin. suffixes: of their names. marks: patterns, all of which are among the first characters."""

    suffixes: tuple[str, ...]
    marks: tuple[str, ...]


_JSON = (".json",)
_NUMBER = r"-?\d+(\.\d+)?"

LABELME = "LabelMe's JSON"
"""It is read, but a file with COCO's keys too is COCO's only if it has all of them."""

_FORMS: Mapping[str, _Form] = {
    LABELME: _Form(_JSON, (r'"shapes"\s*:\s*\[', r'"(shape_type|imagePath)"\s*:')),
    "VGG Image Annotator's JSON": _Form(_JSON, (r'"shape_attributes"\s*:',)),
    "VGG Image Annotator's CSV": _Form((".csv",), ("region_shape_attributes",)),
    "Label Studio's JSON": _Form(
        _JSON, (r'\A\s*\[|"result"\s*:', r'"(rectanglelabels|completed_by|from_name|original_width)"')
    ),
    "Supervisely's JSON": _Form(_JSON, (r'"(classTitle|geometryType)"\s*:',)),
    "Labelbox's JSON": _Form((".json", ".ndjson"), (r'"data_row"\s*:\s*\{|"Labeled Data"\s*:',)),
    "CreateML's JSON": _Form(_JSON, (r"\A\s*\[", r'"annotations?"\s*:', r'"coordinates"\s*:')),
    "CVAT's XML": _Form((".xml",), (r"<annotations>",)),
    "TensorFlow's records": _Form((".tfrecord", ".tfrecords", ".record"), ()),
    "KITTI's labels": _Form((".txt",), (rf"\A\s*[A-Za-z]\S*( {_NUMBER}){{14}}",)),
    "DOTA's labels": _Form((".txt",), (rf"(\A|\n)\s*({_NUMBER} ){{8}}[A-Za-z]\S*",)),
}


def foreign_format(file: Path) -> str | None:
    """The name of the format that a file is in, if it is one of these; None otherwise."""
    forms = {name: form for name, form in _FORMS.items() if file.suffix.lower() in form.suffixes}
    text = head(file) if any(form.marks for form in forms.values()) else ""
    return next((name for name, form in forms.items() if all(re.search(mark, text) for mark in form.marks)), None)


def first_foreign(files: Iterable[Path]) -> tuple[Path, str] | None:
    """The first file in a format that is not read, and the format's name; None if there is none."""
    return next(((file, name) for file in files if (name := foreign_format(file)) and name != LABELME), None)
