"""TensorFlow Lite files as a graph of operators, read with the format's schema (the ``tflite`` package). The file is not
trusted.

Constants become float32 tensors, also if they are stored as integers. Their axes stay as in the file (convolutions: out,
height, width, in). Every index and offset in the file is checked before it is used.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onestage.errors import WeightsError
from onestage.weights.safetensors_file import DAMAGED
from onestage.weights.tensor_file import TFLITE, kind_of

MOST = 20_000
"""Operators and values of a graph; the largest published networks have some thousands."""

_TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 7: "<i2", 9: "i1"}
"""TensorType of the schema -> numpy's name, for the types that weights can have."""

_BROKEN = (struct.error, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RuntimeError)
"""What the flatbuffers readers raise if an offset or a length of the file is wrong. PyTorch raises RuntimeError if shapes do
not fit.
"""

_SUPPORTED = (
    "give a MobileNet v1 or v2, as a classifier or under an SSD or SSDLite of the TF object-detection API: "
    "1x1 and SAME-padded convolutions of stride 1 or 2, ReLU6, residual additions"
)


class Unsupported(ValueError):
    """The file may be undamaged, but this project has no parts for its network."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph: its shape, the type it is stored as, its bytes (uint8; none if it is computed), and how it is
    quantised: real = scale * (stored - zero), one of each or one per index of ``axis``.
    """

    shape: tuple[int, ...]
    stored: str
    data: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest number that it can hold: its quantised range, without end for floats."""
        if len(self.scale) != 1 or self.stored not in ("u1", "i1"):
            return -math.inf, math.inf
        lowest = np.iinfo(self.stored).min
        return tuple(float(self.scale[0] * (q - self.zero[0])) for q in (lowest, lowest + 255))  # type: ignore[return-value]


@dataclass(frozen=True)
class Operator:
    """One step of the graph. kind: the schema's name, or the name of a custom operator; inputs and outputs: indices of values,
    -1 for none. stride (y, x), same (padding) and activation are those of a convolution; options: those of a custom operator.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    dilated: bool = False
    same: bool = True
    activation: int = 0
    options: bytes = b""


@dataclass(frozen=True)
class Graph:
    """The first subgraph of a file. Operators are in the order in which they run: none reads the output of a later one."""

    values: tuple[Value, ...]
    operators: tuple[Operator, ...]
    input: int
    makers: dict[int, int]

    def maker(self, value: int) -> Operator | None:
        """The operator whose output that value is, or None for constants and the input."""
        return self.operators[self.makers[value]] if value in self.makers else None

    def constant(self, value: int) -> Tensor:
        """A stored value as float32, of its shape (...). Float16 weights are the input of a DEQUANTIZE operator."""
        while (maker := self.maker(value)) is not None and maker.kind == "DEQUANTIZE":
            value = maker.inputs[0]
        found = self.values[value]
        count = math.prod(found.shape)
        if not count or found.stored not in _TYPES.values() or len(found.data) != count * np.dtype(found.stored).itemsize:
            expected = f"{count:,} numbers ({'x'.join(map(str, found.shape))})"
            raise WeightsError("a constant of the file is damaged", got=f"{len(found.data):,} bytes", expected=expected)
        numbers = np.frombuffer(found.data, found.stored).reshape(found.shape)
        if found.stored in ("<f4", "<f2"):
            return torch.from_numpy(numbers.astype(np.float32))
        if len(found.scale) == 0:
            raise WeightsError(
                "a constant of the file is stored as integers without a scale", got=found.stored, expected="a scale"
            )
        return torch.from_numpy(_dequantised(numbers, found).astype(np.float32))


def _dequantised(numbers: np.ndarray, value: Value) -> np.ndarray:
    scale, zero = value.scale.astype(np.float64), value.zero.astype(np.float64)
    if len(scale) > 1:
        along = [1] * numbers.ndim
        along[value.axis] = len(scale)
        scale, zero = scale.reshape(along), zero.reshape(along)
    real: np.ndarray = scale * (numbers - zero)
    if real.shape != value.shape:
        raise ValueError("as many scales as the axis has indices")
    return real


@contextmanager
def damage(where: object) -> Iterator[None]:
    """Turn what reading a damaged or unsupported file raises into a WeightsError that names the file."""
    try:
        yield
    except WeightsError as e:
        raise e.at(where) from e
    except Unsupported as e:
        raise WeightsError(f"this TensorFlow Lite file is not supported: {e}", where=where, fix=_SUPPORTED) from e
    except _BROKEN as e:
        what = "the TensorFlow Lite file is damaged, or of a kind that is not understood"
        raise WeightsError(what, where=where, got=f"{type(e).__name__}: {e}", fix=DAMAGED) from e


def read_graph(data: bytes) -> Graph:
    """The graph of a TensorFlow Lite file's bytes. Call it inside ``damage``. Raise WeightsError if the tflite package is
    missing.
    """
    try:
        from tflite.Model import Model
    except ImportError as e:
        fix = "pip install 'onestage[tflite]'"
        raise WeightsError("TensorFlow Lite files are read with the tflite package", fix=fix) from e
    if kind_of(data[:32]) is not TFLITE:
        raise ValueError("it does not begin as a TensorFlow Lite file does")
    model = Model.GetRootAs(data, 0)
    subgraph = _item(model.Subgraphs, 0, model.SubgraphsLength())
    if max(subgraph.TensorsLength(), subgraph.OperatorsLength()) > MOST or subgraph.InputsLength() != 1:
        raise ValueError("its graph is too large, or has not one input")
    values = tuple(_value(model, subgraph.Tensors(i)) for i in range(subgraph.TensorsLength()))
    operators = tuple(_operator(model, subgraph.Operators(i)) for i in range(subgraph.OperatorsLength()))
    graph = Graph(values, operators, int(subgraph.Inputs(0)), _makers(operators, len(values)))
    used = sum(len(values[i].data) for operator in operators for i in operator.inputs if i >= 0)
    if used > 2 * len(data):  # many operators that share one constant would fill the memory
        raise ValueError("its operators use more constants than it holds")
    return graph


def read_options(data: bytes, keys: Iterable[str]) -> dict[str, float]:
    """The numbers with these keys in the options of a custom operator. The rest is not read: it could be nested without end."""
    from flatbuffers import flexbuffers

    found = flexbuffers.GetRoot(data).AsMap
    values: dict[str, float] = {}
    for key in keys:
        with suppress(KeyError):
            values[key] = found[key].AsFloat if found[key].IsFloat else found[key].AsInt
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError("an option is not a finite number")
    return values


def _makers(operators: Sequence[Operator], values: int) -> dict[int, int]:
    """Which operator makes which value. Raise ValueError if an operator reads a value that is made later: a search backwards
    would then not end."""
    makers: dict[int, int] = {}
    read: set[int] = set()
    for index, operator in enumerate(operators):
        read.update(operator.inputs)
        for output in operator.outputs:
            if output in read or output in makers:
                raise ValueError("its operators are not in the order in which they run")
            makers[output] = index
        if not all(-1 <= i < values for i in operator.inputs) or not all(0 <= i < values for i in operator.outputs):
            raise IndexError("an operator names a value that is not there")
    return makers


def _value(model: Any, tensor: Any) -> Value:
    quantised = tensor.Quantization()
    scale = _numbers(quantised.ScaleAsNumpy()) if quantised else np.empty(0)
    zero = _numbers(quantised.ZeroPointAsNumpy()) if quantised else scale
    data = _item(model.Buffers, tensor.Buffer(), model.BuffersLength()).DataAsNumpy()
    return Value(
        shape=tuple(int(side) for side in _numbers(tensor.ShapeAsNumpy())),
        stored=_TYPES.get(tensor.Type(), "other"),
        data=_numbers(data),
        scale=scale,
        zero=zero if len(zero) else np.zeros_like(scale),
        axis=quantised.QuantizedDimension() if quantised else 0,
    )


def _operator(model: Any, operator: Any) -> Operator:
    code = _item(model.OperatorCodes, operator.OpcodeIndex(), model.OperatorCodesLength())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the older field holds at most 127
    name = _operator_names()[number]
    kind = code.CustomCode().decode() if name == "CUSTOM" else name
    inputs, outputs = (tuple(int(i) for i in _numbers(side)) for side in (operator.InputsAsNumpy(), operator.OutputsAsNumpy()))
    custom = bytes(_numbers(operator.CustomOptionsAsNumpy())) if name == "CUSTOM" else b""
    return Operator(kind, inputs, outputs, options=custom, **_builtin_options(name, operator.BuiltinOptions()))


def _builtin_options(name: str, table: Any) -> dict[str, Any]:
    """The fields of an Operator for convolutions and additions; empty for all other operators."""
    import tflite

    readers = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "ADD": "AddOptions"}
    if name not in readers or table is None:
        return {}
    options = getattr(tflite, readers[name])()
    options.Init(table.Bytes, table.Pos)
    if name == "ADD":
        return {"activation": options.FusedActivationFunction()}
    return {
        "stride": (options.StrideH(), options.StrideW()),
        "dilated": (options.DilationHFactor(), options.DilationWFactor()) != (1, 1),
        "same": options.Padding() == tflite.Padding.SAME,
        "activation": options.FusedActivationFunction(),
    }


@lru_cache
def _operator_names() -> dict[int, str]:
    from tflite.BuiltinOperator import BuiltinOperator

    return {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}


def _item(items: Callable[[int], Any], index: int, length: int) -> Any:
    """An item of a vector of the file. The vector does not check the index."""
    if not 0 <= index < length:
        raise IndexError(f"item {index} of {length}")
    return items(index)


def _numbers(vector: Any) -> np.ndarray:
    """A vector of the file as an array. If it is missing, the reader gives 0."""
    return vector if isinstance(vector, np.ndarray) else np.empty(0, np.uint8)
