"""What stands in an ONNX file, looked at before a runtime reads it: no data of other files, no operators but ONNX's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from onestage.errors import ConfigError, WeightsError
from onestage.predict.contract import KEY
from onestage.predict.engines.exported import check_numbers, foreign

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

DOMAINS = ("", "ai.onnx")
"""Names of ONNX's set of operators. Others may be programs, or read files."""
MOST_PARTS = 2**20
"""Nodes, tensors, attributes and so on in a file. EfficientDet D7x has about 30,000."""
HARMLESS = ("value_info", "metadata_props")
"""Fields that are many and hold only names and shapes."""
FIX = "export the detector again"


def read_contract(data: bytes, path: Path) -> str:
    """The text of the contract in the bytes of an ONNX file. No other file is read.

    Raise WeightsError if the bytes are no ONNX model, if it needs other files or operators than ONNX's, or if it has no
    contract; ConfigError if onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ConfigError("onnx is not installed", where=path, fix="pip install 'onestage[onnx]'") from error
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        what = "this ONNX file is damaged"
        raise WeightsError(what, where=path, got=error, fix="export it again, or copy it again") from error
    text = {entry.key: entry.value for entry in model.metadata_props}.get(KEY)
    if text is None:
        raise foreign(path)
    for count, part in enumerate(_parts(model)):
        if isinstance(part, onnx.TensorProto):
            _check_tensor(part, len(data), path)
        elif isinstance(part, onnx.NodeProto | onnx.OperatorSetIdProto) and part.domain not in DOMAINS:
            expected = "operators of ONNX alone"
            raise WeightsError("this file needs foreign operators", where=path, got=part.domain, expected=expected, fix=FIX)
        if count >= MOST_PARTS:
            raise WeightsError("this file has too many parts", where=path, expected=f"at most {MOST_PARTS:,}", fix=FIX)
    if model.functions:
        got, expected = model.functions[0].name, "operators of ONNX alone"
        raise WeightsError("this file needs foreign operators", where=path, got=got, expected=expected, fix=FIX)
    _check_order(model.graph, path)
    return text


def _parts(message: Message) -> Iterator[Message]:
    """The message and all that lie inside of it, however deep: protocol buffers end at a depth of 100."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None and field.name not in HARMLESS:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _parts(part)


def _check_order(graph: onnx.GraphProto, path: Path) -> None:
    """Raise WeightsError unless each node takes what is made above it, no name is made twice, and no node repeats or chooses a
    part of the graph. With a circle of nodes, or a loop, a runtime may never end.
    """
    constants = [*(tensor.name for tensor in graph.initializer), *(tensor.values.name for tensor in graph.sparse_initializer)]
    made = {"", *constants, *(value.name for value in graph.input)}  # an empty name stands for an input that is left out
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            what, expected = "this file holds loops or branches", "nodes that run once each"
            raise WeightsError(what, where=path, got=f"{node.op_type} {node.name}", expected=expected, fix=FIX)
        late, twice = [name for name in node.input if name not in made], [name for name in node.output if name and name in made]
        if late or twice:
            what, expected = "the nodes of this file are not in order", "nodes that take what is made above them, once"
            raise WeightsError(what, where=path, got=f"{node.name}: {(late + twice)[0]}", expected=expected, fix=FIX)
        made.update(node.output)


def _check_tensor(tensor: onnx.TensorProto, size: int, path: Path) -> None:
    """Raise WeightsError if a tensor lies in another file, states more numbers than a file of ``size`` bytes can hold, or holds
    numbers that are none.
    """
    import onnx

    name, dims = tensor.name, list(tensor.dims)
    if tensor.external_data or tensor.data_location:
        what, expected = "this file takes its weights from another file", "weights inside the file"
        raise WeightsError(what, where=path, got=name, expected=expected, fix=FIX)
    if min(dims, default=1) < 0 or math.prod(dims) > 2 * size:  # the smallest numbers are half a byte
        what, expected = "a tensor in this file states more numbers than the file holds", f"at most {2 * size:,}"
        raise WeightsError(what, where=path, got=f"{name}: {dims}", expected=expected, fix=FIX)
    if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            what = "a tensor in this file does not hold the numbers that it states"
            raise WeightsError(what, where=path, got=f"{name}: {error}", fix=FIX) from error
        check_numbers(values, name, path)
