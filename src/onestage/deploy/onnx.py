"""Detectors as ONNX files.

Shape letters: B images, h and w of the input.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from onestage.console import without_prints
from onestage.deploy.graph import Graph, Suppress
from onestage.deploy.halves import in_half
from onestage.deploy.plan import Plan
from onestage.deploy.survivors import suppress_by_operator, survivors_in_onnx
from onestage.deploy.winograd import by_winograd
from onestage.errors import ConfigError, without_warnings
from onestage.files import write_file
from onestage.predict.contract import KEY, LARGEST, OUTPUTS, Contract

if TYPE_CHECKING:
    import onnx
    from onnxscript.ir import Value as OnnxValue

OPSET = 18
"""Of the file: from 2022, so that older runtimes read it too."""
SMALLEST = 64
"""The least side of the input, in pixels, for which a file of any size is made."""
STEP = 32
"""A free side of the input is a multiple of so many pixels."""
_ONE_AT_A_TIME = threading.RLock()
"""Two exporters that set the levels of the process's loggers back would mix them up."""


def export_onnx(plan: Plan, path: Path) -> None:
    """Write the detector to an ONNX file. Raise ConfigError if the packages for it are not installed."""
    save_onnx(model_in_precision(plan), path)


def model_in_precision(plan: Plan) -> onnx.ModelProto:
    """The detector as an ONNX model in float32 or float16. What decodes its outputs, anchors included, is in float32 in both.

    Raise ConfigError if the packages for it are not installed.
    """
    model = onnx_model(plan)
    return in_half(model) if plan.contract.precision == "fp16" else model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write an ONNX model to a file."""
    import onnx

    onnx.checker.check_model(model)
    write_file(path, model.SerializeToString())


def onnx_model(plan: Plan) -> onnx.ModelProto:
    """The detector as an ONNX model in float32. Raise ConfigError if the packages for it are not installed."""
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise ConfigError("to write ONNX, more packages are needed", got=error, fix="pip install 'onestage[onnx]'") from error
    contract = plan.contract
    program = captured(plan, suppress_by_operator, winograd=plan.winograd)
    with quietly():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            custom_translation_table=_translations(contract),
            input_names=["images", "frames"][: 1 + contract.has_frames],
            output_names=list(OUTPUTS[contract.ending]),
        )
    assert made is not None
    model = made.model_proto
    for node in model.graph.node:  # the exporter adds nodes that say where torch lies
        kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    describe(model, contract)
    return model


def _translations(contract: Contract) -> dict[Callable[..., object], Callable[..., OnnxValue]]:
    """Operators of torch that torch's exporter cannot write in ONNX, or should write differently, and how to write them."""
    pool = {torch.ops.aten.adaptive_max_pool2d.default: global_max_pool}
    if contract.ending == "outputs":
        return pool | {torch.ops.aten.hardsigmoid.default: plain_hardsigmoid}
    return pool | {torch.ops.onestage.survivors.default: survivors_in_onnx}


def global_max_pool(x: OnnxValue, size: Sequence[int]) -> tuple[OnnxValue, OnnxValue]:
    """The largest value of each map, and a second output that nothing reads. torch 2.10 cannot write it."""
    from onnxscript import opset18 as op

    assert list(size) == [1, 1]
    largest = op.GlobalMaxPool(x)
    return largest, largest


def plain_hardsigmoid(x: OnnxValue) -> OnnxValue:
    """x / 6 + 1/2, cut to 0..1. OpenCV 5.0 takes ONNX's HardSigmoid in front of any product for a part of HardSwish."""
    from onnxscript import opset18 as op

    sixth, half, zero, one = (op.Constant(value_float=value) for value in (1 / 6, 0.5, 0.0, 1.0))
    return op.Clip(op.Add(op.Mul(x, sixth), half), zero, one)


def describe(model: onnx.ModelProto, contract: Contract) -> None:
    """Write the contract into the metadata of an ONNX file, in the place of one that is there."""
    rest = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(rest)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, contract.to_json()
    model.doc_string = f"{contract.config.name}, exported by onestage"


def captured(plan: Plan, suppress: Suppress, *, winograd: bool = False) -> ExportedProgram:
    """The graph of the detector, as torch.export captures it, with the free sides that the contract leaves free.

    winograd: whether wide 3x3 convolutions are computed by Winograd's algorithm.
    """
    contract = plan.contract
    images, frames = example_inputs(contract)
    batch = Dim("batch") if contract.batch is None else None
    free: dict[int, Dim] = {} if batch is None else {0: batch}
    if contract.size is None:
        low, high = SMALLEST // STEP, LARGEST // STEP
        free |= {2: STEP * Dim("rows", min=low, max=high), 3: STEP * Dim("columns", min=low, max=high)}
    shapes = [free, {} if batch is None else {0: batch}][: 1 + contract.has_frames]
    inputs = (images, frames)[: 1 + contract.has_frames]
    graph = Graph(plan.detector, contract.ending, suppress).eval()
    if winograd:
        graph.network = by_winograd(graph.network)
    with torch.inference_mode(False), torch.no_grad(), quietly():
        program = torch.export.export(graph, inputs, dynamic_shapes=tuple(shapes))
    for part in program.graph_module.modules():  # a file does not say where the program lies on the disk of its maker
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def example_inputs(contract: Contract) -> tuple[Tensor, Tensor]:
    """Images (B, 3, h, w) and frames (B, 4) of a kind that the file takes. Sides that are free are no special case in them."""
    height, width = contract.size or (256, 320)
    count = contract.batch or 2  # torch.export takes 0 and 1 for fixed
    images = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()
    if contract.pixels == "float32":
        images = images.float()
    return images, torch.tensor([[0.0, 0.0, width, height]]).repeat(count, 1)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what exporters print about their work. Other threads print and warn as before; one that exports waits."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch.utils")
    with _ONE_AT_A_TIME, without_warnings(), without_prints():
        loggers = [logging.getLogger(name) for name in names]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
