"""What stands in an OpenVINO file (.xml), looked at before OpenVINO reads it: no entities, no operators but OpenVINO's."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from onestage.errors import WeightsError
from onestage.predict.contract import KEY
from onestage.predict.engines.exported import check_numbers, foreign

MOST_BYTES = 2**28
"""Of the graph without its weights. EfficientDet D7x takes about 8 MB."""
FIX = "export the detector again"
OPERATORS = re.compile(r"opset\d{1,2}")
"""Names of OpenVINO's sets of operators. Others are extensions."""
NOT_ONCE = {"Assign", "If", "Loop", "ReadValue", "TensorIterator"}
"""Types of layers that repeat or choose a part of the graph, or keep numbers from one run to the next. No detector has them."""
FLOATS = {name: np.dtype(kind) for name, kind in (("f16", "<f2"), ("f32", "<f4"), ("f64", "<f8"))}
"""OpenVINO's names of numbers that may be none."""
PLACE = f"rt_info/framework/{KEY}"
"""Where OpenVINO keeps the metadata of an ONNX file."""


def read_contract(data: bytes, path: Path, *, weights: bytes) -> str:
    """The text of the contract in the bytes of a .xml file. weights: the bytes of its .bin.

    Raise WeightsError if the bytes are no OpenVINO model, if it needs operators or weights that are not there, if a layer does
    not run once each time, or if it has no contract.
    """
    if len(data) > MOST_BYTES:
        expected = f"at most {MOST_BYTES:,} bytes"
        raise WeightsError(
            "this file is too large", where=path, got=f"{len(data):,} bytes", expected=expected, fix="export the detector again"
        )
    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        what = "this OpenVINO file is damaged"
        raise WeightsError(what, where=path, got=error, fix="export it again, or copy it again") from error
    found = root.find(PLACE)
    text = None if found is None else found.get("value")
    if text is None:
        raise foreign(path)
    for layer in root.iter("layer"):
        if not OPERATORS.fullmatch(layer.get("version", "")):
            what, got = "this file needs foreign operators", f"{layer.get('type')} of {layer.get('version')}"
            raise WeightsError(what, where=path, got=got, expected="operators of OpenVINO alone", fix=FIX)
        if layer.get("type") in NOT_ONCE:
            what, expected = "this file holds loops, branches or a state", "layers that run once each"
            raise WeightsError(what, where=path, got=f"{layer.get('type')} {layer.get('name')}", expected=expected, fix=FIX)
        if layer.get("type") == "Const":
            _check_constant(layer, weights, path)
    return text


def _check_constant(layer: Element, weights: bytes, path: Path) -> None:
    """Raise WeightsError if the numbers of a layer do not lie inside the .bin, or are none."""
    data = layer.find("data")
    stated = {} if data is None else data.attrib
    places = [stated.get(name, "") for name in ("offset", "size")]
    if any(len(place) > 19 or not place.isdecimal() for place in places) or sum(map(int, places)) > len(weights):
        what, got = "this OpenVINO file and its .bin do not fit together", f"offset and size {', '.join(places)}"
        expected, fix = f"a place in the {len(weights):,} bytes of the .bin", "copy both files again, or export again"
        raise WeightsError(what, where=path, got=got, expected=expected, fix=fix)
    if (kind := FLOATS.get(stated.get("element_type", ""))) is not None:
        start, size = map(int, places)
        check_numbers(np.frombuffer(weights, kind, size // kind.itemsize, start), layer.get("name", ""), path)
