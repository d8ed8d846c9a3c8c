"""ONNX and OpenVINO files, run by OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING

import numpy as np

from onestage.errors import ConfigError, WeightsError
from onestage.predict.contract import OUTPUTS, Contract
from onestage.predict.engines import ir_file, onnx_file
from onestage.predict.engines.exported import FileEngine, check_inputs, read_bytes, read_file, threads

if TYPE_CHECKING:
    import openvino

NAME = "openvino"
TYPES = {"u8": "uint8", "f32": "float32"}
"""OpenVINO's names of types, and ours."""
FIX = "export it again, or update openvino"
PRECISION = "INFERENCE_PRECISION_HINT"
NUMBERS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
"""OpenVINO's names of numbers that it computes with, and ours."""
GROUPS = (8, 4, 2, 1)
"""Numbers of images for which an int8 model is compiled, each in a third of a second. Others go through in such groups. An
SSD300 on MobileNet v1 took 2.4 ms for an image of 8, and 3.0 ms for one of 32 together (two cores of an Intel Xeon with AMX).
"""
ANY = 0
"""In place of a number of images: the program takes any."""

_ONE_AT_A_TIME = Lock()


def the_core() -> openvino.Core:
    """OpenVINO's Core, the same one to the end of this process.

    With its CPU plugin, each Core gives the thread that first compiles with it other memory for handling signals on Linux, and
    unmaps that memory when it goes. If it goes in another thread, or before a later Core, the thread keeps the address: then
    the next signal that Python handles, such as Ctrl-C, ends the process with a segmentation fault.
    """
    with _ONE_AT_A_TIME:
        return _core()


@cache
def _core() -> openvino.Core:
    import openvino

    return openvino.Core()


def open_openvino(path: Path, *, bf16: bool = False) -> FileEngine:
    """The engine of a .xml file (with its .bin) or a .onnx file that ``export`` wrote. It computes in float32, and files
    that say fp16 in float16 if the processor can.

    bf16: in bfloat16, up to the last convolution or matrix product; what stands behind it stays in float32. Raise ConfigError
    if the processor does not, or if OpenVINO is not installed, WeightsError if the file is damaged, or was not made by
    ``export``.
    """
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise ConfigError("OpenVINO is not installed", where=path, fix="pip install 'onestage[openvino]'") from error
    text, graph, weights = _read(path)
    contract = Contract.from_json(text, where=path)
    core = the_core()
    try:  # by its path, OpenVINO would map the file: if it got shorter later, the whole process would end
        model = core.read_model(graph, weights)
    except Exception as error:  # OpenVINO raises many types
        got = str(error).strip()[:200]
        raise WeightsError("OpenVINO cannot read this file", where=path, got=got, fix=FIX) from error
    inputs = {entry.get_any_name(): TYPES.get(entry.get_element_type().get_type_name(), "") for entry in model.inputs}
    check_inputs(path, contract, inputs, [entry.get_any_name() for entry in model.outputs])
    wanted = "bf16" if bf16 else "f16" if contract.precision == "fp16" else "f32"
    programs = _Programs(core, model, wanted=wanted, exact=contract.batch is None and is_quantised(model))
    try:
        numbers = NUMBERS.get(_read_back(programs.of(contract.batch or 1)), "fp32")
    except Exception as error:
        got = str(error).strip()[:200]
        raise WeightsError("OpenVINO cannot run this file", where=path, got=got, fix=FIX) from error
    if bf16 and numbers != "bf16":
        what, fix = "OpenVINO does not compute in bfloat16 on this processor", "leave --precision bf16 out"
        raise ConfigError(what, where=path, got=numbers, expected="a processor with AVX512_BF16 or AMX", fix=fix)
    return FileEngine(contract, _Requests(programs, OUTPUTS[contract.ending]), NAME, numbers)


def _compiled(core: openvino.Core, model: openvino.Model, wanted: str) -> openvino.CompiledModel:
    """The model for this processor, in the numbers ``wanted`` if it can compute with them, or else in float32. OpenVINO raises
    many types.
    """
    settings = {PRECISION: "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads()}
    if wanted != "f32":
        compiled = core.compile_model(model, "CPU", settings | {PRECISION: wanted})
        if _read_back(compiled) == wanted:  # or it took other numbers without a word, such as bfloat16 for float16
            return compiled
    return core.compile_model(model, "CPU", settings)


def _read_back(compiled: openvino.CompiledModel) -> str:
    """OpenVINO's name of the numbers that a compiled model really computes with: what was asked for is a hint."""
    name: str = compiled.get_property(PRECISION).get_type_name()
    return name


def _read(path: Path) -> tuple[str, bytes, bytes]:
    """The text of the contract, the graph and the weights in a .onnx file, or in a .xml file and its .bin."""
    if path.suffix.lower() == ".onnx":
        graph = read_file(path)
        return onnx_file.read_contract(graph, path), graph, b""
    weights = read_bytes(path.with_suffix(".bin"))
    graph = read_file(path, weights)
    return ir_file.read_contract(graph, path, weights=weights), graph, weights


class _Programs:
    """A model for any number of images, compiled for one image alone, and for more when the first of them come: OpenVINO is
    faster with sizes that it knows. exact: compiled for GROUPS of images, and for no others.

    An int8 model needs that. With a free batch, OpenVINO (2025.4 to 2026.4) reads the ranges of the first channel for all
    channels where a convolution and the rounding behind it are not one kernel, and finds other objects, without a word.
    """

    def __init__(self, core: openvino.Core, model: openvino.Model, *, wanted: str, exact: bool) -> None:
        self._core, self._model, self._wanted, self._exact = core, model, wanted, exact
        self._compiled: dict[int, openvino.CompiledModel] = {}
        self._one_at_a_time = Lock()

    def groups(self, count: int) -> Iterator[int]:
        """How many of so many images go through a program together, group after group."""
        if not self._exact:
            yield count
            return
        for size in GROUPS:
            yield from [size] * (count // size)
            count %= size

    def of(self, count: int) -> openvino.CompiledModel:
        """The program for a group of so many images. OpenVINO raises many types."""
        batch = count if self._exact or count == 1 else ANY
        if batch not in self._compiled:  # those that are there wait for no other one
            with self._one_at_a_time:
                if batch not in self._compiled:
                    model = self._model if batch == ANY else with_batch(self._model, batch)
                    self._compiled[batch] = _compiled(self._core, model, self._wanted)
        return self._compiled[batch]


def is_quantised(model: openvino.Model) -> bool:
    """Whether some tensors of it are rounded to int8."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def with_batch(model: openvino.Model, count: int) -> openvino.Model:
    """A copy of the model with a batch of ``count``, and the same weights in memory. Other free sizes stay free."""
    copy = model.clone()
    copy.reshape(
        {entry.get_any_name(): f"[{count},{','.join(map(str, list(entry.partial_shape)[1:]))}]" for entry in copy.inputs}
    )
    return copy


class _Requests:
    """One request for each thread and program, because a request runs one batch at a time."""

    def __init__(self, programs: _Programs, outputs: Sequence[str]) -> None:
        self._programs, self._outputs, self._kept = programs, outputs, local()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Named inputs -> the outputs in order."""
        parts, first = list[list[np.ndarray]](), 0
        for count in self._programs.groups(len(inputs["images"])):
            parts.append(self._run({name: rows[first : first + count] for name, rows in inputs.items()}, count))
            first += count
        return parts[0] if len(parts) == 1 else [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def _run(self, inputs: dict[str, np.ndarray], count: int) -> list[np.ndarray]:
        """A group of so many images through its program."""
        kept: dict[int, openvino.InferRequest] = self._kept.__dict__.setdefault("requests", {})
        program = self._programs.of(count)
        if id(program) not in kept:  # no program goes before the requests
            kept[id(program)] = program.create_infer_request()
        found = kept[id(program)].infer(inputs, share_inputs=True)
        return [np.array(found[name]) for name in self._outputs]  # a copy: the request writes there again
