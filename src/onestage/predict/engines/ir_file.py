"""What stands in an OpenVINO file (.xml), looked at before OpenVINO reads it: no entities, no operators but OpenVINO's."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from defusedxml import DefusedXmlException, ElementTree

from onestage.errors import WeightsError
from onestage.predict.contract import KEY
from onestage.predict.engines.exported import foreign

MOST_BYTES = 2**28
"""Of the graph without its weights. EfficientDet D7x takes about 8 MB."""
OPERATORS = re.compile(r"opset\d{1,2}")
"""Names of OpenVINO's sets of operators. Others are extensions."""
PLACE = f"rt_info/framework/{KEY}"
"""Where OpenVINO keeps the metadata of an ONNX file."""


def read_contract(data: bytes, path: Path, *, weights: int) -> str:
    """The text of the contract in the bytes of a .xml file. weights: the size of its .bin in bytes.

    Raise WeightsError if the bytes are no OpenVINO model, if it needs operators or weights that are not there, or if it has no
    contract.
    """
    if len(data) > MOST_BYTES:
        expected = f"at most {MOST_BYTES:,} bytes"
        raise WeightsError("this file is too large", where=path, got=f"{len(data):,} bytes", expected=expected)
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
            got, expected = f"{layer.get('type')} of {layer.get('version')}", "operators of OpenVINO alone"
            raise WeightsError("this file needs foreign operators", where=path, got=got, expected=expected)
        if layer.get("type") == "Const":
            _check_place(layer, weights, path)
    return text


def _check_place(layer: Element, weights: int, path: Path) -> None:
    """Raise WeightsError if the numbers of a layer do not lie inside the .bin of ``weights`` bytes."""
    data = layer.find("data")
    places = [] if data is None else [data.get(name, "") for name in ("offset", "size")]
    if any(len(place) > 19 or not place.isdecimal() for place in places) or sum(map(int, places)) > weights:
        what, got = "this OpenVINO file and its .bin do not fit together", f"offset and size {', '.join(places)}"
        expected, fix = f"a place in the {weights:,} bytes of the .bin", "copy both files again, or export again"
        raise WeightsError(what, where=path, got=got, expected=expected, fix=fix)
